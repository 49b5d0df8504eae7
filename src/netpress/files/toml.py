"""TOML: whole texts and single values read, tables written.

    dump_toml({"name": "first", "model": {"family": "resnet"}})

gives a text that `parse_toml` reads back equal.
"""

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from netpress.errors import UserError


def parse_toml(data: bytes | str, source: str) -> dict[str, Any]:
    """The tables of a TOML text in UTF-8, with or without a byte order mark.

    Raises UserError, which begins with `source`, for what is no TOML, in another encoding, nested deeper than
    Python's stack allows, or has a number of thousands of digits.
    """
    try:
        return tomllib.loads(data if isinstance(data, str) else data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not valid TOML: not in UTF-8 ({error.reason} at byte {error.start})") from None
    except RecursionError:
        raise UserError(f"{source}: not valid TOML: its lists or tables lie too deep within each other") from None
    except ValueError as error:
        raise UserError(f"{source}: not valid TOML: {error}") from None


_SHORT_NUMBER = re.compile(r"[+-]?(\.\d{1,99}|\d{1,99}\.)", re.ASCII)


def parse_toml_value(text: str) -> Any:
    """A single value as TOML writes it, or .5 for 0.5; what else is no TOML is a text, so quotes may be left out.

    Raises UserError for a number of thousands of digits and for lists nested deeper than Python's stack allows.
    """
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return float(text) if _SHORT_NUMBER.fullmatch(text.strip()) else text
    except (RecursionError, ValueError):  # ValueError: more digits than Python converts
        raise UserError(f"{text[:40]}...: a number of too many digits, or lists too deep within each other") from None
    return values["value"] if len(values) == 1 else text  # with a line break in it, it may set more than one


def dump_toml(values: Mapping[str, Any]) -> str:
    """`values` as TOML text that tomllib reads back equal.

    Takes str, bool, int, float, nested mappings and sequences (tuples come back as
    lists). A key whose value is None is left out, as TOML has no null. Raises TypeError
    for None inside a sequence and for other types.
    """
    lines: list[str] = []
    _dump_table(values, (), lines)
    return "\n".join(lines).strip() + "\n" if lines else ""


def _dump_table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    # Plain values come first: after a [header] they would belong to that table.
    items = [(key, value) for key, value in table.items() if value is not None]
    nested = [(key, value) for key, value in items if isinstance(value, Mapping) or _is_table_list(value)]
    plain = [(key, value) for key, value in items if not (isinstance(value, Mapping) or _is_table_list(value))]
    for key, value in plain:
        lines.append(f"{_dump_key(key)} = {_dump_value(value)}")
    for key, value in nested:
        name = ".".join(_dump_key(part) for part in (*path, key))
        if isinstance(value, Mapping):
            lines.extend(["", f"[{name}]"])
            _dump_table(value, (*path, key), lines)
        else:
            for entry in value:
                lines.extend(["", f"[[{name}]]"])
                _dump_table(entry, (*path, key), lines)


def _is_table_list(value: Any) -> bool:
    return _is_list(value) and len(value) > 0 and all(isinstance(entry, Mapping) for entry in value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _dump_key(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{key!r} is not a text and cannot be a key in TOML")
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _dump_text(key)


def _dump_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _dump_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else str(float(value))
    if isinstance(value, str):
        return _dump_text(str(value))
    if isinstance(value, Mapping):
        pairs = (f"{_dump_key(key)} = {_dump_value(entry)}" for key, entry in value.items() if entry is not None)
        return "{" + ", ".join(pairs) + "}"
    if _is_list(value):
        return "[" + ", ".join(_dump_value(entry) for entry in value) + "]"
    raise TypeError(f"{value!r} ({type(value).__name__}) has no place in TOML")
