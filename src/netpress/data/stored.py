"""Pixels that stay in a file, and are read image by image: what stands for the tensor of a data set beyond memory.

    pixels[indices]          uint8 [len(indices), channels, height, width], read and checked
    pixels.split(64)         batches, each read when it is asked for

The file is read (pread), not mapped into memory. Pages of a mapping that were touched count as resident, so that a
shuffled epoch would soon count the whole file; a file that is cut short under a mapping kills the process, where a read
gives an error; and one read of a whole image asks the disk once, where a mapping takes a fault every few pages. The
system keeps the file's pages in free memory either way, and they belong to no process. Batches of 64 images of 224
pixels that lie in free memory come faster so, checked, than from a mapping or from a tensor (docs/data.md).
"""

import os
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netpress.errors import Failure

INDEX, CHECKSUMS = ".index", ".checksums"  # beside the pixels
BLOCK = 1 << 24  # bytes that a pass over all images holds at a time
DEVICE_SHARE = 0.5
"""Images are copied to a GPU whole where they take no more than that share of its free memory."""


CPU = torch.device("cpu")


class PixelFile:
    """A file of images of one size, one after the other, open for reading; threads may read at once."""

    def __init__(self, path: Path, size: int) -> None:
        """`size`: bytes of an image. Raises Failure where the file cannot be opened."""
        self.path, self.size = path, size
        self._lock = Lock()  # where a system has no pread, and reading moves the file's place
        try:
            self._number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise Failure(f"{path}: cannot be read ({error.strerror or error}); give the command again") from None
        weakref.finalize(self, os.close, self._number)  # whoever has images may keep them as long as the process

    def __reduce__(self) -> tuple[Any, ...]:
        return PixelFile, (self.path, self.size)

    def expect(self, slots: Sequence[int]) -> None:
        """Say which images will be read next: the disk is asked for all of them at once."""
        if hasattr(os, "posix_fadvise"):
            for slot in slots:
                os.posix_fadvise(self._number, slot * self.size, self.size, os.POSIX_FADV_WILLNEED)

    def read(self, slot: int, target: memoryview) -> bool:
        """Read the image at `slot` into `target`; whether all of it was there."""
        start, place = slot * self.size, 0
        while place < self.size:
            if hasattr(os, "preadv"):
                count = os.preadv(self._number, [target[place:]], start + place)
            else:
                with self._lock:
                    os.lseek(self._number, start + place, os.SEEK_SET)
                    data = os.read(self._number, self.size - place)
                count = len(data)
                target[place : place + count] = data
            if not count:
                return False
            place += count
        return True


@dataclass(frozen=True)
class StoredPixels:
    """Some images of a file, in an order: in place of a tensor uint8 [count, channels, height, width].

    It knows what a tensor of images is asked for: shape and device, indexing by whatever picks among the first
    dimension, `split` and `to`. What must hold all pixels at once has no place here, and a type checker says so.
    """

    file: PixelFile
    one: tuple[int, int, int]
    """Channels, height and width."""
    slots: np.ndarray
    """Where in the file each image lies: int64 [count]."""
    checks: np.ndarray
    """CRC-32 of each image: uint32 [count]."""
    digests: np.ndarray
    """SHA-256 of each image: uint8 [count, 32]."""
    sums: np.ndarray
    """Of each image and channel the sum of the values and that of their squares: int64 [count, 2, channels]."""
    device: torch.device = CPU
    """Where images lie once they are read."""

    dtype = torch.uint8

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self.one))

    def __len__(self) -> int:
        return len(self.slots)

    def numel(self) -> int:
        """Values of all images, which are bytes."""
        return self.shape.numel()

    @cached_property
    def _order(self) -> Tensor:
        return torch.arange(len(self))

    def __getitem__(self, index: Any) -> Tensor:
        """The images that `index` picks, as it would from a tensor [count, ...]: read, checked, on the device.

        Raises Failure where one of them is not what was written.
        """
        places = self._order[index.cpu() if isinstance(index, Tensor) else index]
        chosen = places.reshape(-1).numpy()
        pixels = torch.empty((len(chosen), *self.one), dtype=torch.uint8)
        slots = self.slots[chosen].tolist()
        if len(slots) > 1:
            self.file.expect(slots)
        for slot, check, target in zip(slots, self.checks[chosen].tolist(), pixels.numpy(), strict=True):
            view = memoryview(target.reshape(-1))
            if not self.file.read(slot, view) or zlib.crc32(view) != check:
                self._refuse(slot)
        return pixels.reshape(*places.shape, *self.one).to(self.device)

    def _refuse(self, slot: int) -> None:
        path = self.file.path
        for suffix in (INDEX, CHECKSUMS, path.suffix):
            with suppress(OSError):
                path.with_suffix(suffix).unlink()
        raise Failure(
            f"{path}: image {slot + 1:,} of this cache of decoded images is damaged, so the cache was removed; give "
            "the command again, which decodes the images anew (if that comes again, have the disk checked)"
        )

    def take(self, indices: Tensor) -> "StoredPixels":
        """The images at `indices`; nothing is read."""
        chosen = indices.cpu().numpy()
        parts = {name: getattr(self, name)[chosen] for name in ("slots", "checks", "digests", "sums")}
        return replace(self, **parts)

    def split(self, size: int) -> Sequence[Tensor]:
        """Batches of `size` images, the last with what is left; each is read when it is asked for, every time."""
        return _Batches(self, size)

    def cpu(self) -> "Tensor | StoredPixels":
        """The same, read to memory."""
        return self.to("cpu")

    def to(self, device: torch.device | str) -> "Tensor | StoredPixels":
        """The same images for `device`. A GPU with much room has them all from here on, as a tensor."""
        device = torch.device(device)
        if device.type == "cuda" and self.numel() <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            whole = torch.empty(self.shape, dtype=torch.uint8, device=device)
            start = 0
            for block in replace(self, device=CPU).blocks():
                whole[start : start + len(block)] = block
                start += len(block)
            return whole
        return replace(self, device=device)

    def sum_up(self) -> tuple[Tensor, Tensor]:
        """The sums of the values of each channel, and those of their squares: int64 [channels], as noted."""
        values, squares = torch.from_numpy(self.sums.sum(0))
        return values, squares

    def blocks(self) -> Iterator[Tensor]:
        """All images in order, some at a time."""
        return iter(self.split(max(1, BLOCK // self.file.size)))


class _Batches(Sequence[Tensor]):
    def __init__(self, pixels: StoredPixels, size: int) -> None:
        self.pixels, self.size = pixels, size

    def __len__(self) -> int:
        return max(1, -(-len(self.pixels) // self.size))  # of no images a tensor gives one empty batch

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index] * self.size
        return self.pixels[place : place + self.size]


Pixels = Tensor | StoredPixels


def byte_blocks(pixels: Pixels) -> Iterator[memoryview]:
    """The bytes of all images in their order, in pieces: what a checksum is taken of."""
    for block in (pixels,) if isinstance(pixels, Tensor) else pixels.blocks():
        yield block.cpu().contiguous().numpy().data


def digests_of(pixels: Pixels) -> Iterator[memoryview]:
    """The SHA-256 of each image in a file, for a checksum that needs no pixel."""
    assert isinstance(pixels, StoredPixels)
    yield np.ascontiguousarray(pixels.digests).data


@dataclass(frozen=True)
class Notes:
    """A small file of what takes a pass over a data set to find out: a line each, which bears its own checksum."""

    path: Path

    def read(self, key: str) -> str | None:
        """What is noted under `key`; None where nothing is, or it is damaged."""
        with suppress(OSError):
            lines = (line.split() for line in self.path.read_bytes().decode(errors="replace").splitlines())
            return next(
                (line[1] for line in lines if len(line) == 3 and line[0] == key and line == _noted(*line[:2])), None
            )
        return None

    def write(self, key: str, value: str) -> None:
        """Note it, unless the folder cannot be written: it is found out again then."""
        with suppress(OSError), self.path.open("ab") as file:
            file.write(f"{' '.join(_noted(key, value))}\n".encode())


def _noted(key: str, value: str) -> list[str]:
    return [key, value, f"{zlib.crc32(f'{key} {value}'.encode()):08x}"]
