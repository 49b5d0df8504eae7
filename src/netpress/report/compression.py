"""The curve of compression: accuracy against what is left of the network, over all stages that say both.

A stage logs a line for each step, such as

    {"round": 3, "step": "factorize", "parameters": 1890157, "accuracy_cut": 0.41, "accuracy_trained": 0.81}
    {"round": 1, "weights": 450456, "left": 315319, "accuracy_pruned": 0.52, "accuracy_trained": 0.615}

The second kind, of `prune`, counts selected weights. The network's other parameters are added to them where the run
says how many the network has.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from netpress.report.curves import pretty
from netpress.report.facts import StageFacts, number
from netpress.report.figures import decimal, percent, short, whole
from netpress.report.plot import CIRCLE, COLOURS, DIAMOND, SQUARE, Axis, Frame, draw_key, draw_line, draw_mark
from netpress.report.tables import flatten

FRAME = Frame(width=480, height=300, left=54, right=62, top=12, bottom=48)
SHAPES = (CIRCLE, SQUARE, DIAMOND)  # one a stage
GROWN, BELOW = "M-4.5,-5.5L6,0 -4.5,5.5z", "M0,6L5.5,-4.5h-11z"  # to the right; downwards
LEAST_SPREAD = 0.02  # of accuracies on the axis


@dataclass(frozen=True)
class Point:
    """The network at one moment: its parameters that are neither removed nor masked, and its accuracy, a fraction."""

    words: str
    parameters: float
    score: float | None
    accuracy: float
    hollow: bool = False
    """Right after surgery or pruning, before any training."""
    grown: bool = False


@dataclass(frozen=True)
class Series:
    """A stage: the networks that its steps began and ended with, in order, those in between, and its gate."""

    name: str
    ends: list[Point] = field(default_factory=list)
    cuts: list[Point] = field(default_factory=list)
    gate: float | None = None

    def restricted(self, wanted: Callable[[Point], bool]) -> "Series":
        """The series with the wanted points alone."""
        return Series(self.name, list(filter(wanted, self.ends)), list(filter(wanted, self.cuts)), self.gate)


def draw_compression(stages: Sequence[StageFacts]) -> list[Markup]:
    """Accuracy against parameters and, where lines have one, against the score; [] without a stage that compresses."""
    series = read_series(stages)
    scored = [one.restricted(lambda point: bool(point.score and point.score > 0)) for one in series]
    drawings = [
        _draw("parameters", series, lambda point: point.parameters, short),
        _draw("score", scored, lambda point: point.score or 0.0, lambda value: f"{value:.4g}"),
    ]
    return [drawing for drawing in drawings if drawing is not None]


# --- what stages logged


@dataclass(frozen=True)
class _Before:
    """The network that a stage begins with: its parameters, masked ones included, and how many are left of them."""

    parameters: float | None = None
    left: float | None = None


def read_series(stages: Sequence[StageFacts]) -> list[Series]:
    """A series for each stage that logged sizes with accuracies."""
    read: list[Series] = []
    before = _Before()
    kinds = [stage.kind for stage in stages]
    for stage in stages:
        done = number(stage.done.get("parameters"))
        if before.parameters is None:  # a stage that masks leaves the structure as it is
            before = _Before(done, before.left)
        name = stage.name if kinds.count(stage.kind) > 1 else pretty(stage.name)
        series = Series(name, gate=_gate(stage))
        for line in stage.steps:
            _add_step(series, line, before)
        if series.ends:
            read.append(series)
        before = _after(stage, series, before)
    return read


def _gate(stage: StageFacts) -> float | None:
    return next((number(value) for path, value in flatten(stage.settings) if path.split(".")[-1] == "gate"), None)


def _after(stage: StageFacts, series: Series, before: _Before) -> _Before:
    """What the next stage begins with. A stage may keep an earlier network than its last: then done.json knows."""
    logged = next(_numbers(stage.steps[::-1], "parameters"), before.parameters)
    parameters = number(stage.done.get("parameters")) or logged
    weights, nonzeros = number(stage.done.get("weights")), number(stage.done.get("nonzeros"))
    if series.ends and parameters and weights is not None and nonzeros is not None:
        return _Before(parameters, parameters - weights + nonzeros)
    return _Before(parameters, series.ends[-1].parameters if series.ends else before.left)


def _add_step(series: Series, line: Mapping[str, Any], before: _Before) -> None:
    """The points of a line, if it says a size and an accuracy."""
    left = _left(line, before)
    if left is None:
        return
    if not series.ends:
        series.ends.extend(_beginning(line, before))
    step = line.get("step")
    words = f"round {number(line.get('round')) or 0:.0f}" + (f", {step}" if isinstance(step, str) else "")
    score, grown = number(line.get("score")), step == "regrow"
    cut = next(_numbers([line], "accuracy_cut", "accuracy_pruned"), None)
    trained = number(line.get("accuracy_trained"))
    if cut is not None:
        point = Point(f"{words}, before training", left, score, cut, hollow=True, grown=grown)
        (series.cuts if trained is not None else series.ends).append(point)
    if trained is not None:
        series.ends.append(Point(f"{words}, trained", left, score, trained, grown=grown))


def _left(line: Mapping[str, Any], before: _Before) -> float | None:
    parameters = number(line.get("parameters"))
    if parameters is not None:
        return parameters
    weights, left = number(line.get("weights")), number(line.get("left"))
    if weights is None or left is None:
        return None
    return left + max(0.0, (before.parameters or weights) - weights)


def _beginning(line: Mapping[str, Any], before: _Before) -> list[Point]:
    """The network that a stage began with: its own line tells it, or what its first step says of before."""
    accuracy = number(line.get("accuracy"))
    if accuracy is not None:
        size = number(line.get("parameters"))
        return [Point("beginning", size, number(line.get("score")), accuracy)] if size else []
    accuracy = number(line.get("accuracy_before"))
    size, gone = number(line.get("parameters")), number(line.get("compression"))
    if size is not None and gone is not None and gone < 1:
        size = size / (1 - gone)
    elif size is None:
        size = before.left or before.parameters or number(line.get("weights"))
    return [Point("beginning", size, None, accuracy)] if size and accuracy is not None else []


def _numbers(lines: Iterable[Mapping[str, Any]], *names: str) -> Iterator[float]:
    return (figure for line in lines for name in names if (figure := number(line.get(name))) is not None)


# --- the drawing


def _draw(
    name: str, series: Sequence[Series], size: Callable[[Point], float], write: Callable[[float], str]
) -> Markup | None:
    series = [one for one in series if one.ends]
    ends = [point for one in series for point in one.ends]
    cuts = [point for one in series for point in one.cuts]
    if not ends:
        return None
    x = FRAME.across(map(size, (*ends, *cuts)), 5, may_be_logarithmic=True)
    y = FRAME.up(_accuracies_in_sight(ends, cuts, [one.gate for one in series]))
    title = f"{name}, logarithmic (fewer is better)" if x.logarithmic else f"{name} (fewer is better)"
    title = title.replace("fewer", "lower") if name == "score" else title
    drawn = [FRAME.rules(x, y, title, write)]
    drawn += [FRAME.gate(gate, y) for gate in dict.fromkeys(one.gate for one in series)]
    for place, one in enumerate(series):
        parts = [draw_line([(x(size(point)), y(point.accuracy)) for point in one.ends])]
        parts += [_mark(point, one.name, place, x(size(point)), y) for point in (*one.cuts, *one.ends)]
        drawn.append(Markup('<g class="colour-{}">{}</g>').format(place % COLOURS, Markup().join(parts)))
    words = _describe(name, series, size, write)
    return FRAME.figure(drawn, words, f"Accuracy against {name}", _legend(series, ends, cuts, y))


def _accuracies_in_sight(ends: Sequence[Point], cuts: Sequence[Point], gates: Sequence[float | None]) -> list[float]:
    """What the axis reaches over: a network right after surgery may be so bad that it would flatten all others."""
    values = [point.accuracy for point in ends]
    spread = max(max(values) - min(values), LEAST_SPREAD)
    low, high = min(values) - spread, max(values) + spread
    others = [point.accuracy for point in cuts] + [gate for gate in gates if gate is not None]
    values += [value for value in others if low <= value <= high]
    if max(values) == min(values):
        values += [values[0] - LEAST_SPREAD / 2, values[0] + LEAST_SPREAD / 2]
    return values


def _mark(point: Point, stage: str, place: int, across: float, y: Axis) -> Markup:
    size = f"{whole(point.parameters)} parameters" + ("" if point.score is None else f", score {decimal(point.score)}")
    title = f"{stage}, {point.words}: {percent(point.accuracy)}, {size}"
    if point.accuracy < y.least:
        return draw_mark(BELOW, across, y(y.least) - 5, title, hollow=True)
    shape = GROWN if point.grown else SHAPES[place % len(SHAPES)]
    return draw_mark(shape, across, y(min(point.accuracy, y.most)), title, point.hollow)


def _legend(series: Sequence[Series], ends: Sequence[Point], cuts: Sequence[Point], y: Axis) -> Markup:
    keys = [draw_key(SHAPES[place % len(SHAPES)], one.name, place) for place, one in enumerate(series)]
    points = [*ends, *cuts]
    if any(point.grown for point in points):
        keys.append(draw_key(GROWN, "regrown"))
    if any(point.hollow and point.accuracy >= y.least for point in points):
        keys.append(draw_key(CIRCLE, "before training", hollow=True))
    if any(point.accuracy < y.least for point in points):
        keys.append(draw_key(BELOW, f"before training, below {percent(y.least, 0)}", hollow=True))
    return Markup().join(keys)


def _describe(
    name: str, series: Sequence[Series], size: Callable[[Point], float], write: Callable[[float], str]
) -> str:
    """The drawing in words, for those who do not see it."""
    told = []
    for one in series:
        first, last, steps = one.ends[0], one.ends[-1], len(one.ends) - 1
        words = f"{one.name} from {percent(first.accuracy)} at {write(size(first))}"
        words += f" to {percent(last.accuracy)} at {write(size(last))} in {steps} step{'' if steps == 1 else 's'}"
        grown = sum(point.grown for point in one.ends)
        words += f", {grown} of them regrowth" if grown else ""
        told.append(words + (f", gate {percent(one.gate, 1)}" if one.gate is not None else ""))
    return f"Accuracy on the selection images against {name}: {'; '.join(told)}"
