"""What integer operations calculate, plainly: the reference that every other execution equals bit for bit."""

import torch
from torch import Tensor
from torch.nn import functional

from netpress.numerics.fixed_point import HIGH, LOW, rescale, saturate
from netpress.program.execution import calculate
from netpress.program.integers import (
    Clamp,
    Curve,
    HardGate,
    IntegerAdd,
    IntegerMean,
    IntegerMultiply,
    IntegerPool,
    IntegerUnitLength,
    LeakyRelu,
    Pixels,
    Requantize,
    Restore,
    Scale,
    Shift,
)


@calculate.register
def _(operation: Pixels, x: Tensor) -> Tensor:
    shape = (-1, *[1] * (x.dim() - 2))
    mean, std = (torch.tensor(values, device=x.device).view(shape) for values in (operation.mean, operation.std))
    pixels = ((x * std + mean) * 255).round_().clamp_(0, 255).long()
    channels = torch.arange(len(operation.table), device=x.device).view(shape)
    return operation.table.take(pixels + 256 * channels)


@calculate.register
def _(operation: Requantize, x: Tensor) -> Tensor:
    values = _scaled(x, operation.multiplier, operation.amount)
    return values.add_(operation.zero_point).clamp_(operation.low, operation.high)


def _scaled(x: Tensor, multiplier: int, amount: int) -> Tensor:
    """S(R(x, multiplier), amount); for a shift to the left R(S(x, amount), multiplier)."""
    if amount < 0:
        return rescale(_shift(x, amount), multiplier)
    return _shift(rescale(x, multiplier), amount)


def _shift(x: Tensor, amount: int) -> Tensor:
    """S of values of 16 bits, or of sums which it brings to 16 bits, saturated."""
    if amount > 0:
        return (x + (1 << (amount - 1))).bitwise_right_shift_(amount)
    return (x << -amount).clamp_(LOW, HIGH) if amount else x


@calculate.register
def _(operation: Shift, x: Tensor) -> Tensor:
    """Not yet saturated; before a shift to the left what is beyond 16 bits is made the next number beyond."""
    right, half, left = operation.steps
    shifted = (x.to(right.dtype) + half).bitwise_right_shift_(right)
    return shifted if left is None else shifted.clamp_(LOW - 1, HIGH + 1).bitwise_left_shift_(left)


@calculate.register
def _(operation: Scale, x: Tensor) -> Tensor:
    return rescale(x, operation.multiplier).add_(operation.bias)


@calculate.register
def _(operation: IntegerAdd, x: Tensor, *other: Tensor) -> Tensor:
    second = other[0] if other else operation.constant
    assert second is not None
    return x + second


@calculate.register
def _(operation: IntegerMultiply, x: Tensor, other: Tensor) -> Tensor:
    return rescale(x, other)


@calculate.register
def _(operation: Clamp, x: Tensor) -> Tensor:
    return x.clamp(operation.low, operation.high)


@calculate.register
def _(operation: LeakyRelu, x: Tensor) -> Tensor:
    return torch.where(x < 0, rescale(x, operation.multiplier), x)


@calculate.register
def _(operation: HardGate, x: Tensor) -> Tensor:
    return _scaled(x, operation.multiplier, operation.amount).add_(1 << 14).clamp_(0, HIGH)


@calculate.register
def _(operation: Curve, x: Tensor) -> Tensor:
    place = _shift(x, operation.amount) - LOW
    index, fraction = place >> 8, place & 255
    first = operation.table.take(index.long())
    step = operation.table.take(index.long() + 1) - first
    return first + ((step * fraction + 128) >> 8)


@calculate.register
def _(operation: IntegerPool, x: Tensor) -> Tensor:
    # Sums of whole numbers below 2**53: exact in float64.
    sums = functional.avg_pool2d(
        x.double(), operation.kernel, operation.stride, operation.padding, operation.ceil_mode, divisor_override=1
    )
    return _mean(sums.int(), operation)


@calculate.register
def _(operation: IntegerMean, x: Tensor) -> Tensor:
    return _mean(x.sum(operation.axes, keepdim=operation.keeps_axes, dtype=torch.int32), operation)


def _mean(sums: Tensor, operation: IntegerPool | IntegerMean) -> Tensor:
    rounded = _shift(sums, operation.amount)
    return saturate(rounded + rescale(rounded, operation.multiplier))


@calculate.register
def _(operation: IntegerUnitLength, x: Tensor) -> Tensor:
    x = x.long()
    squares = x.square().sum(operation.axis, keepdim=True)
    _, length = torch.frexp(squares.double())  # bits of the sum
    exponent = torch.where(squares == 0, 0, (62 - length.long()) >> 1)
    scaled = squares << (2 * exponent)
    root = scaled.double().sqrt().floor().long()
    root = root - (root * root > scaled).long()
    root = root + ((root + 1) * (root + 1) <= scaled).long()
    root = root.clamp(min=1)
    wide = (x << (15 + exponent)) + (root >> 1)
    return saturate(torch.div(wide, root, rounding_mode="floor"))


@calculate.register
def _(operation: Restore, x: Tensor) -> Tensor:
    return x.float() * operation.scale
