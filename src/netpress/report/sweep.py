"""The page of a sweep: one HTML file that any browser opens offline, with a plot of accuracy against score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from netpress.report.board import GATE
from netpress.report.curves import choose_ticks
from netpress.report.figures import decimal, percent
from netpress.report.tables import Table
from netpress.report.templates import find_template, read_parts

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 62, 90, 14, 50  # room around the plot for its labels
COLOURS = 6  # in sweep.css; further series begin again with another mark
MARKS = ("M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z", "M-4.5,-4.5h9v9h-9z", "M0,-6L5.5,4.5h-11z", "M0,-6L6,0 0,6 -6,0z")


@dataclass(frozen=True)
class Point:
    """A dot of the plot: equal runs, averaged over their seeds. Accuracies are fractions."""

    series: str
    label: str
    """Its place on the series' line; empty for a dot by itself."""
    score: float
    accuracy: float
    spread: float
    """Sample standard deviation of the accuracy; 0 for a single run."""
    runs: tuple[tuple[float, float], ...]
    """(score, accuracy) of each."""


def render_sweep(
    *,
    name: str,
    description: str,
    state: str,
    finished: bool,
    dataset: str,
    points: Sequence[Point],
    means: Table,
    runs: Table,
    recipe_text: str,
) -> str:
    """The page as HTML. Every text that comes from the sweep is escaped."""
    gate = GATE if dataset == "cifar100" else None
    return find_template("sweep.html").render(
        name=name,
        description=description,
        state=state,
        finished=finished,
        dataset=dataset,
        plot=draw_points(points, gate),
        means=means,
        runs=runs,
        recipe_text=recipe_text,
        style=read_parts("page.css", "sweep.css"),
        script=read_parts("page.js"),
    )


def draw_points(points: Sequence[Point], gate: float | None = None) -> Markup | None:
    """An SVG of accuracy (up) against score (right), a line for each series; None without points.

    Single runs are small dots, bars reach one standard deviation to either side. `gate` is drawn where it is in sight.
    """
    if not points:
        return None
    scores = [score for point in points for score, _ in point.runs]
    accuracies = [accuracy for point in points for _, accuracy in point.runs]
    accuracies += [point.accuracy + sign * point.spread for point in points for sign in (-1, 1)]
    if max(accuracies) == min(accuracies):
        accuracies += [accuracies[0] - 0.01, accuracies[0] + 0.01]
    across = choose_ticks(min(scores), max(scores), 6)
    up = choose_ticks(min(accuracies), max(accuracies))

    def x(score: float) -> float:
        return LEFT + (score - across[0]) / (across[-1] - across[0]) * (WIDTH - LEFT - RIGHT)

    def y(accuracy: float) -> float:
        return HEIGHT - BOTTOM - (accuracy - up[0]) / (up[-1] - up[0]) * (HEIGHT - TOP - BOTTOM)

    series: dict[str, list[Point]] = {}
    for point in points:
        series.setdefault(point.series, []).append(point)
    drawn = [_rule_up(y(tick), percent(tick, 0 if up[1] - up[0] >= 0.01 else 1)) for tick in up]
    drawn += [_rule_across(x(tick), f"{tick:.4g}") for tick in across]
    if gate is not None and up[0] <= gate <= up[-1]:
        line = Markup('<line class="gate" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
        drawn.append(line.format(LEFT, WIDTH - RIGHT, y(gate), y(gate)))
        text = Markup('<text x="{}" y="{:.1f}">gate {}</text>')
        drawn.append(text.format(WIDTH - RIGHT + 6, y(gate) + 4, percent(gate, 0)))
    drawn.append(Markup('<text class="axis" x="{}" y="{}">score (lower is better)</text>').format(LEFT, HEIGHT - 4))
    for place, dots in enumerate(series.values()):
        group = Markup('<g class="colour-{}">').format(place % COLOURS)
        ordered = sorted(dots, key=lambda dot: dot.score)
        if len(ordered) > 1:
            path = " ".join(f"{x(dot.score):.1f},{y(dot.accuracy):.1f}" for dot in ordered)
            group += Markup('<polyline class="curve" points="{}"/>').format(path)
        for dot in ordered:
            group += _draw_dot(dot, MARKS[place // COLOURS % len(MARKS)], x, y)
        drawn.append(group + Markup("</g>"))
    drawn.append(_draw_names(points, series, x, y))
    return Markup(
        '<figure class="plot"><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        "<figcaption>{}</figcaption></figure>"
    ).format(WIDTH, HEIGHT, _describe(points), Markup().join(drawn), _legend(list(series)))


Axis = Callable[[float], float]


def _draw_dot(dot: Point, mark: str, x: Axis, y: Axis) -> Markup:
    parts = [
        Markup('<circle class="run" cx="{:.1f}" cy="{:.1f}" r="2.2"/>').format(x(score), y(accuracy))
        for score, accuracy in (dot.runs if len(dot.runs) > 1 else ())
    ]
    if dot.spread:
        bar = Markup('<line class="spread" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>')
        parts.append(bar.format(x(dot.score), y(dot.accuracy - dot.spread), y(dot.accuracy + dot.spread)))
    title = f"{dot.series} {dot.label}: {percent(dot.accuracy)}, score {decimal(dot.score)}, runs: {len(dot.runs)}"
    parts.append(
        Markup('<path class="mark-shape" d="{}" transform="translate({:.1f},{:.1f})"><title>{}</title></path>').format(
            mark, x(dot.score), y(dot.accuracy), title
        )
    )
    return Markup().join(parts)


def _draw_names(points: Sequence[Point], series: dict[str, list[Point]], x: Axis, y: Axis) -> Markup:
    """Beside each dot its place on the line, or what it is; left out where it would lie on another's."""
    drawn: list[Markup] = []
    taken: list[tuple[float, float, float]] = []  # left, right, baseline
    for point in sorted(points, key=lambda point: -point.accuracy):
        alone = len(series[point.series]) == 1
        text = point.series if alone else point.label.rpartition(" ")[2]
        left, baseline = x(point.score) + 8, y(point.accuracy) - 6
        right = left + 7 * len(text)
        if all(right < other[0] or other[1] < left or abs(baseline - other[2]) > 13 for other in taken):
            taken.append((left, right, baseline))
            drawn.append(Markup('<text class="name" x="{:.1f}" y="{:.1f}">{}</text>').format(left, baseline, text))
    return Markup().join(drawn)


def _rule_up(place: float, text: str) -> Markup:
    return Markup(
        '<line class="rule" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/><text class="up" x="{}" y="{:.1f}">{}</text>'
    ).format(LEFT, WIDTH - RIGHT, LEFT - 8, place + 4, text, y=place)


def _rule_across(place: float, text: str) -> Markup:
    return Markup(
        '<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{}" y2="{}"/>'
        '<text class="across" x="{x:.1f}" y="{}">{}</text>'
    ).format(TOP, HEIGHT - BOTTOM, HEIGHT - BOTTOM + 16, text, x=place)


def _describe(points: Sequence[Point]) -> str:
    """The drawing in words, for those who do not see it."""
    best = max(points, key=lambda point: point.accuracy)
    smallest = min(points, key=lambda point: point.score)
    return (
        f"Accuracy against score of {len(points)} networks: most accurate {best.series} {best.label} with "
        f"{percent(best.accuracy)} at {decimal(best.score)}, smallest {smallest.series} {smallest.label} with "
        f"{percent(smallest.accuracy)} at {decimal(smallest.score)}"
    )


def _legend(names: Sequence[str]) -> Markup:
    if len(names) < 2:
        return Markup()
    return Markup().join(
        Markup(
            '<span class="colour-{}"><svg viewBox="-7 -7 14 14" aria-hidden="true"><path class="mark-shape" d="{}"/>'
            "</svg>{}</span>"
        ).format(place % COLOURS, MARKS[place // COLOURS % len(MARKS)], name)
        for place, name in enumerate(names)
    )
