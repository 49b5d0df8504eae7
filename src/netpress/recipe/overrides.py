"""Single settings by their path: what --set does.

    apply_override(values, "stages.0.epochs=2")

sets the epochs of a recipe's first stage. A sweep sets the values of its grid in the same way.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from netpress.errors import UserError
from netpress.files import parse_toml_value
from netpress.recipe.networks import KINDS, is_of_another_kind

LONGEST_PATH = 1000  # letters of a setting's path


TRAINING_ONLY = ("train_images", "validation", "select_on")  # of [data]: no test image depends on them


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set each of `overrides` in turn, as `apply_override` does: of two for one path, the later one holds."""
    for override in overrides:
        apply_override(values, override)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one value by its path: `stages.0.epochs=2`, `data.dataset=cifar100`. Raises UserError.

    A key with a dot in it stands in quotes: `sweep.grid."model.expansion"=[1.0, 2.0]`. A path that begins with
    `**.` is set wherever its first key stands, at any depth: `**.augment.policy=rand` for every training.
    """
    path, equals, text = override.partition("=")
    if len(path) > LONGEST_PATH:
        raise UserError(f"--set {path[:40]}...: no setting has a path of {len(path):,} letters")
    keys = split_path(path.strip())
    if not equals or not all(keys) or keys == ["**"]:
        raise UserError(f"--set {override}: write it as path.to.key=value, for example stages.0.epochs=2")
    try:
        value = parse_value(text.strip())
    except UserError as error:
        raise UserError(f"--set {path}: {error}") from None
    if keys[0] != "**":
        set_for_all(values, keys, value, f"--set {override}")
        return
    tables = list(_tables_with(keys[1], values))
    if not tables:
        raise UserError(f"--set {override}: the recipe says {keys[1]} nowhere")
    for table in tables:
        set_value(table, keys[1:], copy.deepcopy(value), f"--set {override}")


def join_options(overrides: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The values that `overrides` set, joined with those of a command's own options; None is an option not given.

    Raises UserError where an option and an override say the same.
    """
    values: dict[str, Any] = {}
    apply_overrides(values, overrides)
    for name, value in options.items():
        if value is not None and name in values:
            raise UserError(f"--{name.replace('_', '-')} and --set {name} say the same; give one of them")
    return values | {name: value for name, value in options.items() if value is not None}


def data_changes(values: dict[str, Any], classes_by_number: bool = False, dataset: str | None = None) -> dict[str, Any]:
    """Take out of `values` what overrides such as `data.split_seed=1` set, for a command that has these two options.

    Raises UserError if that is no table, or says what an option says too.
    """
    changes = values.pop("data", {})
    if not isinstance(changes, dict):
        raise UserError("--set data: is a table; write --set data.KEY=VALUE, for example data.split_seed=1")
    if dataset is not None and "dataset" in changes:
        raise UserError(f"--dataset {dataset} and --set data.dataset say the same; give one of them")
    if classes_by_number and "classes_by_number" in changes:
        raise UserError("--classes-by-number and --set data.classes_by_number say the same; give one of them")
    return {**changes, "classes_by_number": True} if classes_by_number else changes


def read_data_changes(
    overrides: Sequence[str], classes_by_number: bool = False, dataset: str | None = None
) -> dict[str, Any]:
    """The changes of a [data] table that overrides ask for, where only test images are read and nothing else is set.

    Raises UserError, also for a setting that no test image depends on.
    """
    values: dict[str, Any] = {}
    for override in overrides:
        apply_override(values, override)
        if values.keys() - {"data"}:
            raise UserError(f"--set {override}: only data.KEY=VALUE can be set here, such as data.test_fraction=0.2")
    changes = data_changes(values, classes_by_number, dataset)
    for key in TRAINING_ONLY:
        if key in changes:
            raise UserError(f"--set data.{key}: concerns the training images, and only test images are read here")
    return changes


def set_for_all(values: dict[str, Any], keys: Sequence[str], value: Any, asked_by: str) -> None:
    """`set_value`; of a recipe of several networks, what holds for all is also set in those that state it themselves.

    Raises UserError, which begins with `asked_by`, also for a stage where each network has stages of its own, and for a
    seed where networks have other seeds than the recipe: equal ones would make, say, three teachers one.
    """
    networks = values.get("networks")
    tables = (
        {name: table for name, table in networks.items() if isinstance(table, dict)}
        if isinstance(networks, dict)
        else {}
    )
    if tables and keys[0] == "stages" and "stages" not in values:
        path = ".".join(("networks", next(iter(tables)), *keys))
        raise UserError(f"{asked_by}: each network has stages of its own; write {path}")
    if tables and keys[0] == "networks" and len(keys) > 2 and keys[1] not in tables:
        raise UserError(f"{asked_by}: the recipe has no network called {keys[1]} ({', '.join(tables)})")
    if keys == ["seed"]:
        own = [name for name, table in tables.items() if table.get("seed", value) not in (value, values.get("seed", 0))]
        if own:
            raise UserError(
                f"{asked_by}: {', '.join(own)} would lose seeds of their own; set each, as networks.{own[0]}.seed"
            )
    reached = [table for table in tables.values() if keys[0] != "networks" and _says(table, values, keys)]
    for table in (values, *reached):
        set_value(table, keys, copy.deepcopy(value), asked_by)


def _says(own: Any, shared: Any, keys: Sequence[str]) -> bool:
    """Whether a network's table says itself what `keys` name, so that it does not follow what holds for all.

    That is, as long as both are of one kind: other kinds have other settings. A list of the network's own says all that
    lies in it, defaults too. A network that begins with another has no model to set.
    """
    if keys[0] == "model" and "network" in (own.get("model") or ()):
        return False
    in_list = False
    for key in keys:
        if isinstance(own, dict) and isinstance(shared, dict) and key not in KINDS and is_of_another_kind(own, shared):
            return False
        below = _step(own, key)
        if below is None:
            return in_list and isinstance(own, dict)
        in_list |= isinstance(own, list)
        own, shared = below, _step(shared, key)
    return True


def _step(values: Any, key: str) -> Any:
    """The entry of a table or a list; None where there is none."""
    if isinstance(values, list):
        return values[int(key)] if key.isdecimal() and int(key) < len(values) else None
    return values.get(key) if isinstance(values, dict) else None


def _tables_with(key: str, values: Any) -> Iterator[dict[str, Any]]:
    """Every table in `values`, itself included, that has the key."""
    if isinstance(values, dict):
        if key in values:
            yield values
        values = list(values.values())
    for entry in values if isinstance(values, list) else ():
        yield from _tables_with(key, entry)


def split_path(path: str) -> list[str]:
    """The keys of a setting path; a key in quotes may have dots."""
    return [key.strip('"') for key in re.split(r'\.(?=(?:[^"]*"[^"]*")*[^"]*$)', path)]


def set_value(values: dict[str, Any], keys: Sequence[str], value: Any, asked_by: str) -> None:
    """Put `value` at the path `keys`, making the tables on the way that are not there.

    Raises UserError, which begins with `asked_by`, where the path leads through a value or past a list's end.
    """
    target: Any = values
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(target, list):
            index = int(key) if key.isdecimal() else -1
            if not 0 <= index < len(target):
                raise UserError(f"{asked_by}: {'.'.join(keys[:position])} has entries 0 to {len(target) - 1}")
            key = index  # type: ignore[assignment]
        elif not isinstance(target, dict):
            raise UserError(f"{asked_by}: {'.'.join(keys[:position])} is a value, not a table")
        if last:
            target[key] = value
        elif isinstance(target, dict):
            target = target.setdefault(key, {})
        else:
            target = target[key]


def parse_value(text: str) -> Any:
    """A value as TOML writes it; what is no TOML is taken as a string, so quotes may be left out."""
    return parse_toml_value(text)
