"""Cases of a verification file as traces, for a convention to count.

A case of the organisers' counter, such as

    {"op": "FullyConnected", "fields": {"kernel_shape": [64, 100], "use_bias": true, "activation": "relu"}}

becomes a linear layer with its weight and bias, and an activation after it. A case of a rule states its operations
and tensors itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from netpress.errors import UserError
from netpress.scoring.arithmetic import COUNTER_ACTIVATIONS
from netpress.tracing.operations import INPUT, Operation, Shape, Stored, Trace

Fields = Mapping[str, Any]
GIFT_BITS, FLOAT_BITS = 16, 32
LAYER, ACTIVATION = "layer", "activation"


@dataclass(frozen=True)
class Vector:
    """A trace with what a convention needs to count it: the tensors' formats, and options of its settings."""

    trace: Trace
    formats: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def counter_vector(op: str, fields: Fields, sparsity: float, param_bits: float) -> Vector:
    """One operation of the organisers' counter, with its activation, all tensors at `param_bits` bits.

    Raises what the counter raises: ValueError for an activation that it does not know, NotImplementedError for another
    padding than same and valid, AssertionError for what is not square. UserError for an operation that it does not
    have, or that lacks a field.
    """
    if op not in _OPERATIONS:
        raise UserError(f"{op}: the counter has no such operation, only {', '.join(_OPERATIONS)}")
    try:
        layer = _OPERATIONS[op](fields)
        activation = fields["activation"] if layer.weight is not None else None
    except KeyError as error:
        raise UserError(f"{op}: the field {error} is missing") from None
    operations = [layer]
    if activation:
        if activation not in COUNTER_ACTIVATIONS:
            raise ValueError(f"activation {activation}: the counter knows {', '.join(COUNTER_ACTIVATIONS)}")
        operations.append(_operation(ACTIVATION, "activation", activation, layer.output, (LAYER,)))
    weight_shape: Shape = (layer.channels, layer.window)
    shapes = {"layer.weight": weight_shape, "layer.bias": (layer.channels,)}
    stored = {name: _dense(name, shapes[name]) for name in layer.tensors}
    options: dict[str, Any] = {"mask": "charged", "sparsity": sparsity}
    formats: dict[str, Any] = {}
    if param_bits == FLOAT_BITS:
        options["freebie"] = False
    elif param_bits != GIFT_BITS:
        formats = {name: {"kind": "int", "bits": int(param_bits), "scale": "none"} for name in stored}
    traced = Trace(tuple(operations), stored, (operations[-1].name,), layer.inputs[0][1:])
    return Vector(traced, formats, options)


def rule_vector(case: Fields) -> Vector:
    """A case of a rule: `operations` and `stored` tensors as the case states them, `formats` and `options`."""
    stored = {
        name: _stored(name, **{key: _tuples(value) for key, value in tensor.items()})
        for name, tensor in case.get("stored", {}).items()
    }
    operations = []
    for entry in case["operations"]:
        given = {key: _tuples(value) for key, value in entry.items() if key != "attributes"}
        plain = {"function": entry["kind"], "module": entry["name"], "module_type": "", "in_leaf": True, "call": 1}
        plain |= {"sources": (INPUT,), "has_bias": "bias" in entry, "attributes": entry.get("attributes", {})}
        operations.append(Operation(**(plain | given)))
    traced = Trace(tuple(operations), stored, (operations[-1].name,), operations[0].inputs[0][1:])
    return Vector(traced, dict(case.get("formats", {})), dict(case.get("options", {})))


def _stored(name: str, shape: Shape, nonzeros: int, **more: Any) -> Stored:
    """A tensor that a case states: `values` where more than its non-zeros exist, and the `pattern` of its mask."""
    return Stored(name, shape, nonzeros=nonzeros, used=True, **({"values": nonzeros} | more))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value


def _dense(name: str, shape: Shape) -> Stored:
    tensor = Stored(name, shape, 0, 0, used=True)
    return Stored(name, shape, tensor.count, tensor.count, used=True)


def _operation(name: str, kind: str, function: str, shape: Shape, sources: tuple[str, ...], **more: Any) -> Operation:
    """An operation whose result has `shape`, and what it reads too unless `more` says otherwise."""
    given = {"inputs": (shape,) * len(sources), "output": shape, "sources": sources, **more}
    return Operation(name, kind, function, name, "", in_leaf=True, call=1, **given)


def _products(kind: str, window: int, inputs: Shape, output: Shape, bias: bool) -> Operation:
    made = _operation(LAYER, kind, kind, output, (INPUT,), inputs=(inputs,), window=window, has_bias=bias)
    tensors = ("layer.weight", "layer.bias") if bias else ("layer.weight",)
    more: dict[str, Any] = {"tensors": tensors, "weight": "layer.weight", "terms": ((window, made.outputs),)}
    return Operation(**(vars(made) | more | {"bias": "layer.bias" if bias else None}))


def _convolution(fields: Fields, depthwise: bool = False) -> Operation:
    height, width, inputs, last = fields["kernel_shape"]
    if height != width or fields["strides"][0] != fields["strides"][1]:
        raise AssertionError("the counter has square kernels and strides only")
    if depthwise and last != 1:
        raise AssertionError("the last length of a depthwise kernel is 1")
    size = fields["input_size"]
    length = output_size(size, height, fields["strides"][0], fields["padding"])
    channels = inputs if depthwise else last
    window = height * width * (1 if depthwise else inputs)
    shapes = (1, inputs, size, size), (1, channels, length, length)
    return _products("conv", window, *shapes, bool(fields["use_bias"]))


def output_size(size: int, kernel: int, stride: int, padding: str) -> int:
    """Length of a convolution's result; "same" pads kernel // 2 on both sides, "valid" not at all. Counter."""
    if padding not in ("same", "valid"):
        raise NotImplementedError(f"padding {padding!r}: same or valid")
    pad = kernel // 2 if padding == "same" else 0
    return -((size - kernel + 1 + 2 * pad) // -stride)  # rounded up


def _depthwise(fields: Fields) -> Operation:
    return _convolution(fields, depthwise=True)


def _fully_connected(fields: Fields) -> Operation:
    inputs, outputs = fields["kernel_shape"]
    return _products("linear", inputs, (1, inputs), (1, outputs), bool(fields["use_bias"]))


def _map(fields: Fields) -> Shape:
    return 1, fields["n_channels"], fields["input_size"], fields["input_size"]


def _global_average(fields: Fields) -> Operation:
    inputs = _map(fields)
    window = fields["input_size"] ** 2
    output = (1, fields["n_channels"], 1, 1)
    return _operation(LAYER, "pool", "average", output, (INPUT,), inputs=(inputs,), window=window)


def _scale(fields: Fields) -> Operation:
    return _operation(LAYER, "multiply", "mul", _map(fields), (INPUT, "gate"))


def _add(fields: Fields) -> Operation:
    return _operation(LAYER, "add", "add", _map(fields), (INPUT, "shortcut"))


_OPERATIONS: dict[str, Callable[[Fields], Operation]] = {
    "Conv2D": _convolution,
    "DepthWiseConv2D": _depthwise,
    "FullyConnected": _fully_connected,
    "GlobalAvg": _global_average,
    "Scale": _scale,
    "Add": _add,
}
