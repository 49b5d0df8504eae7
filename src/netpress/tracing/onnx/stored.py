"""The constants of an ONNX graph: this module says which ones a step stores and which ones it calculates."""

import hashlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from netpress.numerics.formats import AnyFormat, Integer
from netpress.tracing.onnx.nodes import Function, Node, Value


class Step(nn.Module):
    """One node: its function, and where each operand comes from (None: from another node)."""

    def __init__(self, function: Any, kind: str) -> None:
        super().__init__()
        self.function, self.kind = function, kind
        self.slots: list[Function | None] = []

    def forward(self, *varying: Tensor) -> Any:
        operands = iter(varying)
        return self.function(*(next(operands) if get is None else get() for get in self.slots))


class Constants(nn.Module):
    """A module that holds a graph's constants in its steps, with the number formats of what it stores."""

    def __init__(self) -> None:
        super().__init__()
        self.formats: dict[str, dict[str, Any]] = {}
        self._calculated: dict[int, Value] = {}
        self._found: dict[int, Tensor] = {}

    def _keep(self, step: Step, place: str, name: str, value: Value) -> Function:
        """Store in the step what a constant consists of, the first under `name`; return what gets its values."""
        if value.made_of is None:
            tensor_name = self._store(step, place, name, value)
            return lambda: getattr(step, tensor_name)
        waiting = [value]
        while waiting:
            part = waiting.pop()
            if id(part) in self._calculated:
                continue
            if part.made_of is None:
                self._store(step, place, name, part)
            else:
                waiting += reversed(part.made_of[1])
            self._calculated[id(part)] = part
        return lambda: self._again(value)

    def _again(self, value: Value) -> Tensor:
        """A constant that the graph calculates, once in each forward pass, where the tracer sees it."""
        waiting = [value]
        while waiting:
            part = waiting[-1]
            function, parts = part.made_of or (None, ())
            missing = [one for one in parts if one.made_of is not None and id(one) not in self._found]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if function is not None and id(part) not in self._found:
                self._found[id(part)] = function(*(self._found.get(id(one), one.tensor) for one in parts))
        return self._found[id(value)]

    def _store(self, step: Step, place: str, name: str, value: Value) -> str:
        number, tensor_name = 2, name
        while hasattr(step, tensor_name):
            tensor_name, number = f"{name}_{number}", number + 1
        tensor = value.tensor
        if tensor.is_floating_point() and not name.startswith("running"):
            if not isinstance(tensor, nn.Parameter):
                value.tensor = nn.Parameter(tensor, requires_grad=False)
            step.register_parameter(tensor_name, value.tensor)  # type: ignore[arg-type]
        else:
            step.register_buffer(tensor_name, tensor)
        self._describe(f"{place}.{tensor_name}", value.format)
        if tensor_name == "weight" and value.scale is not None and value.format is not None:
            step.register_buffer("weight_scale", value.scale)
            self.formats[f"{place}.weight_scale"] = {"kind": "float32"}
            if value.zero_point is not None:
                step.register_buffer("weight_zero_point", value.zero_point)
                self._describe(f"{place}.weight_zero_point", Integer(bits=value.format.bits, scale="none"))
        return tensor_name

    def _describe(self, name: str, number_format: AnyFormat | None) -> None:
        if number_format is not None:
            self.formats[name] = number_format.model_dump()


def once(value: Value) -> Value:
    """A constant without its repetitions along an axis: exporters write out what a module expands.

    A constant that repeats one number stays as it is: it may be a parameter that nothing has trained.
    """
    tensor = value.tensor
    if value.made_of is not None or tensor.dim() < 2 or tensor.numel() < 2:
        return value
    for axis, size in enumerate(tensor.shape):
        if size > 1 and torch.equal(tensor.narrow(axis, 0, size - 1), tensor.narrow(axis, 1, size - 1)):
            tensor = tensor.narrow(axis, 0, 1)
    if tensor.numel() in (1, value.tensor.numel()):
        return value
    shape = value.tensor.shape
    return calculated(lambda x: x.expand(shape), (replace(value, tensor=tensor.clone()),))


def unturned(value: Value, transposes: dict[bytes, Value]) -> Value:
    """The matrix `value`; if it is the transpose of an earlier one, a constant calculated from that one.

    Exporters that calculate constants write such transposes out. `transposes` maps digests to the earlier matrices.
    """
    matrix = value.tensor
    if (
        matrix.dim() != 2
        or not matrix.is_floating_point()
        or min(matrix.shape) < 2
        or bool((matrix == matrix[0, 0]).all())
    ):
        return value
    original = transposes.get(_digest(matrix))
    if original is not None:
        return replace(value, made_of=(torch.t, (original,)))
    transposes[_digest(matrix.t())] = value
    return value


def _digest(matrix: Tensor) -> bytes:
    shape = f"{tuple(matrix.shape)} ".encode()
    return hashlib.blake2b(shape + matrix.contiguous().numpy().tobytes(), digest_size=16).digest()


def dynamic(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DynamicQuantizeLinear: what it makes integers of stays as it is; the scale and zero point are calculated."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    return x.view(x.shape), scale, torch.round(-low / scale)


def calculated(function: Function, parts: tuple[Value, ...]) -> Value:
    """A constant that the graph calculates."""
    return Value(function(*(part.tensor for part in parts)), constant=True, made_of=(function, parts))


def result_at(function: Function, place: int) -> Function:
    """The same function, of whose results the one at `place` is wanted."""
    return lambda *tensors: several(function(*tensors))[place]


def cast_type(node: Node) -> torch.dtype:
    import onnx

    element_type = node.attributes.get("to", onnx.TensorProto.FLOAT)
    if element_type not in onnx.TensorProto.DataType.values():
        raise node.refuse(f"{element_type!r} is no type")
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    return (
        torch.float32
        if element_type in floats
        else torch.bool
        if element_type == onnx.TensorProto.BOOL
        else torch.int64
    )


def dequantized(x: Value, scale: Value, zero: Value | None, axis: int) -> Value:
    """The numbers that stored integers stand for, with the format in which they are stored."""
    integers, factor = x.tensor.float(), scale.tensor

    def spread(tensor: Tensor) -> Tensor:
        if tensor.numel() == 1:
            return tensor.reshape(())
        shape = [1] * integers.dim()
        shape[axis % integers.dim()] = -1
        return tensor.reshape(shape)

    shifted = integers if zero is None else integers - spread(zero.tensor.float())
    real = shifted * spread(factor)
    if not isinstance(x.format, Integer):
        # 32 bits, as biases are: as wide as a float. Their scales are products of others that are stored.
        return Value(real, constant=True)
    each = "channel" if factor.numel() > 1 else "tensor"
    number_format = x.format.model_copy(update={"scale": each, "zero_point": zero is not None})
    return Value(real, True, number_format, factor, None if zero is None else zero.tensor)


def several(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple | list) else [result]
