"""Recipes of one network or of several: planned and run by whoever knows how.

run_recipe(read_recipe("digits"), Path("runs/digits")).accuracy
"""

from pathlib import Path
from typing import Any

from netpress.errors import UserError
from netpress.network import Library
from netpress.recipe.schema import Recipe
from netpress.runs.chain import plan_chain, run_chain
from netpress.runs.fitting import fit_recipe
from netpress.runs.jobs import RunOptions
from netpress.runs.pipeline import RunResult, run_network
from netpress.runs.planning import plan_network
from netpress.runs.timing import check_minutes, fit_minutes, run_in_minutes


def plan_recipe(
    recipe: Recipe, data: Path | None = None, allow_import: bool = False, minutes: float | None = None
) -> dict[str, Any]:
    """The plan as plain values: of one network the stages with their rows, of several each network's plan.

    It is that of the recipe as fitted to its limits; what was chosen stands under `fit`. With `minutes`, for which the
    images are read, it has the epochs that end in time, and `minutes` says so. Raises UserError for what a run would
    refuse, now or later.
    """
    if minutes is not None:
        check_minutes(recipe, minutes)
    choices = recipe.fit
    fitted = fit_recipe(recipe, data, allow_import)
    told: dict[str, Any] = {"fit": fitted.as_json()} if fitted.values else {}
    recipe = fitted.recipe
    if minutes is not None:
        options = RunOptions(data=data, allow_import=allow_import)
        timed = fit_minutes(recipe, options, minutes, choices=choices)
        recipe, told["minutes"] = timed.recipe, timed.line
    if recipe.networks:
        return plan_chain(recipe, data, allow_import) | told
    return plan_network(recipe, data, Library(allow_import)).values | told


def run_recipe(
    recipe: Recipe, folder: Path, options: RunOptions | None = None, minutes: float | None = None
) -> RunResult:
    """Run `recipe` into `folder`, going on where an earlier call with the same recipe was interrupted.

    A recipe with limits and a [fit] table is fitted first; the folder states what was chosen. With `minutes` the epochs
    are chosen that end in that time (see `netpress.runs.timing`). Of several networks the result is that of the one
    which the recipe is for. Raises UserError if the folder holds a run of another recipe or data, Failure if a stage
    fails.
    """
    options = (options or RunOptions()).for_run(folder)
    if minutes is not None:
        check_minutes(recipe, minutes)
    if recipe.sweep is not None:
        raise UserError(
            f"{recipe.name}: stands for several runs; give it to `netpress run` or netpress.runs.sweep.run_sweep"
        )
    if recipe.search is not None:
        raise UserError(f"{recipe.name}: has a [search] table; give it to `netpress search recipe`, or leave that out")
    fitted = fit_recipe(recipe, options.data, options.allow_import, None if options.fresh else folder)
    if fitted.values:
        options.console.say(fitted.told())
    if minutes is not None:
        return run_in_minutes(fitted.recipe, folder, options, minutes, recipe.fit)
    run = run_chain if recipe.networks else run_network
    return run(fitted.recipe, folder, options)
