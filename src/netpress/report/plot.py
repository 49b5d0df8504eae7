"""What plots of points share: a frame with two axes, marks, a legend. `plot.css` gives the colours."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from netpress.report.curves import choose_ticks
from netpress.report.figures import percent

COLOURS = 6  # in plot.css; further series begin again with another mark
CIRCLE, SQUARE = "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z", "M-4.5,-4.5h9v9h-9z"
TRIANGLE, DIAMOND = "M0,-6L5.5,4.5h-11z", "M0,-6L6,0 0,6 -6,0z"
MARKS = (CIRCLE, SQUARE, TRIANGLE, DIAMOND)
MOST_SPREAD = 5  # the largest value over the smallest on an even axis, where an axis may be logarithmic
FEW_DECADES = 3  # with 1, 2, 5 and 10 on the axis; beyond, powers of ten alone

Place = Callable[[float], float]


@dataclass(frozen=True)
class Axis:
    """An axis from `start` to `end`, in the drawing's units: round numbers, the first and the last at its ends."""

    ticks: list[float]
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        even: Place = math.log10 if self.logarithmic else float
        low, high = even(self.ticks[0]), even(self.ticks[-1])
        return self.start + (even(value) - low) / (high - low) * (self.end - self.start)

    @property
    def least(self) -> float:
        return self.ticks[0]

    @property
    def most(self) -> float:
        return self.ticks[-1]


def choose_axis(
    values: Iterable[float], start: float, end: float, wanted: int = 5, may_be_logarithmic: bool = False
) -> Axis:
    """An axis on which all of `values` have their place; logarithmic only where it may be and they spread far."""
    values = list(values)
    least, most = min(values), max(values)
    if may_be_logarithmic and least > 0 and most / least > MOST_SPREAD:
        return Axis(_logarithmic_ticks(least, most), start, end, logarithmic=True)
    return Axis(choose_ticks(least, most, wanted), start, end)


def _logarithmic_ticks(least: float, most: float) -> list[float]:
    """From the last round number up to `least` to the first from `most` on."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    factors = (1, 2, 5) if last - first <= FEW_DECADES else (1,)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    low = max(tick for tick in ticks if tick <= least * (1 + 1e-9))
    high = min(tick for tick in ticks if tick >= most * (1 - 1e-9))
    return [tick for tick in ticks if low <= tick <= high]


@dataclass(frozen=True)
class Frame:
    """The drawing's size, and the room around the plot for its labels."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int

    def across(self, values: Iterable[float], wanted: int = 6, may_be_logarithmic: bool = False) -> Axis:
        """The axis from left to right."""
        return choose_axis(values, self.left, self.width - self.right, wanted, may_be_logarithmic)

    def up(self, values: Iterable[float]) -> Axis:
        """The axis from the bottom to the top."""
        return choose_axis(values, self.height - self.bottom, self.top)

    def rules(self, x: Axis, y: Axis, name: str, write: Callable[[float], str]) -> Markup:
        """Rules with their labels, accuracies up and `name` across, whose values `write` writes."""
        digits = 0 if y.ticks[1] - y.ticks[0] >= 0.01 else 1
        up = Markup(
            '<line class="rule" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/><text class="up" x="{}" y="{:.1f}">{}</text>'
        )
        across = Markup(
            '<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{}" y2="{}"/>'
            '<text class="across" x="{x:.1f}" y="{}">{}</text>'
        )
        left, right, foot = self.left, self.width - self.right, self.height - self.bottom
        drawn = [up.format(left, right, left - 8, y(tick) + 4, percent(tick, digits), y=y(tick)) for tick in y.ticks]
        drawn += [across.format(self.top, foot, foot + 16, write(tick), x=x(tick)) for tick in x.ticks]
        drawn.append(Markup('<text class="axis" x="{}" y="{}">{}</text>').format(left, self.height - 4, name))
        return Markup().join(drawn)

    def gate(self, gate: float | None, y: Axis) -> Markup:
        """The accuracy to keep, where it is in sight."""
        if gate is None or not y.least <= gate <= y.most:
            return Markup()
        return Markup(
            '<line class="gate" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/><text x="{}" y="{:.1f}">gate {}</text>'
        ).format(
            *(self.left, self.width - self.right, self.width - self.right + 6, y(gate) + 4),
            percent(gate, 0 if round(gate, 2) == gate else 1),
            y=y(gate),
        )

    def figure(self, parts: Iterable[Markup], description: str, title: str = "", legend: Markup | str = "") -> Markup:
        """The whole drawing; `description` says it in words, for those who do not see it. A title stands above it."""
        drawing = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            self.width, self.height, description, Markup().join(parts)
        )
        if title:
            caption = Markup("<figcaption><b>{}</b>{}</figcaption>").format(title, legend)
            return Markup('<figure class="plot">{}{}</figure>').format(caption, drawing)
        return Markup('<figure class="plot">{}<figcaption>{}</figcaption></figure>').format(drawing, legend)


def draw_line(points: Sequence[tuple[float, float]]) -> Markup:
    """Points joined in their order; nothing for a single one."""
    if len(points) < 2:
        return Markup()
    return Markup('<polyline class="curve" points="{}"/>').format(" ".join(f"{x:.1f},{y:.1f}" for x, y in points))


def draw_mark(shape: str, x: float, y: float, title: str, hollow: bool = False) -> Markup:
    """A mark that tells `title` under the pointer."""
    kind, size = ("mark-shape hollow", " scale(.8)") if hollow else ("mark-shape", "")
    return Markup('<path class="{}" d="{}" transform="translate({:.1f},{:.1f}){}"><title>{}</title></path>').format(
        kind, shape, x, y, size, title
    )


def draw_key(shape: str, name: str, colour: int | None = None, hollow: bool = False) -> Markup:
    """An entry of a legend; without a colour it stands for marks of every colour."""
    return Markup(
        '<span{}><svg viewBox="-7 -7 14 14" aria-hidden="true"><path class="{}" d="{}"/></svg>{}</span>'
    ).format(
        Markup(' class="colour-{}"').format(colour % COLOURS) if colour is not None else "",
        "mark-shape hollow" if hollow else "mark-shape",
        shape,
        name,
    )
