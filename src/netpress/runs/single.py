"""One stage on one network, without a recipe: `netpress apply`."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.files import atomic_write, read_object
from netpress.network import Network, check_out, copy, own_class, resolve
from netpress.network.data import adopt, load_data_at_hand
from netpress.process.console import Console
from netpress.process.devices import choose_device
from netpress.process.folders import held, is_empty, remove_written
from netpress.recipe.overrides import apply_overrides, data_changes
from netpress.runs.pipeline import STAGE_FILES, save_result
from netpress.scoring import score
from netpress.settings import parse
from netpress.stage import Context, Outlook, stages

NOTE = "apply.json"  # in the work folder: what was asked for


def apply_stage(
    kind: str,
    network: str | Network,
    out: Path,
    overrides: Sequence[str] = (),
    *,
    data: Path | None = None,
    dataset: str | None = None,
    device: str = "auto",
    seed: int = 0,
    classes_by_number: bool = False,
    allow_import: bool = False,
    console: Console | None = None,
) -> Network:
    """Apply the stage `kind`, with settings given as `key=value`, to `network` and write the result to `out`.

    `out`.work holds the stage's state while it runs, so that the same command goes on after an interruption;
    it is removed at the end. Data is loaded where `data` or `dataset` is given, or where the network was
    trained on a data set that comes with netpress; it is divided as the network's file says, or as overrides that
    begin with `data.` ask for. `seed` divides it only where the file says nothing.
    Raises UserError for an unknown stage, wrong settings, a stage that needs data and has none, or data that is not
    what the network was trained on.
    """
    console = console or Console(quiet=True)
    known = stages()
    if kind not in known:
        raise UserError(f"{kind}: no such stage; there are {', '.join(known)}")
    values: dict[str, Any] = {"kind": kind}
    apply_overrides(values, overrides)
    changes = data_changes(values, classes_by_number, dataset)
    settings = parse(known[kind].settings, values, kind)
    if isinstance(network, str):
        network = resolve(network, allow_import=allow_import)
    chosen = choose_device(device)
    check_out(out)
    try:
        known[kind].check(Outlook(network, allow_import=allow_import), settings)
        known[kind].plan(network, settings)
    except UserError as error:
        raise UserError(f"{kind}: {error}") from None
    loaded = load_data_at_hand(network, data, dataset, changes, seed=seed, selects=True, console=console)
    if loaded is not None:
        network = copy(network)
        adopt(network, loaded)
    asked = {"stage": settings.model_dump(mode="json"), "dataset": dataset, "data": str(data), "seed": seed}
    with _work_folder(out, asked | {"changes": changes, "network": _fingerprint(network)}) as folder:
        context = Context(
            folder,
            chosen,
            seed,
            console,
            loaded,
            name=kind,
            layer_scores=lambda network: score(network).shares(),
            allow_import=allow_import,
        )
        result = save_result(known[kind].run(network, settings, context), out, own_class(network))
        if loaded is not None:
            measured = evaluate(result, loaded.selection, device=chosen)
            console.say(f"{kind}: {measured.accuracy:.2%} on the {loaded.select_on} images")
    return result


def _fingerprint(network: Network) -> str:
    """A checksum of everything that a stage may look at in the network that it is given."""
    digest = hashlib.sha256(json.dumps([asdict(network.architecture), network.formats], sort_keys=True).encode())
    for name, tensor in sorted((network.module.state_dict() | network.masks).items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _work_folder(out: Path, asked: dict[str, Any]) -> Iterator[Path]:
    """A folder beside `out` that outlives an interruption, and is taken up again by the same command only.

    What is there and was not written by an `apply` is never touched. Raises UserError where there is such a thing,
    Failure where another process is at work in it.
    """
    folder = out.with_name(out.name + ".work")
    note = folder / NOTE
    if (folder.exists() or folder.is_symlink()) and not (folder.is_dir() and (is_empty(folder) or note.is_file())):
        raise UserError(
            f"{folder}: is there and not of an interrupted apply; move it away, or choose another name than {out.name}"
        )
    with held(folder):
        if note.is_file() and read_object(note) != asked:
            remove_written(folder, STAGE_FILES)
        atomic_write(note, json.dumps(asked, indent=1))
        yield folder
        remove_written(folder, (*STAGE_FILES, NOTE))  # before another process may begin in it
    remove_written(folder, ())  # some systems remove no lock that is held
