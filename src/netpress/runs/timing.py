"""A run of so many minutes: `--minutes` measures a few real steps of every training, and chooses the epochs that fit.

    fit_minutes(recipe, RunOptions(data=folder), minutes=5).recipe.text        every number of epochs stated

The measurement runs the whole recipe in small: its stages one after the other, on a few batches of the run's own images
with all that a step does, in this process with its threads, in a folder that is removed. So a training of a quantized
network is measured on a quantized network. Then every number of epochs is multiplied by one factor, as --epochs-scale
does, the largest with which the whole should end in time. Where the recipe's [fit] table lists other widths of its
network, the first is taken that leaves time for half of the epochs or more.
"""

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from netpress.data import Dataset, Images
from netpress.data.store import ImageCache
from netpress.errors import Failure, UserError
from netpress.evaluation import evaluate
from netpress.files import parse_toml, read_text
from netpress.folders.run import RunFolder
from netpress.folders.stage import StageFolder
from netpress.network import Library, Network, copy
from netpress.network.data import adopt
from netpress.process.console import Console
from netpress.process.devices import choose_device, seed_for, set_threads
from netpress.process.world import World
from netpress.recipe.fitting import Candidates, list_combinations, put_values, tell_values
from netpress.recipe.scaling import LARGEST_SCALE, has_epochs, scale_recipe
from netpress.recipe.schema import Recipe, check_recipe
from netpress.runs.beginning import create_for, load_run_data, read_network
from netpress.runs.jobs import RunOptions
from netpress.runs.pipeline import RunResult, run_network, run_stage
from netpress.runs.planning import plan_network
from netpress.settings import Settings
from netpress.stage import Context, Outlook, foresee, stage_name

BATCHES = 4  # of the largest batch in the recipe: so many steps an epoch of the measurement has
EPOCHS = 2  # the first has what happens once: code compiled, memory claimed
RESERVE = 0.05  # of the time: the score, the page, and what other processes take
ENOUGH = 0.5  # of the recipe's own epochs: with fewer, a smaller network learns more in the same time
MEASURING = 0.2  # of the time: once so much is gone, no other network is measured
SMALLEST_SCALE = 1e-9  # of the epochs: one each
TRIES = 30  # to meet the time, whole epochs being what they are
FINE = 1.01  # factors as near as this need no more tries


@dataclass(frozen=True)
class StageTime:
    """What a stage of the recipe takes, in seconds on the wall."""

    image: float
    """Of a training: one image of one pass, to learn from."""
    epoch: float
    """Of a training: what each epoch takes beside, which is a look at the selection images."""
    beside: float
    """What the stage takes beside its epochs."""


@dataclass(frozen=True)
class Fitted:
    """A recipe whose epochs fit the time, and the line that says so."""

    recipe: Recipe
    dataset: Dataset
    """The images, which were read for it."""
    line: str


def run_in_minutes(
    recipe: Recipe, folder: Path, options: RunOptions, minutes: float, choices: Candidates | None = None
) -> RunResult:
    """Run `recipe` of one network with as many epochs as should end within `minutes`; `choices` as for `fit_minutes`.

    A run that was begun so goes on with the epochs that it began with. Raises UserError where the time is too short for
    an epoch of each training, and as `run_network`.
    """
    started = time.monotonic()
    begun = None if options.fresh else _begun(RunFolder(folder), _list_candidates(recipe, choices))
    if begun is not None:
        options.console.say(f"--minutes {minutes:g}: the run in {folder} goes on with the epochs that it began with")
        return run_network(begun, folder, options)
    fitted = fit_minutes(recipe, options, minutes, started, choices)
    options.console.say(fitted.line)
    return run_network(fitted.recipe, folder, options, dataset=fitted.dataset)


def check_minutes(recipe: Recipe, minutes: float) -> None:
    """Raise UserError for a recipe or a time that --minutes cannot fit."""
    if not 0 < minutes < math.inf:
        raise UserError(f"--minutes {minutes:g}: must be above 0")
    if recipe.sweep is not None or recipe.networks:
        kind = "a sweep" if recipe.sweep is not None else "several networks"
        raise UserError(
            f"--minutes fits the epochs of one network, and {recipe.name} is {kind}, whose members would be trained "
            "unequally; take --epochs-scale"
        )
    if not has_epochs(recipe):
        raise UserError("--minutes: this recipe trains nothing, so it has no epochs to choose")


def fit_minutes(
    recipe: Recipe,
    options: RunOptions,
    minutes: float,
    started: float | None = None,
    choices: Candidates | None = None,
) -> Fitted:
    """`recipe` with every number of epochs such that the whole should end `minutes` after `started`, or after now.

    started: as `time.monotonic` has it. choices: values for settings of [model], as a [fit] table names them, in
    falling order of preference: the first is taken with which ENOUGH of the recipe's own epochs fit, else the one with
    the most. Where limits have decided, so that the recipe has no such table any more, a list begins at their choice.
    Reads the images. Raises UserError where even one epoch of each training takes longer, and names the minutes that
    would do, and for what a run would refuse.
    """
    started = time.monotonic() if started is None else started
    check_minutes(recipe, minutes)
    library = Library(options.allow_import)
    plan_network(recipe, options.data, library)  # what cannot be run is refused before anything is read
    named = read_network(recipe, library)
    cache = ImageCache(options.cache, round(options.cache_limit * 1e9))
    dataset = load_run_data(recipe.data, options.data, recipe.seed, named, options.console, cache)
    if named is not None:
        adopt(named, dataset)
    best: _Attempt | None = None
    for candidate in _list_candidates(recipe, choices):
        network = named or create_for(dataset, candidate.model_table, seed=recipe.seed)
        times = measure_stages(candidate, network, dataset, options)
        outlook = Outlook(network, len(dataset.train), tuple(network.architecture.edits), library, recipe.score)
        spent = time.monotonic() - started
        foreseen = functools.partial(_foresee, outlook=outlook, times=times)
        fitting, seconds = _largest(candidate, foreseen, minutes * 60 * (1 - RESERVE) - spent)
        share = 0.0 if fitting is None else _count_epochs(fitting) / _count_epochs(candidate)
        attempt = _Attempt(fitting, share, seconds, spent, times)
        if best is None or attempt.share > best.share or (best.fitting is None and attempt.seconds < best.seconds):
            best = attempt
        if share >= ENOUGH or spent > MEASURING * minutes * 60:
            break
    assert best is not None
    if best.fitting is None:
        raise UserError(best.refusal(minutes))
    return Fitted(best.fitting, dataset, best.line(minutes, recipe))


@dataclass(frozen=True)
class _Attempt:
    """A candidate with the most epochs that fit, None where not even one of each training does."""

    fitting: Recipe | None
    share: float
    """Of the recipe's own epochs."""
    seconds: float
    spent: float
    times: Mapping[str, StageTime]

    def refusal(self, minutes: float) -> str:
        needed = math.ceil((self.seconds + self.spent) / (1 - RESERVE) / 6) / 10
        return (
            f"--minutes {minutes:g}: one epoch of each training takes {self.seconds:.0f} s here, reading and measuring "
            f"took {self.spent:.0f} s; give {needed:g} minutes, a smaller network, or fewer or smaller images"
        )

    def line(self, minutes: float, asked: Recipe) -> str:
        assert self.fitting is not None
        epochs = ", ".join(f"{stage} {count:,}" for stage, count in _epochs_of(self.fitting).items())
        model, before = self.fitting.values["model"], asked.values["model"]
        changed = {f"model.{key}": value for key, value in model.items() if before.get(key) != value}
        chosen = f"{tell_values(changed)}, " if changed else ""
        return (
            f"--minutes {minutes:g}: {_describe(self.times)}; chosen: {chosen}epochs {epochs}; about "
            f"{(self.spent + self.seconds) / 60:.1f} minutes in all, {self.spent / 60:.1f} of them gone"
        )


def _list_candidates(recipe: Recipe, choices: Candidates | None) -> Iterator[Recipe]:
    """The recipe without a [fit] table, with every combination of the choices of [model] that time may decide."""
    table = {}
    for path, candidates in (choices or {}).items():
        section, _, key = path.partition(".")
        if section == "model":
            present = recipe.values["model"].get(key)
            start = candidates.index(present) if not recipe.fit and present in candidates else 0
            table[path] = candidates[start:]
    for chosen in list_combinations(table):
        yield check_recipe(put_values(recipe.values, chosen))


def _count_epochs(recipe: Recipe) -> int:
    return sum(_epochs_of(recipe).values())


def _foresee(recipe: Recipe, outlook: Outlook, times: Mapping[str, StageTime]) -> float:
    """Seconds that the stages of `recipe` take."""
    seconds = 0.0
    for name, plan in foresee(recipe.stages, outlook).items():
        epochs = sum(row.get("epochs") or 0 for row in plan.rows)
        passes = sum(row.get("passes", row.get("epochs")) or 0 for row in plan.rows)
        stage = times[name]
        seconds += stage.beside + epochs * stage.epoch + passes * (outlook.images or 0) * stage.image
    return seconds


def measure_stages(recipe: Recipe, initial: Network, dataset: Dataset, options: RunOptions) -> dict[str, StageTime]:
    """Run every stage in small, beginning with a copy of `initial`, and tell what each takes, by its name."""
    device = choose_device(options.device)
    if options.threads is not None:
        set_threads(options.threads)
    small = _in_small(recipe)
    largest = max((table["batch_size"] for table in _trainings(small.values)), default=1)
    few = _take_some(dataset, largest)
    network = copy(initial)
    looking = _seconds_to_evaluate(network, dataset, device)
    times: dict[str, StageTime] = {}
    with TemporaryDirectory(prefix="netpress-") as place:
        for index, settings in enumerate(small.stages):
            name = stage_name(index, settings)
            context = Context(
                folder=Path(place) / name,
                world=World(device, options.team),
                seed=seed_for(recipe.seed, "stage", index),
                console=Console(quiet=True),
                dataset=few,
                initial=initial,
                save_every_seconds=math.inf,
                name=name,
                score_settings=recipe.score,
                library=Library(options.allow_import),
            )
            began = time.monotonic()
            network = _run_in_small(network, settings, context)
            whole = time.monotonic() - began
            asked = recipe.stages[index].model_dump()
            every = min((table["evaluate_every"] for table in _trainings(asked)), default=1)
            taken = _time_of(StageFolder(context.folder), whole, looking, every)
            times[name] = replace(taken, image=taken.image * _share_of_pixels(asked, dataset.side))
    return times


def _run_in_small(network: Network, settings: Settings, context: Context) -> Network:
    """Raises UserError for a stage that cannot do with a network which has learned nothing."""
    try:
        return run_stage(network, settings, context)
    except (Failure, UserError) as error:
        raise UserError(
            f"--minutes: {context.name} cannot be measured before the network has learned ({error}); "
            "take --epochs-scale in its place"
        ) from error


def _time_of(folder: StageFolder, whole: float, looking: float, evaluate_every: int) -> StageTime:
    """From what a stage logged of its epochs, the seconds that it took as a whole, and those of a look at all images.

    Each stage ends with such a look, and one that trains nothing logs how it began, too.
    """
    lines = [line for line in folder.read_metrics() if line.get("images_per_second")]
    beside = max(0.0, whole - sum(line["seconds"] for line in lines)) + looking
    if not lines:
        return StageTime(0.0, 0.0, beside + looking)
    settled = [line for line in lines if line["epoch"] == EPOCHS] or lines
    images = sum(line["images_per_second"] * line["seconds"] for line in settled)
    return StageTime(sum(line["seconds"] for line in settled) / images, looking / evaluate_every, beside)


def _share_of_pixels(stage: dict[str, Any], side: int) -> float:
    """How much of the pixels a stage's trainings look at, where they reduce images (`sizes`); of several the most."""
    sizes = [table["sizes"] or [side] for table in _trainings(stage)]
    return max((sum(min(1, size / side) ** 2 for size in own) / len(own) for own in sizes), default=1.0)


def _in_small(recipe: Recipe) -> Recipe:
    """The recipe with EPOCHS epochs in every round of every training."""
    values = recipe.values
    for table in _trainings(values):
        table["epochs"] = EPOCHS * table.get("rounds", 1)
        table["schedule"]["warmup"] = 0.0
        table["sizes"] = []
    return check_recipe(values)


def _trainings(values: Any) -> Iterator[dict[str, Any]]:
    """Every table of `values` with the settings of a training, to be changed in place."""
    if isinstance(values, dict):
        if "epochs" in values and "batch_size" in values:
            yield values
        values = list(values.values())
    for entry in values if isinstance(values, list) else ():
        yield from _trainings(entry)


def _take_some(dataset: Dataset, batch_size: int) -> Dataset:
    """BATCHES batches of the training images, some of them twice where there are too few, and as few of the others."""
    count = min(batch_size, len(dataset.train)) * BATCHES

    def some(images: Images) -> Images:
        return images.take(torch.arange(min(count, len(images))))

    # Images lie class by class: every n-th, so that all classes are there.
    step = max(1, len(dataset.train) // count)
    train = dataset.train.take(torch.arange(0, count * step, step) % len(dataset.train))
    return replace(dataset, train=train, validation=some(dataset.validation), test=some(dataset.test))


def _seconds_to_evaluate(network: Network, dataset: Dataset, device: torch.device) -> float:
    """Of one look at all selection images, judged by a second look at some of them."""
    images = dataset.selection
    if not len(images):
        return 0.0
    some = images.take(torch.arange(min(len(images), 128)))
    evaluate(network, some, device=device)
    began = time.monotonic()
    evaluate(network, some, device=device)
    return (time.monotonic() - began) * len(images) / len(some)


def _largest(recipe: Recipe, foresee: Callable[[Recipe], float], allowed: float) -> tuple[Recipe | None, float]:
    """The recipe with the most epochs that `foresee` lets end within `allowed` seconds, and what they take.

    None, with the seconds of one epoch of each training, where even these take longer.
    """
    least = scale_recipe(recipe, SMALLEST_SCALE)
    seconds = foresee(least)
    if seconds > allowed:
        return None, seconds
    below, above, best = SMALLEST_SCALE, LARGEST_SCALE, least
    factor = 1.0
    for attempt in range(TRIES):
        candidate = _scaled(recipe, factor)
        taken = math.inf if candidate is None else foresee(candidate)
        if candidate is not None and taken <= allowed:
            below, best, seconds = factor, candidate, taken
        else:
            above = factor
        if above / below < FINE:
            break
        # As if the time rose in proportion, at first; then halfway between what fits and what does not.
        factor *= (allowed / taken) * (1 if taken <= allowed else 0.98)
        if attempt >= 3 or not below < factor < above:
            factor = math.sqrt(below * above)
    return best, seconds


def _scaled(recipe: Recipe, factor: float) -> Recipe | None:
    """None where so many epochs are more than a training can have."""
    try:
        return scale_recipe(recipe, factor)
    except UserError:
        return None


def _begun(run: RunFolder, candidates: Iterable[Recipe]) -> Recipe | None:
    """What a run of a candidate, but for its epochs, was begun with; None where there is none, or one of another."""
    if not run.holds_run or run.kind != "run":
        return None
    try:
        begun = check_recipe(parse_toml(read_text(run.recipe), str(run.recipe)))
    except UserError:
        return None
    text = _in_small(begun).text
    return begun if any(_in_small(candidate).text == text for candidate in candidates) else None


def _epochs_of(recipe: Recipe) -> dict[str, int]:
    """The epochs of each stage that trains; of one with several trainings, those of all together, once each."""
    values = {stage_name(index, settings): settings.model_dump() for index, settings in enumerate(recipe.stages)}
    counts = {name: sum(table["epochs"] for table in _trainings(stage)) for name, stage in values.items()}
    return {name: count for name, count in counts.items() if count}


def _describe(times: Mapping[str, StageTime]) -> str:
    return ", ".join(f"{1 / stage.image:,.0f} images/s in {name}" for name, stage in times.items() if stage.image)
