"""What is asked of a network: which pictures a call means, and their pixels, read as a data set's files are."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from netpress.data import pictures
from netpress.data.pictures import Picture, list_pictures, read_blocks, streamed_picture
from netpress.data.pixels import PixelRules
from netpress.errors import UserError
from netpress.process.console import Console

QUIET = Console(quiet=True)
RULES = PixelRules(8, background=200)


def read(asked: object, rules: PixelRules = RULES) -> torch.Tensor:
    blocks = list(read_blocks(list_pictures(asked, QUIET), rules, QUIET))
    assert all(problem is None for block in blocks for problem in block.problems)
    return torch.cat([block.pixels for block in blocks])


@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.sampled_from((1, 3, 4))),
        elements=st.integers(0, 255),
    )
)
@settings(deadline=None, max_examples=40)
def test_arrays_pillow_bytes_and_files_are_read_alike(tmp_path_factory, array):
    """Of [images, height, width, channels], each as an array, a Pillow image, the bytes of a file and a file."""
    folder = tmp_path_factory.mktemp("files")
    whole = read(array)
    assert whole.shape == (len(array), 3, 8, 8) and whole.dtype == torch.uint8
    for number, image in enumerate(array):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        picture.save(folder / f"{number}.png")
        flat = image[..., 0] if image.shape[2] == 1 else image
        data = (folder / f"{number}.png").read_bytes()
        for asked in (flat, image, picture, data, folder / f"{number}.png", str(folder / f"{number}.png")):
            assert torch.equal(read(asked)[0], whole[number])
    assert torch.equal(read(folder), whole)
    assert torch.equal(read([array[0], *array[1:]]), whole)


def test_pixels_of_the_right_size_are_unchanged():
    colours = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    assert np.array_equal(read(colours).permute(0, 2, 3, 1), colours)
    grey = read(colours, replace(RULES, channels=1))
    weighed = colours @ np.array([0.299, 0.587, 0.114])
    assert grey.shape == (2, 1, 8, 8) and np.abs(grey[:, 0].numpy() - weighed).max() <= 0.51
    single = np.ascontiguousarray(colours[0, :, :, 0])
    assert np.array_equal(read(single, replace(RULES, channels=1))[0, 0], single)
    assert np.array_equal(read(single)[0, 2], single)


def test_a_callers_picture_is_turned_and_stays_as_it_is():
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 9, 3)).astype(np.uint8))
    picture.getexif()[0x112] = 3
    picture.info["transparency"] = (1, 2, 300)
    kept, info = picture.copy(), dict(picture.info)
    turned = picture.rotate(180).resize((8, 8), Image.Resampling.BILINEAR)
    seen = read([picture, picture])
    assert np.array_equal(seen[1].permute(1, 2, 0), turned) and torch.equal(seen[0], seen[1])
    assert picture.tobytes() == kept.tobytes() and picture.info == info and picture.getexif()[0x112] == 3
    kept.info["transparency"] = (1, 2, 300)  # not turned, so that what is read is the caller's own
    read(kept)
    assert kept.info["transparency"] == (1, 2, 300)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (np.zeros((4, 4)), "float64: give uint8, 0 to 255, since in others white may be 1 or 255"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.zeros((2, 4, 5), np.uint8), r"shape \(2, 4, 5\): give \[height, width\]"),
        (np.zeros((3, 8, 8), np.uint8), "shape"),
        (np.zeros((0, 4, 4, 3), np.uint8), "shape"),
        (np.zeros(4, np.uint8), "shape"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"tensor\.permute\(1, 2, 0\)"),
        (7, "not int"),
        ([[1, 2]], "not list"),
        ([], "no image was given"),
        ("nowhere.png", "no such file or folder"),
        ("a\0b", "no such file"),
        ("/dev/null", "neither a file nor a folder"),
    ],
)
def test_what_is_no_image_is_one_sentence(asked, said):
    with pytest.raises(UserError, match=said):
        list_pictures(asked, QUIET)


def test_a_folder_is_looked_through(tmp_path, capsys):
    for name in ("b/deep/2.JPG", "b/1.png", "a.webp", ".hidden.png", ".git/3.png", "notes.txt", "clip.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    found = list_pictures([tmp_path, np.zeros((2, 2), np.uint8), tmp_path / "clip.gif"], QUIET)
    names = [tmp_path / name for name in ("a.webp", "b/1.png", "b/deep/2.JPG")]
    assert [picture.name for picture in found] == [*map(str, names), 3, str(tmp_path / "clip.gif")]
    assert "2 files that are not PNG, JPEG or WebP were left out" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no PNG, JPEG or WebP images"):
        list_pictures(tmp_path / "empty", QUIET)


def test_blocks_hold_few_pictures_and_keep_the_order(tmp_path, monkeypatch):
    """However many pictures: no block has more than it may, and one that cannot be read loses no other."""
    monkeypatch.setattr(pictures, "BLOCK", 4)
    asked: list[Picture] = [Picture(index, Image.new("RGB", (3, 3), (index, 0, 0))) for index in range(11)]
    asked[5], asked[10] = Picture("broken", b"no picture"), Picture("gone", tmp_path / "gone.png")
    blocks = list(read_blocks(asked, RULES, QUIET))
    assert [len(block.pictures) for block in blocks] == [4, 4, 3]
    assert [picture for block in blocks for picture in block.pictures] == asked
    problems = [problem for block in blocks for problem in block.problems]
    assert [index for index, problem in enumerate(problems) if problem] == [5, 10]
    assert (problems[5], problems[10]) == ("no PNG, JPEG or WebP inside", "no longer there")
    seen = [int(value) for block in blocks for value in block.pixels[:, 0, 0, 0]]
    assert seen == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_large_pictures_come_in_smaller_blocks():
    rules = PixelRules(1024)
    block = next(iter(read_blocks([Picture(n, Image.new("L", (2, 2))) for n in range(200)], rules, QUIET)))
    assert block.pixels.numel() <= 1 << 26


def test_what_is_too_large_is_not_decoded(tmp_path):
    Image.new("L", (30, 40)).save(tmp_path / "x.png")
    rules = replace(RULES, max_pixels=1199)
    for asked in (tmp_path / "x.png", Image.new("L", (30, 40)), np.zeros((40, 30), np.uint8)):
        (block,) = read_blocks(list_pictures(asked, QUIET), rules, QUIET)
        assert block.problems == ["30 x 40 pixels, above data.max_pixels"] and len(block.pixels) == 0
        assert len(next(iter(read_blocks(list_pictures(asked, QUIET), replace(rules, max_pixels=1200), QUIET))).pixels)


def test_a_stream_has_an_end(monkeypatch):
    assert streamed_picture(io.BytesIO(b"abc"), "-") == Picture("-", b"abc")
    monkeypatch.setattr(pictures, "_STREAMED", 2)
    with pytest.raises(UserError, match="-: more than 2 bytes"):
        streamed_picture(io.BytesIO(b"abc"), "-")


def test_the_first_of_several_pictures_is_taken_and_told(tmp_path, capsys):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path: Path = tmp_path / "a.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert read(path)[0, :, 0, 0].tolist() == [255, 0, 0]
    assert "a.webp, which hold several pictures, the first was taken" in capsys.readouterr().err
