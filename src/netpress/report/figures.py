"""How the page writes figures.

    percent(0.9778) == "97.78%"     short(26052115) == "26.05 M"     percent(None) == "\N{EN DASH}"

Each function takes any value. What is no number becomes a dash.
"""

import math
import re
from typing import Any

from netpress.process.console import describe_seconds, write_bytes
from netpress.report.facts import number

NOTHING = "\N{EN DASH}"


def percent(value: Any, digits: int = 2) -> str:
    """A fraction as a percentage: .9778 -> 97.78%."""
    figure = number(value)
    return NOTHING if figure is None else f"{figure:.{digits}%}"


def whole(value: Any) -> str:
    """A count with its thousands set apart; a fraction of one is kept to one digit (score cards count halves)."""
    figure = number(value)
    if figure is None:
        return NOTHING
    return f"{figure:,.0f}" if abs(figure - round(figure)) < 0.05 else f"{figure:,.1f}"


def short(value: Any) -> str:
    """A count in four digits and a unit: 26052115 -> 26.05 M."""
    figure = number(value)
    if figure is None:
        return NOTHING
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(figure) >= size:
            return f"{figure / size:.4g} {unit}"
    return f"{figure:.4g}"


def size(value: Any) -> str:
    """Bytes with their unit: 266848 -> 260.6 KiB."""
    figure = number(value)
    return NOTHING if figure is None else write_bytes(figure)


def decimal(value: Any) -> str:
    """A score, to five places; to three digits where it is so small that these would say less."""
    figure = number(value)
    if figure is None:
        return NOTHING
    places = 2 - math.floor(math.log10(abs(figure))) if figure else 5
    return f"{figure:.{max(5, places)}f}"


def duration(value: Any) -> str:
    """Seconds as people say them."""
    figure = number(value)
    return NOTHING if figure is None else describe_seconds(figure)


def moment(value: Any) -> str:
    """A time of day in ISO 8601, to the minute, with its offset: 2026-01-31 12:00 +0000."""
    text = str(value)
    return f"{text[:10]} {text[11:16]} {text[19:]}".rstrip() if text[10:11] == "T" else text


def plain(value: Any) -> str:
    """Any setting or environment value; the empty and the absent (jinja's undefined) are a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return NOTHING
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value) or NOTHING


def brief(value: Any) -> str:
    """As `plain`, with checksums and commits cut to what tells them apart; the file has them whole."""
    text = plain(value)
    return f"{text[:12]}..." if re.fullmatch(r"[0-9a-f]{40,}", text) else text


def label(name: str) -> str:
    """The name of a figure for people: `images_per_second` -> images/s."""
    return name.replace("_per_second", "/s").replace("_", " ")


def sentence(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def share(part: Any, total: Any) -> float:
    """`part` of `total` as a fraction from 0 to 1; 0 where either is unknown."""
    part, total = number(part), number(total)
    return max(0.0, min(1.0, part / total)) if part and total else 0.0


FILTERS = {
    "percent": percent,
    "whole": whole,
    "short": short,
    "size": size,
    "decimal": decimal,
    "duration": duration,
    "moment": moment,
    "plain": plain,
    "brief": brief,
    "label": label,
    "sentence": sentence,
}
