"""Reads images, of any mode, as 8-bit colours of one size: for a training, and for a question to a network.

The file may come from a stranger. So only decoders of the formats of photographs are asked, the size is checked before
a pixel is decoded, and every error of a decoder becomes one reason in words.
"""

import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from netpress.data.resizing import ResizeMethod, make_square, reduce_in_decoding
from netpress.process.devices import available_cores

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # the last two, since many such files are called .jpg or .png
AT_ONCE = 67_000_000  # pixels that are decoded at the same time, by however many threads

_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


Source = Path | bytes | Image.Image
"""A file, the bytes of one, or a picture that Pillow holds."""

_GIVEN = threading.Lock()  # Pillow loads a picture on first use, and a caller may give the same one twice


class Unreadable(Exception):
    """Why an image cannot be read, in a few words."""


@dataclass(frozen=True)
class PixelRules:
    """What is made of every file: `size` x `size` pixels; see the settings of these names in `DataSettings`."""

    size: int
    max_pixels: int = AT_ONCE
    background: int = 0
    channels: int = 3
    """3: red, green and blue. 1: grey, as Pillow weighs the colours (.299, .587, .114)."""
    resize: ResizeMethod = "squash"
    reduced_decoding: bool = False


@dataclass(frozen=True)
class PictureFacts:
    """What a picture was before it was made one of a size."""

    size: tuple[int, int]
    """Width and height in pixels, turned as its EXIF says."""
    mode: str
    """Pillow's."""
    several: bool
    """Whether it is the first of several in its file."""


class Budget:
    """Lets threads decode at once what has so many pixels together; a larger image waits to be alone."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._changed = threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Wait until so many pixels may be decoded, and hold them."""
        pixels = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


@contextmanager
def strangers_files() -> Iterator[None]:
    """While files are read: Pillow's own bound on pixels and its warnings are off, as `read_image` has better ones."""
    bound = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = bound


def read_images(
    sources: Sequence[Source], targets: Sequence[np.ndarray], rules: PixelRules
) -> Iterator[PictureFacts | str]:
    """Decode each source into its target, uint8 [channels, size, size], on all cores.

    Yields what each was, in their order, or in a few words why it cannot be read.
    """
    budget = Budget(AT_ONCE)

    def decode(source: Source, target: np.ndarray) -> PictureFacts | str:
        try:
            target[...], facts = read_image(source, rules, budget)
        except Unreadable as error:
            return str(error)
        return facts

    with strangers_files(), ThreadPoolExecutor(available_cores()) as pool:
        yield from pool.map(decode, sources, targets)


def read_image(source: Source, rules: PixelRules, budget: Budget) -> tuple[np.ndarray, PictureFacts]:
    """The image as uint8 [channels, size, size], and what it was.

    Turned as its EXIF says, transparent places filled with the background, made square. Raises Unreadable.
    """
    try:
        if isinstance(source, Image.Image):
            _refuse_large(source, rules)
            with _GIVEN:
                source.load()
            return _read_picture(source, rules, budget)
        if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
            raise Unreadable("empty")
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as file:
            _refuse_large(file, rules)
            several = file.format != "MPO" and bool(getattr(file, "is_animated", False))
            return _read_picture(file, rules, budget, several, reduce=rules.reduced_decoding)
    except Unreadable:
        raise
    except FileNotFoundError:
        link = isinstance(source, Path) and source.is_symlink()
        raise Unreadable("a link to nothing" if link else "no longer there") from None
    except UnidentifiedImageError:
        raise Unreadable("no PNG, JPEG or WebP inside") from None
    except OSError as error:
        raise Unreadable(error.strerror or _short(error)) from None
    except Exception as error:  # decoders raise struct.error, TypeError, KeyError, ... at damaged files
        raise Unreadable(_short(error) or type(error).__name__) from None


def _refuse_large(picture: Image.Image, rules: PixelRules) -> None:
    if picture.width * picture.height > rules.max_pixels:
        raise Unreadable(f"{picture.width:,} x {picture.height:,} pixels, above data.max_pixels")


def _read_picture(
    picture: Image.Image, rules: PixelRules, budget: Budget, several: bool = False, reduce: bool = False
) -> tuple[np.ndarray, PictureFacts]:
    """The pixels of the picture: uint8 [channels, size, size]; it stays as it is, except where it may `reduce` it."""
    (width, height), mode = picture.size, picture.mode
    with budget.take(width * height):
        if reduce:
            reduce_in_decoding(picture, rules.size)
        picture.load()
        turned = _turned(picture)
        if (turned.width > turned.height) != (picture.width > picture.height):
            width, height = height, width
        facts = PictureFacts((width, height), mode, several)
        image = to_rgb(turned, rules.background)
        if rules.channels == 1:
            image = image.convert("L")
        values = np.asarray(
            make_square(image, rules.size, rules.resize, rules.background)
        )  # [height, width] or [height, width, 3]
        return (values[None] if values.ndim == 2 else values.transpose(2, 0, 1)), facts


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:60]


def _turned(image: Image.Image) -> Image.Image:
    try:
        turn = image.getexif().get(_ORIENTATION)
    except Exception:  # its other entries may be anything; the pixels are good
        return image
    return image.transpose(_TURNS[turn]) if isinstance(turn, int) and turn in _TURNS else image


def to_rgb(image: Image.Image, background: int) -> Image.Image:
    """The picture in 8-bit RGB, as Pillow converts it; what is transparent lies on grey of the value `background`.

    Of 16 bits the upper 8 are taken, as Pillow does with colours of 16 bits. Raises Unreadable for modes whose white
    nobody knows (I and F).
    """
    mode = image.mode
    if mode in ("I", "F"):
        raise Unreadable(f"values of 32 bits (mode {mode}), of which none is known to be white")
    if mode.startswith("I;16"):
        return _from_16_bits(image, background)
    if mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data or "transparency" in image.info:
        colours = _with_short_key(image).convert("RGBA")
        ground = Image.new("RGB", image.size, (background,) * 3)
        ground.paste(colours, mask=colours.getchannel("A"))
        return ground
    return image if mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image, background: int) -> Image.Image:
    values = np.asarray(image)  # [height, width], uint16 of either byte order
    grey = (values >> 8).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = background
    return Image.fromarray(grey).convert("RGB")


def _with_short_key(image: Image.Image) -> Image.Image:
    """A PNG of 16 bits names its transparent colour with 16 bits, and Pillow has read the upper 8 of its pixels."""
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    return image
