"""What people bring: folders that are almost right, few images, large ones, odd ones. Each is read, or one sentence."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from netpress.data import Dataset, DataSettings
from netpress.data.findings import inspect
from netpress.errors import Failure, UserError
from netpress.process.console import Console
from netpress.runs.beginning import load_run_data

QUIET = Console(quiet=True)
RANDOM = np.random.default_rng(4)


def noise(width: int = 12, height: int = 9, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(RANDOM.integers(0, 256, (height, width, 3)).astype(np.uint8)).convert(mode)


def fill(place: Path, count: int, mode: str = "RGB", ending: str = "png") -> None:
    place.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        noise(mode=mode).save(place / f"{mode}-{index}.{ending}")


def read(root: Path, **values: object) -> Dataset:
    """As a run would."""
    asked = DataSettings.model_validate({"dataset": "folder", "image_size": 8, **values})
    return load_run_data(asked, root, 1, None, QUIET)


def warnings_of(root: Path, **values: object) -> str:
    return "\n".join(inspect(read(root, **values)).as_json()["warnings"])


def test_a_folder_without_test_is_divided_and_says_so(tmp_path, capsys):
    for name in "ab":
        fill(tmp_path / name, 20)
    asked = DataSettings(dataset="folder", image_size=8)
    data = load_run_data(asked, tmp_path, 1, None, Console())
    assert (len(data.train), len(data.validation), len(data.test)) == (29, 3, 8)
    assert "has no test/, so 20% of the images are set apart" in capsys.readouterr().out
    assert data.record is not None and data.record.settings.test_fraction == 0.2
    stated = read(tmp_path, test_fraction=0.2)
    assert data.checksum == stated.checksum and data.record == stated.record
    assert len(read(tmp_path, test_fraction=0.5).test) == 20


def test_one_class(tmp_path):
    fill(tmp_path / "only", 5)
    with pytest.raises(UserError, match="holds one class, only, and a network tells two or more apart"):
        read(tmp_path)


def test_three_images_a_class(tmp_path):
    for name in "abc":
        fill(tmp_path / name, 3)
    data = read(tmp_path)
    assert len(data.train) + len(data.validation) + len(data.test) == 9
    assert torch.bincount(data.train.labels, minlength=3).min() >= 1
    assert "fewer than 10 images to train on: a (" in warnings_of(tmp_path)
    fill(tmp_path / "d", 1)
    with pytest.raises(UserError, match="one image of d is too few to divide"):
        read(tmp_path)


def test_images_of_5000_pixels(tmp_path):
    for name in "ab":
        fill(tmp_path / "train" / name, 1)
        fill(tmp_path / "test" / name, 1)
    wide = Image.linear_gradient("L").resize((5000, 3000)).convert("RGB")
    wide.save(tmp_path / "train" / "a" / "wide.jpg", quality=80)
    wide.rotate(90, expand=True).save(tmp_path / "train" / "a" / "tall.jpg", quality=80)
    data = read(tmp_path, select_on="test", resize="crop")
    assert data.files is not None and sorted(data.files.sizes)[-2:] == [(3000, 5000), (5000, 3000)]
    place = data.train.names.index("train/a/wide.jpg")
    rows = data.train.images[place].float().mean((0, 2))  # as bright from top to bottom as the image is
    assert torch.allclose(rows, torch.arange(8) * 32.0 + 15.5, atol=4)


def test_grey_cmyk_palette_and_16_bits_become_colours(tmp_path):
    for part in ("train", "test"):
        for name in "ab":
            fill(tmp_path / part / name, 6)
    fill(tmp_path / "train" / "a", 2, "L")
    fill(tmp_path / "train" / "b", 3, "CMYK", "jpg")
    fill(tmp_path / "train" / "b", 1, "P")
    Image.fromarray(np.full((9, 12), 40000, np.uint16)).save(tmp_path / "train" / "b" / "deep.png")
    data = read(tmp_path, select_on="test")
    assert data.files is not None and dict(data.files.modes) == {"RGB": 24, "L": 2, "CMYK": 3, "P": 1, "I;16": 1}
    assert int(data.train.images[data.train.names.index("train/b/deep.png")].unique()) == 40000 >> 8
    said = warnings_of(tmp_path, select_on="test")
    for part in ("not all images are RGB", "2 grey", "3 CMYK", "1 palette", "1 grey of 16 bits"):
        assert part in said


def test_twenty_classes_of_very_uneven_size(tmp_path):
    sizes = [4 + 3 * place for place in range(19)] + [120]
    for place, count in enumerate(sizes):
        fill(tmp_path / f"c{place:02}", count)
    data = read(tmp_path)
    counts = [torch.bincount(part.labels, minlength=20) for part in (data.train, data.validation, data.test)]
    assert sum(counts).tolist() == sizes and bool((counts[0] > 0).all())
    said = warnings_of(tmp_path)
    most = int(counts[0].max())
    assert f"uneven classes: {most} images of c19 to train on, {int(counts[0].min())} of c00" in said
    assert 'sampling = "balanced"' in said and "no validation image of " in said


def test_truncated_files_are_left_out_until_they_are_many(tmp_path, capsys):
    for part in ("train", "test"):
        for name in "ab":
            fill(tmp_path / part / name, 12)
    paths = sorted((tmp_path / "train" / "a").iterdir())
    for path in paths[:3]:
        path.write_bytes(path.read_bytes()[:60])
    assert len(read(tmp_path, select_on="test").train) == 21
    assert "3 of 48 images cannot be read and were left out: train/a/RGB-0.png (" in capsys.readouterr().err
    for path in paths[3:6]:
        path.write_bytes(b"")
    with pytest.raises(Failure, match=r"6 of 48 images cannot be read: .*; replace or remove them"):
        read(tmp_path, select_on="test")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_or_part_that_is_lost_is_one_sentence(tmp_path, part):
    for other in ("train", "test"):
        fill(tmp_path / other / "a", 30)
        fill(tmp_path / other / "b", 2)
    for path in (tmp_path / part / "b").iterdir():
        path.write_bytes(b"nothing")
    if part == "test":
        assert "no test image of b" in warnings_of(tmp_path, select_on="test")
        for path in (tmp_path / "test" / "a").iterdir():
            path.unlink()
        fill(tmp_path / "test" / "a", 1)
        (tmp_path / "test" / "a" / "RGB-0.png").write_bytes(b"nothing")
        with pytest.raises(Failure, match="none of the images for test can be read"):
            read(tmp_path, select_on="test")
    else:
        with pytest.raises(UserError, match="too few images of b: none is left to train on"):
            read(tmp_path, select_on="test")


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ("", "holds no class folders; put the images of each class into a folder of its name"),
        ("a b", "no PNG, JPEG or WebP images of a, b; add some or remove the class"),
        ("a/x/y b/x/y", "no PNG, JPEG or WebP images of a, b"),
        ("train test", "holds no class folders"),
        ("train/a train/b test/a test/b", "no PNG, JPEG or WebP images of a, b"),
    ],
)
def test_empty_folders(tmp_path, places, said):
    for place in places.split():
        (tmp_path / place).mkdir(parents=True)
    with pytest.raises(UserError, match=said):
        read(tmp_path)


def test_folders_of_folders_of_folders(tmp_path):
    fill(tmp_path / "a" / "2024" / "june" / "first", 6)
    fill(tmp_path / "a" / "2025", 6)
    fill(tmp_path / "b" / "x" / "y" / "z", 12)
    data = read(tmp_path)
    assert data.classes == ("a", "b") and len(data.train) + len(data.validation) + len(data.test) == 24
    fill(tmp_path / "up" / "a", 3)  # a data set below another: three classes, of which the last is a folder of folders
    assert read(tmp_path).classes == ("a", "b", "up")


def test_names_that_are_not_ascii(tmp_path):
    for name in ("café", "Ωμέγα", "猫", "emoji 🐈"):
        fill(tmp_path / unicodedata.normalize("NFD", name), 10)
    data = read(tmp_path)
    assert set(data.classes) == {"café", "Ωμέγα", "猫", "emoji 🐈"}
    values = inspect(data).as_json()
    assert values["classes"] == list(data.classes)
    assert all((tmp_path / name).is_file() for name in data.train.names)
