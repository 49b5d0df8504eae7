"""Every mode of Pillow's in every format that a folder may hold: the right colours, or one sentence."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageMode

from netpress.data import DataSettings, load_dataset
from netpress.data.pixels import Budget, PixelRules, Unreadable, read_image, strangers_files, to_rgb
from netpress.errors import Failure
from netpress.process.console import Console

SIDE = 8
RANDOM = np.random.default_rng(3)
COLOURS = RANDOM.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
ALPHA = RANDOM.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
ALPHA[0], ALPHA[1] = 0, 255
GREY = COLOURS[..., 0]
MODES = (
    *("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "RGBX", "RGBa", "La"),
    *("I;16", "I;16L", "I;16B", "I;16N"),
)
BACKGROUND = 200


def on_background(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """By hand: alpha of 255 parts colour, the rest background."""
    share = alpha[..., None].astype(float) / 255
    return colours * share + BACKGROUND * (1 - share)


def picture(mode: str) -> Image.Image:
    """The same colours in each mode, as far as it has them, with ALPHA where it has one."""
    colours = Image.fromarray(COLOURS)
    if mode.startswith("I;16"):
        order = ">u2" if mode.endswith("B") else "<u2"
        return Image.frombytes(mode, (SIDE, SIDE), (GREY.astype(np.uint16) * 256 + 77).astype(order).tobytes())
    if mode in ("I", "F"):
        return Image.fromarray(GREY.astype({"I": np.int32, "F": np.float32}[mode]))
    if mode == "1":
        return Image.fromarray(GREY > 127)
    if mode == "LAB":
        return Image.frombytes("LAB", (SIDE, SIDE), COLOURS.tobytes())
    if mode in ("LA", "PA", "La"):
        whole = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA)))
        return whole if mode == "LA" else whole.convert(mode)
    if mode in ("RGBA", "RGBa"):
        whole = Image.merge("RGBA", (*colours.split(), Image.fromarray(ALPHA)))
        return whole.convert(mode)
    return colours.convert(mode)


def wanted(image: Image.Image) -> np.ndarray:
    """The colours of an image by Pillow's conversions of single channels, blended by hand: float [side, side, 3]."""
    mode = image.mode
    if mode.startswith("I;16"):
        return np.repeat(GREY[..., None], 3, 2).astype(float)
    if mode in ("LA", "La"):
        both = image.convert("LA")
        grey, alpha = (np.asarray(band) for band in both.split())
        return on_background(np.repeat(grey[..., None], 3, 2), alpha)
    if mode in ("RGBA", "RGBa", "PA"):
        *colours, alpha = (np.asarray(band) for band in image.convert("RGBA").split())
        return on_background(np.stack(colours, 2), alpha)
    return np.asarray(image.convert("RGB")).astype(float)


def read(path: Path, **rules: int) -> np.ndarray:
    with strangers_files():
        pixels, _ = read_image(path, PixelRules(**{"size": SIDE, "background": BACKGROUND, **rules}), Budget(10**6))
    return pixels.transpose(1, 2, 0).astype(float)


def test_the_list_of_modes_is_pillows():
    assert set(MODES) >= {mode for mode in Image.MODES if ImageMode.getmode(mode)}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_right_or_one_sentence(mode):
    image = picture(mode)
    assert image.mode == mode or mode == "I;16N"
    if mode in ("I", "F"):
        with pytest.raises(Unreadable, match=f"mode {mode}"):
            to_rgb(image, BACKGROUND)
        return
    assert np.abs(np.asarray(to_rgb(image, BACKGROUND)) - wanted(image)).max() <= 1


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_in_every_format(tmp_path, mode, ending):
    """What Pillow cannot write in a format cannot lie there. Read back by Pillow, and blended by hand."""
    image, path = picture(mode), tmp_path / f"x.{ending}"
    try:
        image.save(path, **({"lossless": True, "exact": True} if ending == "webp" else {}))
    except (OSError, ValueError, KeyError):
        assert ending != "png" or mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")
        return
    with Image.open(path) as stored:
        if stored.mode.startswith("I;16"):
            right = np.repeat((np.asarray(stored) // 256)[..., None], 3, 2).astype(float)
        else:
            right = wanted(stored)
    assert np.abs(read(path) - right).max() <= 1
    if ending == "png" and mode in ("I;16", "I;16B"):
        assert np.array_equal(read(path)[..., 0], GREY)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_png(path: Path, pixels: np.ndarray, colour: int, depth: int, *more: bytes) -> None:
    """A PNG written by hand: pixels [height, width, bytes], one filter byte of 0 a row."""
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    body = chunk(b"IHDR", head) + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize(("colour", "depth"), [(0, 8), (0, 16), (2, 8), (2, 16)])
def test_a_transparent_colour_of_a_png_shows_the_background(tmp_path, colour, depth):
    """The key that a tRNS chunk names: all pixels of exactly this colour are clear. By hand from the standard."""
    channels = 3 if colour == 2 else 1
    values = RANDOM.integers(1, 2**depth, (SIDE, SIDE, channels))
    values[2, 3] = values[5, 5] = key = [7 << (depth - 8)] * channels
    raw = values.astype(f">u{depth // 8}")
    path = tmp_path / "x.png"
    write_png(path, raw, colour, depth, chunk(b"tRNS", struct.pack(f">{channels}H", *key)))
    right = np.broadcast_to(values >> (depth - 8), (SIDE, SIDE, 3)).copy()
    clear = (right == 7).all(2) if depth == 16 and channels == 3 else (values == key).all(2)
    right[clear] = BACKGROUND
    assert clear[2, 3]
    assert np.array_equal(read(path), right)


def test_a_palette_with_transparency(tmp_path):
    numbers = RANDOM.integers(0, 4, (SIDE, SIDE)).astype(np.uint8)
    palette = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [90, 90, 90]], np.uint8)
    image = Image.fromarray(numbers)
    image = image.convert("P")
    image.putdata(numbers.ravel().tolist())
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "x.png", transparency=bytes([0, 128, 255, 255]))
    right = on_background(palette[numbers], np.array([0, 128, 255, 255])[numbers])
    assert np.abs(read(tmp_path / "x.png") - right).max() <= 1


def test_hidden_colours_do_not_bleed_where_an_image_shrinks(tmp_path):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[..., 0] = 255  # red everywhere, and nowhere to be seen
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert (read(tmp_path / "x.png") == BACKGROUND).all()
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert np.array_equal(read(tmp_path / "x.png"), np.broadcast_to([255, 0, 0], (SIDE, SIDE, 3)))


def exif(*entries: bytes, data: bytes = b"", order: str = ">") -> bytes:
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "IH", 8, len(entries))
    return b"Exif\0\0" + head + b"".join(entries) + b"\0\0\0\0" + data


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack(">HHI", tag, kind, count) + value.ljust(4, b"\0")


PLACE = struct.pack(">I", 8 + 2 + 2 * 12 + 4)
TURNED = entry(0x112, 3, 1, struct.pack(">H", 6))
ODD = {
    "width as a fraction": exif(entry(0x100, 5, 1, PLACE), TURNED, data=struct.pack(">II", 72, 1)),
    "resolution as text": exif(TURNED, entry(0x11A, 2, 3, b"72\0")),
    "fraction -1/0": exif(TURNED, entry(0x11A, 10, 1, PLACE), data=struct.pack(">ii", -1, 0)),
    "a maker's note that points outside": exif(TURNED, entry(0x927C, 7, 10**6, struct.pack(">I", 10**9))),
    "an IFD that points to itself": exif(TURNED, entry(0x8769, 4, 1, struct.pack(">I", 8))),
}


@pytest.mark.parametrize("block", ODD.values(), ids=ODD.keys())
def test_odd_exif_turns_the_image_all_the_same(tmp_path, block):
    image = Image.fromarray(COLOURS).resize((16, 8))
    path = tmp_path / "x.jpg"
    image.save(path, exif=block, quality=95, subsampling=0)
    with strangers_files(), Image.open(path) as stored:
        stored.load()
        right = stored.transpose(Image.Transpose.ROTATE_270).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    assert np.array_equal(read(path), np.asarray(right))


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0", b"Exif\0\0MM\0*", b"Exif\0\0nonsense nonsense", exif(entry(0x112, 3, 1, b"\0\x63")),
        exif(entry(0x112, 2, 3, b"6\0")), exif(entry(0x112, 5, 1, PLACE), data=struct.pack(">II", 6, 1)),
        exif(entry(0x112, 3, 0, b"")),
    ],
)  # fmt: skip
def test_an_orientation_that_is_none_leaves_the_image_as_it_is(tmp_path, block):
    path = tmp_path / "x.jpg"
    Image.fromarray(COLOURS).save(path, exif=block, quality=95)
    with strangers_files(), Image.open(path) as stored:
        stored.load()
        right = np.asarray(stored)
    assert np.array_equal(read(path), right)


@pytest.mark.parametrize("turn", range(1, 9))
def test_eight_orientations(tmp_path, turn):
    """By hand from the standard: which corner of the stored picture is seen at the upper left."""
    path = tmp_path / "x.png"
    described = Image.Exif()
    described[0x112] = turn
    Image.fromarray(COLOURS).save(path, exif=described)
    flat = COLOURS.astype(float)
    seen = {
        1: flat, 2: flat[:, ::-1], 3: flat[::-1, ::-1], 4: flat[::-1], 5: flat.transpose(1, 0, 2),
        6: flat.transpose(1, 0, 2)[:, ::-1], 7: flat[::-1, ::-1].transpose(1, 0, 2), 8: flat.transpose(1, 0, 2)[::-1],
    }  # fmt: skip
    assert np.array_equal(read(path), seen[turn])


def bomb(path: Path, side: int) -> None:
    """A PNG of `side` x `side` black pixels of one bit, in few bytes."""
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 + (side + 7) // 8) * 4)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def test_what_cannot_be_read_is_said_with_its_reason(tmp_path, monkeypatch):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(COLOURS).resize((64, 64)).save(whole)
    for name in "ab":
        for part in ("train", "test"):
            (tmp_path / "d" / part / name).mkdir(parents=True)
            Image.fromarray(COLOURS).save(tmp_path / "d" / part / name / "good.png")
    place = tmp_path / "d" / "train" / "a"
    (place / "1.png").write_bytes(b"")
    (place / "2.jpg").write_bytes(whole.read_bytes()[:-200])
    (place / "3.webp").write_text("no image")
    (place / "4.png").symlink_to(place / "nowhere.png")
    bomb(place / "5.png", 13_000)
    asked = DataSettings(dataset="folder", image_size=8, select_on="test")
    with pytest.raises(Failure) as said:
        load_dataset(asked, tmp_path / "d", 0, Console(quiet=True))
    for part in (
        "5 of 9 images cannot be read: train/a/1.png (empty)", "train/a/2.jpg (image file is truncated",
        "train/a/3.webp (no PNG, JPEG or WebP inside)", "train/a/4.png (a link to nothing)",
        "train/a/5.png (13,000 x 13,000 pixels, above data.max_pixels)",
    ):  # fmt: skip
        assert part in str(said.value)
    assert "\n" not in str(said.value)


def test_the_bound_in_pixels_is_a_setting_and_pillows_own_is_put_back(tmp_path):
    bound = Image.MAX_IMAGE_PIXELS
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    with pytest.raises(Unreadable, match=r"8 x 8 pixels, above data\.max_pixels"):
        read(tmp_path / "x.png", max_pixels=63)
    assert np.array_equal(read(tmp_path / "x.png", max_pixels=64), COLOURS)
    assert bound == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("ending", ["webp", "png"])
def test_of_several_pictures_the_first_is_taken_and_said(tmp_path, capsys, ending):
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (10, 99)]
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(2):
                frames[0].save(tmp_path / part / name / f"{number}.png")
    frames[0].save(tmp_path / "train" / "a" / f"m.{ending}", save_all=True, append_images=frames[1:], lossless=True)
    asked = DataSettings(dataset="folder", image_size=8, select_on="test")
    data = load_dataset(asked, tmp_path, 0, Console(quiet=True))
    assert (data.train.images[:, 0] == 10).all()
    assert f"train/a/m.{ending}, which hold several pictures, the first was taken" in capsys.readouterr().err


def test_any_damage_is_another_image_or_one_reason(tmp_path):
    """300 files with damaged bytes: decoders may raise what they like."""
    path = tmp_path / "x.png"
    for ending in ("png", "jpg", "webp", "gif", "bmp"):
        Image.fromarray(COLOURS).save(tmp_path / f"whole.{ending}")
        whole = (tmp_path / f"whole.{ending}").read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            for place in RANDOM.integers(0, len(content), 3):
                content[place] = RANDOM.integers(0, 256)
            path.write_bytes(content)
            try:
                assert read(path).shape == (SIDE, SIDE, 3)
            except Unreadable as error:
                assert str(error)
                assert "\n" not in str(error)
