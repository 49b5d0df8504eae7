"""The pictures of a run, cut out of its contact sheets, as they stand inside a page: `<img src="data:...">`.

A sheet that is missing or damaged gives no pictures; a damaged one is told as a problem.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from netpress.folders.run import RunFolder
from netpress.report.facts import number

MOST_PIXELS = 40_000_000  # of a sheet: those of a run have less than a tenth
SHOWN_WIDTH = 56  # CSS pixels of one image on the page, about


@dataclass(frozen=True)
class Picture:
    """A strip of `images` equal images: its PNG as a data URI, and the size at which it is shown."""

    source: str
    width: int
    height: int
    images: int


@dataclass(frozen=True)
class Example:
    """What one class looks like."""

    name: str
    plain: Picture
    augmented: Picture | None


@dataclass(frozen=True)
class Examples:
    """Training images of the classes, the first ones if there are many."""

    classes: list[Example]
    of: int
    """Classes that there are."""
    side: int
    """Pixels of an image on the sheet: fewer than the network sees, where those are many."""
    size: list[int]
    """Channels, height and width that the network sees."""
    stage: str
    """Whose training augments as shown; empty where nothing trains."""


def read_examples(folder: RunFolder, problems: list[str]) -> Examples | None:
    """Examples of the classes; None where the run has none. What is damaged is told in `problems`."""
    facts = _read_facts(folder.examples)
    if facts is None:
        return None
    names, shown, side = facts["classes"], facts["shown"], facts["side"]
    plain = _open(folder.picture("examples"), problems)
    if plain is None or plain.height != side * len(names):
        return None
    augmented = _open(folder.picture("augmented"), problems)
    augmented = augmented if augmented is not None and augmented.size == plain.size else None
    stage = facts.get("augmented_in")
    return Examples(
        classes=[
            Example(name, _cut(plain, place, count, side), _cut(augmented, place, count, side) if augmented else None)
            for place, (name, count) in enumerate(zip(names, shown, strict=True))
            if 0 < count * side <= plain.width
        ],
        of=int(number(facts.get("of")) or len(names)),
        side=side,
        size=facts["size"] if _are_counts(facts.get("size"), 3) else [],
        stage=stage if isinstance(stage, str) and augmented is not None else "",
    )


def read_mistakes(folder: RunFolder, count: int, problems: list[str]) -> list[Picture]:
    """The pictures of the surest mistakes, in their order; [] where there are not `count` of them."""
    sheet = _open(folder.picture("mistakes"), problems) if count else None
    if sheet is None or sheet.width != sheet.height * count:
        return []
    side = sheet.height
    return [_embed(sheet.crop((place * side, 0, (place + 1) * side, side)), 1, 96) for place in range(count)]


def _read_facts(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(facts, dict):
        return None
    names, side = facts.get("classes"), facts.get("side")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    sound = _are_counts(facts.get("shown"), len(names)) and type(side) is int and 0 < side <= 4096
    return facts if sound else None


def _are_counts(values: Any, length: int) -> bool:
    return isinstance(values, list) and len(values) == length and all(type(value) is int for value in values)


def _open(path: Path, problems: list[str]) -> Image.Image | None:
    """A sheet, decoded; None where there is none or, noted as a problem, it is none."""
    if not path.is_file():
        return None
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError("too large for a contact sheet")
            return image.convert("L" if image.mode == "L" else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        problems.append(f"pictures/{path.name} is no sound PNG of a contact sheet")
        return None


def _cut(sheet: Image.Image, row: int, count: int, side: int) -> Picture:
    return _embed(sheet.crop((0, row * side, count * side, (row + 1) * side)), count, SHOWN_WIDTH)


def _embed(strip: Image.Image, images: int, shown: int) -> Picture:
    if strip.mode == "RGB" and _is_grey(strip.getextrema()):
        strip = _as_grey(strip)
    file = io.BytesIO()
    strip.save(file, "png", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return Picture(source, shown * images, shown, images)


def _is_grey(extremes: Sequence[Any]) -> bool:
    return len(set(extremes)) == 1


def _as_grey(strip: Image.Image) -> Image.Image:
    """The strip in one channel, if its three are equal."""
    red, green, blue = (channel.tobytes() for channel in strip.split())
    return strip.getchannel(0) if red == green == blue else strip
