"""What a run's networks say of the test images, as `judgement.json` has it.

Whatever stands there is read: figures of the wrong type are left out, and a run of an earlier version has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netpress.report.facts import number

Interval = tuple[float, float]


@dataclass(frozen=True)
class StageAnswers:
    """What the network that a stage left reaches on the test images, and what it costs."""

    name: str
    right: int
    images: int
    interval: Interval | None
    """Wilson's, at 95%: fractions."""
    figures: Mapping[str, Any]
    """By the names of a footprint and a score card: flash_bytes, ram_bytes, nonzero_multiply_adds, score, ..."""

    @property
    def accuracy(self) -> float:
        return self.right / self.images


@dataclass(frozen=True)
class ClassAnswers:
    """The answers to the test images of one class."""

    name: str
    right: int
    images: int
    interval: Interval | None
    taken_for: list[tuple[int, int]] = field(default_factory=list)
    """Classes that its images were taken for, by number, and how many: most first."""

    @property
    def accuracy(self) -> float | None:
        return self.right / self.images if self.images else None


@dataclass(frozen=True)
class Pair:
    """Images of one class that were taken for another; classes by number."""

    label: int
    predicted: int
    images: int


@dataclass(frozen=True)
class Mistake:
    """A wrong answer."""

    image: str
    """Its file in the data set's folder, or `test image 12`."""
    label: int
    predicted: int
    probability: float | None


@dataclass(frozen=True)
class Bin:
    """Images that the network was about as sure of."""

    above: float
    up_to: float
    images: int
    probability: float
    accuracy: float


@dataclass(frozen=True)
class Answers:
    """All of it; everything empty where nothing was measured."""

    stages: dict[str, StageAnswers] = field(default_factory=dict)
    classes: list[ClassAnswers] = field(default_factory=list)
    matrix: list[Pair] = field(default_factory=list)
    """Every pair of classes that occurs, right answers among them."""
    mistakes: list[Mistake] = field(default_factory=list)
    bins: list[Bin] = field(default_factory=list)
    calibration_error: float | None = None
    of_cosines: bool = False
    """Whether probabilities are the softmax of cosines, whose scale nobody knows here."""

    @property
    def confused(self) -> list[Pair]:
        """Pairs of different classes, those with most images first."""
        wrong = (pair for pair in self.matrix if pair.label != pair.predicted)
        return sorted(wrong, key=lambda pair: (-pair.images, pair.label, pair.predicted))


def read_answers(judgement: Mapping[str, Any]) -> Answers:
    """The answers in a judgement.json; what of it cannot be understood is left out."""
    entries = _list(judgement, "classes")
    names = [entry.get("name") for entry in entries if isinstance(entry, dict)]
    known = len(names) == len(entries) and all(isinstance(name, str) for name in names)
    matrix = [pair for row in _list(judgement, "confusion") if (pair := _pair(row, len(names)))] if known else []
    calibration = judgement.get("calibration")
    calibration = calibration if isinstance(calibration, dict) else {}
    stages = judgement.get("stages")
    return Answers(
        stages={
            name: answers
            for name, figures in (stages.items() if isinstance(stages, dict) else ())
            if (answers := _stage(name, figures)) is not None
        },
        classes=[_class(entry, place, matrix) for place, entry in enumerate(entries)] if known else [],
        matrix=matrix,
        mistakes=[wrong for row in _list(judgement, "mistakes") if (wrong := _mistake(row, len(names)))]
        if known
        else [],
        bins=[one for row in _list(calibration, "bins") if (one := _bin(row))],
        calibration_error=number(calibration.get("error")),
        of_cosines=judgement.get("of_cosines") is True,
    )


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    value = values.get(name)
    return value if isinstance(value, list) else []


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _interval(value: Any) -> Interval | None:
    ends = [number(end) for end in value] if isinstance(value, list) else []
    if len(ends) == 2 and ends[0] is not None and ends[1] is not None and 0 <= ends[0] <= ends[1] <= 1:
        return ends[0], ends[1]
    return None


def _stage(name: str, figures: Any) -> StageAnswers | None:
    if not isinstance(figures, dict):
        return None
    right, images = _count(figures.get("right")), _count(figures.get("images"))
    if right is None or not images or right > images:
        return None
    return StageAnswers(name, right, images, _interval(figures.get("interval")), figures)


def _class(entry: Mapping[str, Any], place: int, matrix: list[Pair]) -> ClassAnswers:
    images = _count(entry.get("images")) or 0
    right = min(_count(entry.get("right")) or 0, images)
    wrong = [(pair.predicted, pair.images) for pair in matrix if pair.label == place != pair.predicted]
    wrong.sort(key=lambda other: (-other[1], other[0]))
    return ClassAnswers(str(entry["name"]), right, images, _interval(entry.get("interval")), wrong)


def _pair(row: Any, classes: int) -> Pair | None:
    counts = [_count(value) for value in row] if isinstance(row, list) else []
    if len(counts) != 3:
        return None
    label, predicted, images = counts
    if label is None or predicted is None or not images or label >= classes or predicted >= classes:
        return None
    return Pair(label, predicted, images)


def _mistake(row: Any, classes: int) -> Mistake | None:
    if not isinstance(row, dict):
        return None
    label, predicted, image = _count(row.get("label")), _count(row.get("predicted")), row.get("image")
    if label is None or predicted is None or label >= classes or predicted >= classes:
        return None
    name = image if isinstance(image, str) else f"test image {image}"
    return Mistake(name, label, predicted, number(row.get("probability")))


def _bin(row: Any) -> Bin | None:
    if not isinstance(row, dict):
        return None
    images = _count(row.get("images"))
    values = [number(row.get(name)) for name in ("above", "up_to", "probability", "accuracy")]
    if not images or any(value is None or not 0 <= value <= 1 for value in values):
        return None
    above, up_to, probability, accuracy = (value or 0.0 for value in values)
    return Bin(above, up_to, images, probability, accuracy)
