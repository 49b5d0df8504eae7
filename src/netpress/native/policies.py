"""The compiled kernel for augmentation policies: all drawn steps of a batch, image by image (policies.c)."""

import ctypes
from collections.abc import Callable
from enum import IntEnum
from functools import cache

import numpy as np
import torch
from torch import Tensor

from netpress.native.library import library

_THREAD_BYTES = 64 << 10  # of images, for which waking one more thread is worth it
_LARGEST = 2**31 - 1  # pixels of an image's channels together: places are int32
_NO_MEMORY, _WRONG_ENTRY = 1, 2


def available() -> bool:
    """Whether there is a compiled library with this kernel (one built from older sources may lack it)."""
    return _function(library()) is not None


class Work(IntEnum):
    """What the kernel can do to an image."""

    MOVE = 0
    """Take every pixel from another place, black from outside."""
    LOOK_UP = 1
    """Replace every value by what a table given with the step says."""
    CONTRAST = 2
    """Away from the mean of the grey image by the step's factor."""
    STRETCH = 3
    """In each channel, make the lowest value 0 and the highest 255."""
    EQUALIZE = 4
    """In each channel, spread the values evenly."""
    COLOUR = 5
    """Away from the grey image by the step's factor."""
    SHARPEN = 6
    """Away from the smoothed image by the step's factor."""
    FILL = 7
    """Paint a square."""


class _Table(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("works", "rows", "factors", "sides", "coefficients", "tables")),
    )


class Steps:
    """Steps as the kernel reads them; made once for a set of policies and a size of images.

    works, rows: int64 [steps], a `Work` each, and which of `coefficients` a MOVE takes, of `tables` a LOOK_UP.
    factors: float32 [steps], of CONTRAST, COLOUR and SHARPEN. sides: float64 [steps], pixels, of FILL.
    coefficients: int32 [moves, 6] in 1/65536: a pixel comes from column c0 x + c1 y + c2, row c3 x + c4 y + c5.
    tables: uint8 [look-ups, 256]. Raises ValueError for a row that is not there.
    """

    def __init__(
        self,
        works: np.ndarray,
        rows: np.ndarray,
        factors: np.ndarray,
        sides: np.ndarray,
        coefficients: np.ndarray,
        tables: np.ndarray,
    ) -> None:
        if not works.shape == rows.shape == factors.shape == sides.shape == (len(works),):
            raise ValueError("works, rows, factors and sides: one for each step")
        if coefficients.shape[1:] != (6,) or tables.shape[1:] != (256,):
            raise ValueError("coefficients are [moves, 6] and tables [look-ups, 256]")
        if not np.isin(works, list(Work)).all():
            raise ValueError("works: the numbers of Work")
        for work, there in ((Work.MOVE, len(coefficients)), (Work.LOOK_UP, len(tables))):
            asked = rows[works == work]
            if ((asked < 0) | (asked >= there)).any():
                raise ValueError(f"rows: {work.name} has {there}")
        # Kept, as the kernel has only their addresses.
        self._arrays = [
            np.ascontiguousarray(array, dtype)
            for array, dtype in (
                (works, np.int64),
                (rows, np.int64),
                (factors, np.float32),
                (sides, np.float64),
                (coefficients, np.int32),
                (tables, np.uint8),
            )
        ]
        self.table = _Table(len(works), *(array.ctypes.data for array in self._arrays))

    def __len__(self) -> int:
        return int(self.table.count)


def run_policies(
    images: Tensor, steps: Steps, taken: np.ndarray, chosen: np.ndarray, centres: np.ndarray, colour: np.ndarray
) -> None:
    """Change images in place: image `taken[i]` by step `chosen[i]`, in the order of `i` for each image.

    images: uint8 [batch, 1 or 3 channels, height, width], contiguous, on the CPU. taken, chosen: int64 [entries].
    centres: float64 [entries, 2], where a FILL's square lies (x, y as shares of the image's sides); colour: uint8
    [channels], its values.
    As many threads work as torch has. Needs the library (`available`). Raises
    ValueError for images and arrays of other kinds, IndexError for an image or a step that is not there, MemoryError.
    """
    run = _function(library())
    if run is None:
        raise RuntimeError("run_policies needs the compiled library")
    if images.dtype != torch.uint8 or images.device.type != "cpu" or not images.is_contiguous() or images.dim() != 4:
        raise ValueError("images: uint8 [batch, channels, height, width], contiguous, on the CPU")
    batch, channels, height, width = images.shape
    if channels not in (1, 3) or channels * (height * width + 1) > _LARGEST:
        raise ValueError(f"images of {channels} x {height} x {width}: 1 or 3 channels, at most {_LARGEST} values")
    entries = len(taken)
    if taken.shape != (entries,) or chosen.shape != (entries,) or centres.shape != (entries, 2):
        raise ValueError("taken and chosen are [entries], centres [entries, 2]")
    if colour.shape != (channels,) or colour.dtype != np.uint8:
        raise ValueError(f"colour: uint8, one value for each of {channels} channels")
    if not entries or not images.numel():
        return
    taken, chosen = np.ascontiguousarray(taken, np.int64), np.ascontiguousarray(chosen, np.int64)
    centres, colour = np.ascontiguousarray(centres, np.float64), np.ascontiguousarray(colour)
    outcome = run(
        images.data_ptr(),
        batch,
        channels,
        height,
        width,
        steps.table,
        entries,
        taken.ctypes.data,
        chosen.ctypes.data,
        centres.ctypes.data,
        colour.ctypes.data,
        max(1, min(torch.get_num_threads(), images.numel() // _THREAD_BYTES)),
    )
    if outcome == _NO_MEMORY:
        raise MemoryError(f"no memory to augment {batch} images of {channels} x {height} x {width}")
    if outcome == _WRONG_ENTRY:
        raise IndexError(f"entries name images below {batch} and steps below {len(steps)}")


@cache
def _function(loaded: ctypes.CDLL | None) -> Callable[..., int] | None:
    function = getattr(loaded, "netpress_run_policies", None)
    if function is None:
        return None
    size, address = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [address, *[size] * 4, ctypes.POINTER(_Table), size, *[address] * 4, ctypes.c_int]
    function.restype = ctypes.c_int
    return function
