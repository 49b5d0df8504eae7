"""Several networks in one recipe: what each is told, and which needs which.

    [data]                          what stands outside [networks] holds for each of them
    dataset = "cifar100"

    [networks.large]
    model = { family = "efficientnet", preset = "b3" }
    [[networks.large.stages]]
    kind = "train"

    [networks.small]
    model = { family = "efficientnet", preset = "ex" }
    [[networks.small.stages]]
    kind = "train"
    loss = { kind = "label_refinery", teachers = ["large"] }        one network of the recipe teaches another

A network may also begin with the result of another: `model = { network = "large" }`. Where [[stages]] stand outside,
a network's [networks.small.stages.0] changes single settings of the first.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from netpress.settings import find_unreadable

OF_THE_WHOLE = ("name", "networks", "sweep", "fit", "result", "extends")
"""Keys that stand at the top of a recipe, and in no table of a network."""
LIMITS = "limits"
OWN = (*OF_THE_WHOLE, "description", LIMITS)
"""Keys at the top that networks do not take over; but the limits are those of the network that is the result."""
BEGINS = "begins with"
KINDS = ("kind", "convention", "family", "network")
"""Keys that say what a table's other settings are: a score has a convention, a model a family, or it is a network."""


def join(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: tables are joined key by key, anything else, such as a list, replaces the other.

    A table of another `kind` has other settings, so it replaces too; so does a score of another convention, and a model
    of another family or one that begins with a network. A table whose keys are numbers, such as
    [networks.small.stages.0], is laid over those entries of a list.
    """
    return {**below, **{key: _lay(value, below[key]) if key in below else value for key, value in above.items()}}


def _lay(above: Any, below: Any) -> Any:
    if not isinstance(above, Mapping):
        return above
    if isinstance(below, Mapping):
        return above if is_of_another_kind(above, below) else join(below, above)
    if isinstance(below, list | tuple) and above and above.keys() <= {str(place) for place in range(len(below))}:
        return [_lay(above[str(place)], entry) if str(place) in above else entry for place, entry in enumerate(below)]
    return above


def is_of_another_kind(above: Mapping[str, Any], below: Mapping[str, Any]) -> bool:
    """Whether a table says that its settings are others than those of the table below it.

    What names no kind, such as a model of no family, may be of any.
    """
    if "network" in above or ("network" in below and "family" in above):
        return above.get("network") != below.get("network")
    return any(key in above and key in below and above[key] != below[key] for key in KINDS)


def expand(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The plain values of each network's recipe by its name: its table, laid over what stands outside [networks]."""
    shared = {key: value for key, value in values.items() if key not in OWN}
    tables = values["networks"]
    result = values.get("result") or list(tables)[-1]
    of_the_result = {LIMITS: values[LIMITS]} if LIMITS in values else {}
    return {
        name: {
            **join(shared | (of_the_result if name == result else {}), table),
            "name": f"{values.get('name', '')}_{name}",
        }
        for name, table in tables.items()
    }


def state_networks(values: dict[str, Any]) -> None:
    """Put into each network's table all that holds for it, in place, so that a path leads to what the network is told.

    `networks.small.stages.0` is then the whole stage, whether the recipe was written so or is one that a folder states.
    What cannot be understood stays as it is, and is refused later.
    """
    if "networks" in values and not (find_unreadable(values) or find_table_problems(values["networks"])):
        told = copy.deepcopy(expand(values))  # no two tables hold the same list
        values["networks"] = {
            name: {key: value for key, value in table.items() if key != "name"} for name, table in told.items()
        }


def find_table_problems(tables: Any) -> list[str]:
    """What is wrong with [networks] as written, before any setting is looked at."""
    if not isinstance(tables, Mapping) or not tables:
        return ["networks: write a table for each network, such as [networks.teacher]"]
    problems = []
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            problems.append(f"networks.{name}: write a table, with the network's own model and stages")
            continue
        problems += [
            f"networks.{name}.{key}: stands at the top of a recipe, not in a network's table"
            for key in OF_THE_WHOLE
            if key in table
        ]
        problems += [
            f"networks.{name}.{path}: None cannot be laid over what holds for all; leave it out there instead"
            for path in _find_none(table)
        ]
    return problems


def _find_none(values: Any, path: str = "") -> Iterator[str]:
    """The paths at which there is no value: Python has it, a recipe as TOML has not."""
    if values is None:
        yield path
    entries = (
        values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list | tuple) else ()
    )
    for key, entry in entries:
        yield from _find_none(entry, f"{path}.{key}" if path else str(key))


def find_lost_places(shared: Mapping[str, Any], table: Mapping[str, Any]) -> list[str]:
    """Numbered tables of a network, such as [networks.small.stages.7], that no entry of the list outside is below."""
    stages, below = table.get("stages"), shared.get("stages")
    if not isinstance(stages, Mapping):
        return []
    if not isinstance(below, list | tuple) or not below:
        return ["stages: write [[stages]] outside [networks] to change single settings of them, or a list of its own"]
    places = [str(place) for place in range(len(below))]
    return [f"stages.{key}: the stages outside are 0 to {len(below) - 1}" for key in stages if key not in places]


def find_needs(recipe: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, str]:
    """Which of `names` a network's recipe, as plain values, needs, and for what: name -> begins with it, taught by it.

    One that it both begins with and is taught by is only told as the first.
    """
    model = recipe.get("model")
    first = model.get("network") if isinstance(model, Mapping) else None
    needs = {first: BEGINS} if isinstance(first, str) and first in names else {}
    return needs | {
        name: "is taught by" for name in find_teachers(recipe.get("stages")) if name in names and name not in needs
    }


def find_teachers(values: Any) -> Iterator[str]:
    """Every name in a list called `teachers`, at any depth."""
    if isinstance(values, Mapping):
        named = values.get("teachers")
        yield from (name for name in named if isinstance(name, str)) if isinstance(named, list | tuple) else ()
        values = list(values.values())
    for entry in values if isinstance(values, list | tuple) else ():
        yield from find_teachers(entry)


def put_in_order(needs: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The names, each after those that it needs, otherwise as they were.

    Raises ValueError, which tells the circle, where networks need each other.
    """
    ordered: list[str] = []
    while len(ordered) < len(needs):
        ready = next((name for name in needs if name not in ordered and set(needs[name]) <= set(ordered)), None)
        if ready is None:
            raise ValueError(_tell_circle(needs, ordered))
        ordered.append(ready)
    return ordered


def _tell_circle(needs: Mapping[str, Mapping[str, str]], done: list[str]) -> str:
    """Each network that is left needs another that is left: following them comes back to one that was passed."""
    name = next(name for name in needs if name not in done)
    passed: list[str] = []
    while name not in passed:
        passed.append(name)
        name = next(other for other in needs[name] if other not in done)
    circle = passed[passed.index(name) :]
    steps = [f"{one} {needs[one][other]} {other}" for one, other in zip(circle, [*circle[1:], name], strict=True)]
    return f"no network of these can be the first: {', '.join(steps)}"
