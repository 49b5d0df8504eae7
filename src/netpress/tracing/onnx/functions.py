"""ONNX operators that combine several of torch's (Shrink), or put values where indices say (ScatterND)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from netpress.tracing.onnx.nodes import Function, Node, Plan, Reader, all_operands, unary


def numbered(function: Function, **defaults: Any) -> Reader:
    """A function of one value and of attributes, by their names in ONNX."""

    def read(node: Node) -> Plan:
        options = {name: node.attributes.get(name, value) for name, value in defaults.items()}
        return Plan(lambda x: function(x, **options), (0,))

    return read


def _swish(x: Tensor, alpha: float) -> Tensor:
    return functional.silu(x) if alpha == 1 else x * torch.sigmoid(x * alpha)


def _shrink(x: Tensor, lambd: float, bias: float) -> Tensor:
    if bias not in (0, lambd):
        above = torch.where(x > lambd, x - bias, torch.zeros((), device=x.device))
        return torch.where(x < -lambd, x + bias, above)
    return torch.sign(x) * torch.relu(torch.abs(x) - lambd) if bias else torch.where(torch.abs(x) > lambd, x, 0.0)


def _mean(node: Node) -> Plan:
    def function(*values: Tensor) -> Tensor:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total / len(values) if len(values) > 1 else total

    return Plan(function, all_operands(node))


# --- comparisons


def _both(function: Function) -> Reader:
    return lambda node: Plan(function, all_operands(node))


def _is_inf(node: Node) -> Plan:
    above, below = node.attributes.get("detect_positive", 1), node.attributes.get("detect_negative", 1)
    if above and below:
        return Plan(torch.isinf, (0,))
    return Plan(lambda x: x == (math.inf if above else -math.inf), (0,))


def _mod(node: Node) -> Plan:
    if not node.whole:
        raise node.refuse("no rule says what a remainder costs; only those of constants are calculated")
    return Plan(torch.fmod if node.attributes.get("fmod", 0) else torch.remainder, (0, 1))


# --- places


def _triangle(node: Node) -> Plan:
    shift = 0 if node.value(1) is None else int(node.tensor(1).item())
    function = torch.triu if node.attributes.get("upper", 1) else torch.tril
    return Plan(lambda x: function(x, shift), (0,))


def _space_to_depth(node: Node) -> Plan:
    size, x = node.attributes["blocksize"], node.tensor()
    batch, channels, height, width = x.shape
    if node.attributes.get("mode", "DCR") == "CRD":
        return Plan(lambda x: functional.pixel_unshuffle(x, size), (0,))

    def function(x: Tensor) -> Tensor:
        x = x.reshape(batch, channels, height // size, size, width // size, size).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(batch, channels * size**2, height // size, width // size)

    return Plan(function, (0,))


def _gather_elements(node: Node) -> Plan:
    axis = node.attributes.get("axis", 0)
    size = node.tensor().shape[axis]
    indices = node.tensor(1)
    if not node.given(1).constant:
        return Plan(lambda x, places: x.gather(axis, places.long()), (0, 1))
    indices = torch.where(indices < 0, indices + size, indices)
    return Plan(lambda x: x.gather(axis, indices), (0,))


def _gather_nd(node: Node) -> Plan:
    if node.attributes.get("batch_dims", 0) or not node.given(1).constant:
        raise node.refuse("batch_dims, and indices that depend on the image, are not read")
    places = tuple(node.tensor(1).unbind(-1))
    return Plan(lambda x: x[places], (0,))


def _scatter(node: Node) -> Plan:
    """Values put in the places of others. Where they are added, no rule says what that costs."""
    if node.attributes.get("reduction", "none") != "none" or not node.given(1).constant:
        raise node.refuse("values that are added, or go where the image says, are not read")
    places = node.tensor(1)
    if node.kind == "ScatterND":
        indices = tuple(places.unbind(-1))
        return Plan(lambda x, values: x.index_put(indices, values), (0, 2))
    axis = node.attributes.get("axis", 0)
    places = torch.where(places < 0, places + node.tensor().shape[axis], places)
    return Plan(lambda x, values: x.scatter(axis, places, values), (0, 2))


# --- products, norms, reductions


def _einsum(node: Node) -> Plan:
    equation = node.attributes["equation"]
    return Plan(lambda *operands: torch.einsum(equation, *operands), all_operands(node))


def _rms_norm(node: Node) -> Plan:
    axis, epsilon = node.attributes.get("axis", -1), node.attributes.get("epsilon", 1e-5)
    shape = list(node.tensor().shape[axis % node.tensor().dim() :])
    if list(node.tensor(1).shape) != shape:
        return Plan(lambda x, w: functional.rms_norm(x, shape, None, epsilon) * w, (0, 1))
    return Plan(lambda x, w: functional.rms_norm(x, shape, w, epsilon), (0, 1))


Reduction = Callable[..., Tensor]


def product(x: Tensor, dim: Any, keepdim: bool) -> Tensor:
    """The product of all values along the dimensions `dim`."""
    for axis in sorted(dim, reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


def after(first: Function, reduction: Reduction, last: Function | None = None) -> Reduction:
    """A reduction of what a function makes of each value, and a function of what it gives."""

    def reduce(x: Tensor, dim: Any, keepdim: bool) -> Tensor:
        result = reduction(first(x), dim=dim, keepdim=keepdim)
        return result if last is None else last(result)

    return reduce


FUNCTIONS: dict[str, Reader] = {
    "Swish": numbered(_swish, alpha=1.0),
    "ThresholdedRelu": numbered(lambda x, alpha: functional.threshold(x, alpha, 0.0), alpha=1.0),
    "Softsign": unary(lambda x: x / (1 + torch.abs(x))),
    "Shrink": numbered(_shrink, lambd=0.5, bias=0.0),
    "Mean": _mean,
    "Xor": _both(torch.logical_xor),
    "BitwiseAnd": _both(torch.bitwise_and),
    "BitwiseOr": _both(torch.bitwise_or),
    "BitwiseXor": _both(torch.bitwise_xor),
    "BitwiseNot": unary(torch.bitwise_not),
    "IsNaN": unary(torch.isnan),
    "IsInf": _is_inf,
    "Mod": _mod,
    "Trilu": _triangle,
    "SpaceToDepth": _space_to_depth,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter,
    "Scatter": _scatter,
    "ScatterND": _scatter,
    "Einsum": _einsum,
    "RMSNormalization": _rms_norm,
}
