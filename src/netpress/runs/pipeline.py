"""Running the recipe of one network: its stages in order, each once, into a run folder; an interrupted run goes on.

    run_network(read_recipe("digits"), Path("runs/digits"), RunOptions()).accuracy

`netpress.folders.run` lists what lies in the folder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from netpress.data import Dataset
from netpress.data.findings import inspect
from netpress.evaluation import evaluate, predictions_of, save_predictions
from netpress.folders.answers import AnswersFolder
from netpress.folders.run import NEEDED, RunFolder
from netpress.folders.stage import StageFolder
from netpress.network import Library, Network, copy, load, own_class, save
from netpress.network.data import adopt
from netpress.network.fingerprint import fingerprint
from netpress.process.devices import choose_device, seed_for
from netpress.process.world import World
from netpress.recipe.schema import Recipe, resolve_again
from netpress.report import make_report
from netpress.runs.beginning import create_for, load_run_data, read_network
from netpress.runs.environment import describe_environment, settle_threads
from netpress.runs.illustrating import illustrate
from netpress.runs.jobs import RunOptions
from netpress.runs.judging import judge
from netpress.runs.planning import plan_network
from netpress.runs.tensorboard import followed
from netpress.scoring import (
    Footprint,
    ScoreCard,
    ScoreSettings,
    Taken,
    list_excess,
    list_taken,
    measure_footprint,
    score_trace,
    trace_network,
)
from netpress.settings import Settings
from netpress.stage import Context, Stage, stage_name, stage_of


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    `accuracy` is a fraction, `score` by the recipe's convention, `beside` its further cards. `footprint` is what the
    network takes on a device, `limits` what it takes of each limit that the recipe sets.
    """

    folder: Path
    accuracy: float
    params: float
    operations: float
    score: float
    report: Path
    network: Network
    footprint: Footprint
    beside: Mapping[str, ScoreCard] = field(default_factory=dict)
    limits: Sequence[Taken] = ()
    tested: str = "the test images"
    """What `accuracy` is a fraction of, in words."""


def run_network(
    recipe: Recipe,
    folder: Path,
    options: RunOptions,
    members: Mapping[str, Network] | None = None,
    dataset: Dataset | None = None,
) -> RunResult:
    """Run the `recipe` of one network into `folder`, going on where an earlier call with it was interrupted.

    `members` are finished networks of the same chain, which the recipe may name. `dataset` is what the recipe reads,
    where it was read before. A network file that it names may itself name a class to import only where the options
    allow it; a recipe's own `family = "import"` needs no leave.
    Raises UserError if the folder holds a run of another recipe or data, Failure if a stage fails.
    """
    choose_device(options.device)  # one that is not there is refused first
    run = RunFolder(folder)
    library = Library(options.allow_import, members or {})
    if options.fresh or len(run.finished_stages()) < len(recipe.stages):
        # What cannot be run is refused before anything is read or written.
        plan_network(recipe, options.data, library)
    needed = None if members is None else {name: fingerprint(network) for name, network in members.items()}
    with (
        run.claimed(recipe.text, options.fresh, resolve_again),
        followed(run, options.tensorboard, options.console) as follow,
    ):
        work = _Work(recipe, run, options, library, options.answers_beside(run.path), follow)
        initial, dataset = _begin(work, dataset, needed)
        contexts = _contexts(work, initial, dataset)
        network = copy(initial)
        for settings, context in zip(recipe.stages, contexts, strict=True):
            network = run_stage(network, settings, context)
            follow()
        result = _finish(recipe, run, network, contexts[-1])
        follow()
        return result


@dataclass(frozen=True)
class _Work:
    """What a run works with from its beginning to its end."""

    recipe: Recipe
    run: RunFolder
    options: RunOptions
    library: Library
    answers: AnswersFolder
    follow: Callable[[], None]
    """Hands on what the folder has gained."""


def _begin(work: _Work, dataset: Dataset | None, needed: Mapping[str, str] | None) -> tuple[Network, Dataset]:
    """Load the data, settle where the run computes, make the first network; `needed`: fingerprints of its members."""
    recipe, run, options = work.recipe, work.run, work.options
    named = read_network(recipe, work.library)
    dataset = dataset or load_run_data(
        recipe.data, options.data, recipe.seed, named, options.console, options.images_beside(run.path)
    )
    if named is not None:
        adopt(named, dataset)
    _settle(work, dataset, needed)
    if not run.data.exists():
        findings = inspect(dataset)
        findings.tell(options.console.with_log(run.log))
        run.write_data(findings.as_json())
    illustrate(run, recipe, dataset)
    # First weights can depend on the number of threads, which is settled now.
    return named or create_for(dataset, recipe.model_table, seed=recipe.seed), dataset


def _settle(work: _Work, dataset: Dataset, needed: Mapping[str, str] | None) -> None:
    """Note where the run computes and what it reads, or refuse what differs from what it began with."""
    recipe, run, options = work.recipe, work.run, work.options
    environment = describe_environment(choose_device(options.device), options.threads)
    where = {"seed": recipe.seed, **environment, "data_checksum": dataset.checksum}
    if recipe.data.dataset == "folder" and options.data is not None:
        where["data_folder"] = options.data.resolve().name
    where["processes"] = options.team.size if options.team is not None else 1
    if needed is not None:
        where[NEEDED] = needed
    settle_threads(run.settle_environment(where, options.console.with_log(run.log).warn))


def _contexts(work: _Work, initial: Network, dataset: Dataset) -> list[Context]:
    """What each stage is given."""
    run, options = work.run, work.options
    console, device = options.console.with_log(run.log), choose_device(options.device)

    def collect(line: dict[str, Any]) -> None:
        run.collect_metrics()
        work.follow()

    return [
        Context(
            folder=run.stage(stage_name(place, stage)).path,
            world=World(device, options.team),
            seed=seed_for(work.recipe.seed, "stage", place),
            console=console,
            dataset=dataset,
            initial=initial,
            save_every_seconds=options.save_every_seconds,
            name=stage_name(place, stage),
            on_log=collect,
            score_settings=work.recipe.score,
            answers=work.answers,
            library=work.library,
        )
        for place, stage in enumerate(work.recipe.stages)
    ]


def run_stage(network: Network, settings: Settings, context: Context) -> Network:
    """Run one stage in its folder, unless it is done; its result, always as its file gives it.

    What a stage makes in memory can differ from its file in what no value shows, such as the order in which a tensor
    lies in memory, and then the next stage adds in another order. So nothing is handed on but what the file gives.
    """
    stage = stage_of(settings)
    folder = StageFolder(context.folder)
    own = own_class(network)
    if folder.is_done:
        context.console.say(f"{context.name}: done before")
        network = load(folder.network, allow_import=own)
    else:
        folder.path.mkdir(parents=True, exist_ok=True)
        network = save_result(stage.run(network, settings, context), folder.network, own)
        summary = _summarise(network, stage, context)
        folder.mark_done(summary)
    folder.clear_state()
    return network


def save_result(network: Network, path: Path, allow_import: str | bool) -> Network:
    """Write what a stage made, and give what was written; `allow_import` as for `load`."""
    network.facts.pop("accuracy", None)  # an earlier figure does not speak for what the stage made
    save(network, path)
    return load(path, allow_import=allow_import)


def _summarise(network: Network, stage: Stage, context: Context) -> dict[str, Any]:
    """What the stage came to; its selection accuracy is measured here, the same way for every stage."""
    logged = StageFolder(context.folder).read_metrics()
    summary: dict[str, Any] = {"kind": stage.kind, "seconds": sum(line.get("seconds", 0) for line in logged)}
    if context.dataset is not None and len(context.dataset.selection.labels):
        evaluation = evaluate(network, context.dataset.selection, device=context.device)
        summary |= {"accuracy": evaluation.accuracy, "loss": evaluation.loss, "select_on": context.dataset.select_on}
        context.console.say(f"{context.name}: {evaluation.accuracy:.2%} on the {context.dataset.select_on} images")
    weights = network.weights()
    summary["parameters"] = sum(parameter.numel() for parameter in network.module.parameters())
    summary["weights"] = sum(weight.numel() for weight in weights.values())
    summary["nonzeros"] = sum(int(weight.detach().count_nonzero()) for weight in weights.values())
    return summary | _count(network, context)


def _count(network: Network, context: Context) -> dict[str, Any]:
    """What the network costs: by the run's convention, and on a device."""
    traced = trace_network(network)
    counts = measure_footprint(traced, network).totals()
    if context.score_settings is not None:
        dataset = context.dataset.name if context.dataset is not None else None
        card = score_trace(traced, context.score_settings, network.formats, dataset=dataset)
        counts |= {"params": card.params, "operations": card.operations, "score": card.score}
    return counts


def _finish(recipe: Recipe, run: RunFolder, network: Network, context: Context) -> RunResult:
    """The final figures: accuracy on the test images (seen here for the first time), score, report."""
    dataset = context.data
    evaluation = evaluate(network, dataset.test, device=context.device)
    network.facts |= {"accuracy": evaluation.accuracy, "dataset": dataset.name, "images": evaluation.count}
    traced = trace_network(network)

    def count(settings: ScoreSettings) -> ScoreCard:
        return score_trace(traced, settings, network.formats, accuracy=evaluation.accuracy, dataset=dataset.name)

    footprint = measure_footprint(traced, network)
    card = replace(count(recipe.score), footprint=footprint)
    for excess in list_excess(recipe.limits, card, network).values():
        context.console.warn(excess)
    limits = list_taken(recipe.limits, card)
    beside = {name: count(settings) for name, settings in recipe.beside.items()}
    save(network, run.network)
    save_predictions(predictions_of(evaluation, dataset.test, dataset.classes, dataset.name), run.predictions)
    judge(run, recipe, network, evaluation, context)
    figures = card.as_json() | {
        "accuracy": evaluation.accuracy,
        "top5": evaluation.top5,
        "loss": evaluation.loss,
        "dataset": dataset.name,
        "select_on": dataset.select_on,
        "images": evaluation.count,
    }
    if limits:
        figures["limits"] = [taken.as_json() for taken in limits]
    if dataset.test_total is not None:
        figures["images_of"] = dataset.test_total
    if beside:
        figures["beside"] = {name: other.as_json() for name, other in beside.items()}
    run.write_score(figures)
    run.collect_metrics()
    report = make_report(run.path)
    counted = (card.params, card.operations, card.score)
    path, accuracy, tested = run.path, evaluation.accuracy, dataset.tested
    return RunResult(path, accuracy, *counted, report, network, footprint, beside, limits, tested)
