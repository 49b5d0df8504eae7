"""Walking a program: each operation calculates its output from the buffers that it reads.

    program = lower(network)
    sums = layer_sums(network.module)
    logits = execute(program, images, sums)
    sums["stem.conv"].largest            # the largest accumulator met

Depthwise convolutions sum in int32. Other sums hold their integers in float64, which is as exact in whatever order sums
below 2**53 are made, and many times faster than torch's integers. No library's convolution is called for them
(`netpress.numerics.sums`). What works on floats calls the functions that torch's modules call, so that a program and
its network agree to the last bit.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from netpress.errors import Failure
from netpress.numerics.claims import LayerSums
from netpress.numerics.fixed_point import HIGH, LOW, saturate
from netpress.numerics.formats import Float16
from netpress.numerics.rounding import quantize
from netpress.numerics.sums import Window, convolution_sums, linear_sums
from netpress.program.integers import Saturating
from netpress.program.operations import (
    Activation,
    AdaptivePool,
    Add,
    AveragePool,
    BatchNorm,
    Cast,
    Concatenate,
    Convolution,
    FloatConvolution,
    FloatLinear,
    IntegerSums,
    Linear,
    MaximumPool,
    Mean,
    Multiply,
    Operation,
    Pad,
    Permute,
    Program,
    Quantize,
    Rescale,
    Reshape,
    UnitLength,
)

ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
    "hardtanh": functional.hardtanh,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "clamp": torch.clamp,
}


def execute(
    program: Program,
    images: Tensor,
    sums: Mapping[str, LayerSums] | None = None,
    saturated: Counter[str] | None = None,
) -> Tensor:
    """The program's output for normalised `images` [batch, channels, height, width]: logits [batch, classes].

    `sums` by layer keep the largest accumulators met. `saturated` counts, by the name of the operation, the values that
    16 bits did not hold. Raises Failure where sums are given and an input is NaN.
    """
    values = {program.input: images}
    for operation, ended in zip(program.operations, program.last_reads, strict=True):
        values[operation.output] = run(operation, [values[name] for name in operation.inputs], sums, saturated)
        for name in ended:
            del values[name]
    return values[program.output]


def run(
    operation: Operation,
    inputs: list[Tensor],
    sums: Mapping[str, LayerSums] | None = None,
    saturated: Counter[str] | None = None,
) -> Tensor:
    """What one operation makes of the values that it reads, [batch, ...] each. Records and raises as `execute`."""
    output = calculate(operation, *inputs)
    if isinstance(operation, Saturating):
        return _saturated(operation.name, output, saturated)
    if sums is not None and isinstance(operation, IntegerSums) and output.numel():
        record = sums[operation.layer]
        lowest, highest = _in_memory_order(output).aminmax()
        if bool(lowest.isnan()):
            raise Failure(f"{operation.layer}: what enters it is NaN: values grow beyond what their numbers hold")
        record.largest = max(record.largest, -int(lowest), int(highest))
    return output


def _saturated(name: str, values: Tensor, counts: Counter[str] | None) -> Tensor:
    """The values clamped to 16 bits, as int32; those that this changes are counted."""
    if not values.numel():
        return values.int()
    lowest, highest = (int(end) for end in _in_memory_order(values).aminmax())
    if lowest >= LOW and highest <= HIGH:
        return values.int()
    clamped = saturate(values)
    if counts is not None:
        counts[name] += int((values != clamped).sum())
    return clamped


def _in_memory_order(tensor: Tensor) -> Tensor:
    """The same values, dimensions in the order in which they lie in memory: reductions then copy nothing."""
    strides = tensor.stride()
    return tensor.permute(sorted(range(tensor.dim()), key=lambda place: -strides[place]))


@singledispatch
def calculate(operation: Operation, *inputs: Tensor) -> Tensor:
    """One function for each kind of operation."""
    raise TypeError(f"{operation.name}: nothing executes a {operation.kind}")


@calculate.register
def _(operation: Quantize, x: Tensor) -> Tensor:
    return quantize(x.float(), operation.format, operation.scale, operation.zero_point)


@calculate.register
def _(operation: Cast, x: Tensor) -> Tensor:
    return x.half().float() if isinstance(operation.format, Float16) else x.float()


@calculate.register
def _(operation: Rescale, x: Tensor) -> Tensor:
    return operation.constants.apply(x)


@calculate.register
def _(operation: Convolution, x: Tensor) -> Tensor:
    largest = max(-operation.lowest, operation.highest)
    return convolution_sums(x, operation.weight, operation.window, largest, operation.padding_value)


@calculate.register
def _(operation: Linear, x: Tensor) -> Tensor:
    return linear_sums(x, operation.weight)


@calculate.register
def _(operation: FloatConvolution, x: Tensor) -> Tensor:
    x, padding = _pad_unevenly(x, operation.window)
    window = operation.window
    return functional.conv2d(
        x, operation.weight, operation.bias, window.stride, padding, window.dilation, window.groups
    )


def _pad_unevenly(x: Tensor, window: Window) -> tuple[Tensor, tuple[int, int]]:
    """What one side is padded more than the other is added here, as torch does; the rest is left to the convolution."""
    left, right, top, bottom = window.padding
    both = min(top, bottom), min(left, right)
    rest = (left - both[1], right - both[1], top - both[0], bottom - both[0])
    return functional.pad(x, rest) if any(rest) else x, both


@calculate.register
def _(operation: FloatLinear, x: Tensor) -> Tensor:
    return functional.linear(x, operation.weight, operation.bias)


@calculate.register
def _(operation: Activation, x: Tensor) -> Tensor:
    arguments: dict[str, Any] = dict(operation.arguments)
    return ACTIVATIONS[operation.function](x, **arguments)


@calculate.register
def _(operation: Add, x: Tensor, *other: Tensor) -> Tensor:
    return x + _other(operation, *other)


@calculate.register
def _(operation: Multiply, x: Tensor, *other: Tensor) -> Tensor:
    return x * _other(operation, *other)


def _other(operation: Add | Multiply, *other: Tensor) -> Tensor | float:
    """What meets the first buffer: the second one, or the constant."""
    if other:
        return other[0]
    assert operation.constant is not None
    return operation.constant


@calculate.register
def _(operation: BatchNorm, x: Tensor) -> Tensor:
    statistics = (operation.mean, operation.variance, operation.weight, operation.bias)
    return functional.batch_norm(x, *statistics, training=False, eps=operation.epsilon)


@calculate.register
def _(operation: UnitLength, x: Tensor) -> Tensor:
    return functional.normalize(x, dim=operation.axis, eps=operation.epsilon)


@calculate.register
def _(operation: AveragePool, x: Tensor) -> Tensor:
    places = (operation.kernel, operation.stride, operation.padding)
    return functional.avg_pool2d(x, *places, operation.ceil_mode, operation.counts_padding)


@calculate.register
def _(operation: MaximumPool, x: Tensor) -> Tensor:
    places = (operation.kernel, operation.stride, operation.padding, operation.dilation)
    return functional.max_pool2d(x, *places, operation.ceil_mode)


@calculate.register
def _(operation: AdaptivePool, x: Tensor) -> Tensor:
    return functional.adaptive_avg_pool2d(x, operation.size)  # type: ignore[arg-type]


@calculate.register
def _(operation: Mean, x: Tensor) -> Tensor:
    return x.mean(operation.axes, operation.keeps_axes)


@calculate.register
def _(operation: Concatenate, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, operation.axis)


@calculate.register
def _(operation: Pad, x: Tensor) -> Tensor:
    return functional.pad(x, operation.widths, value=operation.value)


@calculate.register
def _(operation: Reshape, x: Tensor) -> Tensor:
    return x.reshape(len(x), *operation.shape)


@calculate.register
def _(operation: Permute, x: Tensor) -> Tensor:
    return x.permute(operation.order)
