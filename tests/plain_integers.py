"""The definitions of docs/formats.md, "Integer arithmetic", a second time, in numpy's 64-bit integers without torch.

Each image alone, channels first. What `netpress.program.integer_execution` calculates must be the same integers.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netpress.program import integers as ints
from netpress.program import operations as ops
from netpress.program.operations import Operation, Program

Whole = NDArray[np.int64]


def rescaled(x: Whole, m: Whole | int) -> Whole:
    return (x * m + 2**14) >> 15


def saturated(x: Whole) -> Whole:
    return np.clip(x, -(2**15), 2**15 - 1)


def shifted(x: Whole, n: int) -> Whole:
    return saturated((x + 2 ** (n - 1)) >> n if n > 0 else x * 2**-n)


def answer(program: Program, pixels: NDArray[np.uint8]) -> Whole:
    """The logits of one image, uint8 [channels, height, width], as the integers that `Restore` makes floats of."""
    values: dict[str, Any] = {program.input: pixels}
    for operation in program.operations[:-1]:
        values[operation.output] = apply(operation, [values[name] for name in operation.inputs])
    assert isinstance(program.operations[-1], ints.Restore)
    return values[program.operations[-1].inputs[0]]  # type: ignore[no-any-return]


def apply(operation: Operation, read: list[Whole]) -> Whole:
    x = read[0]
    match operation:
        case ints.Pixels(table=table):
            return np.stack([table.numpy().astype(np.int64)[c][x[c]] for c in range(len(x))])
        case ints.Requantize(multiplier=m, amount=n):
            y = shifted(rescaled(x, m), n) if n >= 0 else rescaled(shifted(x, n), m)
            return np.clip(y + operation.zero_point, operation.low, operation.high)
        case ops.Convolution():
            return convolution(operation, x)
        case ops.Linear(weight=weight):
            return x @ weight.numpy().astype(np.int64).T
        case ints.Shift(amount=amount):
            amounts = np.broadcast_to(amount.numpy(), (len(x), *[1] * (x.ndim - 1))).ravel()
            return np.stack([shifted(part, int(n)) for part, n in zip(x, amounts, strict=True)])
        case ints.Scale(multiplier=multiplier, bias=bias):
            return saturated(rescaled(x, multiplier.numpy().astype(np.int64)) + bias.numpy())
        case ints.IntegerAdd(constant=constant):
            return saturated(x + (read[1] if constant is None else constant.numpy()))
        case ints.IntegerMultiply():
            return saturated(rescaled(x, read[1]))
        case ints.Clamp(low=low, high=high):
            return np.clip(x, low, high)
        case ints.LeakyRelu(multiplier=m):
            return np.where(x < 0, rescaled(x, m), x)
        case ints.HardGate(multiplier=m, amount=n):
            y = shifted(rescaled(x, m), n) if n >= 0 else rescaled(shifted(x, n), m)
            return np.clip(y + 2**14, 0, 2**15 - 1)
        case ints.Curve(table=table, amount=n):
            u = shifted(x, n) + 2**15
            points = table.numpy().astype(np.int64)
            low, high = points[u >> 8], points[(u >> 8) + 1]
            return low + (((high - low) * (u & 255) + 128) >> 8)
        case ints.IntegerPool():
            return windows(operation, x, np.sum)
        case ops.MaximumPool():
            return windows(operation, x, np.max)
        case ints.IntegerMean():
            axes = tuple(axis - 1 for axis in operation.axes)
            count = math.prod(x.shape[axis] for axis in axes)
            return mean(x.sum(axes, keepdims=operation.keeps_axes), count)
        case ints.IntegerUnitLength(axis=axis):
            return np.apply_along_axis(unit_length, axis - 1, x)
        case ops.Concatenate(axis=axis):
            return np.concatenate(read, axis - 1)
        case ops.Pad(widths=widths):
            pairs = [(widths[i], widths[i + 1]) for i in range(0, len(widths), 2)]
            return np.pad(x, [(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1])
        case ops.Reshape(shape=shape):
            return x.reshape(shape)
        case ops.Permute(order=order):
            return x.transpose([axis - 1 for axis in order[1:]])
    raise TypeError(f"{operation.kind}: nothing here calculates it")


def mean(total: Whole, count: int) -> Whole:
    n = math.ceil(math.log2(count))
    t = shifted(total, n)
    return saturated(t + rescaled(t, min(round((2**n / count - 1) * 2**15), 2**15 - 1)))


def unit_length(vector: Whole) -> Whole:
    total, e = sum(int(v) ** 2 for v in vector), 0
    if not total:
        return vector
    while 4**e * total < 2**60:
        e += 1
    root = math.isqrt(4**e * total)
    return saturated(np.array([(int(v) * 2 ** (15 + e) + (root >> 1)) // root for v in vector], dtype=np.int64))


def convolution(operation: ops.Convolution, x: Whole) -> Whole:
    window, weight = operation.window, operation.weight.numpy().astype(np.int64)
    left, right, top, bottom = window.padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=int(operation.padding_value))
    (down, across), (rows, columns) = window.stride, window.dilation
    outputs, inputs, high, wide = weight.shape
    height = (x.shape[1] - rows * (high - 1) - 1) // down + 1
    width = (x.shape[2] - columns * (wide - 1) - 1) // across + 1
    made = np.zeros((outputs, height, width), np.int64)
    for o, row, column in np.ndindex(made.shape):
        first = o // (outputs // window.groups) * inputs
        met = x[first : first + inputs, row * down :, column * across :]
        made[o, row, column] = (
            weight[o] * met[:, : rows * (high - 1) + 1 : rows, : columns * (wide - 1) + 1 : columns]
        ).sum()
    return made


def windows(operation: Any, x: Whole, of: Any) -> Whole:
    (top, left), (high, wide), (down, across) = operation.padding, operation.kernel, operation.stride
    size = []
    for length, border, kernel, step in zip(x.shape[1:], (top, left), (high, wide), (down, across), strict=True):
        count = math.ceil if operation.ceil_mode else math.floor
        size.append(count((length + 2 * border - kernel) / step) + 1)
    padding = 0 if isinstance(operation, ints.IntegerPool) else -(2**20)
    x = np.pad(x, ((0, 0), (top, top + high), (left, left + wide)), constant_values=padding)
    made = np.zeros((len(x), *size), np.int64)
    for c, row, column in np.ndindex(made.shape):
        met = x[c, row * down : row * down + high, column * across : column * across + wide]
        made[c, row, column] = of(met)
    return mean(made, high * wide) if isinstance(operation, ints.IntegerPool) else made
