"""From a recipe to a run folder: stages in order, each done once, interrupted ones taken up again.

runs/NAME/recipe.toml        the resolved recipe: every setting stated
          environment.json   seed, versions, git commit, device, threads, data checksum
          01-train/ ...      one folder a stage: metrics.jsonl, network.netpress, done.json
          metrics.jsonl      the metrics of all stages
          network.netpress   the result
          score.json         its accuracy and score card
          report.html        the page
"""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from netpress.compression.prune import LAST
from netpress.data import Dataset
from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.files import atomic_write, dump_toml, read_object, read_text
from netpress.network import SUFFIX, Network, copy, create, load, own_class, save
from netpress.network.data import adopt, load_run_data
from netpress.process.console import Console
from netpress.process.devices import choose_device, seed_for
from netpress.process.folders import held, is_empty, remove_written
from netpress.recipe.schema import Recipe, understand_model
from netpress.report import make_report
from netpress.runs.environment import describe_environment, settle_threads
from netpress.runs.planning import fit_model, plan_recipe, read_network
from netpress.scoring import score
from netpress.settings import Settings
from netpress.stage import METRICS, STATE, Context, Stage, read_metrics, stage_name, stage_of

RECIPE = "recipe.toml"
ENVIRONMENT = "environment.json"
DONE = "done.json"
SCORE = "score.json"
REPORT = "report.html"
LOG = "log.txt"
NETWORK = f"network{SUFFIX}"
STAGE_FILES = (METRICS, STATE, DONE, NETWORK, LAST)
"""What stages write, in their folders and those of their parts."""


@dataclass(frozen=True)
class RunResult:
    """What a run came to. `accuracy` is a fraction, `score` by the recipe's convention."""

    folder: Path
    accuracy: float
    params: float
    operations: float
    score: float
    report: Path
    network: Network


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    data: Path | None = None,
    device: str = "auto",
    fresh: bool = False,
    console: Console | None = None,
    save_every_seconds: float = 60.0,
    threads: int | None = None,
    allow_import: bool = False,
) -> RunResult:
    """Run `recipe` into `folder`, going on where an earlier call with the same recipe was interrupted.

    A network file that the recipe names may itself name a class to import only with `allow_import`; a recipe's own
    `family = "import"` needs no leave.
    Raises UserError if the folder holds a run of another recipe or data, Failure if a stage fails.
    """
    if recipe.sweep is not None:
        raise UserError(
            f"{recipe.name}: stands for several runs; give it to `netpress run` or netpress.runs.sweep.run_sweep"
        )
    console = console or Console(quiet=True)
    chosen = choose_device(device)
    finished = (
        not fresh and recipe.stages and (folder / stage_name(len(recipe.stages) - 1, recipe.stages[-1]) / DONE).exists()
    )
    if not finished:
        plan_recipe(recipe, data, allow_import)  # what cannot be run is refused before anything is read or written
    with _claimed(folder, recipe, fresh):
        named = read_network(recipe, allow_import)
        dataset = load_run_data(recipe.data, data, recipe.seed, named, console)
        console = console.with_log(folder / LOG)
        where = describe_environment(recipe.seed, chosen, threads) | {"data_checksum": dataset.checksum}
        if recipe.data.dataset == "folder" and data is not None:
            where["data_folder"] = data.resolve().name
        environment = _settle_environment(folder, where, console)
        settle_threads(environment)
        initial = named or create_network(recipe, dataset)
        adopt(initial, dataset)
        network = copy(initial)
        for index, settings in enumerate(recipe.stages):
            name = stage_name(index, settings)
            context = Context(
                folder / name,
                chosen,
                seed_for(recipe.seed, "stage", index),
                console,
                dataset,
                initial,
                save_every_seconds,
                name,
                lambda line: collect_metrics(folder),
                lambda network: score(network, settings=recipe.score).shares(),
                allow_import,
            )
            network = run_stage(network, settings, context)
        return _finish(recipe, folder, network, dataset, chosen, console)


def create_network(recipe: Recipe, dataset: Dataset) -> Network:
    """The new network that the recipe describes, for the images of `dataset`."""
    table = understand_model(recipe.model)
    channels, side = dataset.train.images.shape[1:3]
    assert table.family is not None
    return create(
        table.family,
        fit_model(table, dataset.name, len(dataset.classes), channels, side),
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        seed=recipe.seed,
    )


def run_stage(network: Network, settings: Settings, context: Context) -> Network:
    """Run one stage in its folder, unless it is done; its result, always as its file gives it.

    What a stage makes in memory can differ from its file in what no value shows, such as the order in which a tensor
    lies in memory, and then the next stage adds in another order. So nothing is handed on but what the file gives.
    """
    stage = stage_of(settings)
    done = context.folder / DONE
    own = own_class(network)
    if is_whole(done):
        context.console.say(f"{context.name}: done before")
        network = load(context.folder / NETWORK, allow_import=own)
    else:
        context.folder.mkdir(parents=True, exist_ok=True)
        network = save_result(stage.run(network, settings, context), context.folder / NETWORK, own)
        atomic_write(done, json.dumps(_summarise(network, stage, context), indent=1))
    context.clear_state()
    return network


def is_whole(path: Path) -> bool:
    """Whether a JSON object is there; a mark that is damaged is made again, with the stage."""
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError, RecursionError):
        return False


def save_result(network: Network, path: Path, allow_import: str | bool) -> Network:
    """Write what a stage made, and give what was written; `allow_import` as for `load`."""
    network.facts.pop("accuracy", None)  # an earlier figure does not speak for what the stage made
    save(network, path)
    return load(path, allow_import=allow_import)


def _summarise(network: Network, stage: Stage, context: Context) -> dict[str, Any]:
    """What the stage came to; its selection accuracy is measured here, the same way for every stage."""
    logged = read_all_metrics(context.folder)
    summary: dict[str, Any] = {"kind": stage.kind, "seconds": sum(line.get("seconds", 0) for line in logged)}
    if context.dataset is not None and len(context.dataset.selection.labels):
        measured = evaluate(network, context.dataset.selection, device=context.device)
        summary |= {"accuracy": measured.accuracy, "loss": measured.loss, "select_on": context.dataset.select_on}
        context.console.say(f"{context.name}: {measured.accuracy:.2%} on the {context.dataset.select_on} images")
    weights = network.weights()
    summary["weights"] = sum(weight.numel() for weight in weights.values())
    summary["nonzeros"] = sum(int(weight.detach().count_nonzero()) for weight in weights.values())
    return summary


def _finish(
    recipe: Recipe, folder: Path, network: Network, dataset: Dataset, device: torch.device, console: Console
) -> RunResult:
    """The final figures: accuracy on the test images (seen here for the first time), score, report."""
    measured = evaluate(network, dataset.test, device=device)
    network.facts |= {"accuracy": measured.accuracy, "dataset": dataset.name, "images": measured.count}
    save(network, folder / NETWORK)
    card = score(network, settings=recipe.score)
    figures = card.as_json() | {
        "accuracy": measured.accuracy,
        "top5": measured.top5,
        "loss": measured.loss,
        "dataset": dataset.name,
        "select_on": dataset.select_on,
    }
    atomic_write(folder / SCORE, json.dumps(figures, indent=1))
    collect_metrics(folder)
    report = make_report(folder)
    return RunResult(folder, measured.accuracy, card.params, card.operations, card.score, report, network)


def read_all_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a stage and of its parts (rounds), in order of time."""
    files = sorted(folder.rglob(METRICS), key=_natural)
    return [line for file in files for line in read_metrics(file)]


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Sort key in which round-10 follows round-9."""
    words = path.as_posix().replace("-", "/").split("/")
    return [(0, int(word)) if word.isdigit() else (1, word) for word in words]


def collect_metrics(folder: Path) -> None:
    """Write the run's metrics.jsonl anew from its stages' own."""
    lines = [line for stage in sorted(folder.glob("[0-9][0-9]-*")) for line in read_all_metrics(stage)]
    atomic_write(folder / METRICS, "".join(json.dumps(line) + "\n" for line in lines))


@contextlib.contextmanager
def _claimed(folder: Path, recipe: Recipe, fresh: bool) -> Iterator[None]:
    """Make `folder` this recipe's run folder and keep other processes out of it."""
    if not is_empty(folder) and not (folder / RECIPE).exists():  # before a lock is laid in somebody's folder
        raise UserError(f"--out {folder}: is not empty and holds no run; choose another folder")
    with held(folder):
        _settle_recipe(folder, recipe, fresh)
        yield


def _settle_recipe(folder: Path, recipe: Recipe, fresh: bool) -> None:
    path = folder / RECIPE
    text = recipe_text(recipe)
    if holds_sweep(folder):
        raise UserError(f"--out {folder}: holds a sweep of several runs; choose another folder")
    if fresh and path.exists():
        clear_run(folder)
    elif path.exists() and read_text(path) != text:
        raise UserError(
            f"{folder}: holds a run of another recipe (see {path}); "
            "choose another --out, or give --fresh to begin anew in its place"
        )
    atomic_write(path, text)


def holds_sweep(folder: Path) -> bool:
    """Whether the recipe in `folder` stands for several runs, in folders below."""
    path = folder / RECIPE
    return path.exists() and b"\n[sweep]\n" in path.read_bytes()


def recipe_text(recipe: Recipe) -> str:
    """What a run folder's recipe.toml holds: two runs are of the same recipe where this is equal."""
    return dump_toml(recipe.model_dump(mode="json", exclude_none=True))


def clear_run(folder: Path) -> None:
    """Remove what a run writes, and nothing else; the recipe last, so that an interrupted clearing is seen."""
    for stage in folder.glob("[0-9][0-9]-*"):
        remove_written(stage, STAGE_FILES)
    for name in (METRICS, SCORE, REPORT, NETWORK, ENVIRONMENT, LOG, RECIPE):
        (folder / name).unlink(missing_ok=True)


def _settle_environment(folder: Path, now: dict[str, Any], console: Console) -> dict[str, Any]:
    """Record where the run happens; on resuming, refuse other data and warn of what makes other bits."""
    path = folder / ENVIRONMENT
    if not path.exists():
        atomic_write(path, json.dumps(now, indent=1))
        return now
    before = read_object(path, data_checksum=str, versions=dict, device=str, threads=int)
    if before["data_checksum"] != now["data_checksum"]:
        raise UserError(f"{folder}: this run began with other data; give the same --data, or --fresh to begin anew")
    for key in ("versions", "device", "machine", "compiled_kernels"):
        if key in before and before[key] != now[key]:
            console.warn(f"{folder}: the run began with {key} {before[key]}, now {now[key]}: bits may differ")
    resumed = [*before.get("resumed", []), time.strftime("%Y-%m-%dT%H:%M:%S%z")]
    before = before | {"resumed": resumed}
    atomic_write(path, json.dumps(before, indent=1))
    return before
