"""Runs and networks beside each other: the table in three forms, the page, and what is refused."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_report import Page

import netpress
from netpress.errors import UserError
from netpress.files import dump_toml
from netpress.network import create, save
from netpress.recipe.schema import check_recipe
from netpress.report.sweep import FRAME
from netpress.runs.recipes import run_recipe

RECIPE: dict[str, Any] = {
    "name": "quick",
    "data": {"dataset": "digits", "train_images": 32, "image_size": 8},
    "model": {"family": "resnet", "blocks": [1], "width": 8},
    "stages": [{"kind": "train", "epochs": 1, "batch_size": 16}],
}


def write_network(path: Path, width: int = 8, **facts: Any) -> Path:
    made = create("resnet", {"blocks": [1], "width": width, "image_size": 8, "classes": 10}, seed=1)
    made.facts |= facts
    save(made, path)
    return path


def write_run(folder: Path, recipe: dict[str, Any], width: int = 8, **facts: Any) -> Path:
    """What of a finished run is compared: its recipe with every setting stated, and its network."""
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(check_recipe(recipe).text, encoding="utf-8")
    write_network(folder / "network.netpress", width, **facts)
    return folder


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    """Two runs that differ in four settings, of which one lies in a stage that only the second has, and a file."""
    other = RECIPE | {"name": "other", "seed": 3, "model": RECIPE["model"] | {"width": 16}}
    other["stages"] = [RECIPE["stages"][0] | {"epochs": 5}, {"kind": "prune", "amount": 0.5}]
    write_run(tmp_path / "a", RECIPE, accuracy=0.75, dataset="cifar100")
    write_run(tmp_path / "b", other, width=16, accuracy=0.875, dataset="cifar100")
    write_network(tmp_path / "c.netpress", dataset="cifar100")
    return ["a", "b", "c.netpress"]


def test_json_and_csv_hold_what_the_networks_score_by_one_convention(three, call):
    for convention in ("official", "kaist"):
        code, out, _ = call("compare", *three, "--json", "--convention", convention)
        told = json.loads(out)
        assert (code, told["convention"]) == (0, convention)
        rows = list(csv.DictReader(io.StringIO(call("compare", *three, "--csv", "--convention", convention)[1])))
        for row, line, name in zip(told["networks"], rows, three, strict=True):
            card = netpress.score(netpress.load(name), convention=convention)
            expected = (name, card.params, card.operations, card.score)
            assert (row["network"], row["parameters"], row["operations"], row["score"]) == expected
            assert (line["network"], *(float(line[key]) for key in ("parameters", "operations", "score"))) == expected
            totals = card.footprint.totals()
            for name in ("flash_bytes", "ram_bytes", "multiply_adds"):
                assert row[name] == totals[name] == int(line[name]) > 0
        assert [row["accuracy"] for row in told["networks"]] == [0.75, 0.875, None]
        assert [row["accuracy"] for row in rows] == ["0.75", "0.875", ""]


def test_settings_that_differ_are_found_and_no_others(three, call):
    told = json.loads(call("compare", *three, "--json")[1])["differing_settings"]
    assert told["seed"] == {"a": 0, "b": 3}
    assert told["model.width"] == {"a": 8, "b": 16}
    assert told["stages.0.epochs"] == {"a": 1, "b": 5}
    assert told["stages.1.amount"] == {"b": 0.5}
    assert all(re.match(r"seed$|model\.width$|stages\.0\.epochs$|stages\.1\.", path) for path in told)
    rows = list(csv.DictReader(io.StringIO(call("compare", *three, "--csv")[1])))
    assert [row["stages.0.epochs"] for row in rows] == ["1", "5", ""]
    assert [row["stages.1.kind"] for row in rows] == ["", "prune", ""]


def test_the_terminal_shows_both_tables(three, call):
    code, out, _ = call("compare", *three)
    assert code == 0
    assert re.search(r"^a +cifar100 +75\.00% ", out, re.MULTILINE)
    assert re.search(r"^c\.netpress +cifar100 +unknown ", out, re.MULTILINE)
    assert re.search(r"^model\.width +8 +16", out, re.MULTILINE)
    assert "by the official convention" in out
    assert "accuracy unknown, so not in the plot: c.netpress" in out


MEASURES = ["score", "parameters", "operations"]


@pytest.mark.parametrize("against", MEASURES)
def test_the_page_plots_what_is_known_against_each_measure(three, call, tmp_path, against):
    code, out, _ = call("compare", *three, "--out", "page.html", "--against", against)
    assert (code, out.splitlines()[-1].split()) == (0, ["page", "page.html"])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=|url\(|@import|https?://""", html)  # nothing is fetched
    choices = re.findall(r'<input type="radio" name="against" id="against-(\w+)"( checked)?>', html)
    assert choices == [(name, " checked" if name == against else "") for name in MEASURES]
    drawings = re.findall(r"<svg viewBox.*?</svg>(?=<figcaption>)", html, re.DOTALL)
    assert len(drawings) == len(MEASURES)
    for name, drawing in zip(MEASURES, drawings, strict=True):
        assert f"{name} (lower is better)" in drawing
        marks = re.findall(r'class="mark-shape" d="[^"]*" transform="translate\(([\d.]+),([\d.]+)\)', drawing)
        assert len(marks) == 2  # without c
        (left, low), (right, high) = (tuple(map(float, mark)) for mark in marks)
        assert left < right and low > high  # b costs more, and is more accurate: up is less in a drawing
        gate = re.search(r'<line class="gate"[^>]* y1="([\d.]+)"', drawing)
        assert gate is not None
        # 80% lies two fifths of the way from 75% to 87.5%.
        assert float(gate[1]) == pytest.approx(low + 0.4 * (high - low), abs=0.2)


def test_the_gate_is_in_sight_where_all_are_far_below_it(tmp_path):
    names = [write_network(tmp_path / f"{i}.netpress", 8 * i, accuracy=0.1 * i, dataset="cifar100") for i in (1, 2)]
    html = netpress.compare(names).as_page()
    gate = re.search(r'<line class="gate"[^>]* y1="([\d.]+)"', html)
    assert gate is not None
    assert FRAME.top <= float(gate[1]) < FRAME.height / 4


def test_no_name_leaves_the_drawing(tmp_path):
    lengths = (5, 24, 150)
    names = [
        write_network(tmp_path / f"{'n' * length}.netpress", 8 * place, accuracy=0.1 * place, dataset="digits")
        for place, length in enumerate(lengths, start=1)
    ]
    html = draw_by_file_name(names)
    starts = re.findall(r'<text class="name" x="([\d.-]+)" y="[\d.]+">(n+)\.netpress</text>', html)
    # In each plot, from the most accurate down; the longest is in the legend.
    assert [len(text) for _, text in starts] == [24, 5] * 3
    for start, text in starts:
        assert float(start) >= 0
        assert float(start) + 6 * len(text) <= FRAME.width


def draw_by_file_name(names: list[Path]) -> str:
    """The page with paths cut to what the file is called, as if one stood in its folder."""
    comparison = netpress.compare(names)
    networks = tuple(replace(network, name=Path(network.name).name) for network in comparison.networks)
    return replace(comparison, networks=networks).as_page()


def test_other_data_have_no_gate_and_are_told_apart(tmp_path):
    names = [write_network(tmp_path / f"{name}.netpress", accuracy=0.9, dataset=name) for name in ("digits", "cifar10")]
    comparison = netpress.compare(names)
    assert comparison.gate is None
    assert 'class="gate"' not in comparison.as_page()
    assert "accuracies are on different data: cifar10, digits" in comparison.notes


def test_names_and_settings_are_escaped(tmp_path):
    hostile = "<img src=x onerror=alert(1)>"
    one = write_run(tmp_path / hostile, RECIPE, accuracy=0.5, dataset="digits")
    two = write_run(tmp_path / "b", RECIPE, accuracy=0.6, dataset="digits")
    values = {"data": {"dataset": hostile}, "stages": [{"kind": "<script>"}]}
    (two / "recipe.toml").write_text(dump_toml(values), encoding="utf-8")
    html = netpress.compare([one, two]).as_page()
    assert "<img" not in html
    assert html.count("<script>") == 1
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert hostile in Page(html).text


def test_nothing_known_gives_a_page_without_a_plot(tmp_path):
    names = [write_network(tmp_path / f"{name}.netpress") for name in "ab"]
    page = Page(netpress.compare(names).as_page())
    assert "No accuracy is known." in page.text
    assert "Fewer than two of these are runs" in page.text
    assert page.drawings == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "at least two"),
        (["a", "b", "a"], "a: is the same network as a"),
        (["a", "b", "a/network.netpress"], "a/network.netpress: is the same network as a"),
        (["a", "absent"], "absent: no such file or folder"),
        (["a", "empty"], "empty: no network.netpress"),
        (["a", "sweep"], "sweep: holds a sweep"),
        (["a", "b", "--csv", "--json"], "exclude each other"),
        (["a", "b", "--out", "c.netpress"], "--out c.netpress: the page is HTML"),
        (["a", "b", "--against", "operations"], "give --out"),
        (["a", "b", "--convention", "mine"], "mine"),
    ],
)
def test_what_cannot_be_compared_is_said(three, call, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "recipe.toml").write_text('name = "s"\n[sweep]\nseeds = [1]\n', encoding="utf-8")
    before = (tmp_path / "c.netpress").read_bytes()
    code, out, err = call("compare", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert (tmp_path / "c.netpress").read_bytes() == before


def test_a_damaged_recipe_is_no_traceback(three, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "recipe.toml").write_text("seed = ", encoding="utf-8")
    with pytest.raises(UserError, match=r"recipe\.toml"):
        netpress.compare(three)


@pytest.mark.slow
def test_runs_as_they_are_written(tmp_path):
    first = run_recipe(check_recipe(RECIPE), tmp_path / "a")
    second = run_recipe(check_recipe(RECIPE | {"seed": 2}), tmp_path / "b")
    comparison = netpress.compare([tmp_path / "a", tmp_path / "b"])
    assert [network.card.accuracy for network in comparison.networks] == [first.accuracy, second.accuracy]
    assert comparison.differing == ["seed"]
