"""Curves over the epochs of all stages, as SVG. The page's style gives the colours."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from netpress.report.facts import StageFacts, number
from netpress.report.figures import percent

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 8, 26, 34  # room around the plot for its labels
MOST_POINTS = 600  # of one curve; more could not be told apart at this width
MOST_SPREAD = 100  # the largest value over the smallest on an even axis, where a chart may have a logarithmic one

Epoch = dict[str, Any]


@dataclass(frozen=True)
class Band:
    """A stage, or a round of one, as a part of the time axis: epochs [start, end)."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Chart:
    """One drawing: which figures of an epoch it shows, under which names, and how their values are written."""

    title: str
    series: dict[str, str]
    write: Callable[[float], str]
    floor: float | None = None
    """The least that the axis begins with: 0 for what is compared by length."""
    may_be_logarithmic: bool = False
    """Where values spread over more than MOST_SPREAD: one wild epoch would flatten all others."""


def _plain(value: float) -> str:
    return f"{value:.4g}"


CHARTS = (
    Chart("Accuracy", {"selection_accuracy": "selection images", "train_accuracy": "training images"}, percent),
    Chart("Loss", {"selection_loss": "selection images", "loss": "training images"}, _plain, may_be_logarithmic=True),
    Chart("Learning rate", {"learning_rate": "learning rate"}, _plain, floor=0.0),
    Chart("Regularizer", {"regularizer": "regularizer"}, _plain, floor=0.0),
    Chart("Speed", {"images_per_second": "images/s"}, lambda value: f"{value:,.0f}", floor=0.0),
)

Points = list[tuple[float, float]]
Curves = dict[int, tuple[str, Points]]
"""The curves of a chart that have points: place in the chart's series -> name, points."""


def draw_charts(stages: Sequence[StageFacts]) -> list[Markup]:
    """A drawing for every chart that the logged epochs have figures for."""
    epochs = [line for stage in stages for line in stage.epochs]
    bands = find_bands(epochs)
    return [chart for chart in (draw(chart, epochs, bands) for chart in CHARTS) if chart is not None]


def find_bands(epochs: Sequence[Epoch]) -> list[Band]:
    """The parts of the time axis, in order."""
    bands: list[Band] = []
    for index, line in enumerate(epochs):
        name = str(line.get("stage", ""))
        if bands and bands[-1].name == name:
            bands[-1] = Band(name, bands[-1].start, index + 1)
        else:
            bands.append(Band(name, index, index + 1))
    return bands


def draw(chart: Chart, epochs: Sequence[Epoch], bands: Sequence[Band]) -> Markup | None:
    """An SVG of `chart`, or None if no epoch has a figure of it."""
    curves: Curves = {}
    for position, (key, name) in enumerate(chart.series.items()):
        points = thin([number(line.get(key)) for line in epochs], bands)
        if points:
            curves[position] = (name, points)
    values = [value for _, points in curves.values() for _, value in points]
    if not values:
        return None
    least, most = min(values), max(values)
    logarithmic = chart.may_be_logarithmic and least > 0 and most / least > MOST_SPREAD
    place: Callable[[float], float] = math.log10 if logarithmic else float
    if logarithmic:
        ticks = [10.0**power for power in range(math.floor(place(least)), math.ceil(place(most)) + 1)]
    else:
        ticks = choose_ticks(least if chart.floor is None else min(least, chart.floor), most)
    low, high = place(min(ticks[0], least)), place(max(ticks[-1], most))

    def x(epoch: float) -> float:
        return LEFT + (epoch + 0.5) / len(epochs) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - place(value)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    drawn = Markup().join(
        [
            _draw_bands(bands, len(epochs)),
            _draw_rules(ticks, y, chart.write),
            _draw_epochs(len(epochs), x),
            *(
                _draw_curve([point for point in points if band.start <= point[0] < band.end], x, y, position)
                for position, (_, points) in curves.items()
                for band in bands
            ),
            Markup('<line class="cursor" y1="{}" y2="{}" visibility="hidden"/>').format(TOP, HEIGHT - BOTTOM),
        ]
    )
    readings = {
        "epochs": len(epochs),
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "bands": [[pretty(band.name), band.start, band.end] for band in bands],
        "series": {name: [[epoch, chart.write(value)] for epoch, value in points] for name, points in curves.values()},
    }
    return Markup(
        '<figure class="chart"><figcaption><b>{title}</b>{legend}<output></output></figcaption>'
        '<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}" data-readings="{readings}">{drawn}</svg>'
        "</figure>"
    ).format(
        title=f"{chart.title}, logarithmic" if logarithmic else chart.title,
        legend=_legend(chart, curves),
        width=WIDTH,
        height=HEIGHT,
        label=_describe(chart, curves),
        readings=json.dumps(readings),
        drawn=drawn,
    )


def thin(values: Sequence[float | None], bands: Sequence[Band]) -> Points:
    """(epoch, value) of the known values; beyond MOST_POINTS, means of consecutive epochs of one band."""
    group = math.ceil(len(values) / MOST_POINTS)
    points = []
    for band in bands:
        for start in range(band.start, band.end, group):
            end = min(start + group, band.end)
            group_values = [value for value in values[start:end] if value is not None]
            if group_values:
                points.append(((start + end - 1) / 2, sum(group_values) / len(group_values)))
    return points


def choose_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`, a step of 1, 2 or 5 times a power of ten apart."""
    if high <= low:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def pretty(name: str) -> str:
    """A stage for people: `02-prune/round-3` -> prune, round 3."""
    stage, *parts = name.split("/")
    words = [stage.partition("-")[2] or stage, *(part.replace("-", " ") for part in parts)]
    return ", ".join(words)


def _describe(chart: Chart, curves: Curves) -> str:
    """The drawing in words, for those who do not see it."""
    trends = [
        f"{name} from {chart.write(points[0][1])} to {chart.write(points[-1][1])}" for name, points in curves.values()
    ]
    return f"{chart.title} over the epochs: {'; '.join(trends)}"


def _legend(chart: Chart, curves: Curves) -> Markup:
    if len(chart.series) < 2:
        return Markup()
    return Markup().join(
        Markup('<span class="key series-{}">{}</span>').format(position, name) for position, (name, _) in curves.items()
    )


def _draw_bands(bands: Sequence[Band], epochs: int) -> Markup:
    scale = (WIDTH - LEFT - RIGHT) / epochs
    drawn = []
    for position, band in enumerate(bands):
        left, width = LEFT + band.start * scale, (band.end - band.start) * scale
        if position % 2:
            drawn.append(
                Markup('<rect class="band" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>').format(
                    left, TOP, width, HEIGHT - TOP - BOTTOM
                )
            )
        text = next((text for text in _band_names(band.name) if len(text) * 6.5 < width), None)
        if text:
            drawn.append(
                Markup('<text class="part" x="{:.1f}" y="{}">{}</text>').format(left + width / 2, TOP - 8, text)
            )
    return Markup().join(drawn)


def _band_names(name: str) -> list[str]:
    """Ever shorter names of a band: the longest that fits is written over it."""
    full = pretty(name)
    last = full.rpartition(", ")[2]
    return [full, last, last.rpartition(" ")[2]] if last != full else [full]


def _draw_rules(ticks: Sequence[float], y: Callable[[float], float], write: Callable[[float], str]) -> Markup:
    return Markup().join(
        Markup(
            '<line class="rule" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            '<text class="tick" x="{at}" y="{text:.1f}">{label}</text>'
        ).format(
            left=LEFT, right=WIDTH - RIGHT, y=y(tick), at=LEFT - 6, text=y(tick) + 4, label=_short_tick(write, tick)
        )
        for tick in ticks
    )


def _short_tick(write: Callable[[float], str], tick: float) -> str:
    return f"{tick:.4g}" if write is _plain else write(tick).replace(".00%", "%")


def _draw_epochs(epochs: int, x: Callable[[float], float]) -> Markup:
    ticks = [tick for tick in choose_ticks(0, epochs, 6) if 1 <= tick <= epochs and tick == int(tick)]
    labels = Markup().join(
        Markup('<text class="epoch" x="{:.1f}" y="{}">{:,.0f}</text>').format(x(tick - 1), HEIGHT - BOTTOM + 16, tick)
        for tick in ticks
    )
    name = Markup('<text class="epoch" x="{}" y="{}">epoch</text>').format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3)
    return labels + name


def _draw_curve(
    points: Sequence[tuple[float, float]], x: Callable[[float], float], y: Callable[[float], float], position: int
) -> Markup:
    """One curve within one band: figures of different stages are not joined."""
    if not points:
        return Markup()
    if len(points) == 1:
        ((epoch, value),) = points
        return Markup('<circle class="dot series-{}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(
            position, x(epoch), y(value)
        )
    path = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in points)
    return Markup('<polyline class="curve series-{}" points="{}"/>').format(position, path)
