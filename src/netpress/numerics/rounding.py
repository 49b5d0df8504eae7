"""Rounding to integers in the forward pass, straight through in the backward pass.

A value x becomes the integer q = clamp(round(x / scale) + zero_point, low, high), rounded half to even.

The gradients are those of learned step size quantization (LSQ, Esser et al. 2020, equations 2 and 3). The gradient of x
passes where q is inside the range. The scale learns from the rounding error inside the range, and from the range's end
outside.
"""

import math
from typing import Any

import torch
from torch import Tensor

from netpress.numerics.formats import AnyFormat, Binary, Float16, GridFormat, Integer, integer_range
from netpress.numerics.grid import along_channels, find_grid, round_scales


class _Quantize(torch.autograd.Function):
    """x -> integers (as floats) with the gradient of x / scale inside the range, 0 outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor | None, low: int, high: int) -> Tensor:
        integers = torch.div(x, scale).round_()
        if shift is not None:
            integers += shift
        if not any(ctx.needs_input_grad):
            return integers.clamp_(low, high)
        clamped = integers.clamp(low, high)
        # One comparison; only a scale that learns needs x again.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, scale, clamped == integers)
        return clamped

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, inside = ctx.saved_tensors
        passed = (gradients[0] / scale).mul_(inside)
        for_scale = None
        if ctx.needs_input_grad[1]:
            for_scale = -(passed * x / scale).sum_to_size(scale.shape)
        return passed if ctx.needs_input_grad[0] else None, for_scale, None, None, None


class _Sign(torch.autograd.Function):
    """x -> -1, 0, +1; the gradient of x / scale where |x| <= 1 (BinaryConnect, Courbariaux et al. 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        return gradients[0] * (x.abs() <= 1) / scale, None


class _SlowGradient(torch.autograd.Function):
    """The value itself; its gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0] * ctx.factor, None


def quantize(x: Tensor, format: GridFormat, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """The stored integers of x, as floats of x's shape, differentiable straight through.

    scale: [] or [channels] (dimension 0 of x). Binary takes the sign alone; an exact 0, which only a mask makes,
    stays 0. `dequantize` gives the values back.
    """
    steps = along_channels(scale, x)
    if isinstance(format, Binary):
        return _Sign.apply(x, steps)
    shift = None if zero_point is None else along_channels(zero_point.to(x.dtype), x)
    return _Quantize.apply(x, steps, shift, *integer_range(format))


def dequantize(integers: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """(integers - zero_point) * scale, in float32: exact for scales of `round_scale`."""
    if zero_point is not None:
        integers = integers - along_channels(zero_point.to(integers.dtype), integers)
    return integers * along_channels(scale, integers)


def scale_gradient(scale: Tensor, count: int, format: GridFormat) -> Tensor:
    """The scale itself, its gradient multiplied by LSQ's 1 / sqrt(count * high) (section 2.2).

    count: values that one scale serves. Without it a scale, on which a whole layer pulls, would move much further
    than the weights.
    """
    return _SlowGradient.apply(scale, 1 / math.sqrt(max(1, count) * max(1, integer_range(format)[1])))


def snap(tensor: Tensor, format: AnyFormat, scale: Tensor | None = None, zero_point: Tensor | None = None) -> Tensor:
    """The tensor with every value replaced by the nearest one that the format can store, as float32."""
    tensor = tensor.detach()
    if isinstance(format, Float16):
        return tensor.half().float()
    if isinstance(format, Integer) and format.scale == "none":
        low, high = integer_range(format)
        return tensor.round().clamp(low, high)
    if isinstance(format, GridFormat):
        if scale is None:
            scale, zero_point = find_grid(tensor, format)
        return dequantize(quantize(tensor, format, scale, zero_point), scale, zero_point)
    return tensor


def pass_through(rounded: Tensor, original: Tensor) -> Tensor:
    """`rounded` forward, the gradient of `original` backward."""
    return original + (rounded - original).detach()


def stored_scale(scale: Tensor, format: GridFormat) -> Tensor:
    """A learned scale as it will be stored, straight through: what trains is what ships."""
    return pass_through(round_scales(scale.detach(), format), scale)
