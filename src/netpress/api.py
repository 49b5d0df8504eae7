"""The Python API: the same things that the command line does, as functions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netpress.evaluation import Evaluation, evaluate_exactly
from netpress.evaluation import evaluate as evaluate_images
from netpress.network import Network, resolve, save
from netpress.network.data import load_data
from netpress.process.console import Console
from netpress.process.devices import choose_device
from netpress.recipe.overrides import read_data_changes
from netpress.recipe.reading import read_recipe
from netpress.recipe.schema import Recipe
from netpress.runs.jobs import RunOptions
from netpress.runs.pipeline import RunResult, run_recipe
from netpress.scoring import score

__all__ = ["evaluate", "load", "run", "save", "score"]


def run(
    recipe: str | Path | dict[str, Any] | Recipe,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    set: Sequence[str] = (),
    device: str = "auto",
    seed: int | None = None,
    epochs_scale: float = 1.0,
    fresh: bool = False,
    console: Console | None = None,
    allow_import: bool = False,
) -> RunResult:
    """Run a recipe (a shipped name, a file, or its values) into the folder `out`, by default runs/NAME.

    `set` takes overrides such as "stages.0.epochs=2", and `epochs_scale` multiplies every number of epochs. Both work
    on a recipe given as values too, which stays as it is. An interrupted run goes on when called again.
    A network file that the recipe names, to begin with or as a teacher, may import its author's own class only with
    `allow_import`.
    Raises netpress.errors.UserError or Failure.
    """
    recipe = read_recipe(str(recipe) if isinstance(recipe, Path) else recipe, set, seed, epochs_scale)
    folder = Path(out) if out else Path("runs") / recipe.name
    options = RunOptions(
        data=Path(data) if data else None,
        device=device,
        fresh=fresh,
        console=console or Console(quiet=True),
        allow_import=allow_import,
    )
    return run_recipe(recipe, folder, options)


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
) -> Evaluation:
    """Accuracy on the test images of `dataset` (by default the one the network was trained on).

    `exact` sums in integers, compares with the ordinary evaluation, and gives an ExactEvaluation with the
    accumulators of every layer. The data is read and divided as the network's file says; `set` takes changes, such
    as "data.test_fraction=0.2". Its classes are matched by name, or by number if `classes_by_number`. `allow_import`
    as for `load`.
    """
    if not isinstance(network, Network):
        network = load(network, allow_import=allow_import)
    chosen = choose_device(device)
    changes = read_data_changes(set, classes_by_number, dataset)
    folder = Path(data) if data else None
    loaded = load_data(network, folder, dataset, changes, console=console or Console(quiet=True))
    return (evaluate_exactly if exact else evaluate_images)(network, loaded.test, device=chosen)
