"""`netpress data`, and what a run and a plan say of their images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RECIPE = """
name = "r"
data = { dataset = "folder", image_size = 8, test_images = 4 }
model = { family = "resnet", blocks = [1], width = 4 }

[[stages]]
kind = "train"
epochs = 1
batch_size = 8
"""


@pytest.fixture
def photos(tmp_path) -> Path:
    random = np.random.default_rng(2)
    for place, name in enumerate(("chat", "été")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(24 if name == "chat" else 30):
            pixels = random.integers(0, 100, (9, 12, 3)) + 150 * place
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{index}.png")
    for copy in range(6):  # of which some are to train on, whatever the draw
        Image.open(tmp_path / "photos/chat/1.png").save(tmp_path / f"photos/chat/copy{copy}.png")
    (tmp_path / "photos/chat/notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_the_command_shows_classes_files_and_what_is_wrong(call, photos):
    code, out, err = call("data", "photos", "--set", "data.image_size=8")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["class", "train", "validation", "test"] in rows
    assert ["été", "22", "2", "6"] in rows
    assert "12 x 9 (smallest), 12 x 9 (median), 12 x 9 (largest); made 8 x 8 (squash)" in out
    assert "left out    chat/notes.txt (no PNG, JPEG or WebP)" in out and "1 file left out" in out
    assert "there twice in one part: " in err and "chat/copy" in err
    code, out, err = call("data", "photos", "--set", "data.image_size=8", "--json")
    values = json.loads(out)
    assert code == 0 and values["classes"] == ["chat", "été"] and values["files"] == 61
    assert str(photos) not in out and values["warnings"]


def test_it_knows_data_sets_by_name_and_refuses_what_is_none(call, photos):
    code, out, _ = call("data", "--dataset", "digits")
    assert code == 0 and "data: 10 classes; 1,347 images to train on (130 to 137 a class)" in out
    for words, said in (
        ((), "name a folder of images, or a data set with --dataset"),
        (("nowhere",), "no such folder"),
        (("photos/chat",), "holds no class folders"),
        (("photos", "--set", "seed=1"), "only data.KEY=VALUE can be set here"),
        (("photos", "--set", "data.resize=stretch"), "'stretch' is not one of"),
        (("photos", "--dataset", "flowers"), "'flowers' is not one of"),
    ):
        code, _, err = call("data", *words)
        assert code == 2 and said in err and err.count("\n") == 1, words


def test_a_plan_looks_at_the_data_it_is_given(call, photos, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    code, out, err = call("plan", "r.toml", "--data", "photos")
    assert code == 0 and "data: 2 classes; 43 images to train on (21 to 22 a class), 5 for validation, 4 of 12" in out
    assert "chat/copy" in err and err.count("1 file that is not") == 1
    code, out, _ = call("plan", "r.toml", "--data", "photos", "--json")
    assert json.loads(out)["data"]["counts"]["train"] == [21, 22]
    code, out, err = call("plan", "digits")
    assert code == 0 and "data:" not in out and not err


@pytest.mark.slow
def test_a_run_says_and_keeps_what_it_found(call, photos, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    code, out, err = call("run", "r.toml", "--data", "photos", "--out", "r")
    assert code == 0, err
    assert (
        out.index("data: 2 classes; 43 images") < out.index("01-train")
        and "chat/copy" in err
        and err.count("1 file that is not") == 1
    )
    assert "of 4 of the 12 test images (data.test_images)" in out
    kept = json.loads((tmp_path / "r/data.json").read_text(encoding="utf-8"))
    planned = json.loads(call("plan", "r.toml", "--data", "photos", "--json")[1])["data"]
    assert kept == planned
    figures = json.loads((tmp_path / "r/score.json").read_text())
    assert (figures["images"], figures["images_of"]) == (4, 12)
    assert "data: 2 classes" in (tmp_path / "r/log.txt").read_text()
    code, out, _ = call("run", "r.toml", "--data", "photos", "--out", "r")
    assert code == 0 and "data: 2 classes" not in out  # a finished run looks at nothing again
    code, out, _ = call("evaluate", "r", "--data", "photos")
    assert code == 0 and "of 4 test images" in out and "tested on 4 of the 12 test images" in out
    code, out, _ = call("evaluate", "r", "--data", "photos", "--set", "data.test_images=12")
    assert code == 0 and "of 12 test images" in out
