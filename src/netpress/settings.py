"""Frozen, typed, strict settings, and errors that name every wrong key at once.

Every part of netpress declares its settings beside its code as a subclass of
`Settings`; `netpress.recipe` joins them. Values come from TOML or from the command
line, so they are validated in pydantic's JSON mode: strict (no "3" for 3, no 1 for
true), with lists accepted where a tuple is declared.
"""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from netpress.errors import QUOTED, UserError, quote, shorten

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SettingsError(UserError):
    """One line for each wrong setting: `path: what is wrong`."""

    def __init__(self, problems: list[str], source: str = "") -> None:
        self.problems = problems
        super().__init__("\n".join(([f"{source}:"] if source else []) + problems))


def between(low: float, high: float) -> AfterValidator:
    """A bound whose error reads `1.4 is not between 0 and 1`."""

    def check(value: float) -> float:
        if not low <= value <= high:
            raise ValueError(f"{quote(value)} is not between {low} and {high}")
        return value

    return AfterValidator(check)


def at_least(low: float) -> AfterValidator:
    """A bound whose error reads `0 is not at least 1`."""

    def check(value: float) -> float:
        if value < low:
            raise ValueError(f"{quote(value)} is not at least {low}")
        return value

    return AfterValidator(check)


def above(low: float) -> AfterValidator:
    """A strict bound whose error reads `0 is not above 0`."""

    def check(value: float) -> float:
        if not value > low:
            raise ValueError(f"{quote(value)} is not above {low}")
        return value

    return AfterValidator(check)


Fraction = Annotated[float, between(0, 1)]
Positive = Annotated[float, above(0)]
NonNegative = Annotated[float, at_least(0)]
Count = Annotated[int, at_least(1)]  # 1, 2, 3, ...
Natural = Annotated[int, at_least(0)]  # 0, 1, 2, ...


def parse(kind: type[S], values: Mapping[str, Any], path: str = "", source: str = "") -> S:
    """Validate `values` as settings of type `kind`.

    `path` is put before every key of an error (`stages.1`), `source` names the file.
    Raises SettingsError with all problems at once.
    """
    try:
        text = json.dumps(values)
    except TypeError as error:
        raise SettingsError([f"{path or 'settings'}: {error}; dates and times have no use here"], source) from None
    except (RecursionError, ValueError) as error:  # tables in tables without end, numbers of thousands of digits
        raise SettingsError([f"{path or 'settings'}: {error}"], source) from None
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        problems = [_describe(problem, path, kind) for problem in error.errors(include_url=False)]
        raise SettingsError(problems, source) from None


def _describe(problem: Mapping[str, Any], path: str, kind: type[BaseModel]) -> str:
    # A key may be any text of any length, and a line of its own.
    keys = (shorten(" ".join(str(part).split()), QUOTED) for part in problem["loc"])
    where = ".".join([*([path] if path else []), *keys]) or "settings"
    describe = _MESSAGES.get(problem["type"])
    return f"{where}: {describe(problem) if describe else problem['msg']}"


def _unknown_key(problem: Mapping[str, Any]) -> str:
    return "no such setting"


def _wrong_literal(problem: Mapping[str, Any]) -> str:
    return f"{quote(problem['input'])} is not one of {problem['ctx']['expected']}"


def _wrong_tag(problem: Mapping[str, Any]) -> str:
    return f"{quote(problem['ctx']['tag'])} is not one of {problem['ctx']['expected_tags']}"


def _value_error(problem: Mapping[str, Any]) -> str:
    return " ".join(str(problem["ctx"]["error"]).split())


def _missing_tag(problem: Mapping[str, Any]) -> str:
    return f"the key {problem['ctx']['discriminator']} is missing"


def _wrong_type(problem: Mapping[str, Any]) -> str:
    message = problem["msg"].removeprefix("Input should be ")
    return f"{quote(problem['input'])} is not {message}"


_MESSAGES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "extra_forbidden": _unknown_key,
    "literal_error": _wrong_literal,
    "union_tag_invalid": _wrong_tag,
    "union_tag_not_found": _missing_tag,
    "value_error": _value_error,
    "missing": lambda problem: "is missing",
    "json_invalid": lambda problem: "holds a text that is no Unicode, or is nested too deep",
    **dict.fromkeys(
        ["int_type", "float_type", "string_type", "bool_type", "tuple_type", "list_type", "dict_type", "model_type"],
        _wrong_type,
    ),
}
