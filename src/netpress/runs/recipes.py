"""Recipes of one network or of several: planned and run by whoever knows how.

run_recipe(read_recipe("digits"), Path("runs/digits")).accuracy
"""

from pathlib import Path
from typing import Any

from netpress.errors import UserError
from netpress.network import Library
from netpress.recipe.schema import Recipe
from netpress.runs.chain import plan_chain, run_chain
from netpress.runs.jobs import RunOptions
from netpress.runs.pipeline import RunResult, run_network
from netpress.runs.planning import plan_network
from netpress.runs.timing import run_in_minutes


def plan_recipe(recipe: Recipe, data: Path | None = None, allow_import: bool = False) -> dict[str, Any]:
    """The plan as plain values: of one network the stages with their rows, of several each network's plan.

    Raises UserError for what a run would refuse, now or later.
    """
    if recipe.networks:
        return plan_chain(recipe, data, allow_import)
    return plan_network(recipe, data, Library(allow_import)).values


def run_recipe(
    recipe: Recipe, folder: Path, options: RunOptions | None = None, minutes: float | None = None
) -> RunResult:
    """Run `recipe` into `folder`, going on where an earlier call with the same recipe was interrupted.

    Of several networks the result is that of the one which the recipe is for. With `minutes` the epochs are chosen that
    end in that time (see `netpress.runs.timing`). Raises UserError if the folder holds a run of another recipe or data,
    Failure if a stage fails.
    """
    options = options or RunOptions()
    if minutes is not None:
        return run_in_minutes(recipe, folder, options, minutes)
    if recipe.sweep is not None:
        raise UserError(
            f"{recipe.name}: stands for several runs; give it to `netpress run` or netpress.runs.sweep.run_sweep"
        )
    run = run_chain if recipe.networks else run_network
    return run(recipe, folder, options)
