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

from collections.abc import Iterator, Mapping
from typing import Any

OF_THE_WHOLE = ("name", "networks", "sweep", "result", "extends")
"""Keys that stand at the top of a recipe, and in no table of a network."""
LIMITS = "limits"
OWN = (*OF_THE_WHOLE, "description", LIMITS)
"""Keys at the top that networks do not take over; but the limits are those of the network that is the result."""
BEGINS = "begins with"


def join(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: tables are joined key by key, anything else, such as a list, replaces the other.

    A table of another `kind` has other settings, so it replaces too. A table whose keys are numbers, such as
    [networks.small.stages.0], is laid over those entries of a list.
    """
    return {**below, **{key: _lay(value, below[key]) if key in below else value for key, value in above.items()}}


def _lay(above: Any, below: Any) -> Any:
    if not isinstance(above, Mapping):
        return above
    if isinstance(below, Mapping):
        return above if "kind" in above and above["kind"] != below.get("kind") else join(below, above)
    if isinstance(below, list) and above and all(key.isdigit() and int(key) < len(below) for key in above):
        return [_lay(above[str(place)], entry) if str(place) in above else entry for place, entry in enumerate(below)]
    return above


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
    return problems


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
