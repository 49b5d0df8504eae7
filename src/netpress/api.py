"""The Python API: what the command line does, as functions.

result = run("digits", out="runs/first", set=["stages.0.epochs=2"])
evaluate(result.network).accuracy
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from netpress.compression.quantization.sensitivity import Part, Sensitivity, measure_sensitivity
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.data.pictures import Asked, Picture, list_pictures
from netpress.data.store import LIMIT, ImageCache, cache_near
from netpress.errors import UserError
from netpress.evaluation import Answer, Evaluation, ask, check_scale, evaluate_exactly
from netpress.evaluation import evaluate as evaluate_images
from netpress.export.c.choosing import choose_kernels
from netpress.export.latency import Latencies, measure_latencies
from netpress.network import Network, resolve, save
from netpress.network.data import load_data, pixel_rules
from netpress.process.console import Console
from netpress.process.devices import choose_device
from netpress.process.world import World
from netpress.recipe.overrides import apply_overrides, data_changes, read_data_changes
from netpress.recipe.reading import read_recipe
from netpress.recipe.schema import Recipe
from netpress.report.comparison import compare
from netpress.runs.jobs import RunOptions
from netpress.runs.pipeline import RunResult
from netpress.runs.recipes import run_recipe
from netpress.scoring import score
from netpress.settings import parse
from netpress.stage import Context

__all__ = ["compare", "evaluate", "load", "predict", "run", "save", "score", "sensitivity", "time"]

_ALONE = "since each layer is quantized alone, without training"
UNUSED = {
    "widths": "give --widths",
    "auto_images": "give --images",
    **dict.fromkeys(("rules", "train", "learn", "correct_biases", "arithmetic"), _ALONE),
    **dict.fromkeys(("bits", "target_accuracy", "target_score"), "since no widths are chosen"),
    "keep_formats": "since only networks in floats are measured",
}
"""Settings of the stage `quantize` that the measurement does not look at, and what to do."""


def run(
    recipe: str | Path | dict[str, Any] | Recipe,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    set: Sequence[str] = (),
    device: str = "auto",
    seed: int | None = None,
    epochs_scale: float = 1.0,
    minutes: float | None = None,
    fresh: bool = False,
    save_every: float = 60.0,
    threads: int | None = None,
    console: Console | None = None,
    allow_import: bool = False,
    answers: str | Path | None = None,
    answers_limit: float = 10.0,
    cache: str | Path | None = None,
    cache_limit: float = LIMIT,
    tensorboard: bool = False,
) -> RunResult:
    """Run a recipe (a shipped name, a file, or its values) into the folder `out`, by default runs/NAME.

    `set` takes overrides such as "stages.0.epochs=2", and `epochs_scale` multiplies every number of epochs. Both work
    on a recipe given as values too, which stays as it is. `minutes` measures a few steps and chooses the epochs that
    end in that time. An interrupted run goes on when called again; its state is saved at least every `save_every`
    seconds.
    A network file that the recipe names, to begin with or as a teacher, may import its author's own class only with
    `allow_import`. `answers` is the folder of teachers' answers that trainings with `keep_answers` share, by default
    `.answers` beside `out`, and `answers_limit` the GB that it may grow to. So are `cache` and `cache_limit` for the
    decoded images of a large folder, by default `.images` beside `out`.
    With `tensorboard` event files are written into the folders of the stages too.
    Raises netpress.errors.UserError or Failure.
    """
    recipe = read_recipe(str(recipe) if isinstance(recipe, Path) else recipe, set, seed, epochs_scale)
    folder = Path(out) if out else Path("runs") / recipe.name
    options = RunOptions(
        data=Path(data) if data else None,
        device=device,
        fresh=fresh,
        console=console or Console(quiet=True),
        save_every_seconds=save_every,
        threads=threads,
        allow_import=allow_import,
        answers=Path(answers) if answers else None,
        answers_limit=answers_limit,
        cache=Path(cache) if cache else None,
        cache_limit=cache_limit,
        tensorboard=tensorboard,
    )
    return run_recipe(recipe, folder, options, minutes)


def load(network: str | Path, *, allow_import: bool = False) -> Network:
    """The network in a file or run folder, or a new one from NAME[:SETTINGS]; its module is in evaluation mode.

    A file that names its author's own class runs that class's code: refused unless `allow_import`.
    """
    return resolve(str(network), allow_import=allow_import)


def evaluate(
    network: Network | str | Path,
    *,
    data: str | Path | None = None,
    dataset: str | None = None,
    exact: bool = False,
    device: str = "auto",
    console: Console | None = None,
    allow_import: bool = False,
    set: Sequence[str] = (),
    classes_by_number: bool = False,
    scale: float = 1.0,
    cache: str | Path | None = None,
) -> Evaluation:
    """Accuracy on the test images of `dataset` (by default the one the network was trained on).

    `exact` sums in integers, compares with the ordinary evaluation, and gives an ExactEvaluation with the
    accumulators of every layer. The data is read and divided as the network's file says; `set` takes changes, such
    as "data.test_fraction=0.2". Its classes are matched by name, or by number if `classes_by_number`. `allow_import`
    as for `load`. `scale` multiplies the logits before the softmax that gives probabilities, as for `predict`. `cache`
    is the folder of decoded images, by default the one that the network's run filled.
    """
    check_scale(scale)
    near = _near(network, cache)
    if not isinstance(network, Network):
        network = load(network, allow_import=allow_import)
    where = choose_device(device)
    changes = read_data_changes(set, classes_by_number, dataset)
    folder = Path(data) if data else None
    loaded = load_data(network, folder, dataset, changes, console=console or Console(quiet=True), cache=near)
    return (evaluate_exactly if exact else evaluate_images)(network, loaded.test, device=where, scale=scale)


def _near(network: Network | str | Path, cache: str | Path | None = None) -> ImageCache:
    """The cache of images for a network, as the caller gave it."""
    return cache_near(None if isinstance(network, Network) else network, Path(cache) if cache else None)


def predict(
    network: Network | str | Path,
    images: Asked | Picture | Iterable[Asked | Picture],
    *,
    top: int = 1,
    exact: bool = False,
    scale: float = 1.0,
    set: Sequence[str] = (),
    device: str = "auto",
    console: Console | None = None,
    allow_import: bool = False,
    kernels: str = "auto",
) -> list[Answer]:
    """The `top` likeliest classes of each image, with their probabilities (the softmax of the logits).

        netpress.predict("runs/photos", "new.jpg")[0].best.label
        netpress.predict(network, ["new.jpg", "holiday", Image.open("b.png"), pixels], top=5)

    `images`: one or several of: the path of a file, or of a folder, of which all images are taken at any depth; the
    bytes of a file; a Pillow image; an array of uint8, 0 to 255, [height, width], [height, width, 3] or [images,
    height, width, 3] (with 1 or 4 in place of 3: grey, RGBA). Floats are refused, since 1 may be white or almost black.
    Each is read as the network's training read its images: turned, put on a background, resized, normalized; `set`
    changes that ("data.resize=pad", "data.background=255", "data.max_pixels=200000000"). For a grey network colours
    become grey.

    An image that cannot be read does not stop the others: its answer has a `problem`. `exact` computes in integers. A
    network of integer arithmetic is always asked in integers: with `kernels` "auto" by C where a compiler is found and
    works, which compiles the network once, else by torch; "c" and "torch" insist. The answers are the same, and say
    what computed them (`computed_by`).
    `scale` multiplies the logits before the softmax; give a network that ends in cosines the scale of its loss.
    Raises UserError for paths that are not there and for other kinds of images, Failure for answers of NaN.
    """
    console = console or Console(quiet=True)
    where = choose_device(device)
    changes = read_data_changes(set)
    pictures = list_pictures(images, console)
    if not isinstance(network, Network):
        network = load(network, allow_import=allow_import)
    rules = pixel_rules(network, changes)
    executor = choose_kernels(network, kernels, where, console).executor
    answers = ask(network, pictures, rules, console, top=top, exact=exact, scale=scale, device=where, executor=executor)
    return list(answers)


def time(
    network: Network | str | Path,
    *,
    threads: Sequence[int] = (1,),
    batch: int = 1,
    seconds: float = 10.0,
    console: Console | None = None,
    allow_import: bool = False,
) -> Latencies:
    """How long the network takes for an image, by each way of calculating it on this CPU; see `measure_latencies`.

    `seconds` for each number of `threads`; `batch` images a call. `allow_import` as for `load`.
    """
    if not isinstance(network, Network):
        network = load(network, allow_import=allow_import)
    return measure_latencies(network, threads=threads, batch=batch, seconds=seconds, console=console)


@dataclass(frozen=True)
class LayerLosses:
    """What each layer loses alone, at each width, and on how many images that was measured."""

    rows: list[Sensitivity]
    images: int


def sensitivity(
    network: Network | str | Path,
    *,
    widths: Sequence[int] = (8, 6, 4),
    images: int = 1000,
    data: str | Path | None = None,
    dataset: str | None = None,
    set: Sequence[str] = (),
    classes_by_number: bool = False,
    device: str = "auto",
    seed: int = 0,
    console: Console | None = None,
    allow_import: bool = False,
    apart: bool = False,
) -> LayerLosses:
    """How much accuracy each layer loses when it alone is quantized, at each of `widths` in bits.

    `apart`: its weights and its inputs each by itself.

    `images` images of those set apart to select on decide. `set` takes settings of the stage `quantize`, such as
    "preset=int4", and of the data, such as "data.validation=0.2". The other arguments are as for `evaluate`.
    Raises UserError, also for a setting that changes nothing here.
    """
    values: dict[str, Any] = {"kind": "quantize"}
    apply_overrides(values, set)
    changes = data_changes(values, classes_by_number, dataset)
    for key, reason in UNUSED.items():
        if key in values:
            raise UserError(f"--set {key}: changes nothing here, {reason}")
    if not widths or not all(2 <= width <= 16 for width in widths):
        raise UserError(f"--widths {','.join(map(str, widths))}: a width is 2 to 16 bits")
    if images < 1:
        raise UserError(f"--images {images}: must be at least 1")
    settings = parse(QuantizeSettings, values, "sensitivity")
    near = _near(network)
    if not isinstance(network, Network):
        network = load(network, allow_import=allow_import)
    console = console or Console(quiet=True)
    folder = Path(data) if data else None
    loaded = load_data(network, folder, dataset, changes, seed=seed, selects=True, console=console, cache=near)
    with TemporaryDirectory() as work:
        context = Context(
            folder=Path(work),
            world=World(choose_device(device)),
            seed=seed,
            console=console,
            dataset=loaded,
            name="sensitivity",
        )
        parts: tuple[Part, ...] = ("weights", "inputs") if apart else ("both",)
        rows = measure_sensitivity(network, settings, context, widths, images, parts)
    return LayerLosses(rows, min(images, len(loaded.selection)))
