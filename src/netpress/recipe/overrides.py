"""Single settings by their path, as --set and sweeps write them: `stages.0.epochs=2`."""

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

from netpress.errors import UserError
from netpress.files import parse_toml_value

LONGEST_PATH = 1000  # letters of a setting's path


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
        set_value(values, keys, value, f"--set {override}")
        return
    tables = list(_tables_with(keys[1], values))
    if not tables:
        raise UserError(f"--set {override}: the recipe says {keys[1]} nowhere")
    for table in tables:
        set_value(table, keys[1:], copy.deepcopy(value), f"--set {override}")


def data_changes(values: dict[str, Any], classes_by_number: bool = False) -> dict[str, Any]:
    """Take out of `values` what overrides such as `data.split_seed=1` set. Raises UserError if that is no table."""
    changes = values.pop("data", {})
    if not isinstance(changes, dict):
        raise UserError("--set data: is a table; write --set data.KEY=VALUE, for example data.split_seed=1")
    return {**changes, "classes_by_number": True} if classes_by_number else changes


def read_data_changes(overrides: Sequence[str], classes_by_number: bool = False) -> dict[str, Any]:
    """The changes of a [data] table that overrides ask for, where nothing else can be set. Raises UserError."""
    values: dict[str, Any] = {}
    for override in overrides:
        apply_override(values, override)
        if values.keys() - {"data"}:
            raise UserError(f"--set {override}: only data.KEY=VALUE can be set here, such as data.test_fraction=0.2")
    return data_changes(values, classes_by_number)


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


def set_value(values: dict[str, Any], keys: Sequence[str], value: Any, said: str) -> None:
    """Put `value` at the path `keys`, making the tables on the way that are not there.

    Raises UserError, which begins with `said`, where the path leads through a value or past a list's end.
    """
    target: Any = values
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(target, list):
            index = int(key) if key.isdigit() else -1
            if not 0 <= index < len(target):
                raise UserError(f"{said}: {'.'.join(keys[:position])} has entries 0 to {len(target) - 1}")
            key = index  # type: ignore[assignment]
        elif not isinstance(target, dict):
            raise UserError(f"{said}: {'.'.join(keys[:position])} is a value, not a table")
        if last:
            target[key] = value
        elif isinstance(target, dict):
            target = target.setdefault(key, {})
        else:
            target = target[key]


def parse_value(text: str) -> Any:
    """A value as TOML writes it; what is no TOML is taken as a string, so quotes may be left out."""
    return parse_toml_value(text)
