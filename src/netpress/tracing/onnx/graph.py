"""This module turns an ONNX graph into a torch module that executes the same operations.

    OnnxGraph("net.onnx")(image)     the graph's results, of a normalized image
    OnnxGraph("net.onnx").trace()    its operations

An operator that it does not know is an error that names it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netpress.errors import Failure, UserError
from netpress.numerics.formats import AnyFormat, Fixed, Float16, Integer, zero_point_format
from netpress.tracing.onnx import fresh, qonnx, quantized
from netpress.tracing.onnx.entering import find_entrance
from netpress.tracing.onnx.file import LARGEST, input_size_of, load_model, read_array
from netpress.tracing.onnx.moves import MOVES
from netpress.tracing.onnx.nodes import Node, Value, same
from netpress.tracing.onnx.operators import plan
from netpress.tracing.onnx.places import Places
from netpress.tracing.onnx.quantized import rewrite
from netpress.tracing.onnx.stored import (
    Constants,
    Step,
    calculated,
    cast_type,
    dequantized,
    dynamic,
    once,
    result_at,
    several,
    unturned,
)
from netpress.tracing.operations import Shape, Trace
from netpress.tracing.trace import trace

GROWTH = 16  # constants may have so many elements for each byte of the file
SMALL = 1 << 22  # elements that a constant may have in any file
DOMAINS = ("", "ai.onnx", "com.microsoft")
MICROSOFT = ("QuantizeLinear", "DequantizeLinear")  # what is read of their domain: the standard's, with more types
WIDTHS = {"int8": 8, "uint8": 8, "int4": 4, "uint4": 4, "int16": 16, "uint16": 16, "int2": 2, "uint2": 2}
ROLES = {
    "Conv": ("", "weight", "bias"),
    "ConvTranspose": ("", "weight", "bias"),
    "Gemm": ("", "weight", "bias"),
    "MatMul": ("weight", "weight"),
    "BatchNormalization": ("", "weight", "bias", "running_mean", "running_var"),
}


class OnnxGraph(Constants):
    """An ONNX graph as a module, with the number formats of what it stores and computes, by the tracer's names."""

    def __init__(self, path: Path | str, input_size: Shape | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.steps: list[tuple[str, list[str], list[str]]] = []
        self.quantizers: set[str] = set()
        self._values: dict[str, Value] = {}
        self._unread: dict[str, str] = {}
        self._reduced: dict[int, tuple[Value, Value]] = {}
        self._numbers: dict[tuple[int, ...], tuple[Value, Value, Value | None, Value]] = {}
        self._read(input_size)

    def forward(self, image: Tensor) -> list[Tensor]:
        values = {self.source: image}
        self._found.clear()
        for place, inputs, outputs in self.steps:
            result = self.get_submodule(place)(*(values[name] for name in inputs))
            several = result if isinstance(result, tuple | list) else (result,)
            values.update((name, tensor) for name, tensor in zip(outputs, several, strict=False) if name)
        return [values[name] for name in self.results if name in values]

    def trace(self) -> Trace:
        """Its operations. Quantizers carry the scales and zero points that they store."""
        traced = trace(self, self.input_size)
        names = {id(buffer): name for name, buffer in self.named_buffers()}
        own = {
            place: tuple(names[id(buffer)] for buffer in self.get_submodule(place).buffers())
            for place in self.quantizers
        }
        own |= {
            place: (f"{place}.weight_zero_point",)
            for place, *_ in self.steps
            if f"{place}.weight_zero_point" in traced.stored
        }
        stored = dict(traced.stored)
        for name in (name for tensors in own.values() for name in tensors):
            stored[name] = replace(stored[name], used=True)
        operations = tuple(
            replace(operation, tensors=(*operation.tensors, *own[operation.module]))
            if operation.module in own
            else operation
            for operation in traced.operations
        )
        return replace(traced, operations=operations, stored=stored)

    # --- reading

    def _read(self, input_size: Shape | None) -> None:
        import onnx

        model = load_model(self.path)
        graph = model.graph
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
        self.limit = max(SMALL, GROWTH * self.path.stat().st_size)
        transposes: dict[bytes, Value] = {}
        for initializer in graph.initializer:
            self._values[initializer.name] = unturned(self._constant(initializer), transposes)
        there = sum(value.tensor.numel() for value in self._values.values())
        self.limit = max(self.limit, 2 * there)  # the data may lie beside the file
        inputs = [entry for entry in graph.input if entry.name not in self._values]
        if len(inputs) != 1:
            names = ", ".join(entry.name for entry in inputs) or "none"
            raise UserError(f"{self.path}: networks of one input are counted, this one has {len(inputs)}: {names}")
        entrance = find_entrance(graph, inputs[0])
        self.source, self.not_counted = entrance.source, entrance.said
        self.input_size = input_size_of(self.path, inputs[0], input_size)
        self.results = [entry.name for entry in graph.output]
        self._values[self.source] = Value(torch.empty(1, *self.input_size, device="meta"), constant=False)
        if inputs[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
            self.formats["*"] = {"kind": "float16"}
        self._places = Places(_TAKEN)
        for index, proto in enumerate(graph.node):
            for simple in rewrite(proto) if index not in entrance.nodes else ():
                self._read_node(simple, index)
        if not any(name in self._values and not self._values[name].constant for name in self.results):
            raise UserError(f"{self.path}: none of its results depends on the image")

    def _constant(self, proto: Any) -> Value:
        array = read_array(self.path, proto)
        kind = array.dtype.name
        if kind in ("float64", "complex64", "complex128") and array.size > 1:
            raise UserError(f"{self.path}: {proto.name or 'a constant'} is of {kind}; at most 32 bits are counted")
        narrow = kind in ("float16", "bfloat16")
        if narrow:
            array = array.astype(np.float32)
        elif kind in WIDTHS or kind in ("int32", "uint32", "uint64"):
            array = array.astype(np.int64)
        elif kind == "float64":
            array = array.astype(np.float32)  # a number of the program
        if array.dtype.name not in ("float32", "int64", "int32", "bool"):
            raise UserError(f"{self.path}: {proto.name or 'a constant'} is of {kind}, which is not read")
        tensor = torch.from_numpy(np.array(array))
        number_format: AnyFormat | None = Float16() if narrow else None
        if kind in WIDTHS:  # what a DequantizeLinear may make numbers of
            number_format = Integer(bits=WIDTHS[kind], scale="none", signed=not kind.startswith("u"))
        return Value(tensor, constant=True, format=number_format)

    def _read_node(self, proto: Any, index: int) -> None:
        import onnx

        inputs: list[Value | None] = []
        for name in proto.input:
            if name in self._unread:
                raise UserError(f"{self.path}: {proto.op_type} uses {name}, {self._unread[name]}")
            if name and name not in self._values:
                raise Failure(f"{self.path}: damaged: {proto.op_type} uses {name}, which no node before it makes")
            inputs.append(self._values[name] if name else None)
        attributes = {}
        for entry in proto.attribute:
            value = onnx.helper.get_attribute_value(entry) if entry.type else None
            if value is None:
                raise Failure(f"{self.path}: damaged: {entry.name} of {proto.op_type} has no value")
            attributes[entry.name] = value.decode() if isinstance(value, bytes) else value
        place = self._place(proto, index)
        node = Node(place, proto.op_type, attributes, inputs, self.opset, len(proto.output))
        if proto.domain not in DOMAINS or (proto.domain == "com.microsoft" and node.kind not in MICROSOFT):
            node.kind = f"{proto.domain}.{node.kind}"
        try:
            results = self._made(node, list(proto.input), list(proto.output))
        except (UserError, Failure) as error:
            raise type(error)(f"{self.path}: {error}") from error
        except Exception as error:  # whatever torch says of shapes that do not fit
            reason = str(error).strip().split("\n")[0][:200]
            raise UserError(f"{self.path}: {place} ({proto.op_type}): it cannot be calculated: {reason}") from error
        self._values.update((name, value) for name, value in zip(proto.output, results, strict=False) if name)
        further = proto.output[len(results) :]
        self._unread.update((name, f"a further result of {place}, which is not read") for name in further)

    def _made(self, node: Node, inputs: list[str], outputs: list[str]) -> list[Value]:
        """What a node makes: constants at once, or a step that will."""
        match node.kind:
            case "Constant":
                return [self._literal(node)]
            case "Shape":
                shape = list(node.tensor().shape)[slice(node.attributes.get("start", 0), node.attributes.get("end"))]
                return [Value(torch.tensor(shape, dtype=torch.int64), constant=True)]
            case "Size":
                return [Value(torch.tensor(node.tensor().numel(), dtype=torch.int64), constant=True)]
            case kind if kind in fresh.KINDS:
                fill = node.attributes.get("value")
                number = 0.0 if fill is None else read_array(self.path, fill).reshape(-1)[0].item()
                count, maker = fresh.fresh(node, number)
                self._check_size(node, count)
                return [calculated(maker, ())]
            case "Cast" | "CastLike":
                dtype = cast_type(node)
                if not node.whole:
                    return self._step(node, same, (0,), inputs, outputs)
                return [calculated(lambda x: x.to(dtype), (node.given(0),))]
            case "QuantizeLinear" | "DequantizeLinear":
                return self._scaled(node, inputs, outputs)
            case kind if kind in qonnx.KINDS:
                return self._rounded(node, inputs, outputs)
            case quantized.INTEGERS:
                return self._integers(node, inputs, outputs)
            case quantized.DYNAMIC:
                eight = Integer(bits=8, scale="none", signed=False)
                results = self._step(node, dynamic, (0,), inputs, outputs)
                results[0].format = eight
                return results
        calculation = plan(node)
        if not node.whole:
            return self._step(node, calculation.function, calculation.operands, inputs, outputs)
        tensors = [node.tensor(index) for index in calculation.operands]
        shapes = several(calculation.function(*(tensor.to("meta") for tensor in tensors)))
        self._check_size(node, sum(shape.numel() for shape in shapes))
        parts = tuple(node.given(index) for index in calculation.operands)
        results = [
            Value(tensor, constant=True, made_of=(result_at(calculation.function, place), parts))
            for place, tensor in enumerate(several(calculation.function(*tensors)))
        ]
        if node.kind in MOVES and parts and len(results) == 1:
            source = parts[0]
            results[0].format, results[0].scale, results[0].zero_point = source.format, source.scale, source.zero_point
        return results

    def _literal(self, node: Node) -> Value:
        for name in ("value_float", "value_int", "value_floats", "value_ints"):
            if name in node.attributes:
                return Value(torch.tensor(node.attributes[name]), constant=True)
        if "value" not in node.attributes:
            raise node.refuse(f"constants as {', '.join(node.attributes) or 'nothing'} are not read")
        return self._constant(node.attributes["value"])

    def _check_size(self, node: Node, elements: int) -> None:
        if elements > self.limit:
            raise node.refuse(f"a constant of {elements:,} elements in a file of this size")

    # --- integers

    def _scaled(self, node: Node, inputs: list[str], outputs: list[str]) -> list[Value]:
        """QuantizeLinear and DequantizeLinear: integers of a constant, or of what depends on the image."""
        x, scale = node.inputs[0], node.value(1)
        zero_point = node.value(2)
        if x is None or scale is None or not scale.constant or (zero_point is not None and not zero_point.constant):
            raise node.refuse("its scale and zero point must be constants")
        if node.attributes.get("block_size", 0):
            raise node.refuse("scales a block are not read")
        axis = node.attributes.get("axis", 1)
        zero = None if zero_point is None or not zero_point.tensor.any() else zero_point
        if x.constant:
            if node.kind == "QuantizeLinear":
                raise node.refuse("it quantizes a constant; store the integers themselves")
            key = (id(x), id(scale), id(zero), axis)  # what several nodes make of the same is stored once
            if key not in self._numbers:
                self._numbers[key] = (x, scale, zero, dequantized(x, scale, zero, axis))
            return [self._numbers[key][-1]]
        if node.kind == "DequantizeLinear":
            return self._step(node, lambda x: x, (0,), inputs, outputs, x.format)
        return self._quantizer(node, scale, zero, self._quantizer_format(node, zero_point), inputs, outputs)

    def _rounded(self, node: Node, inputs: list[str], outputs: list[str]) -> list[Value]:
        """QONNX's quantizers: a constant on its grid, or integers of what depends on the image."""
        scale, zero, number_format = qonnx.constants(node)
        x = node.given(0)
        if not x.constant:
            return self._quantizer(node, scale, zero, number_format, inputs, outputs)
        key = (id(x), id(scale), id(zero), id(node.value(3)))
        if key not in self._numbers:
            self._numbers[key] = (x, scale, zero, qonnx.rounded(node, scale, zero, number_format))
        return [self._numbers[key][-1]]

    def _quantizer(
        self,
        node: Node,
        scale: Value,
        zero: Value | None,
        number_format: AnyFormat | None,
        inputs: list[str],
        outputs: list[str],
    ) -> list[Value]:
        """A step that makes integers of `number_format`, and stores their scale and zero point."""
        self.quantizers.add(node.place)
        # A view has a row of its own, in which the scale and the zero point are stored.
        results = self._step(node, lambda x: x.view(x.shape), (0,), inputs, outputs, number_format)
        step = self.get_submodule(node.place)
        for name, value in (("scale", scale), ("zero_point", zero)):
            if value is not None:
                step.register_buffer(name, value.tensor)
        self._describe(f"{node.place}.scale", scale.format)
        if zero is not None and isinstance(number_format, Integer):
            self._describe(f"{node.place}.zero_point", zero_point_format(number_format))
        return results

    def _integers(self, node: Node, inputs: list[str], outputs: list[str]) -> list[Value]:
        """Integers as numbers of their own width, that nothing scales here."""
        x, zero = node.given(0), node.value(1)
        if not x.constant:
            return self._step(node, same, (0,), inputs, outputs, x.format)
        if zero is not None and not zero.constant:
            raise node.refuse("the zero point of its weights must be constant")
        shift = 0 if zero is None else zero.tensor
        if isinstance(shift, Tensor) and shift.dim() == 1 and shift.numel() > 1:
            raise node.refuse("zero points for each channel are not read")
        return [Value((x.tensor - shift).float(), constant=True, format=x.format)]

    @staticmethod
    def _quantizer_format(node: Node, zero_point: Value | None) -> AnyFormat:
        import onnx

        if zero_point is not None and zero_point.format is not None:
            return zero_point.format
        kind = node.attributes.get("output_dtype", 0) or onnx.TensorProto.UINT8
        name = onnx.TensorProto.DataType.Name(kind).lower()
        if name not in WIDTHS:
            raise node.refuse(f"it makes {name}; integers of up to 16 bits are counted")
        return Integer(bits=WIDTHS[name], scale="none", signed=not name.startswith("u"))

    # --- steps

    def _step(
        self,
        node: Node,
        function: Any,
        operands: tuple[int, ...],
        inputs: list[str],
        outputs: list[str],
        result_format: AnyFormat | None = None,
    ) -> list[Value]:
        """A module that executes the node, put at its place; and what it makes, as shapes without values."""
        step = Step(function, node.kind)
        roles = ROLES.get(node.kind, ())
        for index in operands:
            value = node.inputs[index]
            assert value is not None
            if not value.constant:
                step.slots.append(None)
                continue
            name = roles[index] if index < len(roles) and roles[index] else f"operand{index}"
            value = value if roles else self._without_copies(value)
            step.slots.append(self._keep(step, node.place, name, value))
        self._put(node.place, step)
        varying = [index for index in operands if not node.inputs[index].constant]  # type: ignore[union-attr]
        self.steps.append((node.place, [inputs[index] for index in varying], outputs))
        if node.kind in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            formats = [node.inputs[index].format for index in varying]  # type: ignore[union-attr]
            if formats and all(isinstance(number_format, Integer | Fixed) for number_format in formats):
                self._describe(f"{node.place}.input", max(formats, key=lambda f: f.bits))  # type: ignore[union-attr]
        if node.kind in MOVES and result_format is None and len(varying) == 1:
            result_format = node.inputs[varying[0]].format  # type: ignore[union-attr]
        shapes = several(function(*(node.tensor(index).detach().to("meta") for index in operands)))
        if sum(shape.numel() for shape in shapes) > LARGEST:
            raise node.refuse(f"it makes {list(shapes[0].shape)}; at most {LARGEST:,} values are counted")
        return [Value(tensor, constant=False, format=result_format) for tensor in shapes]

    def _without_copies(self, value: Value) -> Value:
        if id(value) not in self._reduced:
            self._reduced[id(value)] = (value, once(value))
        return self._reduced[id(value)][1]

    def _put(self, place: str, step: nn.Module) -> None:
        parent: nn.Module = self
        *above, last = place.split(".")
        for name in above:
            if name not in parent._modules:
                parent.add_module(name, nn.Module())
            parent = parent._modules[name]  # type: ignore[assignment]
        parent.add_module(last, step)

    def _place(self, proto: Any, index: int) -> str:
        """Where a node stands among the modules: at its weight's name, else at its own; each only once."""
        weight = proto.input[1] if len(proto.input) > 1 and proto.op_type in ROLES else ""
        constant = self._values.get(weight)
        has_name = constant is not None and constant.constant and weight.endswith(".weight")
        text = weight.removesuffix(".weight") if has_name else proto.name or f"{proto.op_type}_{index}"
        return self._places.take(text)


_TAKEN = (
    "path",
    "formats",
    "steps",
    "quantizers",
    "source",
    "results",
    "input_size",
    "opset",
    "limit",
    "training",
    "not_counted",
)
