"""`netpress predict`, and what `netpress evaluate` tells beside the accuracy: what is printed, and exit codes."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Call
from PIL import Image

from netpress.data import DataSettings, load_dataset
from netpress.network import create, save
from netpress.network.data import adopt
from netpress.process.console import Console

CLASSES = ("ape", "bee", "cat")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """photos/ with three classes, and n.netpress, which knows them and has random weights."""
    root = tmp_path_factory.mktemp("asked")
    random = np.random.default_rng(2)
    for name in CLASSES:
        (root / "photos" / name).mkdir(parents=True)
        for index in range(10):
            pixels = random.integers(0, random.integers(2, 256), (9, 12, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"{index}.png")
    settings = DataSettings(dataset="folder", image_size=8, test_fraction=0.5, validation=0.25)
    data = load_dataset(settings, root / "photos", 3, Console(quiet=True))
    network = create("resnet", {"blocks": [1], "width": 8, "image_size": 8, "classes": 3}, seed=1, classes=CLASSES)
    adopt(network, data)
    save(network, root / "n.netpress")
    return root


def test_table_json_and_csv_say_the_same(place: Path, call: Call) -> None:
    code, out, err = call("predict", place / "n.netpress", place / "photos", "--json", "--top", 2)
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert [row["image"] for row in told] == sorted(map(str, (place / "photos").rglob("*.png")))
    assert {len(row["classes"]) for row in told} == {2}
    code, out, err = call("predict", place / "n.netpress", place / "photos", "--csv", "--top", 2)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, err) == (0, "")
    flat = [(row["image"], guess) for row in told for guess in row["classes"]]
    assert len(rows) == len(flat) == 60
    for row, (image, guess) in zip(rows, flat, strict=True):
        assert (row["image"], row["class"], float(row["probability"])) == (image, guess["class"], guess["probability"])
    assert [row["rank"] for row in rows[:4]] == ["1", "2", "1", "2"]
    code, out, err = call("predict", place / "n.netpress", place / "photos")
    *lines, resized, computed = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 31)
    assert resized == "resized     30 of 30 images to 8 x 8 RGB, as in training (squash)"
    assert computed == "computed    by torch, floats"
    assert {(row["resized"], row["computed_by"]) for row in told} == {(True, "torch, floats")}
    for line, row in zip(lines[1:], told, strict=True):
        best = row["classes"][0]
        assert line.split() == [row["image"], best["class"], f"{best['probability']:.1%}"]


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_broken_files_are_told_at_the_end(place: Path, call: Call, tmp_path: Path, form: list[str]) -> None:
    good = place / "photos" / "ape" / "0.png"
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:80])
    (tmp_path / "text.png").write_text("no picture")
    code, out, err = call("predict", place / "n.netpress", tmp_path / "broken.png", good, tmp_path / "text.png", *form)
    assert code == 1
    assert str(good) in out and "broken.png" in out and "no PNG, JPEG or WebP inside" in out
    assert err.count("\n") == 1 and err.startswith("netpress: 2 of 3 images cannot be read: ")
    assert "broken.png" in err and "text.png (no PNG" in err


def test_a_picture_on_standard_input(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "photos" / "bee" / "3.png"

    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    give(path.read_bytes())
    code, out, _ = call("predict", place / "n.netpress", "-", path, "--json")
    piped, named = json.loads(out)
    assert (code, piped["image"], named["image"]) == (0, "-", str(path))
    assert piped["classes"][0] == pytest.approx(named["classes"][0])
    give(b"")
    code, _, err = call("predict", place / "n.netpress", "-")
    assert (code, err) == (1, "netpress: 1 of 1 images cannot be read: - (empty)\n")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    code, _, err = call("predict", place / "n.netpress", "-")
    assert code == 2 and "< photo.jpg" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["-", "-"], "named more than once"),
        (["photos", "--json", "--csv"], "exclude each other"),
        (["photos", "--scale", "0"], "--scale 0.0: must be above 0"),
        (["photos", "--exact"], "no layer of this network computes with integers"),
        (["photos", "--set", "data.image_size=9"], "changes nothing in how one image is read"),
        (["photos", "--set", "epochs=9"], "only data.KEY=VALUE"),
        (["photos", "--top", "0"], "top"),
        ([], "IMAGE"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(place: Path, call: Call, words: list[str], expected: str) -> None:
    (Path.cwd() / "photos").symlink_to(place / "photos")
    code, out, err = call("predict", place / "n.netpress", *words)
    assert code == 2 and expected in err and not out


def test_a_cosine_head_says_what_its_probabilities_are(call: Call, tmp_path: Path) -> None:
    network = create("efficientnet", {"image_size": 32, "classes": 3})
    save(network, tmp_path / "c.netpress")
    Image.new("RGB", (32, 32), (200, 90, 10)).save(tmp_path / "a.png")
    code, plain, err = call("predict", "c.netpress", "a.png", "--json")
    assert code == 0 and "softmax of cosines times 1" in err
    code, scaled, err = call("predict", "c.netpress", "a.png", "--json", "--scale", 5)
    assert code == 0 and "softmax of cosines times 5" in err
    small, large = (json.loads(out)[0]["classes"][0] for out in (plain, scaled))
    assert small["class"] == large["class"] and 1 / 3 < small["probability"] < large["probability"]


def evaluated(call: Call, place: Path, *words: object) -> str:
    code, out, err = call("evaluate", place / "n.netpress", "--data", place / "photos", *words)
    assert (code, err) == (0, "")
    return out


def test_evaluate_tells_what_its_answers_are_worth(place: Path, call: Call) -> None:
    told = json.loads(evaluated(call, place, "--json", "--confusion", "--calibration", "--mistakes", 4))
    matrix = np.array(told["confusion"]["matrix"])
    assert told["confusion"]["classes"] == list(CLASSES)
    assert matrix.sum() == told["images"] == 15 and matrix.sum(1).tolist() == [5, 5, 5]
    assert np.trace(matrix) / 15 == told["accuracy"]
    worst = told["most_confused"][0]
    assert matrix[CLASSES.index(worst["class"]), CLASSES.index(worst["taken_for"])] == worst["images"]
    low, high = told["interval"]
    assert 0 <= low < told["accuracy"] < high <= 1
    assert len(told["calibration"]) == 15 and sum(row["images"] for row in told["calibration"]) == 15
    assert 0 < told["calibration_error"] < 1
    assert len(told["mistakes"]) == 4
    paths = [place / "photos" / row["image"] for row in told["mistakes"]]
    asked = json.loads(call("predict", place / "n.netpress", *paths, "--json")[1])
    for row, path, answer in zip(told["mistakes"], paths, asked, strict=True):
        assert path.parent.name == row["class"] != row["predicted"] == answer["classes"][0]["class"]
        assert row["probability"] == pytest.approx(answer["classes"][0]["probability"], abs=1e-6)


def test_each_table_as_csv_and_for_people(place: Path, call: Call) -> None:
    told = json.loads(evaluated(call, place, "--json", "--confusion", "--mistakes", 2))
    rows = list(csv.reader(io.StringIO(evaluated(call, place, "--csv", "--confusion"))))
    assert rows[0][1:] == list(CLASSES) and [row[0] for row in rows[1:]] == list(CLASSES)
    assert [list(map(int, row[1:])) for row in rows[1:]] == told["confusion"]["matrix"]
    rows = list(csv.reader(io.StringIO(evaluated(call, place, "--csv", "--mistakes", 2))))
    assert [row[0] for row in rows[1:]] == [row["image"] for row in told["mistakes"]]
    assert evaluated(call, place, "--csv", "--calibration").startswith("above,up_to,images,probability,accuracy\n0.0,")
    shown = evaluated(call, place, "--confusion", "--calibration", "--mistakes", 2)
    for row in told["mistakes"]:
        assert f"{row['image']} " in shown and f"{row['probability']:.2%}" in shown
    low, high = told["interval"]
    assert f"{told['accuracy']:.2%} of 15 test images" in shown and f"{low:.2%} to {high:.2%}" in shown
    for words in ([], ["--confusion", "--mistakes", 1]):
        code, _, err = call("evaluate", place / "n.netpress", "--data", place / "photos", "--csv", *words)
        assert code == 2 and "one table" in err


def test_many_classes_show_only_the_pairs_confused_most(call: Call, tmp_path: Path) -> None:
    network = create("resnet", {"blocks": [1], "width": 4, "image_size": 8, "classes": 13})
    names = [f"{number:02}" for number in range(13)]
    for name in names:
        for part in ("train", "test"):
            (tmp_path / "d" / part / name).mkdir(parents=True)
            for index in range(2):
                Image.new("L", (8, 8), int(name) * 19 + index).save(tmp_path / "d" / part / name / f"{index}.png")
    save(network, tmp_path / "n.netpress")
    words = ("evaluate", "n.netpress", "--data", "d", "--dataset", "folder")
    code, out, err = call(*words, "--confusion")
    assert code == 0, err
    assert "confusion of 13 classes: --csv and --json give it whole" in out and "taken for" in out
    code, out, err = call(*words, "--confusion", "--csv")
    assert code == 0 and len(out.splitlines()) == 14
