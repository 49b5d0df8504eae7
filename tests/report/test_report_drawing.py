"""What the page draws and how it writes figures."""

import math
import re

import pytest
from test_report import WIDTHS, example_layers

from netpress.report.curves import CHARTS, choose_ticks, draw, draw_charts, find_bands, find_falls, pretty, thin
from netpress.report.facts import StageFacts
from netpress.report.figures import decimal, percent, short, whole
from netpress.report.tables import tabulate_kinds, tabulate_layers


def test_kinds_sum_up_to_the_layers() -> None:
    layers = example_layers()
    table = tabulate_kinds(layers)
    by_kind = {row[0].text: row for row in table.rows}
    assert by_kind["depthwise"][1].value == len(WIDTHS)
    for column, name in ((2, "weights"), (4, "params"), (5, "operations")):
        assert math.isclose(sum(float(row[column].value) for row in table.rows), sum(row[name] for row in layers))
    shares = [row[5].bar for row in table.rows]
    assert math.isclose(sum(share for share in shares if share is not None), 1.0)
    assert shares == sorted(shares, key=lambda share: -(share or 0))


def test_the_longest_bar_is_the_largest_layer_and_the_rest_is_in_proportion() -> None:
    layers = example_layers()
    table = tabulate_layers(layers)
    column = table.columns.index("operations")
    most = max(layer["operations"] for layer in layers)
    for layer, row in zip(layers, table.rows, strict=True):
        assert row[column].bar == pytest.approx(layer["operations"] / most)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (1.3, 4.6, [1.0, 2.0, 3.0, 4.0, 5.0]),
        (0.0, 0.1, [0.0, 0.02, 0.04, 0.06, 0.08, 0.1]),
        (0.5, 0.5, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
        (0.0, 1450.0, [0.0, 500.0, 1000.0, 1500.0]),
    ],
)
def test_ticks_are_round_and_cover_the_values(low: float, high: float, ticks: list[float]) -> None:
    chosen = choose_ticks(low, high)
    assert chosen[0] <= low and chosen[-1] >= high
    assert chosen == pytest.approx(ticks)


def test_long_runs_are_drawn_by_means_that_cross_no_stage() -> None:
    epochs = [{"stage": "01-train", "epoch": i, "loss": 1.0} for i in range(2001)]
    epochs += [{"stage": "02-prune/round-1", "epoch": i, "loss": 3.0} for i in range(999)]
    bands = find_bands(epochs)
    assert [(band.start, band.end) for band in bands] == [(0, 2001), (2001, 3000)]
    first, second = thin([line["loss"] for line in epochs], bands)  # type: ignore[misc]
    assert len(first) + len(second) <= 602
    assert ({value for _, value in first}, {value for _, value in second}) == ({1.0}, {3.0})
    assert first[0][0] < first[-1][0] <= 2001 < second[0][0] < second[-1][0] <= 3000


def test_a_chart_without_figures_is_left_out_and_one_epoch_is_a_dot() -> None:
    line = {"stage": "01-train", "epoch": 1, "loss": 2.0}
    bands = find_bands([line])
    drawn = [draw(chart, [line], bands) for chart in CHARTS]
    assert [drawing is not None for drawing in drawn] == ["loss" in chart.series for chart in CHARTS]
    assert "<circle" in next(str(drawing) for drawing in drawn if drawing is not None)


@pytest.mark.parametrize("first", [1500.0, 9.0, 0.0])
def test_one_wild_loss_does_not_flatten_the_others(first: float) -> None:
    losses = [first, 2.0, 0.5, 0.1, 0.05]
    epochs = [{"stage": "01-train", "epoch": i + 1, "selection_loss": loss} for i, loss in enumerate(losses)]
    chart = next(chart for chart in CHARTS if "loss" in chart.series)
    drawn = str(draw(chart, epochs, find_bands(epochs)))
    path = re.search(r'<polyline [^>]*points="([^"]*)"', drawn)
    assert path is not None
    heights = [float(point.split(",")[1]) for point in path[1].split()]
    assert ("logarithmic" in drawn) == (first > 5)
    assert heights == sorted(heights) or first == 0.0
    assert heights[-1] - heights[-2] >= 1  # the least losses can be told apart


def test_names_and_figures() -> None:
    assert pretty("02-prune/round-3") == "prune, round 3"
    assert pretty("01-train") == "train"
    assert (short(26_052_115), short(450_456), short(12)) == ("26.05 M", "450.5 k", "12")
    assert (decimal(0.0032401), decimal(0.0001043), decimal(0)) == ("0.00324", "0.000104", "0.00000")
    assert (whole(108_108.75), whole(7), whole(float("nan"))) == ("108,108.8", "7", "\N{EN DASH}")
    assert percent(0.6214) == "62.14%"


LEVELS = re.compile(r'<text class="tick"[^>]*>([^<]*)<')
ACCURACY, RATE = (
    next(chart for chart in CHARTS if name in chart.series) for name in ("selection_accuracy", "learning_rate")
)


def drawn_points(drawn: str, series: int) -> list[list[tuple[float, float]]]:
    """The points of each line of a series, in the drawing's units."""
    lines = re.findall(rf'<polyline class="curve series-{series}" points="([^"]*)"', drawn)
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]  # type: ignore[misc]


def test_the_fall_after_pruning_is_on_the_curve() -> None:
    def epoch(stage: str, accuracy: float) -> dict[str, object]:
        return {"stage": stage, "epoch": 1, "selection_accuracy": accuracy}

    train = StageFacts("01-train", "train", {}, "done", {}, [epoch("01-train", 0.5), epoch("01-train", 0.6)])
    steps = [{"stage": "02-prune", "round": 1, "accuracy_pruned": 0.3}]
    part = "02-prune/round-1"
    prune = StageFacts("02-prune", "prune", {}, "done", {}, [epoch(part, 0.5), epoch(part, 0.55)], steps)
    assert find_falls([train, prune]) == {part: 0.3}
    drawn = str(draw_charts([train, prune])[0])
    first, second = drawn_points(drawn, 0)
    assert (len(first), len(second)) == (2, 3)
    assert first[-1][0] == second[0][0]  # where the first stage ends the other begins, lower
    assert second[0][1] > first[0][1] > first[-1][1] and second[0][1] > second[1][1]
    assert drawn.count('class="fall series-0" cx') == 1 and "30.00% before training" in drawn


def test_the_rate_is_drawn_as_it_was_step_by_step() -> None:
    inside = [[[0.0, 0.0], [0.9, 0.1]], [[0.0, 0.1], [0.9, 0.0]]]
    lines = [
        {"stage": "01-train", "epoch": i, "learning_rate": 0.05, "learning_rates": own}
        for i, own in enumerate(inside, 1)
    ]
    drawn = str(draw(RATE, lines, find_bands(lines)))
    ((first, peak, second, last),) = drawn_points(drawn, 0)
    assert peak[1] == second[1] < first[1] == last[1]
    assert "at most 0.1" in drawn and LEVELS.findall(drawn)[-1] == "0.1"
    for broken in ("?", [], [3], [["a", None]]):
        old = [line | {"learning_rates": broken} for line in lines]
        assert drawn_points(str(draw(RATE, old, find_bands(old))), 0)[0][0][1] > 0  # ends of epochs, as logged before


@pytest.mark.parametrize("best", [0.62, 0.98, 1.0])
def test_accuracies_near_the_top_can_be_told_apart(best: float) -> None:
    values = [0.1, 0.4, best - 0.02, best - 0.01, best]
    lines = [{"stage": "01-train", "epoch": i, "selection_accuracy": value} for i, value in enumerate(values, 1)]
    drawn = str(draw(ACCURACY, lines, find_bands(lines)))
    ((*_, third, second, first),) = drawn_points(drawn, 0)
    assert third[1] > second[1] > first[1] >= 26  # upwards is less; the top of the plot
    assert ("stretched" in drawn) == (best > 0.9)
    if best > 0.9:
        assert second[1] - first[1] > 15  # a point of accuracy, of a plot of 190
    ticks = [float(text.rstrip("%")) for text in LEVELS.findall(drawn)]
    assert ticks == sorted(ticks) and 4 <= len(ticks) <= 12
