"""The counting conventions by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from netpress.scoring import imt, kaist, official, uci, wave
from netpress.scoring.card import Counted
from netpress.scoring.settings import ScoreSettings
from netpress.tracing.operations import Trace


@dataclass(frozen=True)
class Convention:
    """A set of counting rules: `count(trace, settings, formats)` makes rows of a trace."""

    name: str
    description: str
    count: Callable[[Trace, ScoreSettings, Mapping[str, Any]], Counted]


CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention("official", official.DESCRIPTION, official.count),
        Convention("kaist", kaist.DESCRIPTION, kaist.count),
        Convention("wave", wave.DESCRIPTION, wave.count),
        Convention("uci", uci.DESCRIPTION, uci.count),
        Convention("imt", imt.DESCRIPTION, imt.count),
    )
}


def conventions() -> dict[str, str]:
    """The names of all conventions, with what each counts in one line."""
    return {name: convention.description for name, convention in CONVENTIONS.items()}
