"""The curve of compression: where its marks stand, and what it tells of stages that factorize, regrow and prune."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from test_report import Page, change, write_json, write_run

from netpress.report import make_report
from netpress.report.compression import draw_compression, read_series
from netpress.report.facts import StageFacts
from netpress.report.plot import choose_axis
from netpress.report.tables import tabulate_ranks, tabulate_steps
from netpress.report.words import describe_stage

# PyramidNet-272 and what Wave Computing published of its way: 1,890,157 parameters are left of 26,288,692, of which
# 210,864 are norms'; then pruning takes 51% of the weights, 45.31% of all parameters.
FULL, FACTORED, NORMS = 26_288_692, 1_890_157, 210_864
BEGIN = {"round": 0, "step": "begin", "parameters": FULL, "compression": 0.0, "score": 0.5, "accuracy": 0.88}


def step(
    number: int, parameters: int, accuracies: tuple[float, float, float], kind: str = "factorize"
) -> dict[str, Any]:
    """A line of a round: parameters, and accuracies before, after surgery, after training."""
    before, cut, trained = accuracies
    sizes = {"parameters": parameters, "compression": 1 - parameters / FULL, "score": parameters / FULL / 2}
    told = {"accuracy_before": before, "accuracy_cut": cut, "accuracy_trained": trained, "removed": 12_345}
    return {"round": number, "step": kind, **sizes, **told, "seconds": 83.0}


STEPS = [
    BEGIN,
    step(1, 8_000_000, (0.88, 0.01, 0.86)),
    step(2, 9_500_000, (0.86, 0.85, 0.87), "regrow"),
    step(3, FACTORED, (0.87, 0.78, 0.813)),
]
PRUNED = {"round": 1, "amount": 0.51, "weights": FACTORED - NORMS, "left": round(0.49 * (FACTORED - NORMS))}
PRUNED |= {"accuracy_before": 0.813, "accuracy_pruned": 0.79, "accuracy_trained": 0.8075}


def stage(name: str, steps: list[dict[str, Any]], settings: dict[str, Any] | None = None, **done: Any) -> StageFacts:
    return StageFacts(name, name[3:], settings or {}, "done" if done else "under way", done, steps=steps)


def wave() -> list[StageFacts]:
    """A training, factorizing with regrowth down to the gate, pruning of what is left."""
    weights = FACTORED - NORMS
    return [
        stage("01-train", [], parameters=FULL, weights=FULL - NORMS, nonzeros=FULL - NORMS),
        stage("02-factorize", STEPS, {"gate": 0.8}, parameters=FACTORED, weights=weights, nonzeros=weights),
        stage("03-prune", [PRUNED], parameters=FACTORED, weights=weights, nonzeros=PRUNED["left"]),
    ]


class Drawing:
    """The marks of a drawing by their titles, and its axes as an independent reader sees them."""

    def __init__(self, html: str) -> None:
        found = re.findall(
            r'<path class="mark-shape( hollow)?" d="([^"]*)" transform="translate\(([\d.]+),([\d.]+)\)[^"]*">'
            r"<title>(.*?)</title>",
            html,
        )
        self.marks = {title: (float(x), float(y), bool(hollow), shape) for hollow, shape, x, y, title in found}
        self.across = {text: float(x) for x, text in re.findall(r'class="across" x="([\d.]+)" [^>]*>([^<]*)<', html)}
        self.up = {text: float(y) - 4 for y, text in re.findall(r'class="up" x="[\d.]+" y="([\d.]+)">([^<]*)<', html)}

    def mark(self, start: str) -> tuple[float, float, bool, str]:
        (one,) = [mark for title, mark in self.marks.items() if title.startswith(start)]
        return one


def test_marks_stand_where_their_figures_are() -> None:
    parameters, scores = map(str, draw_compression(wave()))
    drawing = Drawing(parameters)
    left, right = drawing.across["1 M"], drawing.across["10 M"]  # a decade
    low, high = drawing.up["78%"], drawing.up["88%"]
    for start, size, accuracy in (
        ("factorize, beginning", FULL, 0.88),
        ("factorize, round 1, factorize, trained", 8e6, 0.86),
        ("factorize, round 2, regrow, trained", 9.5e6, 0.87),
        ("factorize, round 3, factorize, before training", FACTORED, 0.78),
        ("factorize, round 3, factorize, trained", FACTORED, 0.813),
    ):
        x, y, hollow, _ = drawing.mark(start)
        assert x == pytest.approx(left + (math.log10(size) - 6) * (right - left), abs=0.2), start
        assert y == pytest.approx(low + (accuracy - 0.78) / 0.1 * (high - low), abs=0.2), start
        assert hollow == ("before training" in start)
    on_scores = Drawing(scores)
    tenth, half = on_scores.across["0.1"], on_scores.across["0.5"]
    x, _, _, _ = on_scores.mark("factorize, round 3, factorize, trained")
    share = math.log(FACTORED / FULL / 2 / 0.1) / math.log(5)
    assert x == pytest.approx(tenth + share * (half - tenth), abs=0.2)
    assert "prune" not in scores  # its lines have no score


def test_regrowth_leads_back_and_has_a_mark_of_its_own() -> None:
    parameters = str(draw_compression(wave())[0])
    drawing = Drawing(parameters)
    before, grown = (drawing.mark(f"factorize, round {n}, {s}, trained") for n, s in ((1, "factorize"), (2, "regrow")))
    assert grown[0] > before[0] and grown[3] != before[3]
    path = re.search(r'<polyline class="curve" points="([^"]*)"', parameters)
    assert path is not None
    joined = [float(point.split(",")[0]) for point in path[1].split()]
    assert joined[0] > joined[1] < joined[2] > joined[3]
    assert "regrown" in parameters
    assert "regrown" not in str(draw_compression([stage("01-factorize", [BEGIN, STEPS[1]])])[0])


def test_a_network_ruined_by_surgery_does_not_flatten_the_others() -> None:
    parameters = str(draw_compression(wave())[0])
    drawing = Drawing(parameters)
    lowest = max(drawing.up.values())  # y grows downwards
    assert min(map(float, (text.rstrip("%") for text in drawing.up))) > 50  # though 1% was measured
    _, y, hollow, shape = drawing.mark("factorize, round 1, factorize, before training: 1.00%")
    assert hollow and abs(y - lowest) < 8
    assert shape != drawing.mark("factorize, round 3, factorize, before training")[3]
    assert "before training, below" in parameters


def test_the_gate_is_a_line_at_its_height() -> None:
    parameters = str(draw_compression(wave())[0])
    gate = re.search(r'class="gate" [^>]*y1="([\d.]+)"', parameters)
    assert gate is not None and float(gate[1]) == pytest.approx(Drawing(parameters).up["80%"], abs=0.1)
    far = [stage("01-factorize", STEPS, {"gate": 0.1})]
    assert 'class="gate"' not in str(draw_compression(far)[0])  # out of sight: it would flatten the curve
    assert 'class="gate"' not in str(draw_compression([stage("01-factorize", STEPS)])[0])


def test_pruning_goes_on_from_all_parameters_that_factorizing_left() -> None:
    _, pruned = read_series(wave())
    assert pruned.ends[0].parameters == FACTORED
    assert pruned.ends[1].parameters == pruned.cuts[0].parameters
    assert 1 - pruned.ends[1].parameters / FACTORED == pytest.approx(0.4531, abs=5e-5)  # Wave's README


def test_a_stage_begins_with_what_the_one_before_kept_not_with_what_it_tried_last() -> None:
    last = step(4, 1_000_000, (0.813, 0.7, 0.79))
    weights = FACTORED - NORMS
    kept = stage("01-factorize", [*STEPS, last], {"gate": 0.8}, parameters=FACTORED, weights=weights, nonzeros=weights)
    twice = PRUNED | {"left": PRUNED["left"] // 2}
    stages = [kept, stage("02-prune", [PRUNED], parameters=FACTORED, weights=weights, nonzeros=PRUNED["left"])]
    _, first, second = read_series([*stages, stage("03-prune", [twice])])
    assert first.ends[0].parameters == FACTORED
    assert second.ends[0].parameters == first.ends[-1].parameters == NORMS + PRUNED["left"]
    assert second.ends[-1].parameters == NORMS + PRUNED["left"] // 2
    assert (first.name, second.name) == ("02-prune", "03-prune")  # two of a kind are told apart


def test_pruning_alone_counts_weights_where_nobody_says_more() -> None:
    (series,) = read_series([stage("01-prune", [PRUNED])])
    assert [point.parameters for point in series.ends] == [PRUNED["weights"], PRUNED["left"]]
    assert len(draw_compression([stage("01-prune", [PRUNED])])) == 1


def test_without_training_the_networks_after_surgery_are_joined() -> None:
    lines = [{key: value for key, value in line.items() if key != "accuracy_trained"} for line in STEPS]
    (series,) = read_series([stage("01-factorize", lines)])
    assert [point.accuracy for point in series.ends] == [0.88, 0.01, 0.85, 0.78]
    assert not series.cuts and all(point.hollow for point in series.ends[1:])


def test_a_stage_whose_first_line_is_a_round_begins_with_what_that_says_of_before() -> None:
    (series,) = read_series([stage("01-prune_channels", STEPS[1:2])])
    assert series.ends[0].accuracy == 0.88
    assert series.ends[0].parameters == pytest.approx(FULL)


@pytest.mark.parametrize(
    "line",
    [
        {"amount": 0.1, "accuracy": 0.9},
        {"round": 1, "parameters": 100},
        {"round": "one", "parameters": "many", "accuracy_trained": [1]},
        {"round": 1, "parameters": None, "weights": 5, "left": float("nan"), "accuracy_trained": 0.5},
        {"folded": 3, "difference": 1e-6},
    ],
)
def test_lines_of_other_stages_and_damaged_ones_draw_nothing(line: dict[str, Any]) -> None:
    assert draw_compression([stage("01-other", [line])]) == []


def test_one_point_alone_is_drawn() -> None:
    (parameters, _) = draw_compression([stage("01-factorize", [BEGIN])])
    assert len(Drawing(str(parameters)).marks) == 1 and "<polyline" not in parameters


def test_the_drawing_is_told_in_words() -> None:
    parameters, scores = draw_compression(wave())
    words = re.search(r'aria-label="([^"]*)"', str(parameters))
    assert words is not None
    assert words[1] == (
        "Accuracy on the selection images against parameters: factorize from 88.00% at 26.29 M to 81.30% at 1.89 M in "
        "3 steps, 1 of them regrowth, gate 80.0%; prune from 81.30% at 1.89 M to 80.75% at 1.034 M in 1 step"
    )
    assert "against score: factorize from 88.00% at 0.5 to 81.30% at 0.03595" in str(scores)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1.2e6, 26e6], [1e6, 2e6, 5e6, 1e7, 2e7, 5e7]),
        ([0.02, 0.1], [0.02, 0.04, 0.06, 0.08, 0.1]),  # not far apart: even
        ([0.019, 0.1], [0.01, 0.02, 0.05, 0.1]),
        ([3, 200_000], [1, 10, 100, 1000, 10_000, 100_000, 1_000_000]),
        ([0, 10], [0, 2, 4, 6, 8, 10]),
    ],
)
def test_axes_have_round_numbers_at_their_ends(values: list[float], ticks: list[float]) -> None:
    axis = choose_axis(values, 0, 100, may_be_logarithmic=True)
    assert axis.ticks == pytest.approx(ticks)
    assert (axis(axis.least), axis(axis.most)) == (0, 100)
    assert all(0 <= axis(value) <= 100 for value in values)


def test_steps_read_well() -> None:
    table = tabulate_steps(wave()[1])
    assert table is not None
    row = {column: cell.text for column, cell in zip(table.columns, table.rows[-1], strict=True)}
    assert row["parameters"] == "1,890,157" and row["compression"] == "92.8%" and row["score"] == "0.03595"
    assert row["accuracy trained"] == "81.30%" and row["removed"] == "12,345" and row["seconds"] == "1 min 23 s"
    assert row["accuracy"] == "\N{EN DASH}" and row["step"] == "factorize"


def test_a_flag_has_a_column_where_it_differs() -> None:
    lines = [BEGIN, *(line | {"changed": True} for line in STEPS[1:])]
    table = tabulate_steps(stage("01-factorize", lines))
    assert table is not None and "changed" not in table.columns
    lines[-1] = lines[-1] | {"changed": False}
    table = tabulate_steps(stage("01-factorize", lines))
    assert table is not None
    place = table.columns.index("changed")
    assert [row[place].text for row in table.rows] == ["\N{EN DASH}", "yes", "yes", "no"]


def test_a_stages_target_is_told_and_what_a_training_keeps_is_not() -> None:
    settings = {"keep": 0.7, "compression": 0.9, "gate": 0.8, "selection": {"kind": "cost"}, "train": {"keep": "best"}}
    told = describe_stage(stage("02-factorize", [], settings))
    assert told[1:] == [
        "until 90% of the parameters are gone",
        "keeps an accuracy of 80.0%",
        "keeps the weights of the best epoch",
    ]


def test_ranks_have_their_table() -> None:
    layers = [
        {"name": "conv", "kernel": [3, 3], "ranks": [24, 16], "full_ranks": [64, 64], "whole": 36_864, "weights": 6016},
        {"name": "fc", "kernel": [], "ranks": [3], "full_ranks": [10], "whole": 880, "weights": 294},
    ]
    table = tabulate_ranks({"in_factors": layers})
    assert table is not None
    assert [cell.text for cell in table.rows[0]] == ["conv", "3x3", "24, 16", "64, 64", "36,864", "6,016", "16.3%"]
    assert [cell.text for cell in table.rows[1]][:4] == ["fc", "linear", "3", "10"]
    assert tabulate_ranks({}) is tabulate_ranks({"in_factors": []}) is tabulate_ranks({"in_factors": 3}) is None


def test_the_page_has_the_curve_and_the_ranks(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    recipe = folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('kind = "prune"\namount = 0.6', 'kind = "factorize"\ngate = 0.8'))
    lines = [json.dumps({"stage": "02-factorize", **line}) for line in STEPS]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "02-prune").rename(folder / "02-factorize")
    layer = {"name": "<b>", "kernel": [3, 3], "ranks": [2, 1], "full_ranks": [4, 4], "whole": 9, "weights": 5}
    change(folder / "score.json", lambda score: score | {"in_factors": [layer]})
    page = Page(make_report(folder).read_text(encoding="utf-8"))
    assert "Compression Accuracy on the validation images" in page.text and "Accuracy against score" in page.text
    assert "Layers in factors" in page.text and "<b> 3x3 2, 1 4, 4" in page.text
    (folder / "metrics.jsonl").write_text("")
    write_json(folder / "score.json", {})
    text = Page(make_report(folder).read_text(encoding="utf-8")).text
    assert "Accuracy against" not in text and "Layers in factors" not in text
