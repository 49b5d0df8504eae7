"""A recipe with more or fewer epochs: what --epochs-scale does, for a trial of one percent."""

from typing import Any

from netpress.errors import UserError
from netpress.recipe.schema import Recipe, check_recipe

LARGEST_SCALE = 1e6  # of --epochs-scale


def scale_recipe(recipe: Recipe, factor: float) -> Recipe:
    """`recipe` with every number of epochs times `factor`, those left to their defaults too, and each round at least 1.

    Schedules follow, since they are told by shares of a round; a warm-up, told in epochs, is multiplied too. Shortened,
    a rate that changed once an epoch changes at every step: a round of one epoch would have but the lowest.
    Raises UserError unless `factor` is above 0.
    """
    if not 0 < factor <= LARGEST_SCALE:
        raise UserError(f"--epochs-scale {factor}: must be above 0 and at most {LARGEST_SCALE:,.0f}")
    if factor == 1:
        return recipe
    return check_recipe(_scale_epochs(recipe.values, factor))


def has_epochs(recipe: Recipe) -> bool:
    """Whether any stage of `recipe` trains, so that there are epochs to multiply."""
    waiting: list[Any] = [recipe.values.get(key) for key in ("stages", "networks")]
    while waiting:
        values = waiting.pop()
        if isinstance(values, dict) and "epochs" in values:
            return True
        waiting += values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
    return False


def _scale_epochs(values: Any, factor: float) -> Any:
    if isinstance(values, list):
        return [_scale_epochs(entry, factor) for entry in values]
    if not isinstance(values, dict):
        return values
    scaled = {key: _scale_epochs(entry, factor) for key, entry in values.items()}
    if isinstance(scaled.get("epochs"), int):
        scaled["epochs"] = max(scaled.get("rounds", 1), round(scaled["epochs"] * factor))
        if "schedule" in scaled:  # epochs are rounded: a warm-up keeps at most its share of a round
            before, after = (table["epochs"] // table["rounds"] for table in (values, scaled))
            longest = values["schedule"]["warmup"] * after / before
            scaled["schedule"]["warmup"] = min(scaled["schedule"]["warmup"], longest)
    if isinstance(scaled.get("warmup"), float):
        scaled["warmup"] *= factor
    if factor < 1 and scaled.get("per") == "epoch":
        scaled["per"] = "step"
    return scaled
