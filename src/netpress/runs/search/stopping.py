"""Which trials are ended early: those below the median of the trials before, as `Stopping` says.

It is decided by what a training has written of its epochs, not by when somebody looked: a trial that should have been
stopped at half its epochs counts as stopped there, even if it came to its end before that was seen.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from netpress.errors import UserError
from netpress.recipe.schema import Recipe
from netpress.recipe.search_schema import Stopping
from netpress.stage import stage_name

Curve = Sequence[tuple[float, float]]
"""Share of the epochs, accuracy on the images to select on."""


def find_training(recipe: Recipe) -> tuple[str, int]:
    """The stage by which trials are compared, the first that trains, and its epochs. Raises UserError without one."""
    for place, stage in enumerate(recipe.stages):
        epochs = getattr(stage, "epochs", None)
        if isinstance(epochs, int) and epochs > 0:
            return stage_name(place, stage), epochs
    raise UserError("search.stop: no stage of this recipe trains, so there are no epochs to stop at")


def read_curve(lines: Sequence[dict[str, Any]], stage: str, epochs: int) -> Curve:
    """What a training has come to so far, from a run's metrics."""
    own = [line for line in lines if line.get("stage", stage) == stage and "selection_accuracy" in line]
    return [(line["epoch"] / epochs, line["selection_accuracy"]) for line in own if line["epoch"] <= epochs]


def find_stop(curve: Curve, others: Sequence[Curve], stop: Stopping) -> tuple[float, float] | None:
    """Where a trial is to be ended, and the best accuracy by then; None where it may go on."""
    for share, _ in curve:
        reached = [other for other in others if other and other[-1][0] >= share]
        if share < stop.after or share >= 1 or len(reached) < stop.after_trials:
            continue
        best = _best_until(curve, share)
        if best < statistics.median(_best_until(other, share) for other in reached):
            return share, best
    return None


def _best_until(curve: Curve, share: float) -> float:
    return max(accuracy for place, accuracy in curve if place <= share or place == curve[0][0])
