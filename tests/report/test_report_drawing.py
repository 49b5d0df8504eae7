"""What the page draws and how it writes figures."""

import math
import re

import pytest
from test_report import WIDTHS, example_layers

from netpress.report.curves import CHARTS, choose_ticks, draw, find_bands, pretty, thin
from netpress.report.figures import percent, short, whole
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
    assert (whole(108_108.75), whole(7), whole(float("nan"))) == ("108,108.8", "7", "\N{EN DASH}")
    assert percent(0.6214) == "62.14%"
