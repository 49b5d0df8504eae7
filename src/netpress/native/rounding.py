"""The compiled passes of rounding.h, on tensors: values as whole numbers of a grid, and the gradient back."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from netpress.native.library import library

_WORTH_A_THREAD = 1 << 18
"""Values for which waking one more thread is worth it."""

_PIECE = 1 << 14
"""As PIECE in rounding.h."""


class _Rounding(ctypes.Structure):
    """`struct rounding` of rounding.h."""

    _fields_ = (
        *((name, ctypes.c_long) for name in ("count", "threads")),
        *((name, ctypes.c_float) for name in ("scale", "low", "high")),
        *((name, ctypes.c_void_p) for name in ("x", "gradient", "out", "sums")),
    )


def round_values(x: Tensor, scale: float, low: int, high: int) -> Tensor:
    """clamp(round(x / scale), low, high), half to even, laid out as x.

    x: float32 on the CPU, without gaps. scale: of at most 11 significant bits, as stored ones are. NaN stays NaN; an
    infinity becomes it or the end of the range.
    """
    out = torch.empty_like(x)
    _run(0, x, None, out, None, scale, low, high)
    return out


def round_backward(
    gradient: Tensor, x: Tensor, scale: float, low: int, high: int, with_sum: bool
) -> tuple[Tensor, float | None]:
    """The gradient for x: that of the whole numbers / scale, inside the range; with_sum: then the sum of it times x.

    gradient: as x. The sum is the same for any number of threads.
    """
    gradient = gradient if gradient.stride() == x.stride() else torch.empty_like(x).copy_(gradient)
    out = torch.empty_like(x)
    sums = torch.empty(-(-x.numel() // _PIECE), dtype=torch.float64) if with_sum else None
    _run(1, x, gradient, out, sums, scale, low, high)
    return out, None if sums is None else float(sums.sum())


def _run(
    number: int,
    x: Tensor,
    gradient: Tensor | None,
    out: Tensor,
    sums: Tensor | None,
    scale: float,
    low: int,
    high: int,
) -> None:
    loaded, lanes = _kernels()
    if x.dtype != torch.float32 or out.stride() != x.stride():
        raise ValueError(f"values must be dense float32, not {x.dtype} with strides {x.stride()}")
    count = x.numel()
    threads = max(1, min(torch.get_num_threads(), count // _WORTH_A_THREAD))
    pointers = (None if tensor is None else tensor.data_ptr() for tensor in (x, gradient, out, sums))
    loaded.netpress_rounding(number, lanes, ctypes.byref(_Rounding(count, threads, scale, low, high, *pointers)))


@cache
def _kernels() -> tuple[ctypes.CDLL, int]:
    loaded = library()
    assert loaded is not None, "asked for where there are no kernels"
    loaded.netpress_rounding.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Rounding)]
    loaded.netpress_rounding.restype = None
    return loaded, loaded.netpress_lanes()
