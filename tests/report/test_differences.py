"""Two networks class by class: what differs, by how much, by more than chance or not, in every form of the table."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_report import Page

import netpress
from netpress.evaluation import Predictions, read_predictions, save_predictions
from netpress.evaluation.significance import paired_chance, unpaired_chance
from netpress.folders.chain import ChainFolder
from netpress.folders.run import RunFolder
from netpress.network import create, load, save
from netpress.recipe.schema import check_recipe
from netpress.report.differences import FRAME, Difference, compare_classes
from netpress.runs.jobs import RunOptions
from netpress.runs.recipes import run_recipe

ANIMALS = ("ant", "bee", "cat", "dog")


def answer(classes: tuple[str, ...], wrong: dict[str, range], images: int = 20, seen: str = "same") -> Predictions:
    """`images` images of each class, in turn; of a class, those in `wrong` are taken for the class after it."""
    labels = torch.arange(len(classes)).repeat(images)
    predicted = labels.clone()
    for name, numbers in wrong.items():
        place = classes.index(name)
        predicted[[number * len(classes) + place for number in numbers]] = (place + 1) % len(classes)
    return Predictions("folder", classes, seen, predicted, labels)


FIRST = answer(ANIMALS, {"ant": range(4), "bee": range(10), "cat": range(5)})
SECOND = answer(ANIMALS, {"ant": range(2, 6), "bee": range(20), "dog": range(1)})
"""Alone right on images: of ant both on 2, of bee the first on 10, of cat the second on 5, of dog the first on 1."""
FOUND = {"bee": (0.0, 0.5, -50, 10, 0), "cat": (1.0, 0.75, 25, 0, 5), "dog": (0.95, 1.0, -5, 1, 0)}
FOUND["ant"] = (0.8, 0.8, 0, 2, 2)  # accuracy, that of the first, points, images that only the first has right, second


def test_classes_are_compared_image_by_image():
    difference = compare_classes("b", SECOND, "a", FIRST)
    assert difference.paired
    assert [found.name for found in difference.classes] == list(FOUND)  # the one that differs most first
    for found in difference.classes:
        accuracy, against, points, only_first, only_second = FOUND[found.name]
        assert (found.accuracy, found.against_accuracy) == (accuracy, against)
        assert found.points == pytest.approx(points)
        assert found.p == pytest.approx(paired_chance(only_first, only_second))
    # Holm: bee has p .002, below 5% / 4; cat .0625, not below 5% / 3.
    assert difference.beyond == (True, False, False, False)
    assert difference.overall is not None
    assert difference.overall.p == pytest.approx(paired_chance(13, 7))
    assert difference.overall.points == pytest.approx(100 * (7 - 13) / 80)
    assert difference.summary.startswith("on the same test images (80): -7.50 points, p 0.263; 1 of 4 classes differs ")


def test_other_images_are_compared_by_their_counts():
    difference = compare_classes("b", replace(SECOND, images="other"), "a", FIRST)
    assert not difference.paired
    bee = difference.classes[0]
    assert bee.p == pytest.approx(unpaired_chance(0, 20, 10, 20))
    fewer = compare_classes("b", answer(ANIMALS, {"bee": range(1)}, images=10, seen="other"), "a", FIRST)
    assert fewer.overall is not None
    assert (fewer.overall.images, fewer.overall.against_images) == (40, 80)
    assert "on different test images (40 and 80)" in fewer.summary
    assert {row[1].text for row in fewer.table().rows} == {"10, 20"}


def test_classes_are_matched_by_name_in_any_order():
    order = torch.tensor([2, 0, 3, 1])  # the place of each class in the other list
    names = tuple(ANIMALS[place] for place in order.argsort().tolist())
    moved = Predictions("folder", names, "same", order[SECOND.predicted], order[SECOND.labels])
    assert compare_classes("b", moved, "a", FIRST) == compare_classes("b", SECOND, "a", FIRST)
    # Equal pictures that one calls otherwise are not the same images with their classes.
    assert not compare_classes("b", replace(SECOND, classes=names), "a", FIRST).paired


def test_only_what_both_know_is_compared():
    more = answer(("bee", "elk", "cat"), {"bee": range(4), "elk": range(20)})
    difference = compare_classes("b", more, "a", FIRST)
    assert {found.name: found.accuracy for found in difference.classes} == {"bee": 0.8, "cat": 1.0}
    assert difference.overall is None
    assert (
        difference.summary
        == "on different test images, only the classes in common: 0 of 2 classes differ by more than chance"
    )
    none = compare_classes("b", answer(("elk", "fox"), {}), "a", FIRST)
    assert none.classes == ()


def test_a_class_without_images_is_left_out():
    kept = SECOND.labels != ANIMALS.index("cat")
    without = replace(SECOND, predicted=SECOND.predicted[kept], labels=SECOND.labels[kept], images="fewer")
    difference = compare_classes("b", without, "a", FIRST)
    assert [found.name for found in difference.classes] == ["bee", "dog", "ant"]
    assert difference.overall is not None
    assert difference.overall.images == difference.overall.against_images == 60


def test_the_drawing_has_a_bar_a_class_from_gains_to_losses():
    difference = compare_classes("b", SECOND, "a", FIRST)
    drawing = str(difference.draw())
    bars = re.findall(
        r'<rect class="([^"]*)" x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"><title>(\w+)', drawing
    )
    assert [(kind, name) for kind, *_, name in bars] == [
        ("gain pale", "cat"),
        ("loss pale", "ant"),
        ("loss pale", "dog"),
        ("loss", "bee"),
    ]
    heights = {name: float(height) for *_, height, name in bars}
    assert heights["bee"] == pytest.approx(2 * heights["cat"], abs=0.2) and heights["ant"] == 0
    zero = float(re.search(r'class="zero"[^>]* y1="([\d.]+)"', drawing)[1])  # type: ignore[index]
    for kind, left, top, height, _ in bars:
        assert FRAME.left <= float(left) <= FRAME.width - FRAME.right
        assert float(top) == pytest.approx(zero - float(height) if kind.startswith("gain") else zero, abs=0.11)
    assert "cat +25.0" in drawing and "bee -50.0" in drawing
    assert compare_classes("b", FIRST, "a", FIRST).draw() is None


def write(folder: Path, predictions: Predictions | None, width: int = 8) -> Path:
    """What of a finished run is compared by class: its network and, perhaps, its predictions."""
    folder.mkdir()
    network = create("resnet", {"blocks": [1], "width": width, "image_size": 8, "classes": 4}, seed=1)
    network.facts |= {"dataset": "folder"} | ({"accuracy": predictions.accuracy} if predictions else {})
    save(network, folder / "network.netpress")
    if predictions is not None:
        save_predictions(predictions, RunFolder(folder).predictions)
    return folder


@pytest.fixture
def four(tmp_path: Path) -> list[str]:
    """An older run without predictions, two with them, and one of other classes."""
    others = answer(("elk", "fox", "gnu", "hen"), {"elk": range(3)})
    for width, (name, kept) in enumerate({"old": None, "a": FIRST, "b": SECOND, "c": others}.items(), start=4):
        write(tmp_path / name, kept, width)
    return ["old", "a", "b", "c"]


def test_every_form_of_the_table_tells_the_same(four, call, tmp_path):
    expected = compare_classes("b", SECOND, "a", FIRST)
    code, out, _ = call("compare", *four, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["differences"] == [expected.as_json()]
    rows = list(csv.DictReader(io.StringIO(call("compare", *four, "--csv", "--per", "class")[1])))
    assert [(row["network"], row["against"], row["class"]) for row in rows] == [("b", "a", name) for name in FOUND]
    for row, found, beyond in zip(rows, expected.classes, expected.beyond, strict=True):
        assert (float(row["points"]), float(row["p"])) == (found.points, found.p)
        assert (int(row["right"]), int(row["images"]), row["more_than_chance"]) == (found.right, 20, str(beyond))
    out = call("compare", *four)[1]
    assert f"b against a, {expected.summary}" in out
    assert re.search(r"^bee +20 +0\.00% +50\.00% +-50\.00 +0\.002 +yes", out, re.MULTILINE)
    assert "not compared by class: old; " in out
    assert "no class in common with a: c" in out
    call("compare", *four, "--out", "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "b against a" in page.text and "On the same test images (80): -7.50 points" in page.text
    assert "bee 20 0.00% 50.00% -50.00 0.002 yes" in page.text
    assert page.count("rect") == 4


def test_the_terminal_shows_the_classes_that_differ_most_and_all_when_asked(tmp_path, call):
    names = tuple(f"class-{place}" for place in range(12))
    for name, step in (("a", 0), ("b", 1)):
        kept = answer(names, {other: range(place * step) for place, other in enumerate(names)})
        write(tmp_path / name, kept, 8 + step)
    out = call("compare", "a", "b")[1]
    assert re.findall(r"^class-(\d+)", out, re.MULTILINE) == ["11", "10", "9", "8", "7"]
    assert "the 5 classes that differ most are shown" in out
    out = call("compare", "a", "b", "--per", "class")[1]
    assert re.findall(r"^class-(\d+)", out, re.MULTILINE) == [str(place) for place in reversed(range(12))]
    assert "differ most are shown" not in out


def test_where_nothing_is_known_by_class_that_is_said(four, call, tmp_path):
    code, out, _ = call("compare", "old", "a")
    assert code == 0 and "not compared by class: old" in out and "against" not in out
    code, out, err = call("compare", "old", "a", "--csv", "--per", "class")
    assert (code, out) == (2, "")
    assert "nothing can be compared by class; not compared by class: old; no predictions" in err
    assert json.loads(call("compare", "old", "a", "--json")[1])["differences"] == []
    html = netpress.compare([tmp_path / "old", tmp_path / "a"]).as_page()
    assert "Predictions of fewer than two of these are known" in Page(html).text


def test_predictions_of_another_network_are_not_used(four, call, tmp_path):
    save_predictions(SECOND, RunFolder(tmp_path / "a").predictions)
    told = json.loads(call("compare", "a", "b", "--json")[1])
    assert told["differences"] == []
    assert any("predictions.safetensors: not used" in note for note in told["notes"])
    (tmp_path / "b" / "predictions.safetensors").write_bytes(b"{")
    code, _, err = call("compare", "a", "b")
    assert code == 1
    assert "b/predictions.safetensors: damaged" in err


def test_names_are_escaped(tmp_path):
    hostile = "<img src=x onerror=alert(1)>"
    classes = (hostile, "bee")
    for name, wrong in ((hostile, {}), ("b", {hostile: range(3)})):
        write(tmp_path / name, answer(classes, wrong), 8 if wrong else 4)
    comparison = netpress.compare([tmp_path / hostile, tmp_path / "b"])
    assert [difference.classes[0].name for difference in comparison.differences] == [hostile]
    html = comparison.as_page()
    assert "<img" not in html
    assert Page(html).text.count(hostile) > 4


def test_networks_are_measured_when_asked(tmp_path, call):
    """Two that say what they were made with, of which one has an accuracy that is not true; and a run as it was."""
    made = [create("resnet", {"blocks": [1], "width": 8, "image_size": 8, "classes": 10}, seed=seed) for seed in (1, 2)]
    for name, network in zip(("one.netpress", "two.netpress"), made, strict=True):
        network.facts |= {"dataset": "digits", "accuracy": 0.99}
        save(network, tmp_path / name)
    code, out, _ = call("compare", "one.netpress", "two.netpress", "--measure", "--json")
    assert code == 0
    told = json.loads(out)
    measured = [netpress.evaluate(tmp_path / f"{name}.netpress") for name in ("one", "two")]
    assert [row["accuracy"] for row in told["networks"]] == [figures.accuracy for figures in measured]
    assert "one.netpress: measured on 300 test images of digits" in told["notes"]
    (difference,) = told["differences"]
    assert difference["paired"] and len(difference["classes"]) == 10
    for row in difference["classes"]:
        place = int(row["class"])
        for key, figures in (("against_right", measured[0]), ("right", measured[1])):
            right, images = figures.by_class(10)
            assert (row[key], row["images"]) == (right[place], images[place])
    assert load(tmp_path / "one.netpress").facts["accuracy"] == 0.99  # no file is changed
    code, out, _ = call("compare", "one.netpress", "two.netpress")
    assert code == 0 and "99.00%" in out and "--measure makes them" in out
    made[1].facts.pop("dataset")
    save(made[1], tmp_path / "two.netpress")
    code, _, err = call("compare", "one.netpress", "two.netpress", "--measure")
    assert code == 2 and "two.netpress: this network does not say what it was trained on" in err


@pytest.mark.slow
def test_runs_keep_what_is_compared(tmp_path):
    recipe = {
        "name": "quick",
        "data": {"dataset": "digits", "train_images": 64, "image_size": 8},
        "model": {"family": "resnet", "blocks": [1], "width": 8},
        "stages": [{"kind": "train", "epochs": 1, "batch_size": 16}],
    }
    results = [run_recipe(check_recipe(recipe | {"seed": seed}), tmp_path / str(seed)) for seed in (1, 2)]
    comparison = netpress.compare([tmp_path / "1", tmp_path / "2"])
    (difference,) = comparison.differences
    assert isinstance(difference, Difference) and difference.paired and len(difference.classes) == 10
    assert difference.overall is not None
    assert difference.overall.against_accuracy == results[0].accuracy
    assert difference.overall.accuracy == results[1].accuracy
    kept = read_predictions(RunFolder(tmp_path / "1").predictions)
    RunFolder(tmp_path / "1").predictions.unlink()
    measured = netpress.compare([tmp_path / "1", tmp_path / "2"], measure=True)
    assert measured.differences == comparison.differences
    again = measured.networks[0].predictions
    assert again is not None and torch.equal(again.predicted, kept.predicted) and again.images == kept.images


@pytest.mark.slow
def test_a_chain_keeps_the_predictions_of_its_result(tmp_path):
    train = {"kind": "train", "epochs": 1, "batch_size": 16}
    networks = {
        name: {"model": {"family": "resnet", "blocks": [1], "width": width}, "stages": [train]}
        for name, width in (("big", 8), ("small", 4))
    }
    recipe = {"name": "pair", "data": {"dataset": "digits", "train_images": 32, "image_size": 8}, "networks": networks}
    run_recipe(check_recipe(recipe), tmp_path / "pair")
    (difference,) = netpress.compare([tmp_path / "pair" / "big", tmp_path / "pair"]).differences
    small = netpress.load(tmp_path / "pair" / "small")
    assert difference.overall is not None and difference.overall.accuracy == small.facts["accuracy"]
    run_recipe(check_recipe(recipe | {"seed": 3}), tmp_path / "pair", RunOptions(fresh=True))
    kept, other = (RunFolder(tmp_path / "pair" / name).predictions for name in ("", "small"))
    assert kept.read_bytes() == other.read_bytes()
    ChainFolder(tmp_path / "pair").clear()
    assert not kept.exists() and not other.exists()
