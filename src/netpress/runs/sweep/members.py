"""The members of a sweep: the runs that a recipe with a [sweep] table stands for. For example

    [sweep]
    seeds = [1, 2, 3]

    [sweep.grid]
    "model.expansion" = [1.0, 2.0, 3.0]

    [sweep.variants.vanilla]
    "stages.0.optimizer.decay_1d" = true

    [sweep.variants.no-bias-decay]
    "stages.0.optimizer.decay_1d" = false

is 2 x 3 x 3 runs: every variant at every point of the grid with every seed, in this order.
"""

import copy
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from netpress.errors import NetpressError, UserError
from netpress.recipe.networks import state_networks
from netpress.recipe.overrides import set_for_all, split_path
from netpress.recipe.reading import read_values
from netpress.recipe.scaling import scale_recipe
from netpress.recipe.schema import Recipe, check_recipe
from netpress.recipe.sweep_schema import Sweep


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    name: str
    """Its folder below the sweep's; the parts that tell it apart, joined by `_`."""
    variant: str | None
    point: dict[str, Any]
    """Its values on the grid, by column name."""
    recipe: Recipe
    """Resolved and without a [sweep] table: it can be run by itself."""


@dataclass(frozen=True)
class SweepMembers:
    """A sweep understood: what its members have in common, with its [sweep] table, and each member."""

    recipe: Recipe
    members: tuple[Member, ...]

    @property
    def table(self) -> Sweep:
        assert self.recipe.sweep is not None
        return self.recipe.sweep


def read_sweep(
    name: str, overrides: Sequence[str] = (), seed: int | None = None, epochs_scale: float = 1.0
) -> SweepMembers:
    """The sweep in the recipe called `name` or stored in the file `name`; arguments as for `read_recipe`.

    Every member's settings are checked. Raises UserError if the recipe has no [sweep] table, for an override that
    the sweep would replace, and where two members would have the same name; SettingsError, which names the member
    and the path, for a setting that does not exist.
    """
    values, source = read_values(name, overrides, seed)
    recipe = check_recipe(values, source)
    if recipe.sweep is None:
        raise UserError(f"{source}: has no [sweep] table")
    _refuse_overridden(recipe.sweep, overrides, seed)
    if epochs_scale != 1:
        table = recipe.sweep.model_copy(update={"epochs_scale": recipe.sweep.epochs_scale * epochs_scale})
        recipe = recipe.model_copy(update={"sweep": table})
    return SweepMembers(recipe, tuple(_expand(recipe, values, source)))


def _refuse_overridden(table: Sweep, overrides: Sequence[str], seed: int | None) -> None:
    """An override that no member would see is a mistake."""
    if seed is not None and table.seeds:
        raise UserError(f"--seed {seed}: the sweep sets seeds itself; --set 'sweep.seeds=[{seed}]'")
    swept = {path: f'sweep.grid."{path}"' for path in table.grid}
    swept |= {"seed": "sweep.seeds"} if table.seeds else {}
    for variant, changes in table.variants.items():
        in_all = (path for path in changes if all(path in others for others in table.variants.values()))
        swept |= {path: f'sweep.variants.{variant}."{path}"' for path in in_all}
    for override in overrides:
        path = override.partition("=")[0].strip()
        for other, place in swept.items():
            if f"{path}.".startswith(f"{other}."):
                raise UserError(f"--set {override}: the sweep sets this itself; --set '{place}=...'")


def _expand(recipe: Recipe, values: dict[str, Any], source: str) -> list[Member]:
    table = recipe.sweep
    assert table is not None
    shared = {key: value for key, value in values.items() if key != "sweep"}
    state_networks(shared)
    columns = name_columns(list(table.grid))
    points = list(itertools.product(*table.grid.values()))
    members: dict[str, Member] = {}
    for variant, point, seed in itertools.product(table.variants or [None], points, table.seeds or [None]):
        parts = [variant] if variant is not None else []
        for column, (path, value) in zip(columns, zip(table.grid, point, strict=True), strict=True):
            parts.append(f"{column}-{_slug(value, table.grid[path])}")
        parts += [f"seed-{seed}"] if seed is not None else []
        name = "_".join(parts)
        if name in members:
            raise UserError(f"{source}: sweep: two members are called {name}; leave out the value that is there twice")
        changes = {
            **(table.variants[variant] if variant is not None else {}),
            **dict(zip(table.grid, point, strict=True)),
        }
        own = copy.deepcopy(shared)
        for path, value in changes.items():
            set_for_all(own, split_path(path), value, f'{source}: sweep, member {name}: "{path}"')
        own["name"] = f"{recipe.name}_{name}"
        if seed is not None:
            set_for_all(own, ["seed"], seed, f"{source}: sweep, member {name}: seeds")
        resolved = scale_recipe(check_recipe(own, f"{source}: sweep, member {name}"), table.epochs_scale)
        members[name] = Member(name, variant, dict(zip(columns, point, strict=True)), resolved)
    return list(members.values())


def name_member(member: Member, error: NetpressError) -> UserError:
    """The error, with the member that it is of."""
    return UserError(f"member {member.name}: {error}")


def name_columns(paths: Sequence[str]) -> list[str]:
    """The shortest ends of setting paths that tell them apart: model.expansion -> expansion."""
    names = []
    for path in paths:
        keys = split_path(path)
        ends = [".".join(keys[start:]) for start in range(len(keys) - 1, -1, -1)]
        taken = [other for other in paths if other != path]
        names.append(next(end for end in ends if not any(f".{other}".endswith(f".{end}") for other in taken)))
    return names


def _slug(value: Any, among: Sequence[Any]) -> str:
    """A value as part of a folder's name; what cannot be written so is named by its place in the list, from 1."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    plain = isinstance(value, str | int | float) and re.fullmatch(r"[A-Za-z0-9.-]+", text)
    return text if plain else str(list(among).index(value) + 1)
