"""The table of a sweep: means of seeds, and its plot."""

import re

import pytest

from netpress.report.sweep import Point, draw_points
from netpress.runs.sweep.table import Row, SweepTable


def test_means_of_seeds():
    figures = [
        {"accuracy": a, "score": s} | dict.fromkeys(("params", "operations"), 1.0) for a, s in ((0.5, 1), (0.7, 3))
    ]
    rows = [Row(f"m{seed}", None, {"i": 1.5}, seed, None, figures[seed], "done") for seed in (0, 1)]
    rows.append(Row("m2", None, {"i": 2.0}, 0, None, {}, "failed: the loss is | nan"))
    table = SweepTable("t", "", tuple(rows), "digits")
    (mean,) = table.means
    assert (mean.accuracy, mean.score) == (pytest.approx(0.6), 2)
    assert mean.accuracy_spread == pytest.approx(0.02**0.5)  # n - 1 below the sum
    assert table.state == "2 of 3 runs finished"
    assert "failed: the loss is \\| nan" in table.as_markdown()


def test_the_plot_puts_dots_where_they_belong():
    points = [
        Point("a", "i 1", 0.005, 0.70, 0.0, ((0.005, 0.70),)),
        Point("a", "i 3", 0.012, 0.81, 0.01, ((0.012, 0.80), (0.012, 0.82))),
        Point("b", "", 0.008, 0.75, 0.0, ((0.008, 0.75),)),
    ]
    drawn = str(draw_points(points, gate=0.8))
    places = [tuple(map(float, place)) for place in re.findall(r"translate\(([\d.]+),([\d.]+)\)", drawn)]
    low, high, other = places
    assert low[0] < other[0] < high[0]
    assert low[1] > other[1] > high[1]  # upwards is less
    # Straight axes: distances on the page are as those of the figures.
    assert (other[0] - low[0]) / (high[0] - low[0]) == pytest.approx(3 / 7, abs=0.01)
    assert (low[1] - other[1]) / (low[1] - high[1]) == pytest.approx(5 / 11, abs=0.01)
    assert drawn.count('class="spread"') == 1 and drawn.count('class="gate"') == 1
    assert re.findall(r'class="name"[^>]*>([^<]*)<', drawn) == ["3", "b", "1"]
    crowded = [Point("c", f"i {i}", 0.01, 0.5, 0.0, ((0.01, 0.5),)) for i in range(3)]
    assert str(draw_points([*points, *crowded])).count('class="name"') == 4  # three in one place share a label
    assert draw_points([]) is None
    assert 'class="gate"' not in str(draw_points(points[:1], gate=0.8))
    single = str(draw_points(points[:1]))
    assert "NaN" not in single and "nan" not in single
