"""From the program that simulates a network in floats to the program of its integer arithmetic.

Each operation on floats becomes operations on 16-bit integers. The scales of layers and norms are their own
(`output_scale`). All others follow from them: what keeps the range keeps the scale, and what meets in a sum or a
concatenation is brought to the coarsest scale there. `netpress.program.chains` says which values share one.

What no integer operation stands for is refused by name.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import singledispatchmethod
from typing import Any

import torch
from torch import Tensor

from netpress.errors import UserError
from netpress.network import InputSpec
from netpress.numerics.fixed_point import HIGH, LOW, ONE, IntegerRescaling, as_factor, saturate
from netpress.numerics.formats import integer_range
from netpress.program import operations as ops
from netpress.program.curves import CURVES, GATED, table
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
from netpress.program.operations import Buffer, Operation, Program

WIDEST_SUM = 32
LARGEST_WINDOW = 2**16
"""Values whose sum, of 16 bits each, is within 32 bits."""
FREE = '; quantize with arithmetic = "float16", which leaves it in floats'


def to_integers(program: Program, spec: InputSpec) -> Program:
    """The integer program of a network whose layers all have integer arithmetic, given the one in floats.

    Raises UserError, naming the operation, for what has none in integers.
    """
    return _Translation(program, spec).program()


class _Translation:
    """A program in the making. A buffer keeps its name; `fraction` says that its unit is worth 2**-fraction."""

    def __init__(self, source: Program, spec: InputSpec) -> None:
        self.source, self.spec = source, spec
        self.operations: list[Operation] = []
        self.buffers: dict[str, Buffer] = {source.input: source.buffers[source.input]}
        self.fraction: dict[str, int] = {}
        self.names = {source.input: self._pixels()}  # by name in the source: where the integers lie

    def program(self) -> Program:
        for operation in self.source.operations:
            self.translate(operation)
        last, name = self._read(self.source.output), f"{self.source.output}.restored"
        if last not in self.fraction:
            raise UserError(f"{last}: the network ends in what is no number of its own{FREE}")
        shape = self.buffers[last].shape
        self.buffers[name] = Buffer(name, shape, "float", 32)
        self.operations.append(Restore("logits", (last,), name, 2.0 ** -self.fraction[last]))
        return Program(self.buffers, tuple(self.operations), self.source.input, name)

    def _pixels(self) -> str:
        spec, name = self.spec, f"{self.source.input}.integers"
        values = [
            [(pixel / 255 - mean) / std for pixel in range(256)] for mean, std in zip(spec.mean, spec.std, strict=True)
        ]
        largest = max(abs(value) for channel in values for value in channel)
        fraction = math.floor(math.log2(HIGH / largest)) if largest else ONE
        whole = (torch.tensor(values, dtype=torch.float64) * 2.0**fraction).round()
        operation = Pixels("image", (self.source.input,), name, whole.int(), spec.mean, spec.std)
        return self._add(operation, spec.size, fraction)

    # --- writing

    def _add(self, operation: Operation, shape: tuple[int, ...], fraction: int) -> str:
        """Add an operation that writes 16-bit integers."""
        self.operations.append(operation)
        self.buffers[operation.output] = Buffer(operation.output, shape, "integer", 16, True, 2.0**-fraction, 0)
        self.fraction[operation.output] = fraction
        return operation.output

    def _write(
        self, of: Operation, kind: Callable[..., Operation], *fields: Any, fraction: int, read: Any = None
    ) -> None:
        """Add the operation that stands for `of` and writes its output. `read`: buffers, by default those it reads."""
        inputs = tuple(self._read(name) for name in of.inputs) if read is None else read
        self._add(kind(of.name, inputs, of.output, *fields), self._shape(of), fraction)
        self.names[of.output] = of.output

    def _step(
        self, of: Operation, suffix: str, kind: Callable[..., Operation], *fields: Any, fraction: int, read: str
    ) -> str:
        """Add an operation on the way to what `of` writes."""
        return self._add(kind(of.name, (read,), f"{of.output}.{suffix}", *fields), self.buffers[read].shape, fraction)

    def _read(self, name: str) -> str:
        return self.names[name]

    def _shape(self, operation: Operation) -> tuple[int, ...]:
        return self.source.buffers[operation.output].shape

    def _refuse(self, operation: Operation, what: str) -> UserError:
        return UserError(f'{operation.name}: arithmetic = "integer" has no operation for {what}{FREE}')

    def _one(self, operation: Operation) -> tuple[str, int]:
        """The buffer that an operation of one input reads, and its fraction."""
        name = self._read(operation.inputs[0])
        return name, self.fraction[name]

    def _aligned(self, operation: Operation) -> tuple[tuple[str, ...], int]:
        """The buffers that an operation reads, brought to the coarsest scale among them, and that scale's fraction."""
        names = [self._read(name) for name in operation.inputs]
        coarsest = min(self.fraction[name] for name in names)
        for place, name in enumerate(names):
            if self.fraction[name] > coarsest:
                amount = torch.tensor(min(self.fraction[name] - coarsest, 16), dtype=torch.int32)
                names[place] = self._step(operation, f"aligned{place}", Shift, amount, fraction=coarsest, read=name)
        return tuple(names), coarsest

    # --- operation by operation

    @singledispatchmethod
    def translate(self, operation: Operation) -> None:
        raise self._refuse(operation, f"a {operation.kind}")

    @translate.register
    def _(self, operation: ops.Quantize) -> None:
        name, fraction = self._one(operation)
        factor = as_factor(2.0**-fraction / operation.scale.double())
        zero = 0 if operation.zero_point is None else int(operation.zero_point)
        constants = (int(factor.multiplier), int(factor.amount), zero, *integer_range(operation.format))
        self.operations.append(Requantize(operation.name, (name,), operation.output, *constants))
        self.buffers[operation.output] = self.source.buffers[operation.output]
        self.names[operation.output] = operation.output

    @translate.register
    def _(self, operation: ops.IntegerSums) -> None:
        if operation.needed_bits > WIDEST_SUM:
            raise UserError(
                f"{operation.layer}: its sums may take {operation.needed_bits} bits; "
                f'arithmetic = "integer" has {WIDEST_SUM}: use narrower weights or inputs, or arithmetic = "float16"'
            )
        self.operations.append(operation)
        self.buffers[operation.output] = self.source.buffers[operation.output]
        self.names[operation.output] = operation.output

    @translate.register
    def _(self, operation: ops.Rescale) -> None:
        constants = operation.constants
        if not isinstance(constants, IntegerRescaling):
            raise UserError(
                f"{operation.name}: its arithmetic is {constants.arithmetic}, but that of other layers is integer"
            )
        sums = self.operations[-1]
        assert isinstance(sums, ops.IntegerSums)
        largest = max(-sums.lowest, sums.highest)
        amount = constants.constants[0].amount
        wide = largest + 2 ** max(0, int(amount.max()) - 1) >= 2**31
        self._rescale(operation, constants, self._read(operation.inputs[0]), wide)

    def _rescale(self, operation: Operation, constants: IntegerRescaling, read: str, wide: bool = False) -> None:
        (multiplier, amount), bias = constants.constants
        fraction = -int(torch.frexp(constants.scale)[1]) + 1
        shifted = self._step(operation, "shifted", Shift, amount, wide, fraction=fraction, read=read)
        self._write(operation, Scale, multiplier, bias, fraction=fraction, read=(shifted,))

    @translate.register
    def _(self, operation: ops.BatchNorm) -> None:
        if operation.scale is None:
            raise self._refuse(operation, "a norm without a scale of its own")
        name, fraction = self._one(operation)
        factor = (operation.variance.double() + operation.epsilon).sqrt().reciprocal()
        factor = factor if operation.weight is None else factor * operation.weight.double()
        bias = -operation.mean.double() * factor
        bias = bias if operation.bias is None else bias + operation.bias.double()
        shape = (-1, *[1] * (len(self._shape(operation)) - 1))
        constants = IntegerRescaling((factor * 2.0**-fraction).view(shape), bias.view(shape), operation.scale)
        self._rescale(operation, constants, name)

    @translate.register
    def _(self, operation: ops.Activation) -> None:
        _, fraction = self._one(operation)
        arguments = dict(operation.arguments)
        function = operation.function
        bounds = _bounds(function, arguments)
        if bounds is not None:
            low, high = (
                max(LOW, min(HIGH, round(bound * 2.0**fraction))) if math.isfinite(bound) else edge
                for bound, edge in zip(bounds, (LOW, HIGH), strict=True)
            )
            self._write(operation, Clamp, low, high, fraction=fraction)
        elif function == "leaky_relu" and 0 <= float(arguments.get("negative_slope", 0.01)) < 1:
            slope = round(float(arguments.get("negative_slope", 0.01)) * 2**ONE)
            self._write(operation, LeakyRelu, min(slope, HIGH), fraction=fraction)
        elif function in ("hardswish", "hardsigmoid"):
            factor = as_factor(torch.tensor(2.0 ** (ONE - fraction) / 6, dtype=torch.float64))
            gate = (HardGate, int(factor.multiplier), int(factor.amount))
            self._gate(operation, gate, gated=function == "hardswish")
        else:
            function = "gelu tanh" if arguments.get("approximate") == "tanh" else function
            if function not in CURVES:
                raise self._refuse(operation, f"the activation {function}")
            curve = table(function)
            values = torch.tensor(curve.values, dtype=torch.int32)
            amount = max(-15, min(16, fraction - curve.fraction))
            self._gate(operation, (Curve, values, amount), gated=function in GATED)

    def _gate(self, operation: Operation, gate: tuple[Any, ...], gated: bool) -> None:
        """Write a gate of each value, or, where `gated`, the value times its gate."""
        if not gated:
            self._write(operation, *gate, fraction=ONE)
            return
        name, fraction = self._one(operation)
        factor = self._step(operation, "gate", *gate, fraction=ONE, read=name)
        self._write(operation, IntegerMultiply, fraction=fraction, read=(name, factor))

    @translate.register
    def _(self, operation: ops.Add) -> None:
        if len(operation.inputs) == 2:
            names, fraction = self._aligned(operation)
            self._write(operation, IntegerAdd, fraction=fraction, read=names)
            return
        _, fraction = self._one(operation)
        constant = saturate((_constant(operation) * 2.0**fraction).round())
        self._write(operation, IntegerAdd, constant, fraction=fraction)

    @translate.register
    def _(self, operation: ops.Multiply) -> None:
        if len(operation.inputs) == 2:
            fractions = [self.fraction[self._read(name)] for name in operation.inputs]
            self._write(operation, IntegerMultiply, fraction=sum(fractions) - ONE)
            return
        _, fraction = self._one(operation)
        constant = _constant(operation)
        exponent = constant_exponent(constant)
        multiplier = (constant * 2.0 ** (ONE - exponent)).round().clamp(-HIGH, HIGH).int()
        zero = torch.zeros((), dtype=torch.int32)
        self._write(operation, Scale, multiplier, zero, fraction=fraction - exponent)

    @translate.register
    def _(self, operation: ops.UnitLength) -> None:
        self._write(operation, IntegerUnitLength, operation.axis, fraction=ONE)

    @translate.register
    def _(self, operation: ops.AveragePool) -> None:
        self._pool(operation, operation.kernel, operation.stride, operation.padding, operation.ceil_mode)
        if any(operation.padding) and not operation.counts_padding:
            raise self._refuse(operation, "windows that count padding in some places only")

    @translate.register
    def _(self, operation: ops.AdaptivePool) -> None:
        _, height, width = self.source.buffers[operation.inputs[0]].shape
        _, *size = self._shape(operation)
        kernel = height // size[0], width // size[1]
        if kernel[0] * size[0] != height or kernel[1] * size[1] != width:
            raise self._refuse(
                operation, f"means of {height} x {width} values in {size[0]} x {size[1]} unequal windows"
            )
        self._pool(operation, kernel, kernel, (0, 0), False)

    def _pool(self, operation: Operation, kernel: Any, stride: Any, padding: Any, ceil_mode: bool) -> None:
        _, fraction = self._one(operation)
        before, after = self.source.buffers[operation.inputs[0]].shape[1:], self._shape(operation)[1:]
        for size, count, window, step, border in zip(before, after, kernel, stride, padding, strict=True):
            if (count - 1) * step + window > size + 2 * border:
                raise self._refuse(operation, "means of windows that are cut off")
        constants = self._mean(operation, kernel[0] * kernel[1])
        self._write(operation, IntegerPool, kernel, stride, padding, ceil_mode, *constants, fraction=fraction)

    @translate.register
    def _(self, operation: ops.Mean) -> None:
        _, fraction = self._one(operation)
        shape = (1, *self.source.buffers[operation.inputs[0]].shape)
        constants = self._mean(operation, math.prod(shape[axis] for axis in operation.axes))
        self._write(operation, IntegerMean, operation.axes, operation.keeps_axes, *constants, fraction=fraction)

    def _mean(self, operation: Operation, count: int) -> tuple[int, int]:
        """Shift and multiplier of a mean of `count` values."""
        if count > LARGEST_WINDOW:
            raise self._refuse(operation, f"a mean of {count:,} values, more than {LARGEST_WINDOW:,}")
        amount = (count - 1).bit_length()
        return amount, min(HIGH, round((2**amount / count - 1) * 2**ONE))

    @translate.register
    def _(self, operation: ops.Concatenate) -> None:
        names, fraction = self._aligned(operation)
        self._write(operation, ops.Concatenate, operation.axis, fraction=fraction, read=names)

    @translate.register(ops.MaximumPool)
    @translate.register(ops.Reshape)
    @translate.register(ops.Permute)
    @translate.register(ops.Pad)
    def _(self, operation: Any) -> None:
        name, fraction = self._one(operation)
        if isinstance(operation, ops.Pad):
            value = max(LOW, min(HIGH, round(operation.value * 2.0**fraction)))
            operation = replace(operation, value=float(value))
        self._add(replace(operation, inputs=(name,)), self._shape(operation), fraction)
        self.names[operation.output] = operation.output


def _bounds(function: str, arguments: dict[str, Any]) -> tuple[float, float] | None:
    """The range that an activation clamps to; None for one that does something else."""
    match function:
        case "relu":
            return 0, math.inf
        case "relu6":
            return 0, 6
        case "hardtanh":
            return float(arguments.get("min_val", -1)), float(arguments.get("max_val", 1))
        case "clamp":
            low, high = arguments.get("min"), arguments.get("max")
            return -math.inf if low is None else float(low), math.inf if high is None else float(high)
    return None


def _constant(operation: ops.Add | ops.Multiply) -> Tensor:
    assert operation.constant is not None
    return torch.as_tensor(operation.constant, dtype=torch.float64)


def constant_exponent(constant: Tensor) -> int:
    """The power of two that is just above all of a constant's values."""
    return int(torch.frexp(constant.abs().max())[1])
