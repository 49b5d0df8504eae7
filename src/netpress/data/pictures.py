"""The pictures that a network is asked about: files, folders, arrays and Pillow's, read as a training reads its images.

    pictures = list_pictures(["a.jpg", "holiday"], console)
    for block in read_blocks(pictures, rules, console):
        block.pixels            # uint8 [readable, channels, size, size]

One block is in memory at a time, however many files a folder has.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from netpress.data.layout import images_below
from netpress.data.pixels import PictureFacts, PixelRules, Source, read_images
from netpress.errors import UserError, quote, some_of
from netpress.files import is_folder, is_there
from netpress.process.console import Console

BLOCK = 256  # pictures, where they are small
_BLOCK_VALUES = 1 << 26  # of all pictures in a block
_STREAMED = 1 << 29  # bytes: more than any picture of 67 million pixels takes

Asked = str | Path | bytes | Image.Image | np.ndarray


@dataclass(frozen=True)
class Picture:
    """A picture to be read, and what it is called: the path of a file, or its number among all, from 0."""

    name: str | int
    source: Source


@dataclass(frozen=True)
class Block:
    """Some pictures, read."""

    pictures: Sequence[Picture]
    problems: Sequence[str | None]
    """Why each cannot be read; None: it was."""
    facts: Sequence[PictureFacts | None]
    """What each was that was read."""
    pixels: Tensor
    """Of those that were read, in their order: uint8 [readable, channels, size, size]."""


def list_pictures(asked: Asked | Picture | Iterable[Asked | Picture], console: Console) -> list[Picture]:
    """One picture for each file and each image of an array, all of a folder's at any depth; no file is opened.

    Paths are str or Path; bytes are those of a file. Arrays are uint8 (0 to 255): grey [height, width], or with 1, 3
    (RGB) or 4 (RGBA) channels last [height, width, channels], or several such [images, height, width, channels].
    Raises UserError for what is not there and for other types; the console is told what lies in a folder beside images.
    """
    if isinstance(asked, str | Path | bytes | Image.Image | np.ndarray | Picture) or not isinstance(asked, Iterable):
        asked = [asked]
    found: list[Picture] = []
    for entry in asked:
        if isinstance(entry, Picture):
            found.append(entry)
        elif isinstance(entry, str | Path):
            found.extend(Picture(str(path), path) for path in _files_at(Path(entry), console))
        elif isinstance(entry, bytes | Image.Image):
            found.append(Picture(len(found), entry))
        else:
            found.extend(Picture(number, image) for number, image in enumerate(_images_in(entry), len(found)))
    if not found:
        raise UserError("no image was given; name files or folders of images")
    return found


def _files_at(path: Path, console: Console) -> list[Path]:
    if not is_folder(path):
        if not is_there(path):
            raise UserError(f"{path}: no such file or folder")
        if not path.is_file():
            raise UserError(f"{path}: is neither a file nor a folder (a device, a pipe or a socket)")
        return [path]
    images, others = images_below(path)
    if not images:
        raise UserError(f"{path}: holds no PNG, JPEG or WebP images")
    if others:
        console.warn(f"{path}: {others:,} files that are not PNG, JPEG or WebP were left out")
    return images


def _images_in(array: Any) -> list[Image.Image]:
    if not isinstance(array, np.ndarray):
        hint = ""
        if isinstance(array, Tensor):
            hint = "; of a tensor [3, height, width] give tensor.permute(1, 2, 0).numpy()"
        raise UserError(f"an image is a path, bytes, a Pillow image or an array, not {type(array).__name__}{hint}")
    if array.dtype != np.uint8:
        raise UserError(
            f"an array of {array.dtype}: give uint8, 0 to 255, since in others white may be 1 or 255; "
            "where it is 1: (array * 255).round().astype(numpy.uint8)"
        )
    shape = array.shape
    if array.ndim not in (2, 3, 4) or (array.ndim > 2 and shape[-1] not in (1, 3, 4)) or 0 in shape:
        raise UserError(
            f"an array of shape {quote(shape)}: give [height, width] of greys, [height, width, 3] or [images, height, "
            "width, 3] (1 and 4 for grey and RGBA)"
        )
    images = array if array.ndim == 4 else array[None]
    return [
        Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2:] == (1,) else image)) for image in images
    ]


def streamed_picture(stream: BinaryIO, name: str) -> Picture:
    """The picture whose file is all that `stream` gives. Raises UserError where that is more than a picture can be."""
    data = stream.read(_STREAMED + 1)
    if len(data) > _STREAMED:
        raise UserError(f"{name}: more than {_STREAMED:,} bytes, so it is not read; give the picture's file")
    return Picture(name, data)


def read_blocks(pictures: Sequence[Picture], rules: PixelRules, console: Console) -> Iterator[Block]:
    """Read the pictures, some at a time; the console is told of which files the first of several pictures was taken."""
    shape = rules.channels, rules.size, rules.size
    count = max(1, min(BLOCK, _BLOCK_VALUES // (rules.channels * rules.size**2)))
    animated: list[str] = []
    for start in range(0, len(pictures), count):
        block = pictures[start : start + count]
        pixels = torch.empty((len(block), *shape), dtype=torch.uint8)
        said = list(read_images([picture.source for picture in block], list(pixels.numpy()), rules))
        animated.extend(
            str(picture.name)
            for picture, facts in zip(block, said, strict=True)
            if not isinstance(facts, str) and facts.several
        )
        problems = [facts if isinstance(facts, str) else None for facts in said]
        known = [None if isinstance(facts, str) else facts for facts in said]
        yield Block(block, problems, known, pixels[torch.tensor([problem is None for problem in problems])])
    if animated:
        console.warn(f"of {some_of(animated)}, which hold several pictures, the first was taken")
