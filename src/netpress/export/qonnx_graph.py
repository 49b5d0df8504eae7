"""A quantized network's program as a QONNX graph: real numbers, rounded where nodes `Quant` and `BipolarQuant` say.

    Quant(x, scale, zero point, bits)      (clamp(x / scale + zero point) rounded, halves to even, - zero point) * scale
    BipolarQuant(x, scale)                 scale where x >= 0, else -scale

A layer reads its input and its weights through a node each (Umuroglu, Pappalardo et al., "QONNX: Representing
arbitrary-precision quantized neural networks", 2022; operators of github.com/fastmachinelearning/qonnx, version 1).
"""

from functools import singledispatchmethod
from typing import Any

import torch
from torch import Tensor

from netpress.errors import UserError
from netpress.export.activations import ACTIVATIONS
from netpress.export.nodes import GraphWriter, OperationWriter, pads_of
from netpress.network import Network
from netpress.numerics.fixed_point import ONE, IntegerRescaling
from netpress.numerics.formats import Binary, Fixed, GridFormat, Integer, Ternary
from netpress.numerics.grid import along_channels, find_grid
from netpress.numerics.layers import QuantizedLayer, quantized_layers
from netpress.numerics.rounding import dequantize
from netpress.numerics.sums import Window
from netpress.program import operations as ops
from netpress.program.lowering import lower_floats
from netpress.program.operations import Operation

DOMAIN = "qonnx.custom_op.general"
STORED = 16
"""Bits of the values between layers of integer arithmetic."""


def qonnx_graph(network: Network, source: str, result: str) -> GraphWriter:
    """The graph of a network, which reads `source` and writes `result`.

    Raises UserError, naming the layer, for what QONNX has no nodes for.
    """
    translation = _Translation(network, source, result)
    for operation in translation.writer.program.operations:
        translation.translate(operation)
    return translation.writer


class _Translation(OperationWriter):
    def __init__(self, network: Network, source: str, result: str) -> None:
        program = lower_floats(network)
        self.layers = quantized_layers(network.module)
        super().__init__(GraphWriter(program, {program.input: source, program.output: result}))
        found = (entry for entry in program.operations if isinstance(entry, ops.Rescale))
        self.rescalings = {
            entry.name: entry.constants for entry in found if isinstance(entry.constants, IntegerRescaling)
        }
        self.made: dict[tuple[Any, ...], str] = {}  # what one value has become by one quantizer

    # --- writing

    def _pass(self, operation: Operation) -> None:
        """What an operation writes is what it reads."""
        self.writer.stands[operation.output] = self.writer.name(operation.inputs[0])

    def _shape(self, buffer: str) -> tuple[int, ...]:
        return self.writer.program.buffers[buffer].shape

    def _quant(self, name: str, value: str, format: GridFormat, scale: Tensor, zero: float = 0.0) -> str:
        """The value rounded to a format. `scale`: in the shape in which it meets the value."""
        if isinstance(format, Binary):
            inputs = [value, self.writer.constant(f"{name}.scale", scale)]
            return self.writer.node("BipolarQuant", inputs, name, DOMAIN)
        signs = isinstance(format, Ternary)
        constants: dict[str, Any] = {"scale": scale, "zero_point": zero, "bits": 2.0 if signs else float(format.bits)}
        inputs = [value, *(self.writer.constant(f"{name}.{key}", entry) for key, entry in constants.items())]
        signed = int(getattr(format, "signed", True))
        return self.writer.node("Quant", inputs, name, DOMAIN, signed=signed, narrow=int(signs), rounding_mode="ROUND")

    # --- quantized layers

    @singledispatchmethod
    def translate(self, operation: Operation) -> None:
        raise UserError(f"{operation.name}: QONNX has no node for a {operation.kind}")

    @translate.register
    def _(self, operation: ops.Quantize) -> None:
        format, value = operation.format, self.writer.name(operation.inputs[0])
        if isinstance(format, Integer) and format.signed and format.bits == 1:
            raise UserError(
                f"{operation.name}: inputs of 1 signed bit are -1 and 0 here and -1 and 1 in QONNX; use signed = false"
            )
        zero = 0.0 if operation.zero_point is None else float(operation.zero_point)
        key = (value, format, float(operation.scale), zero)
        if key not in self.made:  # layers that read one value on one grid share the node
            self.made[key] = self._quant(self.writer.name(operation.output), value, format, operation.scale, zero)
        self.writer.stands[operation.output] = self.made[key]

    @translate.register
    def _(self, operation: ops.Cast) -> None:
        self._pass(operation)  # to float16; the graph calculates in float32

    @translate.register(ops.IntegerSums)
    @translate.register(ops.FloatConvolution)
    @translate.register(ops.FloatLinear)
    def _(self, operation: Any) -> None:
        layer = self.layers.get(operation.name)
        window = getattr(operation, "window", None)
        if layer is None:
            weight, bias = self._plain(operation, operation.weight, window), operation.bias
            self._product(operation, weight, None if bias is None else self.constant(operation, "bias", bias), window)
            return
        weight, bias = self._weight(operation, layer, window), self._bias(operation, layer)
        self._product(operation, weight, bias, window)

    def _plain(self, operation: Operation, weight: Tensor, window: Window | None) -> str:
        return self.writer.constant(f"{operation.name}.weight", weight if window else weight.t())

    def _weight(self, operation: Operation, layer: QuantizedLayer, window: Window | None) -> str:
        format, scale = layer.formats.weight, self._scale(operation, layer)
        if scale is None:
            return self._plain(operation, layer.weight, window)
        assert isinstance(format, GridFormat)
        integers = layer.integers()
        if isinstance(format, Binary) and not bool(integers.all()):
            format = Ternary(scale=format.scale)  # pruned ones are 0, which BipolarQuant cannot say
        spread = along_channels(scale, integers)
        real = self._plain(operation, dequantize(integers, scale), window)
        name = f"{operation.name}.weight.quantized"
        key = (name,)
        if key not in self.made:  # a layer may run more than once
            self.made[key] = self._quant(name, real, format, spread if window or not spread.dim() else spread.t())
        return self.made[key]

    def _scale(self, operation: Operation, layer: QuantizedLayer) -> Tensor | None:
        """What a unit of the weights is worth, [] or [outputs]: in integer arithmetic the factor that it has there."""
        scale, rescaling = layer.scales()[0], self.rescalings.get(operation.name)
        if scale is None or rescaling is None:
            return None if scale is None else scale.detach()
        assert layer.input_scale is not None
        factor = _worth(rescaling).reshape(scale.shape) / layer.input_scale.detach()
        return torch.where(factor > 0, factor, scale).float().detach()

    def _bias(self, operation: Operation, layer: QuantizedLayer) -> str | None:
        rescaling, name = self.rescalings.get(operation.name), f"{operation.name}.bias"
        if rescaling is not None:  # which has the zero point's share in it
            bias = rescaling.constants[1].double() * rescaling.scale
            zero = layer.zero_sums(layer.integers())
            bias = bias if zero is None else bias + _worth(rescaling) * layer.spread(zero)
            return self.writer.constant(name, bias.flatten().expand(len(layer.weight)))
        if layer.bias is None:
            return None
        bias, format = layer.bias.detach(), layer.formats.bias
        real = self.writer.constant(name, bias)
        if not isinstance(format, Fixed):  # float16: a float32 holds it
            return real
        key = (f"{name}.quantized",)
        if key not in self.made:
            self.made[key] = self._quant(key[0], real, format, find_grid(bias, format)[0])
        return self.made[key]

    def _product(self, operation: Operation, weight: str, bias: str | None, window: Window | None) -> None:
        inputs = [self.writer.name(operation.inputs[0]), weight]
        if window is not None:
            left, right, top, bottom = window.padding
            kernel = list(operation.weight.shape[2:])  # type: ignore[attr-defined]
            self.write(
                operation,
                "Conv",
                inputs=[*inputs, *([bias] if bias else [])],
                kernel_shape=kernel,
                strides=list(window.stride),
                pads=[top, left, bottom, right],
                dilations=list(window.dilation),
                group=window.groups,
            )
        elif bias is None:
            self.write(operation, "MatMul", inputs=inputs)
        else:
            self.write(operation, "Add", inputs=[self.step(operation, "products", "MatMul", *inputs), bias])

    @translate.register
    def _(self, operation: ops.Rescale) -> None:
        constants = operation.constants
        if isinstance(constants, IntegerRescaling):
            self._store(operation, self.writer.name(operation.inputs[0]), constants.scale)
            return
        self._finish(operation)

    def _store(self, operation: Operation, value: str, scale: Tensor) -> None:
        """Rounded to the 16 bits of integer arithmetic."""
        self._quant(self.writer.name(operation.output), value, Integer(bits=STORED, scale="tensor"), scale)

    def _finish(self, operation: Operation) -> None:
        """The products' node, which has the scales and the bias already, writes what the layer writes."""
        last, written = self.writer.nodes[-1], self.writer.name(operation.output)
        last.output[0] = last.name = written

    # --- between layers

    @translate.register
    def _(self, operation: ops.BatchNorm) -> None:
        ones = torch.ones_like(operation.variance)
        weight, bias = operation.weight, operation.bias
        tensors = {
            "weight": ones if weight is None else weight,
            "bias": torch.zeros_like(ones) if bias is None else bias,
            "running_mean": operation.mean,
            "running_var": operation.variance,
        }
        constants = [self.writer.constant(f"{operation.name}.{key}", x) for key, x in tensors.items()]
        if operation.scale is None:
            self.write(operation, "BatchNormalization", *constants, epsilon=operation.epsilon)
            return
        inputs = [self.writer.name(operation.inputs[0]), *constants]
        value = self.step(operation, "normalized", "BatchNormalization", *inputs, epsilon=operation.epsilon)
        self._store(operation, value, operation.scale)

    @translate.register
    def _(self, operation: ops.Activation) -> None:
        activation = ACTIVATIONS.get(operation.function)
        if activation is None:
            raise UserError(f"{operation.name}: ONNX export knows no activation {operation.function}")
        activation(self, operation, dict(operation.arguments))

    @translate.register(ops.Add)
    @translate.register(ops.Multiply)
    def _(self, operation: Any) -> None:
        if operation.name in self.layers:  # a layer's zero point, which Quant has subtracted already
            self._pass(operation)
            return
        constant = [] if operation.constant is None else [self.constant(operation, "constant", operation.constant)]
        self.write(operation, "Add" if isinstance(operation, ops.Add) else "Mul", *constant)

    @translate.register
    def _(self, operation: ops.UnitLength) -> None:
        value = self.writer.name(operation.inputs[0])
        length = self.step(operation, "length", "ReduceL2", value, axes=[operation.axis], keepdims=1)
        least = self.constant(operation, "least", operation.epsilon)
        self.write(operation, "Div", inputs=[value, self.step(operation, "divisor", "Max", length, least)])

    # --- pools, and where values lie

    @translate.register
    def _(self, operation: ops.AveragePool) -> None:
        counts = {"count_include_pad": int(operation.counts_padding), "ceil_mode": int(operation.ceil_mode)}
        self.write(operation, "AveragePool", **_places(operation), **counts)

    @translate.register
    def _(self, operation: ops.MaximumPool) -> None:
        more = {"dilations": list(operation.dilation), "ceil_mode": int(operation.ceil_mode)}
        self.write(operation, "MaxPool", **_places(operation), **more)

    @translate.register
    def _(self, operation: ops.AdaptivePool) -> None:
        before, after = self._shape(operation.inputs[0])[1:], self._shape(operation.output)[1:]
        if any(size % count for size, count in zip(before, after, strict=True)):
            raise UserError(f"{operation.name}: ONNX has no means of unequal windows, {before} in {after}")
        if after == (1, 1):
            self.write(operation, "GlobalAveragePool")
            return
        kernel = [size // count for size, count in zip(before, after, strict=True)]
        self.write(operation, "AveragePool", kernel_shape=kernel, strides=kernel)

    @translate.register
    def _(self, operation: ops.Mean) -> None:
        value = self.writer.name(operation.inputs[0])
        if sorted(operation.axes) != [2, 3] or len(self._shape(operation.inputs[0])) != 3:
            self.write(operation, "ReduceMean", axes=list(operation.axes), keepdims=int(operation.keeps_axes))
        elif operation.keeps_axes:
            self.write(operation, "GlobalAveragePool")
        else:
            self.write(operation, "Flatten", inputs=[self.step(operation, "mean", "GlobalAveragePool", value)], axis=1)

    @translate.register
    def _(self, operation: ops.Concatenate) -> None:
        self.write(operation, "Concat", axis=operation.axis)

    @translate.register
    def _(self, operation: ops.Pad) -> None:
        axes = len(self._shape(operation.inputs[0])) + 1
        pads = self.constant(operation, "pads", pads_of(operation, axes), "int64")
        self.write(operation, "Pad", pads, self.constant(operation, "value", operation.value))

    @translate.register
    def _(self, operation: ops.Reshape) -> None:
        if len(operation.shape) == 1:
            self.write(operation, "Flatten", axis=1)
        else:
            self.write(operation, "Reshape", self.constant(operation, "shape", [-1, *operation.shape], "int64"))

    @translate.register
    def _(self, operation: ops.Permute) -> None:
        self.write(operation, "Transpose", perm=list(operation.order))


def _worth(rescaling: IntegerRescaling) -> Tensor:
    """What a unit of a layer's sums is worth, with the 11 bits that the factor has: float64."""
    multiplier, amount = rescaling.constants[0]
    return multiplier.double() * torch.exp2(-amount.double() - ONE) * rescaling.scale


def _places(operation: Any) -> dict[str, Any]:
    rows, columns = operation.padding
    return {
        "kernel_shape": list(operation.kernel),
        "strides": list(operation.stride),
        "pads": [rows, columns, rows, columns],
    }
