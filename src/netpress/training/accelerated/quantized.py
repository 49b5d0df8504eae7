"""Quantized layers in training on a CPU: rounding in one compiled pass, and scales that cost no pass at all.

    y = (sum of w * q) * (s * s_w) + bias     =     sum of (w * s * s_w) * q + bias

A layer by itself multiplies each sum, and its backward pass sums up what that means for the scales, over all pixels.
Here the scales are in the weights, of which there are few. What the zero point adds is left out on both sides:
q is less it. The results are those of the layer up to float32's rounding; the integers are the same.

Where the arithmetic is that of 16-bit integers, sums saturate and are rounded before they are floats again: there, only
the rounding of inputs is compiled.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from netpress.native.library import available
from netpress.native.rounding import round_backward, round_values
from netpress.numerics.formats import Fixed, Integer, Ternary, integer_range
from netpress.numerics.grid import along_channels
from netpress.numerics.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear
from netpress.training.accelerated.conditions import is_plain
from netpress.training.accelerated.plain import Swapped


class AcceleratedQuantizedConv2d(Swapped, QuantizedConv2d):
    """A quantized convolution whose rounding is compiled, where `is_known` says that it can be."""

    plain_class = QuantizedConv2d

    def forward(self, x: Tensor) -> Tensor:
        return _compute(self, x) if is_known(self, x) else super().forward(x)


class AcceleratedQuantizedLinear(Swapped, QuantizedLinear):
    """A quantized linear layer whose rounding is compiled, where `is_known` says that it can be."""

    plain_class = QuantizedLinear

    def forward(self, x: Tensor) -> Tensor:
        return _compute(self, x) if is_known(self, x) else super().forward(x)


def is_known(layer: QuantizedLayer, x: Tensor) -> bool:
    """Whether the layer computes with integers on grids, in training."""
    return (
        layer.training
        and is_plain(x)
        and available()
        and not layer.plain
        and not layer.unit_rows
        and isinstance(layer.formats.weight, Fixed | Integer | Ternary)
        and isinstance(layer.formats.input, Fixed | Integer)
    )


def centred_range(layer: QuantizedLayer) -> tuple[int, int]:
    """The smallest and the largest integer that enters the layer's sums, less the zero point."""
    low, high = integer_range(layer.formats.input)  # type: ignore[arg-type]
    zero = 0 if layer.input_zero_point is None else int(layer.input_zero_point)
    return low - zero, high - zero


def scaled_weight(layer: QuantizedLayer, of_weight: Tensor, of_input: Tensor) -> Tensor:
    """The layer's rounded weights times both scales, which `QuantizedLayer.scales` gives; differentiable."""
    scaled: Tensor = _ScaledWeight.apply(layer.weight, of_weight, of_input, *integer_range(layer.formats.weight))  # type: ignore[arg-type]
    return scaled


def _compute(layer: QuantizedLayer, x: Tensor) -> Tensor:
    of_weight, of_input = layer.scales(x[0].numel())
    assert of_weight is not None and of_input is not None
    rounded = _Rounded.apply(x, of_input, *centred_range(layer))
    if layer.formats.arithmetic == "integer":  # sums saturate and are rounded: they are needed by themselves
        weight = layer.stored_weight(of_weight)
        return layer.rescaling(weight, (of_weight, of_input), None).apply(layer.sum(rounded, weight, None))
    return layer.sum(rounded, scaled_weight(layer, of_weight, of_input), layer.bias)


class _Rounded(torch.autograd.Function):
    """x -> clamp(round(x / scale)); gradients as those of `netpress.numerics.rounding.quantize`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
            x = x.contiguous()
        ctx.save_for_backward(x)
        ctx.grid = float(scale), low, high
        return round_values(x, *ctx.grid)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        scale, low, high = ctx.grid
        for_x, total = round_backward(gradient, x, scale, low, high, ctx.needs_input_grad[1])
        for_scale = None if total is None else torch.tensor(-total / scale, dtype=torch.float32)
        return for_x if ctx.needs_input_grad[0] else None, for_scale, None, None


class _ScaledWeight(torch.autograd.Function):
    """clamp(round(weight / of_weight)) * of_weight * of_input."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, of_weight: Tensor, of_input: Tensor, low: int, high: int) -> Tensor:
        steps = along_channels(of_weight, weight)
        ratio = weight / steps
        whole = ratio.round()
        integers = whole.clamp(low, high)
        ctx.save_for_backward(ratio, whole, integers, of_weight, of_input)
        return integers * (steps * of_input)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ratio, whole, integers, of_weight, of_input = ctx.saved_tensors
        inside = whole == integers
        by_input = gradient * of_input
        passed = by_input * inside
        for_weight_scale = for_input_scale = None
        if ctx.needs_input_grad[1]:
            each = (by_input * integers).sub_(passed * ratio).flatten(1).sum(1)
            for_weight_scale = each if of_weight.dim() else each.sum()
        if ctx.needs_input_grad[2]:
            for_input_scale = ((gradient * integers).flatten(1).sum(1) * of_weight).sum()
        return passed, for_weight_scale, for_input_scale, None, None
