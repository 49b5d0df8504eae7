"""One stage on one network, without a recipe: `netpress apply`.

apply_stage("prune", "a.netpress", Path("b.netpress"), ["amount=0.5"])
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.files import atomic_write, read_object
from netpress.folders.holding import held, is_empty, remove_written
from netpress.folders.stage import NETWORK, STAGE_FILES, STATE
from netpress.network import Library, Network, check_out, copy, own_class, resolve
from netpress.network.data import adopt, load_data_at_hand
from netpress.network.fingerprint import fingerprint
from netpress.process.devices import choose_device, set_threads
from netpress.process.world import World
from netpress.recipe.overrides import apply_overrides, data_changes
from netpress.runs.jobs import RunOptions
from netpress.runs.pipeline import save_result
from netpress.scoring import Limits, check_limits, choose_settings, list_excess, score
from netpress.settings import Settings, parse
from netpress.stage import STAGES, Context, Outlook, Stage

NOTE = "apply.json"  # in the work folder: what the command was given


def apply_stage(
    kind: str,
    network: str | Network,
    out: Path,
    overrides: Sequence[str] = (),
    *,
    dataset: str | None = None,
    seed: int = 0,
    classes_by_number: bool = False,
    options: RunOptions | None = None,
    limits: Limits | None = None,
) -> Network:
    """Apply the stage `kind`, with settings given as `key=value`, to `network` and write the result to `out`.

    `out`.work holds the stage's state while it runs, so that the same command goes on after an interruption;
    it is removed at the end. With `options.fresh` what an interruption left there is forgotten.
    Data is loaded where the options or `dataset` name it, or where the network was trained on a data set that comes
    with netpress; it is divided as the network's file says, or as overrides that begin with `data.` ask for. `seed`
    divides it only where the file says nothing.
    `limits` are for the result, as in a recipe; the score is by the official convention.
    Raises UserError for an unknown stage, wrong settings, a stage that needs data and has none, or data that is not
    what the network was trained on.
    """
    options = options or RunOptions()
    stage, settings, changes = _read_settings(kind, overrides, classes_by_number, dataset)
    if isinstance(network, str):
        network = resolve(network, allow_import=options.allow_import)
    device = choose_device(options.device)
    if options.threads is not None:
        set_threads(options.threads)
    check_out(out)
    limits = limits or Limits()
    _check(stage, network, settings, options, limits)
    images = load_data_at_hand(
        network,
        options.data,
        dataset,
        changes,
        seed=seed,
        selects=True,
        console=options.console,
        cache=options.images_beside(out),
    )
    if images is not None:
        network = copy(network)
        adopt(network, images)
    request = {"stage": settings.model_dump(mode="json"), "dataset": dataset, "data": str(options.data), "seed": seed}
    request |= {"changes": changes, "network": fingerprint(network)}
    with _work_folder(out, request, options.fresh) as folder:
        context = Context(
            folder=folder,
            world=World(device, options.team),
            seed=seed,
            console=options.console,
            dataset=images,
            save_every_seconds=options.save_every_seconds,
            name=kind,
            score_settings=choose_settings(),
            answers=options.answers_beside(out),
            library=Library(options.allow_import),
        )
        result = save_result(stage.run(network, settings, context), out, own_class(network))
        if images is not None:
            evaluation = evaluate(result, images.selection, device=device)
            options.console.say(f"{kind}: {evaluation.accuracy:.2%} on the {images.select_on} images")
    if limits != Limits():
        for excess in list_excess(limits, score(result), result).values():
            options.console.warn(excess)
    return result


def _read_settings(
    kind: str, overrides: Sequence[str], classes_by_number: bool, dataset: str | None
) -> tuple[Stage, Settings, dict[str, Any]]:
    """The stage, its settings, and how the data is to be read otherwise than the network's file says."""
    stage = STAGES[kind]
    values: dict[str, Any] = {"kind": kind}
    apply_overrides(values, overrides)
    changes = data_changes(values, classes_by_number, dataset)
    return stage, parse(stage.settings, values, kind), changes


def _check(stage: Stage, network: Network, settings: Settings, options: RunOptions, limits: Limits) -> None:
    """Raise UserError, which names the stage, for what it would refuse."""
    try:
        outlook = Outlook(network, library=Library(options.allow_import), score_settings=choose_settings())
        planned = stage.plan(outlook, settings)
        if limits != Limits():
            check_limits(limits, score(planned.network), planned.network, planned.undecided)
    except UserError as error:
        raise UserError(f"{stage.kind}: {error}") from None


@contextlib.contextmanager
def _work_folder(out: Path, request: dict[str, Any], fresh: bool) -> Iterator[Path]:
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
    refusal: UserError | None = None
    with held(folder):
        if note.is_file() and (fresh or read_object(note) != request):
            remove_written(folder, STAGE_FILES)
        atomic_write(note, json.dumps(request, indent=1))
        try:
            yield folder
        except UserError as error:
            if any(path.name in (STATE, NETWORK) for path in folder.rglob("*")):
                raise  # there is something to go on from
            refusal = error
        remove_written(folder, (*STAGE_FILES, NOTE))  # before another process may begin in it
    remove_written(folder, ())  # some systems remove no lock that is held
    if refusal is not None:
        raise refusal
