"""The table of a sweep: means of seeds, and its plot."""

import csv
import io
import re

import pytest

from netpress.report.figures import NOTHING
from netpress.report.sweep import Point, draw_points
from netpress.runs.sweep import plan_sweep, read_sweep
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


def test_counts_beside_the_first_have_columns_of_their_own():
    figures = {"accuracy": 0.5, "score": 0.04, "params": 10.0, "operations": 20.0}
    cards = [{"official": {"params": 30.0 + n, "operations": 4e6, "score": 0.001 * (1 + 2 * n)}} for n in (0, 1)]
    rows = [Row(f"a{n}", "a", {}, n, None, figures | {"beside": cards[n]}, "done") for n in (0, 1)]
    rows.append(Row("b0", "b", {}, 0, None, figures, "done"))  # an older folder, counted by the first alone
    rows.append(Row("b1", "b", {}, 1, None, {}, "not begun"))
    table = SweepTable("t", "", tuple(rows), "digits")
    names = ["score (official)", "parameters (official)", "operations (official)"]
    means = table.mean_table()
    assert means.columns[-7:-4] == names
    assert [cell.text for cell in means.rows[0][-7:-4]] == ["0.00200", "30.5", "4 M"]
    assert [cell.value for cell in means.rows[0][-7:-4]] == [0.002, 30.5, 4e6]
    assert [cell.text for cell in means.rows[1][-7:-4]] == [NOTHING] * 3
    first, second, *others = csv.DictReader(io.StringIO(table.as_csv()))
    assert (first["official.params"], second["official.params"]) == ("30.0", "31.0")
    assert [row["official.score"] for row in others] == ["", ""]
    assert "official" not in SweepTable("t", "", tuple(rows[2:]), "digits").as_csv()


def test_what_networks_take_on_a_device_stands_beside_their_score():
    figures = {"accuracy": 0.5, "score": 0.04, "params": 10.0, "operations": 20.0}
    sizes = [{"flash_bytes": 1024 * n, "ram_bytes": 2048, "multiply_adds": 1_000_000 * n} for n in (1, 3)]
    rows = [Row(f"a{n}", "a", {}, n, None, figures | sizes[n], "done") for n in (0, 1)]
    rows.append(Row("b0", "b", {}, 0, None, figures, "done"))  # an older folder
    table = SweepTable("t", "", tuple(rows), "digits")
    means, runs = table.mean_table(), table.run_table()
    assert means.columns[-4:] == ["flash", "RAM", "multiply-adds", "sparsity"] and means.numeric[-4:-1] == [True] * 3
    assert [cell.text for cell in means.rows[0][-4:-1]] == ["2.0 KiB", "2.0 KiB", "2 M"]
    assert [cell.text for cell in means.rows[1][-4:-1]] == [NOTHING] * 3
    place = runs.columns.index("flash")
    assert runs.columns[place : place + 3] == ["flash", "RAM", "multiply-adds"]
    assert [[cell.text for cell in row[place : place + 3]] for row in runs.rows] == [
        ["1.0 KiB", "2.0 KiB", "1 M"],
        ["3.0 KiB", "2.0 KiB", "3 M"],
        [NOTHING] * 3,
    ]
    told = list(csv.DictReader(io.StringIO(table.as_csv())))
    assert [row["flash_bytes"] for row in told] == ["1024", "3072", ""]
    assert (told[1]["ram_bytes"], told[1]["multiply_adds"]) == ("2048", "3000000")


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
    assert re.findall(r'class="name"[^>]*>([^<]*)<', drawn) == ["i 3", "b", "i 1"]
    crowded = [Point("c", f"i {i}", 0.01, 0.5, 0.0, ((0.01, 0.5),)) for i in range(3)]
    assert str(draw_points([*points, *crowded])).count('class="name"') == 4  # three in one place share a label
    assert draw_points([]) is None
    assert 'class="gate"' not in str(draw_points(points[:1], gate=0.8))
    single = str(draw_points(points[:1]))
    assert "NaN" not in single and "nan" not in single


@pytest.mark.slow
def test_the_shipped_study_has_imts_counts():
    members = plan_sweep(read_sweep("imt-study", ["sweep.seeds=[1]"]))["members"]
    names = [member["name"].removesuffix("_seed-1") for member in members]
    imt = {name: member["dense"] for name, member in zip(names, members, strict=True)}
    official = {name: member["dense_beside"]["official"] for name, member in zip(names, members, strict=True)}
    published = {"cifar": 0.320506, "small": 0.182164, "tiny": 0.082633, "nano": 0.037840}
    assert {name: round(imt[name]["score"], 6) for name in published} == published
    halves = {"bottleneck1-2": 43_813, "bottleneck1-4": 35_933, "bottleneck2-2": 51_221, "bottleneck2-4": 47_045}
    halves |= {"transition-2": 56_885, "both-2": 35_461}
    assert {name: imt[f"nano-{name}"]["params"] for name in halves} == halves
    for name in ("transition-4", "all-2", *halves):
        assert imt[f"nano-{name}"]["operations"] == imt["nano"]["operations"], name
        assert official[f"nano-{name}"]["operations"] < official["nano"]["operations"], name
