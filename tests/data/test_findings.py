"""What a look at a data set finds: counts, copies, leaks, files that are left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from netpress.data import DataSettings, Images, load_dataset
from netpress.data.copies import find_copies
from netpress.data.findings import Findings, inspect
from netpress.process.console import Console

QUIET = Console(quiet=True)


def draw(root: Path, places: str, count: int = 12, seed: int = 0) -> Path:
    """`count` images of noise in each of the places, which stand apart by spaces."""
    random = np.random.default_rng(seed)
    for place in places.split():
        (root / place).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 256, (9, 12, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / place / f"{index}.png")
    return root


def look(root: Path, **values: object) -> Findings:
    asked = DataSettings.model_validate({"dataset": "folder", "image_size": 8, "select_on": "test", **values})
    return inspect(load_dataset(asked, root, 1, QUIET))


PARTS = "train/a train/b test/a test/b"


def test_nothing_is_said_where_all_is_well(tmp_path):
    found = look(draw(tmp_path, PARTS))
    assert not found.warnings
    assert found.line() == "data: 2 classes; 24 images to train on (12 a class), 24 for the test"
    values = found.as_json()
    assert values["counts"] == {"train": [12, 12], "validation": [0, 0], "test": [12, 12]}
    assert (values["image_size"], values["files"], values["modes"]) == ([3, 8, 8], 48, {"RGB": 48})
    assert values["sizes"] == {"smallest": [12, 9], "median": [12, 9], "largest": [12, 9]}
    assert values["skipped"]["count"] == values["duplicates"]["groups"] == values["across_parts"]["pairs"] == 0


def test_copies_leaks_and_contradictions_are_told_with_examples(tmp_path):
    draw(tmp_path, PARTS)
    picture = Image.open(tmp_path / "train/a/0.png")
    picture.save(tmp_path / "train/a/copy.webp", lossless=True)  # other bytes, the same pixels
    picture.save(tmp_path / "train/b/same.png")
    Image.open(tmp_path / "train/b/3.png").save(tmp_path / "test/b/leak.png")
    values = look(tmp_path).as_json()
    assert values["duplicates"]["groups"] == 1 and values["duplicates"]["images"] == 3
    assert values["across_parts"]["pairs"] == 1
    assert values["across_parts"]["examples"] == [["train/b/3.png", "test/b/leak.png"]]
    assert values["two_classes"] == {"groups": 1, "examples": [["train/a/0.png", "train/b/same.png"]]}
    assert len(values["warnings"]) == 3
    assert "for the test at once: 1 of the 25 test images (test/b/leak.png is train/b/3.png)" in (values["warnings"][0])


def test_of_a_published_set_only_copies_that_there_are_are_told():
    part = Images(torch.zeros((2, 3, 4, 4), dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    digits = load_dataset(DataSettings(dataset="digits", image_size=4), None, 1, QUIET)
    said = inspect(replace(digits, train=part, validation=part.take(torch.arange(0)))).warnings
    assert "digits: 1 images are copies of others in their part; they are kept, as in published figures" in said


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 1)), min_size=1, max_size=24))
@settings(deadline=None, max_examples=60)
def test_copies_are_those_of_a_count_by_hand(drawn):
    """Images of five values in three parts; each group, pair and contradiction against plain loops."""
    parts = {}
    for number, name in enumerate(("train", "validation", "test")):
        own = [(value, label) for part, value, label in drawn if part == number]
        pixels = torch.tensor([value for value, _ in own], dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
        parts[name] = Images(pixels.contiguous(), torch.tensor([label for _, label in own], dtype=torch.int64))
    found = find_copies(parts)
    places = [(name, index) for name, part in parts.items() for index in range(len(part))]
    value = {place: int(parts[place[0]].images[place[1]].flatten()[0]) for place in places}
    alike = {key: [place for place in places if value[place] == key] for key in set(value.values())}
    assert sorted(map(tuple, found.groups)) == sorted(tuple(group) for group in alike.values() if len(group) > 1)
    for name in parts:
        wanted = sum(1 for place in places if place[0] == name and alike[value[place]][0][0] != name)
        assert len(found.leaks(name)) == wanted
    label = {place: int(parts[place[0]].labels[place[1]]) for place in places}
    torn = [group for group in alike.values() if len({label[place] for place in group}) > 1]
    assert len(found.contradictions) == len(torn)
    for group in found.contradictions:
        assert len({value[place] for place in group}) == 1 and len({label[place] for place in group}) == len(group) == 2


def test_a_hash_alone_makes_no_copy(monkeypatch):
    """Images of equal hash and other pixels are other images."""
    monkeypatch.setattr("builtins.hash", lambda value: 7)
    pixels = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
    part = Images(torch.cat((pixels, pixels[:1])), torch.zeros(5, dtype=torch.int64))
    assert find_copies({"train": part}).groups == [[("train", 0), ("train", 4)]]


def test_what_is_left_out_is_told_with_its_reason(tmp_path, capsys):
    draw(tmp_path, PARTS)
    (tmp_path / "train/a/notes.txt").write_text("no image")
    (tmp_path / "train/a/.DS_Store").write_text("hidden")
    (tmp_path / "train/b/.cache").mkdir()
    (tmp_path / "train/loose.png").write_bytes(b"")
    (tmp_path / "other").mkdir()
    whole = (tmp_path / "train/b/0.png").read_bytes()
    (tmp_path / "train/b/0.png").write_bytes(whole[: len(whole) // 2])
    found = look(tmp_path)
    values = found.as_json()
    skipped = {entry["path"]: entry["reason"] for entry in values["skipped"]["examples"]}
    assert values["skipped"]["count"] == len(skipped) == 6
    assert skipped.pop("train/b/0.png")  # in the decoder's words
    assert skipped == {
        "train/a/notes.txt": "no PNG, JPEG or WebP",
        "train/a/.DS_Store": "hidden",
        "train/b/.cache": "hidden",
        "train/loose.png": "beside the class folders",
        "other": "beside train/ and test/",
    }
    assert values["files"] == 48 + 5 and values["counts"]["train"] == [12, 11]
    assert "1 of 48 images cannot be read and were left out: train/b/0.png" in capsys.readouterr().err
    assert found.line().endswith("6 files left out")
    kept = load_dataset(DataSettings(dataset="folder", image_size=8, select_on="test"), tmp_path, 1, QUIET).train
    assert len(kept.images) == len(kept.labels) == len(kept.names) == 23 and "train/b/0.png" not in kept.names
    (tmp_path / "train/b/0.png").unlink()
    without = load_dataset(DataSettings(dataset="folder", image_size=8, select_on="test"), tmp_path, 1, QUIET).train
    assert torch.equal(kept.images, without.images) and kept.names == without.names
