"""The counting conventions by name, and the `[score]` table of a recipe.

    [score]
    convention = "kaist"     # "official" where the table does not say
    mask = "none"            # an option of kaist

Each convention is one file with its settings, its rules and its count. It adds itself to CONVENTIONS.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from netpress.registry import Registry
from netpress.scoring.card import Counted, ScoreCard
from netpress.scoring.tracks import TrackName
from netpress.settings import Settings, parse
from netpress.tracing.operations import Trace

OFFICIAL = "official"


class ScoreSettings(Settings):
    """What all conventions can be told. Each has its own class of settings with its own options.

    Where settings of this class are expected, values become those of the convention that they name, the official one
    by default. An option that this convention does not have is an error.
    """

    convention: str = OFFICIAL
    """Whose counting rules: the challenge's own, or those of one of the four solutions."""
    track: TrackName | None = None
    """What the score is relative to; by default what the convention and the data set belong to."""

    @model_validator(mode="wrap")
    @classmethod
    def _of_the_convention(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Any:
        if cls is not ScoreSettings or not isinstance(values, Mapping):
            return values if isinstance(values, ScoreSettings) else handler(values)
        name = values.get("convention", OFFICIAL)
        if not isinstance(name, str) or name not in CONVENTIONS:
            raise _no_convention(name)
        own = CONVENTIONS[name].settings
        return own.model_validate_json(json.dumps(_without_defaults_of_others(name, own, values)))

    @classmethod
    def options(cls) -> set[str]:
        """The names of what only this convention can be told."""
        return cls.model_fields.keys() - ScoreSettings.model_fields.keys()


@dataclass(frozen=True)
class Convention:
    """A set of counting rules: `count(trace, settings, formats)` makes rows of a trace.

    `print_lines(card)`: the lines in which its authors' own counter says the result, where netpress prints such.
    """

    description: str
    settings: type[ScoreSettings]
    count: Callable[[Trace, Any, Mapping[str, Any]], Counted]
    print_lines: Callable[[ScoreCard], tuple[str, ...]] | None = None


CONVENTIONS = Registry[Convention](
    "convention", {name: f"netpress.scoring.{name}" for name in (OFFICIAL, "kaist", "wave", "uci", "imt")}
)


def conventions() -> dict[str, str]:
    """The names of all conventions, with what each counts in one line."""
    return {name: convention.description for name, convention in CONVENTIONS.all().items()}


def choose_settings(
    convention: str | None = None, settings: ScoreSettings | None = None, options: Mapping[str, Any] | None = None
) -> ScoreSettings:
    """`settings`, or the convention's defaults, with single options on top; `accumulator` may be a number.

    Raises SettingsError, UserError where there is no such convention.
    """
    values = settings.model_dump(exclude_unset=True) | {"convention": settings.convention} if settings else {}
    if convention is not None:
        CONVENTIONS[convention]  # raises where there is none
        values["convention"] = convention
    values |= {key: value for key, value in (options or {}).items() if value is not None}
    if isinstance(values.get("accumulator"), int):
        values["accumulator"] = str(values["accumulator"])
    return parse(ScoreSettings, values, "score")


def _no_convention(name: Any) -> ValidationError:
    expected = ", ".join(repr(known) for known in CONVENTIONS)
    wrong = InitErrorDetails(type="literal_error", loc=("convention",), input=name, ctx={"expected": expected})
    return ValidationError.from_exception_data("ScoreSettings", [wrong])


def _without_defaults_of_others(name: str, own: type[ScoreSettings], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without options of other conventions at their defaults. Raises ValueError for one with another value.

    The recipes of older run folders state the options of all conventions.
    """
    kept = dict(values)
    for key in sorted(values.keys() - own.model_fields.keys()):
        defaults = [
            other.settings.model_fields[key].default
            for other in CONVENTIONS.all().values()
            if key in other.settings.model_fields
        ]
        if defaults:
            value = kept.pop(key)
            # 0 is 0.0, but not False.
            if (isinstance(value, bool), value) not in [(isinstance(default, bool), default) for default in defaults]:
                raise ValueError(
                    f"{key} is no option of the convention {name}; it has {', '.join(sorted(own.options()))}"
                )
    return kept
