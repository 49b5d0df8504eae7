"""One stage on one network, without a recipe: `netpress apply`."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from netpress.console import Console
from netpress.data import load_dataset
from netpress.devices import choose_device
from netpress.errors import UserError
from netpress.files import atomic_write
from netpress.network import Network, check_fit, data_settings, resolve, save
from netpress.recipe import apply_override
from netpress.scoring import score
from netpress.settings import parse
from netpress.stage import Context, stages
from netpress.training import evaluate


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
    allow_import: bool = False,
    console: Console | None = None,
) -> Network:
    """Apply the stage `kind`, with settings given as `key=value`, to `network` and write the result to `out`.

    `out`.work holds the stage's state while it runs, so that the same command goes on after an interruption;
    it is removed at the end. Data is loaded where `data` or `dataset` is given, or where the network was
    trained on a data set that comes with netpress.
    Raises UserError for an unknown stage, wrong settings, or a stage that needs data and has none.
    """
    console = console or Console(quiet=True)
    known = stages()
    if kind not in known:
        raise UserError(f"{kind}: no such stage; there are {', '.join(known)}")
    values: dict[str, Any] = {"kind": kind}
    for override in overrides:
        apply_override(values, override)
    settings = parse(known[kind].settings, values, kind)
    if isinstance(network, str):
        network = resolve(network, allow_import=allow_import)
    chosen = choose_device(device)
    loaded = None
    name = dataset or network.facts.get("dataset") or ("folder" if data else None)
    if name is not None and (data is not None or dataset is not None or name == "digits"):
        loaded = load_dataset(data_settings(network, name), data, seed, console)
        check_fit(network, loaded)
    with _work_folder(out, f"{kind} {values} {dataset} {data} {seed}") as folder:
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
        result = known[kind].run(network, settings, context)
        result.module.eval()
        result.facts.pop("accuracy", None)
        if loaded is not None:
            measured = evaluate(result, loaded.selection, device=chosen)
            console.say(f"{kind}: {measured.accuracy:.2%} on the {loaded.select_on} images")
        save(result, out)
    return result


@contextlib.contextmanager
def _work_folder(out: Path, purpose: str) -> Iterator[Path]:
    """A folder beside `out` that outlives an interruption, and is taken up again by the same command only."""
    folder = out.with_name(out.name + ".work")
    note = folder / "command.txt"
    if folder.exists() and not (note.exists() and note.read_text() == purpose):
        shutil.rmtree(folder)
    atomic_write(note, purpose)
    yield folder
    shutil.rmtree(folder)
