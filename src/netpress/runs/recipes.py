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


def plan_recipe(recipe: Recipe, data: Path | None = None, allow_import: bool = False) -> dict[str, Any]:
    """The plan as plain values: of one network the stages with their rows, of several each network's plan.

    It is that of the recipe as fitted to its limits; what was chosen stands under `fit`. Raises UserError for what a
    run would refuse, now or later.
    """
    fitted = fit_recipe(recipe, data, allow_import)
    if recipe.networks:
        planned = plan_chain(fitted.recipe, data, allow_import)
    else:
        planned = plan_network(fitted.recipe, data, Library(allow_import)).values
    return {**planned, "fit": fitted.as_json()} if fitted.values else planned


def run_recipe(recipe: Recipe, folder: Path, options: RunOptions | None = None) -> RunResult:
    """Run `recipe` into `folder`, going on where an earlier call with the same recipe was interrupted.

    A recipe with limits and a [fit] table is fitted first; the folder states what was chosen. Of several networks the
    result is that of the one which the recipe is for. Raises UserError if the folder holds a run of another recipe or
    data, Failure if a stage fails.
    """
    options = options or RunOptions()
    if recipe.sweep is not None:
        raise UserError(
            f"{recipe.name}: stands for several runs; give it to `netpress run` or netpress.runs.sweep.run_sweep"
        )
    fitted = fit_recipe(recipe, options.data, options.allow_import, None if options.fresh else folder)
    if fitted.values:
        options.console.say(fitted.told())
    run = run_chain if recipe.networks else run_network
    return run(fitted.recipe, folder, options)
