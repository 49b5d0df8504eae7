"""The table that says what each ONNX operator does, in terms of torch, so that the tracer can count it.

Each entry turns a node into a function of tensors, for example Relu into `torch.relu`. What the node takes from
constants (shapes, axes, bounds) is bound into the function. An operator that is not in `OPERATORS` is an error that
names it and its node: nothing is skipped.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from netpress.tracing.onnx.functions import FUNCTIONS, after, product
from netpress.tracing.onnx.moves import MOVERS
from netpress.tracing.onnx.nodes import Function, Node, Plan, Reader, all_operands, same, unary
from netpress.tracing.onnx.recurrent import recurrent

SMALL = 1 << 20
"""Numbers that a Range may have."""


def plan(node: Node) -> Plan:
    """How to calculate `node`. Raises UserError if its operator, or this use of it, is unknown."""
    if node.kind not in OPERATORS:
        raise node.refuse("no rule says what this operator costs, so the file cannot be counted (docs/scoring.md)")
    return OPERATORS[node.kind](node)


# --- products with weights


def _pads(node: Node, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Zeros before and after each place: [before 0, before 1, ..., after 0, after 1, ...]."""
    places, how = len(kernel), node.attributes.get("auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for size, k, s, d in zip(node.tensor().shape[2:], kernel, stride, dilation, strict=True):
            both = max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
            less, more = both // 2, both - both // 2
            before.append(less if how == "SAME_UPPER" else more)
            after.append(more if how == "SAME_UPPER" else less)
        return before + after
    return [0] * (2 * places) if how == "VALID" else list(node.attributes.get("pads", [0] * (2 * places)))


def _unpadded(pads: list[int], fill: float = 0.0) -> tuple[Function, list[int]]:
    """Equal zeros on both sides are the operation's own padding, others are put there before it."""
    places = len(pads) // 2
    before, after = pads[:places], pads[places:]
    if before == after:
        return same, before
    widths = [count for pair in reversed(list(zip(before, after, strict=True))) for count in pair]
    return lambda x: functional.pad(x, widths, value=fill), [0] * places


def _convolution(node: Node) -> Plan:
    weight, attributes = node.tensor(1), node.attributes
    kernel = list(weight.shape[2:])
    stride = list(attributes.get("strides", [1] * len(kernel)))
    dilation = list(attributes.get("dilations", [1] * len(kernel)))
    groups = attributes.get("group", 1)
    transposed = node.kind == "ConvTranspose"
    if transposed and (attributes.get("output_shape") or attributes.get("auto_pad", "NOTSET") != "NOTSET"):
        raise node.refuse("output_shape and auto_pad are not read; export it with pads")
    before, padding = _unpadded(_pads(node, kernel, stride, dilation))
    if transposed and before is not same:
        raise node.refuse("different pads before and after are not read")
    bias, outputs = node.value(2), weight.shape[1] * groups if transposed else weight.shape[0]
    if bias is not None and bias.tensor.numel() != outputs:
        raise node.refuse(f"its bias has {bias.tensor.numel()} values for {outputs} outputs")
    extra = list(attributes.get("output_padding", [0] * len(kernel)))

    def function(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return torch.convolution(before(x), w, b, stride, padding, dilation, transposed, extra, groups)

    return Plan(function, all_operands(node))


def _gemm(node: Node) -> Plan:
    alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
    flip_x, flip_w = node.attributes.get("transA", 0), node.attributes.get("transB", 0)

    def function(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        x, w = x.t() if flip_x else x, w.t() if flip_w else w
        if b is not None and alpha == beta == 1 and b.shape == w.shape[1:]:
            return torch.addmm(b, x, w)
        product = x @ w
        product = product if alpha == 1 else product * alpha
        return product if b is None else product + (b if beta == 1 else b * beta)

    return Plan(function, all_operands(node))


# --- norms


def _batch_norm(node: Node) -> Plan:
    if node.attributes.get("training_mode", 0):
        raise node.refuse("it is in training mode; export the network for inference")
    epsilon = node.attributes.get("epsilon", 1e-5)
    return Plan(
        lambda x, w, b, mean, var: functional.batch_norm(x, mean, var, w, b, False, 0.0, epsilon), (0, 1, 2, 3, 4)
    )


def _instance_norm(node: Node) -> Plan:
    epsilon = node.attributes.get("epsilon", 1e-5)
    w, b = node.given(1), node.given(2)
    if w.constant and b.constant and bool((w.tensor == 1).all()) and not bool(b.tensor.any()):
        # So torch.onnx writes a group norm, with its factors after it.
        return Plan(lambda x: functional.group_norm(x, x.shape[1], None, None, epsilon), (0,))
    return Plan(lambda x, w, b: functional.group_norm(x, x.shape[1], w, b, epsilon), (0, 1, 2))


def _group_norm(node: Node) -> Plan:
    groups, epsilon = node.attributes["num_groups"], node.attributes.get("epsilon", 1e-5)
    if node.tensor(1).shape[0] != node.tensor().shape[1]:
        raise node.refuse("scales a group (opset 18) are not read; export with opset 21")
    return Plan(lambda x, w, b: functional.group_norm(x, groups, w, b, epsilon), (0, 1, 2))


def _layer_norm(node: Node) -> Plan:
    axis, epsilon = node.attributes.get("axis", -1), node.attributes.get("epsilon", 1e-5)
    shape = list(node.tensor().shape[axis % node.tensor().dim() :])
    return Plan(lambda x, w=None, b=None: functional.layer_norm(x, shape, w, b, epsilon), all_operands(node))


# --- functions of single values


NEUTRAL = {"Mul": 1, "Div": 1, "Add": 0, "Sub": 0, "Pow": 1}
"""What changes nothing as a second operand: exporters write `x * 1` where a function had a factor."""


def elementwise(function: Function) -> Reader:
    """Two or more inputs, broadcast. A constant of one number is part of the program, as in `x * 0.5`."""

    def read(node: Node) -> Plan:
        values = [value for value in node.inputs if value is not None]
        rank = max(value.tensor.dim() for value in values)
        bound: dict[int, Any] = {}
        for index, value in enumerate(values):
            if value.constant and not node.whole and value.tensor.numel() == 1 and value.tensor.dim() <= rank:
                bound[index] = value.tensor.reshape(()).item()
        free = tuple(index for index in range(len(values)) if index not in bound)
        if len(values) == 2 and free == (0,) and bound[1] == NEUTRAL.get(node.kind):
            return Plan(same, (0,))

        def call(*tensors: Tensor) -> Tensor:
            operands = dict(zip(free, tensors, strict=True)) | bound
            result = operands[0]
            for index in range(1, len(values)):
                result = function(result, operands[index])
            return result

        return Plan(call, free)

    return read


def _divide(x: Any, y: Any) -> Any:
    whole = all(isinstance(v, int) or (isinstance(v, Tensor) and not v.is_floating_point()) for v in (x, y))
    return torch.div(x, y, rounding_mode="trunc") if whole else x / y


def _extreme(name: str) -> Function:
    compare = torch.maximum if name == "Max" else torch.minimum
    bound = "min" if name == "Max" else "max"

    def call(x: Any, y: Any) -> Any:
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return compare(x, y)
        tensor, number = (x, y) if isinstance(x, Tensor) else (y, x)
        return torch.clamp(tensor, **{bound: number})

    return call


def _clip(node: Node) -> Plan:
    low, high = node.numbers(1, "min"), node.numbers(2, "max")
    if low is None and high is None:
        return Plan(same, (0,))
    return Plan(lambda x: torch.clamp(x, low, high), (0,))


def _prelu(node: Node) -> Plan:
    if node.tensor(1).numel() not in (1, node.tensor().shape[1]):
        raise node.refuse("it has other than one slope, or one a channel")
    return Plan(lambda x, slope: functional.prelu(x, slope.reshape(-1)), (0, 1))


def _gelu(node: Node) -> Plan:
    how = node.attributes.get("approximate", "none")
    return Plan(lambda x: functional.gelu(x, approximate=how), (0,))


def _elu(node: Node) -> Plan:
    steepness = node.attributes.get("alpha", 1.0)
    return Plan(lambda x: functional.elu(x, steepness), (0,))


def _celu(node: Node) -> Plan:
    steepness = node.attributes.get("alpha", 1.0)
    return Plan(lambda x: functional.celu(x, steepness), (0,))


def _selu(node: Node) -> Plan:
    scale, steepness = node.attributes.get("gamma", _SELU[0]), node.attributes.get("alpha", _SELU[1])
    if (round(scale, 4), round(steepness, 4)) == (round(_SELU[0], 4), round(_SELU[1], 4)):
        return Plan(functional.selu, (0,))
    return Plan(lambda x: functional.elu(x, steepness) * scale, (0,))


_SELU = (1.0507009873554805, 1.6732632423543772)


def _hard_sigmoid(node: Node) -> Plan:
    slope, shift = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    if abs(slope - 1 / 6) < 1e-4 and shift == 0.5:
        return Plan(functional.hardsigmoid, (0,))
    return Plan(lambda x: torch.clamp(x * slope + shift, 0, 1), (0,))


def _leaky(node: Node) -> Plan:
    slope = node.attributes.get("alpha", 0.01)
    return Plan(lambda x: functional.leaky_relu(x, slope), (0,))


def _softmax(function: Function) -> Reader:
    def read(node: Node) -> Plan:
        x = node.tensor()
        if node.opset >= 13:
            axis = node.axis(node.attributes.get("axis", -1))
            return Plan(lambda x: function(x, dim=axis), (0,))
        axis = node.attributes.get("axis", 1) % x.dim()  # older files: over all axes from this one on
        return Plan(lambda x: function(x.flatten(axis), dim=axis).reshape(x.shape), (0,))

    return read


# --- pools and reductions


def _pool(node: Node) -> Plan:
    attributes = node.attributes
    kernel = list(attributes["kernel_shape"])
    stride = list(attributes.get("strides", [1] * len(kernel)))
    dilation = list(attributes.get("dilations", [1] * len(kernel)))
    ceil = bool(attributes.get("ceil_mode", 0))
    if len(kernel) not in (1, 2, 3):
        raise node.refuse(f"pools over {len(kernel)} dimensions are not read")
    pads = _pads(node, kernel, stride, dilation)
    if node.kind == "MaxPool":
        pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[len(kernel) - 1]
        before, padding = _unpadded(pads, -math.inf)
        return Plan(lambda x: pool(before(x), kernel, stride, padding, dilation, ceil_mode=ceil), (0,))
    if any(step != 1 for step in dilation):
        raise node.refuse("dilated averages are not read")
    average = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[len(kernel) - 1]
    before, padding = _unpadded(pads)
    counted = bool(attributes.get("count_include_pad", 0))
    return Plan(lambda x: average(before(x), kernel, stride, padding, ceil, counted), (0,))


def _global(function: Function) -> Reader:
    return lambda node: Plan(lambda x: function(x, dim=tuple(range(2, x.dim())), keepdim=True), (0,))


def _reduce(function: Function) -> Reader:
    def read(node: Node) -> Plan:
        axes = node.axes(1, ())
        if not axes:
            if node.attributes.get("noop_with_empty_axes", 0):
                return Plan(same, (0,))
            axes = list(range(node.tensor().dim()))
        keep = bool(node.attributes.get("keepdims", 1))
        return Plan(lambda x: function(x, dim=tuple(axes), keepdim=keep), (0,))

    return read


def _resize(node: Node) -> Plan:
    x, how = node.tensor(), node.attributes.get("mode", "nearest")
    sizes = node.numbers(3) if node.kind == "Resize" else None
    scales = node.numbers(2 if node.kind == "Resize" and node.opset > 10 else 1, "scales")
    sizes = sizes or [int(size * scale) for size, scale in zip(x.shape, scales or [], strict=True)]
    if x.dim() != 4 or list(sizes[:2]) != list(x.shape[:2]) or how not in ("nearest", "linear", "cubic"):
        raise node.refuse(f"only maps are resized, by nearest, linear or cubic; here {list(x.shape)} to {sizes}, {how}")
    mode = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}[how]
    return Plan(lambda x: functional.interpolate(x, size=sizes[2:], mode=mode), (0,))


def _arg_max(node: Node) -> Plan:
    axis, keep = node.attributes.get("axis", 0), bool(node.attributes.get("keepdims", 1))
    function = torch.argmax if node.kind == "ArgMax" else torch.argmin
    return Plan(lambda x: function(x, dim=axis, keepdim=keep), (0,))


OPERATORS: dict[str, Reader] = {
    **MOVERS,
    **FUNCTIONS,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "MatMul": lambda node: Plan(torch.matmul, (0, 1)),
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "Relu": unary(torch.relu),
    "Sigmoid": unary(torch.sigmoid),
    "HardSwish": unary(functional.hardswish),
    "HardSigmoid": _hard_sigmoid,
    "Tanh": unary(torch.tanh),
    "Elu": _elu,
    "Selu": _selu,
    "Celu": _celu,
    "Softplus": unary(functional.softplus),
    "Mish": unary(functional.mish),
    "Gelu": _gelu,
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Clip": _clip,
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    **{
        name: unary(getattr(torch, name.lower()))
        for name in (
            "Exp",
            "Log",
            "Sqrt",
            "Reciprocal",
            "Erf",
            "Sin",
            "Cos",
            "Abs",
            "Neg",
            "Sign",
            "Round",
            "Floor",
            "Tan",
            "Asin",
            "Acos",
            "Atan",
            "Sinh",
            "Cosh",
            "Asinh",
            "Acosh",
            "Atanh",
        )
    },
    "Ceil": unary(torch.ceil),
    "Add": elementwise(lambda x, y: x + y),
    "Sum": elementwise(lambda x, y: x + y),
    "Sub": elementwise(lambda x, y: x - y),
    "Mul": elementwise(lambda x, y: x * y),
    "Div": elementwise(_divide),
    "Pow": elementwise(lambda x, y: x**y),
    "Max": elementwise(_extreme("Max")),
    "Min": elementwise(_extreme("Min")),
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMin": _reduce(torch.amin),
    "ReduceL2": _reduce(torch.linalg.vector_norm),
    "ReduceProd": _reduce(product),
    "ReduceL1": _reduce(after(torch.abs, torch.sum)),
    "ReduceSumSquare": _reduce(after(torch.square, torch.sum)),
    "ReduceLogSum": _reduce(after(same, torch.sum, torch.log)),
    "ReduceLogSumExp": _reduce(after(torch.exp, torch.sum, torch.log)),
    "LSTM": recurrent,
    "GRU": recurrent,
    "RNN": recurrent,
    "Where": lambda node: Plan(torch.where, (0, 1, 2)),
    "Greater": elementwise(lambda x, y: x > y),
    "GreaterOrEqual": elementwise(lambda x, y: x >= y),
    "Less": elementwise(lambda x, y: x < y),
    "LessOrEqual": elementwise(lambda x, y: x <= y),
    "Equal": elementwise(lambda x, y: x == y),
    "And": elementwise(torch.logical_and),
    "Or": elementwise(torch.logical_or),
    "Not": unary(torch.logical_not),
    "ArgMax": _arg_max,
    "ArgMin": _arg_max,
    "Resize": _resize,
    "Upsample": _resize,
}
"""The operators that can be counted, apart from those that the graph's reader itself understands: constants, shapes,
casts, and the making of integers (`netpress.tracing.onnx.graph`)."""
