"""How folders are understood: each layout right, or one sentence; what is read in them; how much memory it takes."""

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import netpress.console
from netpress.data import Dataset, DataSettings, load_dataset, survey_dataset
from netpress.data.folder import read_folder
from netpress.data.images import draw_stratified
from netpress.errors import UserError
from netpress.process.console import Console
from netpress.recipe.schema import check_recipe
from netpress.runs.recipes import plan_recipe

QUIET = Console(quiet=True)


def make(root: Path, places: str, count: int = 6) -> Path:
    """`count` images in each of the places, which stand apart by spaces; in the n-th place they have the value n."""
    for number, place in enumerate(places.split()):
        (root / place).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new("RGB", (4, 4), (number, index, 0)).save(root / place / f"{index}.png")
    return root


def read(root: Path, **values: object) -> Dataset:
    said = DataSettings.model_validate({"dataset": "folder", "image_size": 4, **values})
    data = load_dataset(said, root, 1, QUIET)
    surveyed = survey_dataset(said, root, 1)  # what `plan` sees without an image is what a run reads
    assert (surveyed.train_images, surveyed.classes) == (len(data.train), data.classes)
    return data


# 6 images a place; of those for training 3 of 10 are drawn for validation where no folder says which.
RIGHT = {  # places, test_fraction -> classes, images for training, validation and test
    "two parts": ("train/a train/b test/a test/b", None, ("a", "b"), (8, 4, 12)),
    "other letters": ("Train/a Train/b TEST/a TEST/b", None, ("a", "b"), (8, 4, 12)),
    "val": ("train/a train/b val/a val/b test/a test/b", None, ("a", "b"), (12, 12, 12)),
    "Validation": ("train/a train/b Validation/a Validation/b test/a test/b", None, ("a", "b"), (12, 12, 12)),
    "valid without test": ("train/a train/b valid/a valid/b", 0.5, ("a", "b"), (6, 12, 6)),
    "one part": ("a b", 0.5, ("a", "b"), (4, 2, 6)),
    "train alone": ("train/a train/b", 0.5, ("a", "b"), (4, 2, 6)),
    "a class called test": ("a b test", 0.5, ("a", "b", "test"), (6, 3, 9)),
    "classes called train and val": ("train val", 0.5, ("train", "val"), (4, 2, 6)),
    "parts as classes": ("train/train train/test test/train test/test", None, ("test", "train"), (8, 4, 12)),
    "folders in classes": ("a/x a/y b/z b", 0.5, ("a", "b"), (8, 4, 12)),
    "odd names": ("train/1% train/[red]é test/1% test/[red]é", None, ("1%", "[red]é"), (8, 4, 12)),
}


@pytest.mark.parametrize(("places", "fraction", "classes", "counts"), RIGHT.values(), ids=RIGHT.keys())
def test_layouts_that_are_read(tmp_path, places, fraction, classes, counts):
    data = read(make(tmp_path, places), test_fraction=fraction, validation=0.3)
    assert data.classes == classes
    assert (len(data.train), len(data.validation), len(data.test)) == counts


WRONG = {  # places, test_fraction -> what the one sentence says
    "a class called train, with folders": ("bus car train/steam train/diesel", 0.2, "train holds folders.*bus, car"),
    "one folder too high": ("all/train/a all/train/b all/test/a all/test/b", 0.2, "all: is a data set .* give --data"),
    "two data sets": ("m/train/a m/test/a n/train/a n/test/a", 0.2, "m: is a data set .* give --data"),
    "one folder too high, flat": ("photos/a photos/b", 0.2, "one class, photos.* a, b are the classes, give --data"),
    "one class": ("train/a test/a", None, "one class, a, and a network tells two"),
    "two for validation": ("train/a train/b test/a test/b val/a valid/a", None, "has val, valid for the same part"),
    "two for training": ("train/a train/b Train/a Train/b test/a", None, "has Train, train for the same part"),
    "a class missing in test": ("train/a train/b test/a", None, "test: no PNG, JPEG or WebP images of b"),
    "a class more in test": ("train/a train/b test/a test/b test/c", None, "classes c are not in"),
    "a class more in val": ("train/a train/b test/a test/b val/c", None, "classes c are not in"),
    "no test": ("train/a train/b val/a val/b", None, r"test: no such folder; .* states data\.test_fraction"),
    "no train": ("test/a test/b", 0.2, "train: no such folder"),
    "parts without classes": (
        "train test",
        None,
        "holds no class folders; .* where test, train are classes",
    ),
    "nothing said": ("a b", None, r"has no train/ and test/; make them, or state data\.test_fraction"),
    "an end of line in a name": ("train/a\\nb train/c test/c", None, r"'a\\nb' is no plain text; rename it"),
}


@pytest.mark.parametrize(("places", "fraction", "message"), WRONG.values(), ids=WRONG.keys())
def test_layouts_that_are_refused_in_one_sentence(tmp_path, places, fraction, message):
    make(tmp_path, places)
    if (odd := tmp_path / "train" / "a\\nb").exists():
        odd.rename(tmp_path / "train" / "a\nb")
    for ask in (read, lambda root, **values: survey_dataset(DataSettings(dataset="folder", **values), root, 1)):
        with pytest.raises(UserError, match=message) as said:
            ask(tmp_path, test_fraction=fraction)
        assert "\n" not in str(said.value)


def test_a_class_with_too_few_images(tmp_path, capsys):
    make(make(tmp_path, "a", 40), "b", 1)
    with pytest.raises(UserError, match="one image of b is too few to divide"):
        read(tmp_path, test_fraction=0.2)
    make(tmp_path, "b", 2)  # of 42 images 8 are drawn, of which b's share is .4 of an image
    data = read(tmp_path, test_fraction=0.2)
    assert not (data.test.labels == 1).any()
    assert "no image of b among the test images" in capsys.readouterr().err
    make(tmp_path / "c", "train/a test/a test/b", 5)
    make(tmp_path / "c", "train/b", 1)
    with pytest.raises(UserError, match="too few images of b: none is left to train on"):
        read(tmp_path / "c", validation=0.9)


def test_what_is_left_out_is_said(tmp_path, capsys):
    make(tmp_path, "train/a train/b test/a test/b notes", 2)
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "loose.png")
    (tmp_path / "train" / "a" / "list.txt").write_text("x")
    os.mkfifo(tmp_path / "train" / "a" / "pipe.png")  # would be waited for without end
    assert len(read(tmp_path, select_on="test").train) == 4
    said = capsys.readouterr().err
    for part in ("notes beside train/ and test/", "train: 1 images beside the class", "2 files that are not PNG"):
        assert part in said
    make(tmp_path, "val/a", 2)
    data = read(tmp_path)
    assert len(data.validation) == 2
    assert "no image of b among the validation images" in capsys.readouterr().err
    assert len(read(tmp_path, select_on="test").validation) == 0
    assert "leaves the images for validation unused" in capsys.readouterr().err


def test_hidden_names_and_links_follow_one_rule(tmp_path):
    """Hidden at any depth: not read. Links to folders and files: followed, but in no circle and nothing twice."""
    make(tmp_path, "d/a d/b d/a/deep d/a/.ipynb_checkpoints d/.git/objects d/b/deep/.hidden", 3)
    Image.new("RGB", (4, 4)).save(tmp_path / "d" / "b" / ".hidden.png")
    make(tmp_path, "elsewhere/x elsewhere/.y", 2)
    (tmp_path / "d" / "c").symlink_to(tmp_path / "elsewhere")  # a class that is a link
    (tmp_path / "d" / "b" / "more").symlink_to(tmp_path / "elsewhere" / "x")  # a folder of a class
    (tmp_path / "d" / "a" / "link.png").symlink_to(tmp_path / "elsewhere" / "x" / "0.png")
    (tmp_path / "d" / "a" / "again").symlink_to(tmp_path / "d" / "a" / "deep")  # read in its own place
    (tmp_path / "d" / "a" / "deep" / "up").symlink_to(tmp_path / "d" / "a")  # a circle
    (tmp_path / "d" / "a" / "root").symlink_to(tmp_path / "d")  # a larger one
    data = read(tmp_path / "d", test_fraction=0.5, select_on="test")
    labels = torch.cat([data.train.labels, data.test.labels])
    assert data.classes == ("a", "b", "c")
    assert torch.bincount(labels).tolist() == [3 + 3 + 1, 3 + 2, 2]


def test_names_of_classes_are_the_same_on_a_mac(tmp_path):
    make(tmp_path, "train/b test/b", 2)
    for part, form in (("train", "NFC"), ("test", "NFD")):
        make(tmp_path / part, unicodedata.normalize(form, "café"), 2)
    assert read(tmp_path).classes == ("b", "café")
    make(tmp_path / "train", unicodedata.normalize("NFD", "café"), 2)
    with pytest.raises(UserError, match="two class folders are called café"):
        read(tmp_path)


def test_a_name_that_is_no_text(tmp_path):
    make(tmp_path, "train/a test/a", 2)
    try:
        (tmp_path / "train" / os.fsdecode(b"caf\xe9")).mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    with pytest.raises(UserError, match=r"'caf\\udce9' is no plain text; rename it"):
        read(tmp_path)


def test_plan_opens_no_image(tmp_path, monkeypatch):
    make(tmp_path, "a b", 10)
    values = {"dataset": "folder", "image_size": 1024, "test_fraction": 0.2}
    recipe = check_recipe(
        {
            "name": "p",
            "data": values,
            "model": {"family": "resnet", "blocks": [1], "width": 4},
            "stages": [{"kind": "train", "epochs": 1}],
        }
    )
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("opened"))
    planned = plan_recipe(recipe, tmp_path)
    assert planned["train_images"] == 14  # of 20, 4 for the test and 2 of the rest for validation
    many = check_recipe({**recipe.values, "data": {**values, "train_images": 15}})
    with pytest.raises(UserError, match=r"data\.train_images: 15 is more than the 14 images"):
        plan_recipe(many, tmp_path)


def test_plan_of_published_data_knows_its_counts():
    """By hand: 50,000 and 1,497 training images, a tenth of them for validation."""
    for name, count in (("cifar10", 45_000), ("cifar100", 45_000), ("digits", 1347)):
        assert survey_dataset(DataSettings(dataset=name), None, 3).train_images == count
    with pytest.raises(UserError, match="60,000 is more than the 45,000"):
        survey_dataset(DataSettings(dataset="cifar100", train_images=60_000), None, 3)


MEASURE = """
import resource, sys
from pathlib import Path
from netpress.process.console import Console
from netpress.data import DataSettings, load_dataset
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
asked = DataSettings(dataset="folder", image_size=512, test_fraction=0.25)
load_dataset(asked.model_copy(update={"image_size": 8}), Path(sys.argv[1]), 1, Console(quiet=True))
before = peak()
data = load_dataset(asked, Path(sys.argv[1]), 1, Console(quiet=True))
print((peak() - before) / sum(part.images.numel() for part in (data.train, data.validation, data.test)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
@pytest.mark.slow
def test_pixels_are_held_once(tmp_path):
    """120 images of 512 pixels, 94 MB: the peak of the whole process rises by them and little more."""
    make(tmp_path, "a b", 60)
    done = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.3


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=80), st.floats(0, 1), st.integers(0, 2**62), st.integers(0, 2**62)
)
def test_draws_divide_and_depend_on_their_seed_alone(classes, share, seed, other):
    labels = torch.tensor(classes)
    count = round(len(classes) * share)
    drawn, left = draw_stratified(labels, count, seed, "x")
    assert sorted([*drawn.tolist(), *left.tolist()]) == list(range(len(classes)))
    assert len(drawn) == count
    again, _ = draw_stratified(labels, count, seed, "x")
    assert torch.equal(drawn, again)
    for drawing in (drawn, draw_stratified(labels, count, other, "x")[0]):  # every class keeps its share
        for place, size in enumerate(torch.bincount(labels).tolist()):
            assert abs(int((labels[drawing] == place).sum()) - size * count / len(classes)) < 1


def test_pixels_are_those_of_each_image_alone(tmp_path):
    """Decoding into place, many at once: every image where its label is, as Pillow alone resizes it."""
    random = np.random.default_rng(1)
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(12):
            pixels = random.integers(0, 256, (9, 7, 3)).astype(np.uint8)
            pixels[..., 0] = 200 if name == "b" else 20
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    data = read(tmp_path, test_fraction=0.25, validation=0.25)
    alone = {}
    for path in tmp_path.rglob("*.png"):
        image = Image.open(path).resize((4, 4), Image.Resampling.BILINEAR)
        alone[np.asarray(image).transpose(2, 0, 1).tobytes()] = path.parent.name
    for part in (data.train, data.validation, data.test):
        for image, label in zip(part.images, part.labels, strict=True):
            assert alone[image.numpy().tobytes()] == data.classes[label]


def test_a_program_reads_a_folder_without_settings(tmp_path):
    make(tmp_path, "a b", count=5)
    (tmp_path / "a" / ".hidden").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / ".hidden" / "copy.png")
    divided = read_folder(tmp_path, 8, 0.2, 0, netpress.console.Console(quiet=True))
    assert divided.classes == ("a", "b") and divided.train.images.shape == (8, 3, 8, 8)
    assert (len(divided.validation), len(divided.test)) == (0, 2)
