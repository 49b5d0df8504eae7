"""Sums of products of whole numbers that are exact on every machine, and whether a machine's float sums are.

A float sum of whole numbers is exact, in any order of adding, while every partial sum stays below 2**24 (float32) or
2**53 (float64). But some libraries' convolutions do not sum these products. Winograd's and Fourier's methods sum other
numbers, which round; TF32 and bfloat16 are narrower inside. Torch takes such a method where oneDNN is off or missing
(NNPACK: sums near a million are off by 6) and, unless told otherwise, on GPUs.

So `convolution_sums` calls no library's convolution: it multiplies matrices, tap by tap. The simulation wants the speed
of float32, and asks `floats_sum_exactly` first.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import _disable_current_modes

_PROBED = 64  # channels and, of 8 x 8 pixels, images: libraries take other ways with many than with few


@dataclass(frozen=True)
class Window:
    """Which inputs a convolution's kernel meets."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Places added on the left, right, top and bottom."""
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Self:
        """The window of a layer of torch's."""
        left, right, top, bottom = layer._reversed_padding_repeated_twice
        (rows, columns), dilation = layer.stride, layer.dilation
        return cls((rows, columns), (left, right, top, bottom), (dilation[0], dilation[1]), layer.groups)


def linear_sums(values: Tensor, weight: Tensor) -> Tensor:
    """[..., inputs] and [outputs, inputs] -> [..., outputs] in float64."""
    rows = values.double().reshape(-1, weight.shape[1])
    total = rows.new_zeros(len(rows), len(weight))
    _add_products(total, rows, weight.double())
    return total.view(*values.shape[:-1], len(weight))


def _add_products(total: Tensor, rows: Tensor, matrix: Tensor) -> None:
    """Add rows [count, inputs] times the transpose of matrix [outputs, inputs] to total [count, outputs]."""
    if _matrices_sum_exactly(total.device.type, total.dtype, _settings()):
        total.addmm_(rows, matrix.t())
    else:  # torch multiplies matrices of whole numbers on CPUs alone, and slowly
        total.add_((rows.cpu().long() @ matrix.cpu().long().t()).to(total.device))


def convolution_sums(values: Tensor, weight: Tensor, window: Window, largest: int, zero: float = 0.0) -> Tensor:
    """A convolution of `values` [batch, inputs, height, width], padded with `zero`.

    weight: [outputs, inputs / groups, rows, columns]. No partial sum may be greater than `largest`, below 2**53.
    [batch, outputs, ...] in float64, or in float32 where that holds `largest`; channels last where one of both was.
    """
    # A library's memory layout: what follows (a pool) adds in the order of memory, and floats notice.
    last = any(x.is_contiguous(memory_format=torch.channels_last) for x in (values, weight))
    if any(window.padding):
        values = functional.pad(values, window.padding, value=zero)
    if window.groups == values.shape[1] and window.groups > 1:
        sums = _depthwise(values, weight, window, largest)
    else:
        sums = _grouped(values, weight, window, largest)
    return sums.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _grouped(values: Tensor, weight: Tensor, window: Window, largest: int) -> Tensor:
    """A product of matrices a tap and group, added up in float64, or in float32 where that is exact too.

    The values hold their padding already.
    """
    taps, (height, width) = _taps(values, weight, window)
    narrow = largest < 2**24 and _matrices_sum_exactly(values.device.type, torch.float32, _settings())
    dtype = torch.float32 if narrow else torch.float64
    values = values.to(dtype).permute(0, 2, 3, 1).contiguous()  # channels last: a tap's inputs are the rows of a matrix
    shape = (len(values), height, width, len(weight) // window.groups)
    pieces = values.tensor_split(window.groups, dim=3)
    parts = []
    for piece, matrices in zip(pieces, weight.to(dtype).tensor_split(window.groups), strict=True):
        total = values.new_zeros(len(values) * height * width, len(matrices))
        for row, column, rows, columns in taps:
            inputs = piece[:, rows, columns].reshape(-1, matrices.shape[1])
            _add_products(total, inputs, matrices[:, :, row, column])
        parts.append(total.view(shape))
    return torch.cat(parts, dim=3).permute(0, 3, 1, 2) if len(parts) > 1 else parts[0].permute(0, 3, 1, 2)


def _depthwise(values: Tensor, weight: Tensor, window: Window, largest: int) -> Tensor:
    """One shifted product a tap: many times faster than matrices of one column.

    In int32 where no sum can overflow that, else in float64.
    """
    dtype = torch.int32 if largest < 2**31 else torch.float64
    # Channels last, so that a tap's products are a few long stretches of memory.
    values = values.to(dtype).contiguous(memory_format=torch.channels_last)
    weight = weight.to(dtype)
    multiplier = len(weight) // values.shape[1]
    values = values.repeat_interleave(multiplier, dim=1) if multiplier > 1 else values
    taps, (height, width) = _taps(values, weight, window)
    total = values.new_zeros(len(values), height, width, len(weight)).permute(0, 3, 1, 2)
    for row, column, rows, columns in taps:
        total.addcmul_(values[:, :, rows, columns], weight[:, 0, row, column].reshape(-1, 1, 1))
    return total.float() if largest < 2**24 else total.double()  # exact either way


Tap = tuple[int, int, slice, slice]
"""Row and column in the kernel; the rows and the columns of the padded input that it meets."""


def _taps(values: Tensor, weight: Tensor, window: Window) -> tuple[list[Tap], tuple[int, int]]:
    """Every tap of the kernel, and height and width of the result."""
    (down, right), (row_step, column_step) = window.stride, window.dilation
    height = (values.shape[2] - row_step * (weight.shape[2] - 1) - 1) // down + 1
    width = (values.shape[3] - column_step * (weight.shape[3] - 1) - 1) // right + 1
    reach = ((height - 1) * down + 1, (width - 1) * right + 1)
    taps = [
        (
            row,
            column,
            slice(row * row_step, row * row_step + reach[0], down),
            slice(column * column_step, column * column_step + reach[1], right),
        )
        for row in range(weight.shape[2])
        for column in range(weight.shape[3])
    ]
    return taps, (height, width)


def floats_sum_exactly(device: torch.device) -> bool:
    """Whether float32 convolutions and linear layers on `device` sum whole numbers exactly, as torch is set now.

    Tried once a process for each setting that chooses the library, in a few hundredths of a second.
    """
    if device.type == "meta" or torch.compiler.is_compiling():
        return True  # nothing is summed
    return _floats_sum_exactly(device.type, _settings())


def _settings() -> tuple[Any, ...]:
    """What decides how torch sums, besides the machine and the process's environment."""
    return (
        torch.backends.mkldnn.enabled,
        torch._C._get_nnpack_enabled(),
        torch.get_float32_matmul_precision(),
        torch._C._get_fp32_precision_getter("mkldnn", "conv"),
        torch.backends.cudnn.enabled,
        torch.backends.cudnn.allow_tf32,
        torch.get_num_threads(),
    )


@cache
def _floats_sum_exactly(device: str, settings: tuple[Any, ...]) -> bool:
    count = _PROBED
    with torch.no_grad(), _disable_current_modes():  # who counts or fakes operations does not see the trial
        # 12 bits, more than narrower floats hold; the largest sum that could be, 25 * 64 * 4095 * 2, is below 2**24.
        values = _whole(0, 4096, (count, count, 8, 8))
        for kernel, stride, groups in ((1, 1, 1), (3, 1, 1), (3, 2, 1), (5, 1, 1), (3, 1, 2), (3, 1, count)):
            weight = _whole(-2, 3, (count, count // groups, kernel, kernel))
            window = Window(stride=(stride, stride), groups=groups)
            expected = convolution_sums(values, weight, window, largest=2**24 - 1)
            for layout in (torch.contiguous_format, torch.channels_last):
                laid = (values.float().to(device, memory_format=layout), weight.float().to(device))
                summed = functional.conv2d(*laid, None, stride, 0, 1, groups)
                if not torch.equal(summed.cpu().double(), expected.double()):
                    return False
        rows, weight = values.flatten(2)[..., 0].float(), _whole(-2, 3, (count, count)).float()
        summed = functional.linear(rows.to(device), weight.to(device))
        return torch.equal(summed.cpu().double(), linear_sums(rows, weight))


@cache
def _matrices_sum_exactly(device: str, dtype: torch.dtype, settings: tuple[Any, ...]) -> bool:
    """Whether products of matrices on such a device are exact sums as torch is set, against torch's whole numbers.

    dtype: float64, or float32, whose sums are tried below 2**24 with values that narrower floats do not hold.
    """
    shapes = (96, 576), (80, 576)
    narrow = dtype == torch.float32
    bounds = ((0, 4096), (-2, 3)) if narrow else ((-(2**15), 2**15),) * 2
    with torch.no_grad(), _disable_current_modes():
        values, weight = (_whole(*ends, shape) for ends, shape in zip(bounds, shapes, strict=True))
        summed = torch.zeros(len(values), len(weight), dtype=dtype, device=device)
        summed.addmm_(values.to(dtype).to(device), weight.to(dtype).to(device).t())
        return torch.equal(summed.cpu().long(), values @ weight.t())


def _whole(low: int, high: int, shape: tuple[int, ...]) -> Tensor:
    """Whole numbers low ... high - 1, int64, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(low, high, shape, generator=generator, device="cpu")
