"""Settings are frozen, typed and strict, and one error names every wrong key.

    class Momentum(Settings):
        momentum: Share = 0.9

    parse(Momentum, {"momentum": 0.5})

Every part of netpress declares its settings beside its code, as a subclass of `Settings`; `netpress.recipe.schema`
joins them. `parse` takes values from TOML or from the command line in pydantic's JSON mode: "3" is no 3, and 1 is no
true, but a list may stand where a tuple is declared.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
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


def at_most(high: float) -> AfterValidator:
    """A bound whose error reads `2000 is not at most 1000`."""

    def check(value: float) -> float:
        if value > high:
            raise ValueError(f"{quote(value)} is not at most {high}")
        return value

    return AfterValidator(check)


def below(high: float) -> AfterValidator:
    """A strict bound whose error reads `1.0 is not below 1`."""

    def check(value: float) -> float:
        if not value < high:
            raise ValueError(f"{quote(value)} is not below {high}")
        return value

    return AfterValidator(check)


def above(low: float) -> AfterValidator:
    """A strict bound whose error reads `0 is not above 0`."""

    def check(value: float) -> float:
        if not value > low:
            raise ValueError(f"{quote(value)} is not above {low}")
        return value

    return AfterValidator(check)


# Every number has an upper end, so that nothing made from it can overflow; a setting that costs time or memory
# has a nearer one of its own.
LARGEST = 10**9
LARGEST_SEED = 2**63 - 1
Fraction = Annotated[float, between(0, 1)]
Share = Annotated[Fraction, below(1)]  # what must leave something: dropout, momentum, decay
OpenFraction = Annotated[float, above(0), at_most(1)]
Positive = Annotated[float, above(0), at_most(1e30)]
NonNegative = Annotated[float, at_least(0), at_most(1e30)]
Count = Annotated[int, at_least(1), at_most(LARGEST)]  # 1, 2, 3, ...
Natural = Annotated[int, at_least(0), at_most(LARGEST_SEED)]  # 0, 1, 2, ...

DEEPEST = 30  # tables and lists within each other: more than any settings have
LONGEST = 1_000_000  # values in one table of settings, those in its lists and tables included


def parse(kind: type[S], values: Mapping[str, Any], path: str = "", source: str = "") -> S:
    """Validate `values` as settings of type `kind`.

    `path` is put before every key of an error (`stages.1`), `source` names the file.
    Raises SettingsError with all problems at once.
    """
    problem = find_unreadable(values, path)
    if problem:
        raise SettingsError([problem], source)
    text = json.dumps(values)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        problems = [_describe(problem, path, kind) for problem in _one_branch(error.errors(include_url=False))]
        raise SettingsError(problems, source) from None


def find_unreadable(values: Any, path: str = "") -> str | None:
    """The first reason why `values` cannot be settings at all, as `path: what is wrong`; None where there is none.

    Settings are texts, whole numbers of 64 bits, numbers, true and false, in lists and tables that are neither
    deep nor endless: whatever else Python or TOML can hold would only be found out by something that breaks.
    """
    waiting: list[tuple[str, Any, int]] = [(path, values, 0)]
    path = path or "settings"
    seen = 0
    while waiting:
        where, value, depth = waiting.pop()
        seen += 1
        if seen + len(waiting) > LONGEST:
            return f"{path}: holds more than {LONGEST:,} values"
        if depth > DEEPEST:
            return f"{path}: tables and lists lie more than {DEEPEST} deep within each other"
        if isinstance(value, Mapping):
            if not all(isinstance(key, str) for key in value):
                return f"{where}: its keys are not all texts"
            waiting += [(f"{where}.{key}" if where else key, entry, depth + 1) for key, entry in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{where}.{place}", entry, depth + 1) for place, entry in enumerate(value)]
        elif isinstance(value, int):
            if not -LARGEST_SEED - 1 <= value <= LARGEST_SEED:
                return f"{where}: is a whole number of more than 64 bits"
        elif value is not None and not isinstance(value, str | float):
            return f"{where}: {type(value).__name__} is no kind of value that a setting has (dates and times are none)"
    return None


_BRANCH = re.compile(r"str|int|float|bool|(tuple|list|dict|literal|function-\w+)\[.*\]")


def _one_branch(problems: Sequence[Any]) -> list[dict[str, Any]]:
    """The problems with one alone for each value that may be of several types, of which pydantic tells each.

    The problem that lies deepest is of the type that was meant; of equals, all are joined.
    """
    kept: dict[object, list[dict[str, Any]]] = {}
    for number, problem in enumerate(problems):
        loc = problem["loc"]
        branch = next((place for place, part in enumerate(loc) if _BRANCH.fullmatch(str(part))), None)
        if branch is None:
            kept[number] = [problem]
        else:
            plain = {**problem, "loc": (*loc[:branch], *loc[branch + 1 :])}
            kept.setdefault(loc[:branch], []).append(plain)
    joined = []
    for group in kept.values():
        deepest = max(group, key=lambda problem: len(problem["loc"]))
        equals = [problem for problem in group if problem["loc"] == deepest["loc"]]
        messages = list(dict.fromkeys(_say(problem) for problem in equals))
        joined.append({**deepest, "type": "joined", "msg": "; ".join(messages)} if len(messages) > 1 else deepest)
    return joined


def _describe(problem: Mapping[str, Any], path: str, kind: type[BaseModel]) -> str:
    # A key may be any text of any length, and a line of its own.
    keys = (shorten(" ".join(str(part).split()), QUOTED) for part in problem["loc"])
    where = ".".join([*([path] if path else []), *keys]) or "settings"
    return f"{where}: {_say(problem)}"


def _say(problem: Mapping[str, Any]) -> str:
    describe = _MESSAGES.get(problem["type"])
    return describe(problem) if describe else str(problem["msg"])


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
