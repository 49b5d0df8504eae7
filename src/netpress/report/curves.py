"""Curves over the epochs of all stages, as SVG. The page's style gives the colours."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from netpress.report.facts import StageFacts, number
from netpress.report.figures import percent

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 8, 26, 34  # room around the plot for its labels
MOST_POINTS = 600  # of one curve; more could not be told apart at this width
MOST_SPREAD = 100  # the largest value over the smallest on an even axis, where a chart may have a logarithmic one
MOST_ERRORS = 5  # the largest error over the smallest on an even axis of accuracies
LEAST_ERROR = 0.001  # on an axis that is logarithmic in errors; fewer errors are drawn there
ERRORS = (0.1, 0.01, 0.001, 0.5, 0.05, 0.005, 0.2, 0.02, 0.002, 0.8, 0.3, 0.03)  # where it has rules, the first first
LEAST_GAP = 0.08  # of the axis between two rules
FALLING = "selection_accuracy"  # what stages measure right after surgery

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
    of_accuracies: bool = False
    """Where errors spread over more than MOST_ERRORS, the axis is logarithmic in them: 98% and 99% lie as far apart as
    80% and 90%."""


def _plain(value: float) -> str:
    return f"{value:.4g}"


CHARTS = (
    Chart(
        "Accuracy",
        {"selection_accuracy": "selection images", "train_accuracy": "training images"},
        percent,
        of_accuracies=True,
    ),
    Chart(
        "Loss, nats", {"selection_loss": "selection images", "loss": "training images"}, _plain, may_be_logarithmic=True
    ),
    Chart("Learning rate", {"learning_rate": "learning rate"}, _plain, floor=0.0),
    Chart("Regularizer", {"regularizer": "regularizer"}, _plain, floor=0.0),
    Chart("Speed, images/s", {"images_per_second": "images/s"}, lambda value: f"{value:,.0f}", floor=0.0),
)
INSIDE = {"learning_rate": "learning_rates"}
"""Figures that are also logged within the epoch: a list of [place in the epoch, value]."""
FALLS = ("accuracy_pruned", "accuracy_cut", "accuracy_calibrated")
"""What a stage logs of a network right after surgery, pruning or quantizing, before the training that follows."""

Points = list[tuple[float, float]]
"""(place, value): after so many epochs since the run began."""


@dataclass(frozen=True)
class Curve:
    """One curve of a chart: its place in the chart's series, its name, and its points, band by band."""

    place: int
    name: str
    parts: list[Points]
    falls: Points
    """Of `parts`, what a band begins with: a network right after surgery."""

    @property
    def points(self) -> Points:
        return [point for part in self.parts for point in part]


def draw_charts(stages: Sequence[StageFacts]) -> list[Markup]:
    """A drawing for every chart that the logged epochs have figures for."""
    epochs = [line for stage in stages for line in stage.epochs]
    bands = find_bands(epochs)
    falls = find_falls(stages)
    return [chart for chart in (draw(chart, epochs, bands, falls) for chart in CHARTS) if chart is not None]


def find_falls(stages: Sequence[StageFacts]) -> dict[str, float]:
    """The accuracy on the selection images that a band begins with, by the band's name."""
    falls = {}
    for stage in stages:
        for line in stage.steps:
            value = next((figure for name in FALLS if (figure := number(line.get(name))) is not None), None)
            if value is not None:
                round_number = number(line.get("round"))
                part = "train" if round_number is None else f"round-{round_number:.0f}"
                falls[f"{stage.name}/{part}"] = value
    return falls


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


def draw(
    chart: Chart, epochs: Sequence[Epoch], bands: Sequence[Band], falls: Mapping[str, float] | None = None
) -> Markup | None:
    """An SVG of `chart`, or None if no epoch has a figure of it. `falls` as `find_falls` gives them."""
    curves = _find_curves(chart, epochs, bands, falls or {})
    values = [value for curve in curves for _, value in curve.points]
    if not values:
        return None
    scale = _choose_scale(chart, values)

    def x(place: float) -> float:
        return LEFT + place / len(epochs) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (1 - scale.place(value)) * (HEIGHT - TOP - BOTTOM)

    drawn = Markup().join(
        [
            _draw_bands(bands, len(epochs)),
            _draw_rules(scale.ticks, y, chart.write),
            _draw_epochs(len(epochs), x),
            *(_draw_curve(part, x, y, curve.place) for curve in curves for part in curve.parts),
            *(_draw_fall(fall, x, y, curve.place, chart.write) for curve in curves for fall in curve.falls),
            Markup('<line class="cursor" y1="{}" y2="{}" visibility="hidden"/>').format(TOP, HEIGHT - BOTTOM),
        ]
    )
    readings = {
        "epochs": len(epochs),
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "bands": [[pretty(band.name), band.start, band.end] for band in bands],
        "series": {
            curve.name: [[round(place, 4), chart.write(value)] for place, value in curve.points] for curve in curves
        },
    }
    return Markup(
        '<figure class="chart"><figcaption><b>{title}</b>{legend}<output></output></figcaption>'
        '<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}" data-readings="{readings}">{drawn}</svg>'
        "</figure>"
    ).format(
        title=chart.title + scale.remark,
        legend=_legend(chart, curves),
        width=WIDTH,
        height=HEIGHT,
        label=_describe(chart, curves),
        readings=json.dumps(readings),
        drawn=drawn,
    )


def _find_curves(
    chart: Chart, epochs: Sequence[Epoch], bands: Sequence[Band], falls: Mapping[str, float]
) -> list[Curve]:
    curves = []
    for position, (key, name) in enumerate(chart.series.items()):
        parts = thin([number(line.get(key)) for line in epochs], bands)
        if key in INSIDE and len(epochs) <= MOST_POINTS:
            inside = [_inside(epochs, INSIDE[key], band) for band in bands]
            parts = [own or part for own, part in zip(inside, parts, strict=True)]
        begun = [(float(band.start), falls[band.name]) for band in bands if band.name in falls and key == FALLING]
        for band, part in zip(bands, parts, strict=True):
            part[:0] = [fall for fall in begun if fall[0] == band.start]
        if any(parts):
            curves.append(Curve(position, name, parts, begun))
    return curves


def _inside(epochs: Sequence[Epoch], key: str, band: Band) -> Points:
    """What was logged within the epochs of a band; [] where an epoch has nothing of it."""
    points: Points = []
    for epoch in range(band.start, band.end):
        entries = epochs[epoch].get(key)
        pairs = [entry for entry in entries if isinstance(entry, list)] if isinstance(entries, list) else []
        known = [(number(pair[0]), number(pair[1])) for pair in pairs if len(pair) == 2]
        own = [(epoch + place, value) for place, value in known if place is not None and value is not None]
        if not own:
            return []
        points += own
    return points


def thin(values: Sequence[float | None], bands: Sequence[Band]) -> list[Points]:
    """The known values, band by band, each after its epoch; beyond MOST_POINTS, means of consecutive epochs."""
    group = math.ceil(len(values) / MOST_POINTS)
    parts = []
    for band in bands:
        points = []
        for start in range(band.start, band.end, group):
            end = min(start + group, band.end)
            group_values = [value for value in values[start:end] if value is not None]
            if group_values:
                points.append(((start + end + 1) / 2, sum(group_values) / len(group_values)))
        parts.append(points)
    return parts


@dataclass(frozen=True)
class Scale:
    """An axis: round numbers, where a value lies on it from 0 to 1, and what a title must say of it."""

    ticks: list[float]
    place: Callable[[float], float]
    remark: str = ""


def _choose_scale(chart: Chart, values: Sequence[float]) -> Scale:
    least, most = min(values), max(values)
    smallest = max(1 - most, LEAST_ERROR)
    if chart.of_accuracies and least >= 0 and most <= 1 and (1 - least) / smallest > MOST_ERRORS:
        return _stretched(least, smallest)
    if chart.may_be_logarithmic and least > 0 and most / least > MOST_SPREAD:
        ticks = [10.0**power for power in range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)]
        return Scale(ticks, _between(math.log10(ticks[0]), math.log10(ticks[-1]), math.log10), ", logarithmic")
    ticks = choose_ticks(least if chart.floor is None else min(least, chart.floor), most)
    if chart.of_accuracies:
        ticks = [tick for tick in ticks if 0 <= tick <= 1]
    return Scale(ticks, _between(min(ticks[0], least), max(ticks[-1], most), float))


def _stretched(least: float, smallest: float) -> Scale:
    """An axis of accuracies that is logarithmic in the errors, from `least` to an error of `smallest`."""
    first, last = -math.log10(1 - least), -math.log10(smallest)
    place = _between(first, last, lambda value: -math.log10(max(1 - value, smallest)))
    ticks: list[float] = []
    for tick in (1 - error for error in ERRORS if smallest * 0.999 <= error <= 1 - least):
        if all(abs(place(tick) - place(other)) >= LEAST_GAP for other in ticks):
            ticks.append(tick)
    return Scale(sorted(ticks), place, ", stretched towards 100%")


def _between(low: float, high: float, place: Callable[[float], float]) -> Callable[[float], float]:
    return lambda value: (place(value) - low) / (high - low)


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


def _describe(chart: Chart, curves: Sequence[Curve]) -> str:
    """The drawing in words, for those who do not see it."""
    trends = []
    for curve in curves:
        points, highest = curve.points, max(value for _, value in curve.points)
        trend = f"{curve.name} from {chart.write(points[0][1])} to {chart.write(points[-1][1])}"
        trends.append(f"{trend}, at most {chart.write(highest)}")
    return f"{chart.title} over the epochs: {'; '.join(trends)}"


def _legend(chart: Chart, curves: Sequence[Curve]) -> Markup:
    keys = [Markup('<span class="key series-{}">{}</span>').format(curve.place, curve.name) for curve in curves]
    keys = keys if len(chart.series) > 1 else []
    if any(curve.falls for curve in curves):
        keys.append(
            Markup(
                '<span><svg viewBox="-6 -6 12 12" aria-hidden="true"><circle class="fall series-0" r="3.5"/></svg>'
                "{}</span>"
            ).format("before training")
        )
    return Markup().join(keys)


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
    if write is percent:
        return f"{tick * 100:.4g}%"
    return f"{tick:.4g}" if write is _plain else write(tick)


def _draw_epochs(epochs: int, x: Callable[[float], float]) -> Markup:
    ticks = [tick for tick in choose_ticks(0, epochs, 6) if 0 <= tick <= epochs and tick == int(tick)]
    labels = Markup().join(
        Markup('<text class="epoch" x="{:.1f}" y="{}">{:,.0f}</text>').format(x(tick), HEIGHT - BOTTOM + 16, tick)
        for tick in ticks
    )
    name = Markup('<text class="epoch" x="{}" y="{}">epochs</text>').format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3)
    return labels + name


def _draw_curve(points: Points, x: Callable[[float], float], y: Callable[[float], float], position: int) -> Markup:
    """One curve within one band: figures of different stages are not joined."""
    if not points:
        return Markup()
    if len(points) == 1:
        ((place, value),) = points
        return Markup('<circle class="dot series-{}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(
            position, x(place), y(value)
        )
    path = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in points)
    return Markup('<polyline class="curve series-{}" points="{}"/>').format(position, path)


def _draw_fall(
    fall: tuple[float, float],
    x: Callable[[float], float],
    y: Callable[[float], float],
    position: int,
    write: Callable[[float], str],
) -> Markup:
    """A hollow mark where a band begins: the network right after surgery."""
    place, value = fall
    return Markup(
        '<circle class="fall series-{}" cx="{:.1f}" cy="{:.1f}" r="3.5"><title>{} before training</title></circle>'
    ).format(position, x(place), y(value), write(value))
