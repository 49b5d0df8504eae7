"""The recipes of a search: what its trials have in common, and the recipe of each."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netpress.errors import UserError
from netpress.folders.search import trial_name
from netpress.recipe.overrides import set_for_all, split_path
from netpress.recipe.reading import read_values
from netpress.recipe.scaling import scale_recipe
from netpress.recipe.schema import Recipe, check_recipe
from netpress.recipe.search_schema import Range, Search
from netpress.settings import SettingsError


@dataclass(frozen=True)
class Space:
    """A recipe with a [search] table, and the recipes that it stands for."""

    recipe: Recipe
    values: Mapping[str, Any]
    """As written, without the table."""
    source: str
    epochs_scale: float = 1.0

    @property
    def search(self) -> Search:
        assert self.recipe.search is not None
        return self.recipe.search

    def put(self, number: int, chosen: Mapping[str, Any]) -> Recipe:
        """The recipe of a trial. Raises SettingsError for values that are none."""
        own = copy.deepcopy(dict(self.values))
        for path, value in chosen.items():
            set_for_all(own, split_path(path), copy.deepcopy(value), f'search.space."{path}"')
        own["name"] = f"{self.recipe.name}_{trial_name(number)}"
        return scale_recipe(check_recipe(own, f"{self.source}: {trial_name(number)}"), self.epochs_scale)


def read_space(name: str, overrides: Sequence[str] = (), seed: int | None = None, epochs_scale: float = 1.0) -> Space:
    """The search in the recipe called `name` or stored in the file `name`; arguments as for `read_recipe`.

    The ends of each range, and each value of a list, are tried alone. Raises UserError if the recipe has no [search]
    table or is no recipe of one network, SettingsError for what cannot be set.
    """
    values, source = read_values(name, overrides, seed)
    recipe = check_recipe(values, source)
    if recipe.search is None:
        raise UserError(f"{source}: has no [search] table; it names what to look for, see docs/recipes.md")
    if recipe.networks:
        raise UserError(f"{source}: a search is over recipes of one network, and this is a chain of several")
    if recipe.data.select_on == "test":
        raise UserError(
            f'{source}: data.select_on = "test": a search chooses by accuracy, and on the test images it would choose '
            "by luck; set some apart with data.validation"
        )
    space = Space(recipe, {key: value for key, value in values.items() if key != "search"}, source, epochs_scale)
    problems = list(dict.fromkeys(_find_problems(space)))
    if problems:
        raise SettingsError(problems, source)
    return space


def _find_problems(space: Space) -> Iterator[str]:
    for path, candidates in space.search.space.items():
        ends = [candidates.low, candidates.high] if isinstance(candidates, Range) else list(candidates)
        for value in ends:
            try:
                space.put(0, {path: value})
            except SettingsError as error:
                yield from (f'search.space."{path}" = {value}: {problem}' for problem in error.problems)
                break
            except UserError as error:
                yield str(error)
                break
