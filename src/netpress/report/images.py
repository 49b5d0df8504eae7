"""What the images of a run were found to be, as `data.json` has it: counts, what was skipped, what is odd."""

from collections.abc import Mapping
from typing import Any

from netpress.report.facts import number
from netpress.report.figures import plain, whole
from netpress.report.tables import Cell, Table

PARTS = ("train", "validation", "test")
MOST_EXAMPLES = 10
COPIES = (
    ("duplicates", "images", "no duplicates within a part", "duplicates within a part"),
    ("across_parts", "pairs", "no test image is a training image, too", "test images that are training images, too"),
    ("two_classes", "groups", "no image lies in two classes", "images that lie in two classes"),
)
"""Finding, its count, and what is said of none and of some."""


def tabulate_counts(data: Mapping[str, Any]) -> Table | None:
    """Images of each class in each part, with bars, and all together in the last row; None where they are not known."""
    names, counts = data.get("classes"), _table(data, "counts")
    if not isinstance(names, list) or not names:
        return None
    columns = {part: counts.get(part) for part in PARTS}
    parts = {part: values for part, values in columns.items() if isinstance(values, list) and len(values) == len(names)}
    if not parts:
        return None
    most = {part: max((number(value) or 0) for value in values) or 1 for part, values in parts.items()}
    rows = [
        [
            Cell(plain(name), plain(name)),
            *(_count(values[place], most[part]) for part, values in parts.items()),
        ]
        for place, name in enumerate(names)
    ]
    totals = [sum(number(value) or 0 for value in values) for values in parts.values()]
    rows.append([Cell("all classes", "\uffff"), *(Cell(whole(total), total) for total in totals)])
    return Table(["class", *(f"{part}, images" for part in parts)], [False, *(True for _ in parts)], rows)


def tell_totals(data: Mapping[str, Any]) -> str:
    """Images of each part: 1,347 train, 150 validation, 300 test."""
    counts = _table(data, "counts")
    totals = {part: sum(number(value) or 0 for value in _list(counts, part)) for part in PARTS if _list(counts, part)}
    return ", ".join(f"{whole(total)} {part}" for part, total in totals.items())


def class_counts(data: Mapping[str, Any]) -> dict[str, int]:
    """Training images of each class by its name."""
    names, counts = data.get("classes"), _table(data, "counts").get("train")
    if not isinstance(names, list) or not isinstance(counts, list) or len(names) != len(counts):
        return {}
    pairs = zip(names, counts, strict=True)
    return {str(name): int(count) for name, count in pairs if isinstance(count, int) and not isinstance(count, bool)}


def describe_images(data: Mapping[str, Any]) -> list[str]:
    """Sentences on the files: how many, how large, in which modes."""
    said = []
    files = number(data.get("files"))
    if files:
        said.append(f"{whole(files)} files")
    sizes = [(name, _size(_table(data, "sizes").get(name))) for name in ("smallest", "median", "largest")]
    told = [f"{name} {size}" for name, size in sizes if size]
    alike = len(told) == 3 and len({size for _, size in sizes}) == 1
    said += [f"pixels, width x height: {f'all {sizes[0][1]}' if alike else ', '.join(told)}"] if told else []
    modes = _table(data, "modes")
    said += [f"modes: {', '.join(f'{name} {whole(count)}' for name, count in modes.items())}"] if modes else []
    for name, key, none, some in COPIES:
        count = number(_table(data, name).get(key))
        said += [f"{whole(count)} {some}" if count else none] if count is not None else []
    return said


def list_warnings(data: Mapping[str, Any]) -> list[str]:
    """What is odd of the images, in sentences."""
    return [text for text in _list(data, "warnings") if isinstance(text, str)]


def list_skipped(data: Mapping[str, Any]) -> tuple[int, list[str]]:
    """How many files were skipped, and the first of them with the reason."""
    skipped = _table(data, "skipped")
    examples = [one for one in _list(skipped, "examples") if isinstance(one, dict)]
    told = [f"{plain(one.get('path'))}: {plain(one.get('reason'))}" for one in examples[:MOST_EXAMPLES]]
    return int(number(skipped.get("count")) or len(told)), told


def list_repeated(data: Mapping[str, Any]) -> list[str]:
    """Pairs of images that are equal: first those of different parts."""
    pairs = [
        pair for name in ("across_parts", "two_classes", "duplicates") for pair in _list(_table(data, name), "examples")
    ]
    return [" = ".join(map(plain, pair)) for pair in pairs[:MOST_EXAMPLES] if isinstance(pair, list)]


def _count(value: Any, most: float) -> Cell:
    figure = number(value)
    return Cell(whole(value), -1.0 if figure is None else figure, (figure or 0) / most)


def _size(value: Any) -> str:
    known = isinstance(value, list) and len(value) == 2 and all(number(side) is not None for side in value)
    return f"{whole(value[0])} x {whole(value[1])}" if known else ""


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    value = values.get(name)
    return value if isinstance(value, list) else []
