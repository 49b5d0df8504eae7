"""The page of a sweep: one HTML file that any browser opens offline, with a plot of accuracy against score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from netpress.report.board import GATE
from netpress.report.figures import decimal, percent, short
from netpress.report.plot import COLOURS, MARKS, Axis, Frame, draw_key, draw_line, draw_mark
from netpress.report.tables import Table
from netpress.report.templates import find_template, read_parts

FRAME = Frame(width=640, height=400, left=66, right=80, top=18, bottom=54)
BESIDE = 9  # of a mark stand the dots of its runs, so that neither mark nor bar covers them
LETTERS = 60  # of a name beside a mark


@dataclass(frozen=True)
class Measure:
    """What lies across: its name, and how its values are written."""

    name: str
    write: Callable[[float], str]
    may_be_logarithmic: bool = False
    unit: float = 1.0
    """What figures are divided by before they are drawn: 1,024 of bytes makes KiB."""


SCORE = Measure("score", decimal)
KIB = 1024
FLASH = Measure("flash, KiB", lambda value: f"{value:,.1f}", may_be_logarithmic=True, unit=KIB)
RAM = Measure("RAM, KiB", lambda value: f"{value:,.1f}", may_be_logarithmic=True, unit=KIB)


@dataclass(frozen=True)
class Point:
    """A dot of the plot: equal runs, averaged over their seeds. Accuracies are fractions."""

    series: str
    label: str
    """Its place on the series' line; empty for a dot by itself."""
    cost: float
    """Its place across: the score, or what else the plot sets accuracy against."""
    accuracy: float
    spread: float
    """Sample standard deviation of the accuracy; 0 for a single run."""
    runs: tuple[tuple[float, float], ...]
    """(cost, accuracy) of each."""


def render_sweep(
    *,
    name: str,
    description: str,
    state: str,
    finished: bool,
    dataset: str,
    points: Mapping[Measure, Sequence[Point]],
    means: Table,
    runs: Table,
    recipe_text: str,
) -> str:
    """The page as HTML. Every text that comes from the sweep is escaped. `points` are drawn against each measure."""
    gate = GATE if dataset == "cifar100" else None
    drawn = {measure.name: draw_points(dots, gate, measure) for measure, dots in points.items() if dots}
    return find_template("sweep.html").render(
        name=name,
        description=description,
        state=state,
        finished=finished,
        dataset=dataset,
        plots=drawn,
        fronts={measure.name: [tell(dot) for dot in find_front(dots)] for measure, dots in points.items() if dots},
        means=means,
        runs=runs,
        recipe_text=recipe_text,
        style=read_parts("page.css", "plot.css", "comparison.css"),
        script=read_parts("page.js"),
    )


def tell(dot: Point) -> str:
    """What it is, in words."""
    return f"{dot.series} {dot.label}".strip()


def find_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in both accuracy and cost, the cheapest first."""
    front: list[Point] = []
    for dot in sorted(points, key=lambda dot: (dot.cost, -dot.accuracy)):
        if not front or dot.accuracy > front[-1].accuracy:
            front.append(dot)
    return front


def draw_points(
    points: Sequence[Point],
    gate: float | None = None,
    measure: Measure = SCORE,
    reach_gate: bool = False,
    keys: bool = True,
) -> Markup | None:
    """An SVG of accuracy (up) against a measure (right), a line for each series; None without points.

    Single runs are small dots, bars reach one standard deviation to either side. `gate` is drawn where it is in sight;
    with `reach_gate` it always is. Without `keys` all marks are alike, and only the front is named.
    """
    if not points:
        return None
    costs = [cost for point in points for cost, _ in point.runs]
    accuracies = [accuracy for point in points for _, accuracy in point.runs]
    accuracies += [point.accuracy + sign * point.spread for point in points for sign in (-1, 1)]
    accuracies += [gate] if gate is not None and reach_gate else []
    if max(accuracies) == min(accuracies):
        accuracies += [accuracies[0] - 0.01, accuracies[0] + 0.01]
    x, y = FRAME.across(costs, may_be_logarithmic=measure.may_be_logarithmic), FRAME.up(accuracies)
    series: dict[str, list[Point]] = {}
    for point in points:
        series.setdefault(point.series, []).append(point)
    alike = 1 if keys else len(series)
    name = f"{measure.name}{', logarithmic' if x.logarithmic else ''} (lower is better)"
    drawn = [FRAME.rules(x, y, name, short), FRAME.gate(gate, y), _draw_front(points, x, y)]
    for place, dots in enumerate(series.values()):
        place = place // alike
        group = Markup('<g class="colour-{}">').format(place % COLOURS)
        ordered = sorted(dots, key=lambda dot: dot.cost)
        group += draw_line([(x(dot.cost), y(dot.accuracy)) for dot in ordered])
        for dot in ordered:
            group += _draw_dot(dot, MARKS[place // COLOURS % len(MARKS)], x, y, measure)
        drawn.append(group + Markup("</g>"))
    drawn.append(_draw_names(points if keys else find_front(points), series, x, y))
    return FRAME.figure(
        drawn, _describe(points, measure), legend=_legend(list(series) if keys else [], len(points) > 1)
    )


def _draw_front(points: Sequence[Point], x: Axis, y: Axis) -> Markup:
    """Steps along the best: left of and above them lies nothing. Up from the cheapest, level to the next."""
    front = find_front(points)
    if len(points) < 2:
        return Markup()
    path = f"M{x(front[0].cost):.1f},{FRAME.height - FRAME.bottom}"
    for dot in front:
        path += f"H{x(dot.cost):.1f}V{y(dot.accuracy):.1f}"
    return Markup('<path class="front" d="{}H{}"/>').format(path, FRAME.width - FRAME.right)


def _draw_dot(dot: Point, mark: str, x: Axis, y: Axis, measure: Measure) -> Markup:
    parts = [
        Markup('<circle class="run" cx="{:.1f}" cy="{:.1f}" r="2.6"><title>{}, one run: {}</title></circle>').format(
            x(cost) - BESIDE, y(accuracy), tell(dot), percent(accuracy)
        )
        for cost, accuracy in (dot.runs if len(dot.runs) > 1 else ())
    ]
    if dot.spread:
        bar = Markup('<line class="spread" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>')
        parts.append(bar.format(x(dot.cost), y(dot.accuracy - dot.spread), y(dot.accuracy + dot.spread)))
    across = f"{measure.name} {measure.write(dot.cost)}"
    title = f"{tell(dot)}: {percent(dot.accuracy)}, {across}, runs: {len(dot.runs)}"
    parts.append(draw_mark(mark, x(dot.cost), y(dot.accuracy), title))
    return Markup().join(parts)


def _draw_names(points: Sequence[Point], series: dict[str, list[Point]], x: Axis, y: Axis) -> Markup:
    """Beside each dot its place on the line, or what it is; left out where it would lie on another's.

    One too long for the room on the right stands on the left of its dot; the legend has those too long for both.
    """
    drawn: list[Markup] = []
    taken: list[tuple[float, float, float]] = []  # left, right, baseline
    for point in sorted(points, key=lambda point: -point.accuracy):
        alone = len(series[point.series]) == 1
        text = _shorten(point.series if alone and not point.label else point.label)
        left, baseline, length = x(point.cost) + 8, y(point.accuracy) - 6, 7 * len(text)
        if left + length > FRAME.width:
            left -= 16 + length
        right = left + length
        if left >= FRAME.left and all(
            right < other[0] or other[1] < left or abs(baseline - other[2]) > 13 for other in taken
        ):
            taken.append((left, right, baseline))
            drawn.append(Markup('<text class="name" x="{:.1f}" y="{:.1f}">{}</text>').format(left, baseline, text))
    return Markup().join(drawn)


def _shorten(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"


def _describe(points: Sequence[Point], measure: Measure) -> str:
    """The drawing in words, for those who do not see it."""
    best = max(points, key=lambda point: point.accuracy)
    smallest = min(points, key=lambda point: point.cost)
    return (
        f"Accuracy against {measure.name} of {len(points)} networks: most accurate {tell(best)} with "
        f"{percent(best.accuracy)} at {measure.write(best.cost)}, smallest {tell(smallest)} with "
        f"{percent(smallest.accuracy)} at {measure.write(smallest.cost)}"
    )


def _legend(names: Sequence[str], has_front: bool) -> Markup:
    keys = [draw_key(MARKS[place // COLOURS % len(MARKS)], name, place) for place, name in enumerate(names)]
    keys = keys if len(names) > 1 else []
    if has_front:
        line = '<span><svg viewBox="0 0 20 10" aria-hidden="true"><path class="front" d="M0,5H20"/></svg>{}</span>'
        keys.append(Markup(line).format("the front: nothing is both better and smaller"))
    return Markup().join(keys)
