"""The [fit] table of a recipe: what it may change about itself so that its result keeps its limits.

    [fit]
    "model.width" = [48, 32, 24, 16]                  # each list in falling order of preference
    "stages.2.preset" = ["int8", "int6", "int4"]
    "stages.1.amount" = [0.5, 0.75]                   # the last list gives way first

Where the recipe has [limits], a run takes one value of each list (`netpress.runs.fitting` chooses which). Without any,
it is the recipe as it stands.
"""

import copy
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from netpress.errors import UserError, quote
from netpress.models.registry import FAMILIES
from netpress.recipe.networks import state_networks
from netpress.recipe.overrides import set_for_all, split_path
from netpress.recipe.sweep_schema import overlap
from netpress.settings import SettingsError

MOST_COMBINATIONS = 512
ROOTS = ("data", "model", "networks", "stages")
WIDTHS = ("width", "width_factor", "growth", "alpha")
"""What the families of networks call the setting that makes all layers narrower."""
AMOUNTS = {"prune": ("amount",), "prune_channels": ("keep", "compression", "score"), "quantize": ("preset",)}
"""Of each kind of stage the settings by which it leaves a smaller network."""

Candidates = Mapping[str, Sequence[Any]]
Values = dict[str, Any]


def check_table(table: Candidates) -> Candidates:
    """The table, if each of its lists can be chosen from. Raises ValueError, which names the path."""
    for path, candidates in table.items():
        keys = split_path(path)
        if keys[0] not in ROOTS or not all(keys):
            raise ValueError(f'"{path}" cannot be fitted; a path begins with {", ".join(ROOTS[:-1])} or {ROOTS[-1]}')
        if not candidates:
            raise ValueError(f'"{path}": is empty; name at least one value')
        told = [json.dumps(candidate, sort_keys=True) for candidate in candidates]
        twice = next((one for place, one in enumerate(told) if one in told[:place]), None)
        if twice is not None:
            raise ValueError(f'"{path}": names {quote(twice)} twice')
    for one, other in itertools.combinations(table, 2):
        if overlap(one, other):
            raise ValueError(f'"{one}" and "{other}" set the same')
    combinations = count_combinations(table)
    if combinations > MOST_COMBINATIONS:
        raise ValueError(f"{combinations:,} combinations are more than {MOST_COMBINATIONS}; name fewer values")
    return table


def count_combinations(table: Candidates) -> int:
    """How many ways there are to take one value of each list."""
    return math.prod(map(len, table.values()))


def find_wrong_candidates(values: Mapping[str, Any], check: Callable[[Values], Any]) -> list[str]:
    """What is wrong with the values that the [fit] table of a recipe, given as plain values, names.

    `check` raises SettingsError for values that are no recipe. Each candidate is tried alone; the first wrong one of
    each path is told.
    """
    problems = []
    for path, candidates in values["fit"].items():
        keys = split_path(path)
        if keys[0] == "networks" and (len(keys) < 3 or keys[1] not in values.get("networks", {})):
            problems.append(f'fit."{path}": the recipe has no network {".".join(keys[1:2])} with such a setting')
            continue
        for candidate in candidates:
            try:
                check(put_values(values, {path: candidate}))
            except SettingsError as error:
                problems += [_say(path, candidate, problem) for problem in error.problems]
            except UserError as error:
                problems.append(str(error))
            else:
                continue
            break
    return problems


def _say(path: str, candidate: Any, problem: str) -> str:
    where, _, what = problem.partition(": ")
    if re.sub(r"(stages\.\d+)\.\w+", r"\1", where) == path or where == path:  # a stage's path tells its kind, too
        return f'fit."{path}": {what}'
    return f'fit."{path}": with {write_value(candidate)}: {problem}'


def put_values(values: Mapping[str, Any], chosen: Mapping[str, Any]) -> Values:
    """A copy of a recipe's plain values without its [fit] table, with the `chosen` value at each path.

    Raises UserError for a path that leads through a value, or past the end of a list.
    """
    own: Values = copy.deepcopy({key: value for key, value in values.items() if key != "fit"})
    state_networks(own)
    for path, value in chosen.items():
        set_for_all(own, split_path(path), copy.deepcopy(value), f'fit."{path}"')
    return own


def list_combinations(table: Candidates) -> Iterator[Values]:
    """Every way to take one value of each list, in falling order of preference: path -> value."""
    for chosen in itertools.product(*table.values()):
        yield dict(zip(table, chosen, strict=True))


def without_pinned(table: Any, overrides: Sequence[str]) -> Any:
    """A [fit] table, as written, without the settings that overrides set, such as `model.width=32`, `**.amount=0.5`."""
    if not isinstance(table, dict):
        return table
    paths = [override.partition("=")[0].strip() for override in overrides]
    return {path: candidates for path, candidates in table.items() if not any(_sets(one, path) for one in paths)}


def _sets(override: str, path: str) -> bool:
    if not override.startswith("**."):
        return overlap(override, path)
    keys = split_path(path)
    return any(overlap(override.removeprefix("**."), ".".join(keys[start:])) for start in range(len(keys)))


def tell_values(chosen: Mapping[str, Any]) -> str:
    """In words: model.width = 32, stages.2.preset = "int6"."""
    return ", ".join(f"{path} = {write_value(value)}" for path, value in chosen.items())


def write_value(value: Any) -> str:
    """A candidate for people."""
    return quote(value) if isinstance(value, str | list | dict) else json.dumps(value)


def suggest_table(values: Mapping[str, Any]) -> str:
    """What to write where a recipe, given as plain values, keeps its limits only with other settings."""
    model = values.get("model", {})
    known = FAMILIES[model["family"]].settings.model_fields if "family" in model else ()
    paths = [f"model.{name}" for name in WIDTHS if name in known]
    for place, stage in enumerate(values.get("stages", ())):
        paths += [f"stages.{place}.{name}" for name in AMOUNTS.get(stage["kind"], ()) if name in stage]
    named = ", ".join(paths) or "settings"
    return f"or let netpress choose: a [fit] table in the recipe names values to choose from, here of {named}"
