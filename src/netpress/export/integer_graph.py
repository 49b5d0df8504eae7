"""A program of integer arithmetic as an ONNX graph that gives its integers, bit for bit, on any runtime.

Sums are ConvInteger and MatMulInteger, on 8-bit parts of the integers. What is between them lies in float64, where
integers of these sizes, and their products, are exact:

    R(x, m) = floor(x * (m / 2**15) + 1/2)        S(x, n) = sat(floor(x * 2**-n + 1/2)), whatever the sign of n
"""

from functools import singledispatchmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netpress.errors import UserError
from netpress.export.nodes import GraphWriter, pads_of
from netpress.network import Network
from netpress.numerics.fixed_point import HIGH, LOW
from netpress.program import has_integer_arithmetic, lower
from netpress.program import integers as ints
from netpress.program import operations as ops
from netpress.program.operations import Operation

WIDE = "float64"
DIGIT = 8
"""Bits of a part: what ConvInteger multiplies."""
LARGEST_WINDOW = 512
"""Values of 16 bits whose sum float32 holds."""


def integer_graph(network: Network, source: str, result: str) -> GraphWriter:
    """The graph of a network of integer arithmetic, from uint8 pixels `source` to float32 logits `result`.

    Raises UserError for networks of other arithmetic, and, naming it, for an operation that has no nodes.
    """
    if not has_integer_arithmetic(network):
        raise UserError(
            "--exact is for networks of integer arithmetic, and between its sums this one computes in floats; "
            "netpress apply quantize NETWORK --set arithmetic=integer makes one in integers"
        )
    translation = _Translation(network, source, result)
    for operation in translation.writer.program.operations:
        translation.translate(operation)
    return translation.writer


class _Translation:
    def __init__(self, network: Network, source: str, result: str) -> None:
        program = lower(network)
        self.writer = GraphWriter(program, {program.input: source, program.output: result})

    def _constant(self, of: Operation, suffix: str, values: Any, kind: str = WIDE) -> str:
        return self.writer.constant(f"{self.writer.name(of.output)}.{suffix}", values, kind)

    def _node(self, of: Operation, suffix: str, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node on the way to what `of` writes, or, without a suffix, the one that writes it."""
        name = self.writer.name(of.output)
        return self.writer.node(kind, inputs, f"{name}.{suffix}" if suffix else name, **attributes)

    def _value(self, operation: Operation, place: int = 0) -> str:
        return self.writer.name(operation.inputs[place])

    def _shape(self, buffer: str) -> tuple[int, ...]:
        return self.writer.program.buffers[buffer].shape

    # --- the primitives

    def _number(self, of: Operation, suffix: str, kind: str, value: str, number: Any) -> str:
        return self._node(of, suffix, kind, value, self._constant(of, f"{suffix}.by", number))

    def _rounded(self, of: Operation, suffix: str, value: str, factor: Any) -> str:
        """floor(value * factor + 1/2)."""
        product = self._number(of, f"{suffix}.product", "Mul", value, factor)
        return self._floor(of, suffix, product)

    def _floor(self, of: Operation, suffix: str, value: str) -> str:
        half = self._number(of, f"{suffix}.half", "Add", value, 0.5)
        return self._node(of, f"{suffix}.whole", "Floor", half)

    def _clip(self, of: Operation, suffix: str, value: str, low: float = LOW, high: float = HIGH) -> str:
        ends = (self._constant(of, name, end) for name, end in (("low", low), ("high", high)))
        return self._node(of, suffix, "Clip", value, *ends)

    def _shifted(self, of: Operation, suffix: str, value: str, amount: Tensor | int) -> str:
        """S, saturated."""
        factor = torch.exp2(-torch.as_tensor(amount).double())
        return self._clip(of, f"{suffix}.saturated", self._rounded(of, suffix, value, factor))

    def _scaled(self, of: Operation, multiplier: int, amount: int) -> str:
        """S(R(x, multiplier), amount); for a shift to the left R(S(x, amount), multiplier)."""
        value = self._value(of)
        if amount < 0:
            value = self._shifted(of, "shift", value, amount)
        value = self._rounded(of, "rescale", value, multiplier / 2**15)
        return self._shifted(of, "shift", value, amount) if amount > 0 else value

    # --- sums of products

    @singledispatchmethod
    def translate(self, operation: Operation) -> None:
        raise UserError(f"{operation.name}: --exact has no ONNX nodes for a {operation.kind}")

    @translate.register
    def _(self, operation: ops.Convolution) -> None:
        window, value = operation.window, self._value(operation)
        left, right, top, bottom = window.padding
        if any(window.padding):
            pads = self._constant(operation, "pads", [0, 0, top, left, 0, 0, bottom, right], "int64")
            point = self._constant(operation, "padding", operation.padding_value)
            value = self._node(operation, "padded", "Pad", value, pads, point)
        options = {
            "kernel_shape": list(operation.weight.shape[2:]),
            "strides": list(window.stride),
            "dilations": list(window.dilation),
            "group": window.groups,
        }
        self._sums(operation, "ConvInteger", value, operation.weight, **options)

    @translate.register
    def _(self, operation: ops.Linear) -> None:
        self._sums(operation, "MatMulInteger", self._value(operation), operation.weight.t())

    def _sums(self, operation: Any, kind: str, value: str, weight: Tensor, **options: Any) -> None:
        """Products of the parts of both, added: (256 h + l)(256 g + k)."""
        low, high = self.ranges[operation.inputs[0]]
        parts = self._value_parts(operation, value, low, high)
        total = ""
        for place, (digit, point, worth) in enumerate(_weight_parts(weight)):
            stored = self._constant(operation, f"weight{place}", digit, "uint8")
            moved = self._constant(operation, f"weight{place}.zero", point, "uint8")
            for other, (part, offset, scale) in enumerate(parts):
                suffix = f"sums{place}{other}"
                zero = self._constant(operation, f"{suffix}.zero", offset, "uint8")
                whole = self._node(operation, suffix, kind, part, stored, zero, moved, **options)
                product = self._cast(operation, f"{suffix}.wide", whole, WIDE)
                if worth * scale > 1:
                    product = self._number(operation, f"{suffix}.worth", "Mul", product, float(worth * scale))
                total = product if not total else self._node(operation, f"{suffix}.total", "Add", total, product)
        self.writer.stands[operation.output] = total

    def _value_parts(self, of: Operation, value: str, low: int, high: int) -> list[tuple[str, int, int]]:
        """The integers low ... high in parts of 8 bits: the name of each, its zero point, what its unit is worth."""
        if high - low < 2**DIGIT:
            offset = -min(low, 0)
            moved = self._number(of, "moved", "Add", value, float(offset)) if offset else value
            return [(self._cast(of, "bytes", moved, "uint8"), offset, 1)]
        upper = self._node(of, "upper", "Floor", self._number(of, "upper.share", "Mul", value, 2.0**-DIGIT))
        rest = self._node(of, "lower", "Sub", value, self._number(of, "upper.worth", "Mul", upper, 2.0**DIGIT))
        moved = self._number(of, "upper.moved", "Add", upper, 128.0)
        upper, lower = self._cast(of, "upper.bytes", moved, "uint8"), self._cast(of, "lower.bytes", rest, "uint8")
        return [(upper, 128, 2**DIGIT), (lower, 0, 1)]

    def _cast(self, of: Operation, suffix: str, value: str, kind: str) -> str:
        from onnx import helper

        return self._node(of, suffix, "Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """The range of the integers that enter each layer, by buffer."""
        operations = self.writer.program.operations
        return {entry.output: (entry.low, entry.high) for entry in operations if isinstance(entry, ints.Requantize)}

    # --- on 16-bit integers

    @translate.register
    def _(self, operation: ints.Pixels) -> None:
        """Each channel's 256 values, one table after the other."""
        count = len(operation.table)
        start = self._constant(operation, "start", 256 * torch.arange(count).view(1, -1, 1, 1), "int64")
        pixels = self._cast(operation, "pixels", self._value(operation), "int64")
        places = self._node(operation, "places", "Add", pixels, start)
        table = self._constant(operation, "table", operation.table.flatten().double())
        self._node(operation, "", "Gather", table, places, axis=0)

    @translate.register
    def _(self, operation: ints.Requantize) -> None:
        value = self._scaled(operation, operation.multiplier, operation.amount)
        if operation.zero_point:
            value = self._number(operation, "moved", "Add", value, float(operation.zero_point))
        self._clip(operation, "", value, operation.low, operation.high)

    @translate.register
    def _(self, operation: ints.Shift) -> None:
        value = self._rounded(operation, "shift", self._value(operation), torch.exp2(-operation.amount.double()))
        self._clip(operation, "", value)

    @translate.register
    def _(self, operation: ints.Scale) -> None:
        value = self._rounded(operation, "rescale", self._value(operation), operation.multiplier.double() / 2**15)
        self._clip(operation, "", self._number(operation, "sum", "Add", value, operation.bias.double()))

    @translate.register
    def _(self, operation: ints.IntegerAdd) -> None:
        if operation.constant is None:
            total = self._node(operation, "sum", "Add", self._value(operation), self._value(operation, 1))
        else:
            total = self._number(operation, "sum", "Add", self._value(operation), operation.constant.double())
        self._clip(operation, "", total)

    @translate.register
    def _(self, operation: ints.IntegerMultiply) -> None:
        product = self._node(operation, "product", "Mul", self._value(operation), self._value(operation, 1))
        self._clip(operation, "", self._rounded(operation, "rescale", product, 2.0**-15))

    @translate.register
    def _(self, operation: ints.Clamp) -> None:
        self._clip(operation, "", self._value(operation), operation.low, operation.high)

    @translate.register
    def _(self, operation: ints.LeakyRelu) -> None:
        value = self._value(operation)
        scaled = self._rounded(operation, "rescale", value, operation.multiplier / 2**15)
        below = self._number(operation, "below", "Less", value, 0.0)
        self._node(operation, "", "Where", below, scaled, value)

    @translate.register
    def _(self, operation: ints.HardGate) -> None:
        value = self._scaled(operation, operation.multiplier, operation.amount)
        self._clip(operation, "", self._number(operation, "middle", "Add", value, 2.0**14), 0, HIGH)

    @translate.register
    def _(self, operation: ints.Curve) -> None:
        shifted = self._shifted(operation, "shift", self._value(operation), operation.amount)
        place = self._number(operation, "place", "Add", shifted, float(-LOW))
        index = self._node(operation, "index", "Floor", self._number(operation, "share", "Mul", place, 2.0**-8))
        fraction = self._node(operation, "fraction", "Sub", place, self._number(operation, "base", "Mul", index, 256.0))
        whole, table = self._cast(operation, "index.whole", index, "int64"), operation.table.double()
        first, step = (
            self._node(operation, name, "Gather", self._constant(operation, f"{name}s", values), whole, axis=0)
            for name, values in (("first", table[:-1]), ("step", table[1:] - table[:-1]))
        )
        product = self._node(operation, "product", "Mul", step, fraction)
        between = self._rounded(operation, "between", product, 2.0**-8)
        self._node(operation, "", "Add", first, between)

    # --- pools, and where values lie

    @translate.register
    def _(self, operation: ints.IntegerMean) -> None:
        axes = self._constant(operation, "axes", list(operation.axes), "int64")
        keeps = int(operation.keeps_axes)
        self._mean(operation, self._node(operation, "sum", "ReduceSum", self._value(operation), axes, keepdims=keeps))

    @translate.register
    def _(self, operation: ints.IntegerPool) -> None:
        """The sums of windows: a float32 convolution with ones, which is exact for so few values of 16 bits."""
        channels, height, width = self._shape(operation.inputs[0])
        count = operation.kernel[0] * operation.kernel[1]
        if operation.kernel == (height, width) and not any(operation.padding):
            axes = self._constant(operation, "axes", [2, 3], "int64")
            self._mean(operation, self._node(operation, "sum", "ReduceSum", self._value(operation), axes, keepdims=1))
            return
        if count > LARGEST_WINDOW:
            raise UserError(f"{operation.name}: --exact has no nodes for means of windows of {count} values")
        ones = self._constant(operation, "ones", torch.ones(channels, 1, *operation.kernel), "float32")
        rows, columns = operation.padding
        places = {"pads": [rows, columns, rows, columns], "strides": list(operation.stride), "group": channels}
        narrow = self._cast(operation, "narrow", self._value(operation), "float32")
        sums = self._node(operation, "sum", "Conv", narrow, ones, kernel_shape=list(operation.kernel), **places)
        self._mean(operation, self._cast(operation, "wide", sums, WIDE))

    def _mean(self, operation: Any, sums: str) -> None:
        rounded = self._rounded(operation, "shift", sums, 2.0**-operation.amount)
        more = self._rounded(operation, "rescale", rounded, operation.multiplier / 2**15)
        self._clip(operation, "", self._node(operation, "mean", "Add", rounded, more))

    @translate.register
    def _(self, operation: ops.MaximumPool) -> None:
        rows, columns = operation.padding
        self._node(
            operation,
            "",
            "MaxPool",
            self._value(operation),
            kernel_shape=list(operation.kernel),
            strides=list(operation.stride),
            pads=[rows, columns, rows, columns],
            dilations=list(operation.dilation),
            ceil_mode=int(operation.ceil_mode),
        )

    @translate.register
    def _(self, operation: ops.Concatenate) -> None:
        self._node(operation, "", "Concat", *map(self.writer.name, operation.inputs), axis=operation.axis)

    @translate.register
    def _(self, operation: ops.Pad) -> None:
        pads = self._constant(operation, "pads", pads_of(operation, len(self._shape(operation.inputs[0])) + 1), "int64")
        self._node(
            operation, "", "Pad", self._value(operation), pads, self._constant(operation, "value", operation.value)
        )

    @translate.register
    def _(self, operation: ops.Reshape) -> None:
        shape = self._constant(operation, "shape", [-1, *operation.shape], "int64")
        self._node(operation, "", "Reshape", self._value(operation), shape)

    @translate.register
    def _(self, operation: ops.Permute) -> None:
        self._node(operation, "", "Transpose", self._value(operation), perm=list(operation.order))

    @translate.register
    def _(self, operation: ints.Restore) -> None:
        value = self._number(operation, "restored", "Mul", self._value(operation), operation.scale)
        from onnx import TensorProto

        self._node(operation, "", "Cast", value, to=TensorProto.FLOAT)


def _weight_parts(weight: Tensor) -> list[tuple[Tensor, int, int]]:
    """Weights in parts of 8 bits as uint8: each part, its zero point, what its unit is worth.

    Unsigned, because ONNX Runtime's products of unsigned and signed bytes saturate on processors without VNNI.
    """
    whole = weight.long()
    if int(whole.min()) >= -128 and int(whole.max()) < 128:
        return [(whole + 128, 128, 1)]
    return [((whole >> DIGIT) + 128, 128, 2**DIGIT), (whole & 255, 0, 1)]
