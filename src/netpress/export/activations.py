"""Activations in operators that ONNX has had since opset 13; what came later (HardSwish, Mish, Gelu) is written out."""

import math
from collections.abc import Callable
from typing import Any

from netpress.errors import UserError
from netpress.export.nodes import OperationWriter
from netpress.program.operations import Operation

Arguments = dict[str, Any]
Writer = Callable[[OperationWriter, Operation, Arguments], None]


def _same(kind: str, **names: str) -> Writer:
    """An activation that is one node. `names`: its attributes, by torch's own names."""

    def write(graph: OperationWriter, operation: Operation, arguments: Arguments) -> None:
        graph.write(operation, kind, **{names[name]: float(value) for name, value in arguments.items()})

    return write


def _clip(low: float, high: float) -> Writer:
    def write(graph: OperationWriter, operation: Operation, arguments: Arguments) -> None:
        ends = [
            arguments.get("min_val", arguments.get("min", low)),
            arguments.get("max_val", arguments.get("max", high)),
        ]
        names = [
            "" if end is None or math.isinf(end) else graph.constant(operation, name, float(end))
            for name, end in zip(("low", "high"), ends, strict=True)
        ]
        graph.write(operation, "Clip", *names)

    return write


def _hard_gate(gated: bool) -> Writer:
    def write(graph: OperationWriter, operation: Operation, arguments: Arguments) -> None:
        if not gated:
            graph.write(operation, "HardSigmoid", alpha=1 / 6, beta=0.5)
            return
        value = graph.writer.name(operation.inputs[0])
        gate = graph.step(operation, "gate", "HardSigmoid", value, alpha=1 / 6, beta=0.5)
        graph.write(operation, "Mul", inputs=[value, gate])

    return write


def _silu(graph: OperationWriter, operation: Operation, arguments: Arguments) -> None:
    value = graph.writer.name(operation.inputs[0])
    graph.write(operation, "Mul", inputs=[value, graph.step(operation, "gate", "Sigmoid", value)])


def _mish(graph: OperationWriter, operation: Operation, arguments: Arguments) -> None:
    value = graph.writer.name(operation.inputs[0])
    soft = graph.step(operation, "softplus", "Softplus", value)
    graph.write(operation, "Mul", inputs=[value, graph.step(operation, "gate", "Tanh", soft)])


def _gelu(graph: OperationWriter, operation: Operation, arguments: Arguments) -> None:
    if arguments.get("approximate", "none") != "none":
        raise UserError(f"{operation.name}: ONNX export knows no activation gelu by tanh")
    value = graph.writer.name(operation.inputs[0])
    half = graph.step(operation, "half", "Mul", value, graph.constant(operation, "factor", 0.5))
    scaled = graph.step(operation, "scaled", "Div", value, graph.constant(operation, "root", math.sqrt(2)))
    error = graph.step(operation, "error", "Erf", scaled)
    share = graph.step(operation, "share", "Add", error, graph.constant(operation, "one", 1.0))
    graph.write(operation, "Mul", inputs=[half, share])


ACTIVATIONS: dict[str, Writer] = {
    "relu": _same("Relu"),
    "relu6": _clip(0, 6),
    "hardtanh": _clip(-1, 1),
    "clamp": _clip(-math.inf, math.inf),
    "leaky_relu": _same("LeakyRelu", negative_slope="alpha"),
    "elu": _same("Elu", alpha="alpha"),
    "sigmoid": _same("Sigmoid"),
    "tanh": _same("Tanh"),
    "hardsigmoid": _hard_gate(gated=False),
    "hardswish": _hard_gate(gated=True),
    "silu": _silu,
    "mish": _mish,
    "gelu": _gelu,
}
"""How ONNX's own operators say each activation."""
