"""ONNX operators that only put values elsewhere, such as Reshape and Concat."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from netpress.tracing.onnx.nodes import Node, Plan, Reader, all_operands, same, unary


def _reshape(node: Node) -> Plan:
    shape, x = node.numbers(1, "shape"), node.tensor()
    if not node.attributes.get("allowzero", 0):
        shape = [x.shape[index] if length == 0 else length for index, length in enumerate(shape)]
    return Plan(lambda x: x.reshape(shape), (0,))


def _flatten(node: Node) -> Plan:
    axis = node.attributes.get("axis", 1)
    shape = node.tensor().shape
    first = math.prod(shape[: axis if axis >= 0 else axis + len(shape)])
    return Plan(lambda x: x.reshape(first, -1), (0,))


def _transpose(node: Node) -> Plan:
    places = node.tensor().dim()
    order = list(node.attributes.get("perm", range(places - 1, -1, -1)))
    return Plan(lambda x: x.permute(order), (0,))


def _squeeze(node: Node) -> Plan:
    x = node.tensor()
    axes = set(node.axes(1, [axis for axis in range(x.dim()) if x.shape[axis] == 1]))
    shape = [size for axis, size in enumerate(x.shape) if axis not in axes]
    return Plan(lambda x: x.reshape(shape), (0,))


def _unsqueeze(node: Node) -> Plan:
    x, axes = node.tensor(), node.numbers(1, "axes")
    places = x.dim() + len(axes)
    added, sizes = {axis % places for axis in axes}, iter(x.shape)
    shape = [1 if axis in added else next(sizes) for axis in range(places)]
    return Plan(lambda x: x.reshape(shape), (0,))


def _concat(node: Node) -> Plan:
    axis = node.attributes["axis"]
    return Plan(lambda *parts: torch.cat(parts, axis), all_operands(node))


def _split(node: Node) -> Plan:
    axis, sizes = node.attributes.get("axis", 0), node.numbers(1, "split")
    length = node.tensor().shape[axis]
    parts = node.attributes.get("num_outputs", node.outputs)
    sizes = sizes or [min(math.ceil(length / parts), length - k * math.ceil(length / parts)) for k in range(parts)]
    return Plan(lambda x: x.split(sizes, axis), (0,))


def _slice(node: Node) -> Plan:
    starts, ends = node.numbers(1, "starts"), node.numbers(2, "ends")
    axes = node.numbers(3, "axes", list(range(len(starts))))
    steps = node.numbers(4, "steps", [1] * len(starts))
    shape = node.tensor().shape

    def function(x: Tensor) -> Tensor:
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            size = shape[axis]
            # Backwards, an end before the first place means all of it, as None does in Python.
            low, high, _ = slice(start, None if step < 0 and end < -size else end, step).indices(size)
            places = range(low, high, step)
            if step < 0:
                x, low = x.flip(axis), size - 1 - low
            x = x.narrow(axis, low if places else 0, abs(places[-1] - places[0]) + 1 if places else 0)
            x = x[(slice(None),) * (axis % x.dim()) + (slice(None, None, abs(step)),)] if abs(step) > 1 else x
        return x

    return Plan(function, (0,))


def _gather(node: Node) -> Plan:
    axis, index = node.attributes.get("axis", 0), node.numbers(1)
    axis = node.axis(axis)
    places = [index] if isinstance(index, int) else node.tensor(1).reshape(-1).tolist()
    size = node.tensor().shape[axis]
    if places and not -size <= min(places) <= max(places) < size:
        raise node.refuse(f"it takes place {max(places, key=abs)} of {size}")
    if isinstance(index, int):
        return Plan(lambda x: x.select(axis, index), (0,))
    shape = [*node.tensor().shape[:axis], *node.tensor(1).shape, *node.tensor().shape[axis + 1 :]]

    def function(x: Tensor, indices: Tensor) -> Tensor:
        places = indices.reshape(-1)
        return x.index_select(axis, torch.where(places < 0, places + size, places)).reshape(shape)

    return Plan(function, (0, 1))


def _pad(node: Node) -> Plan:
    x, mode = node.tensor(), node.attributes.get("mode", "constant")
    pads, fill = node.numbers(1, "pads"), node.numbers(2, "value", 0.0)
    axes = node.numbers(3, "none") or list(range(x.dim()))
    both = [(0, 0)] * x.dim()
    for k, axis in enumerate(axes):
        both[axis] = (pads[k], pads[k + len(axes)])
    widths = [count for pair in reversed(both) for count in pair]
    if mode == "constant":
        fill = fill if isinstance(fill, int | float) else (fill or [0.0])[0]
        return Plan(lambda x: functional.pad(x, widths, value=fill), (0,))
    if mode not in ("reflect", "edge") or any(widths[2 * (x.dim() - 2) :]):
        raise node.refuse(f"padding by {mode} is not read, except by reflect and edge in space")
    name = {"reflect": "reflect", "edge": "replicate"}[mode]
    return Plan(lambda x: functional.pad(x, widths[: 2 * (x.dim() - 2)], mode=name), (0,))


def _expand(node: Node) -> Plan:
    shape = torch.broadcast_shapes(node.tensor().shape, node.numbers(1))
    return Plan(lambda x: x.expand(shape), (0,))


def _tile(node: Node) -> Plan:
    times = node.numbers(1)
    return Plan(lambda x: x.repeat(times), (0,))


def _depth_to_space(node: Node) -> Plan:
    size, x = node.attributes["blocksize"], node.tensor()
    batch, channels, height, width = x.shape
    deep = channels // size**2
    if node.attributes.get("mode", "DCR") == "CRD":
        return Plan(lambda x: functional.pixel_shuffle(x, size), (0,))

    def function(x: Tensor) -> Tensor:
        x = x.reshape(batch, size, size, deep, height, width).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(batch, deep, height * size, width * size)

    return Plan(function, (0,))


MOVERS: dict[str, Reader] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "Identity": unary(same),
    "Dropout": unary(same),
}
"""Operators by which values move; some of them repeat values, leave some out, or put constants between them."""

MOVES = frozenset({*MOVERS} - {"Concat", "Pad", "Tile"}) | {"MaxPool", "GlobalMaxPool"}
"""Operators of one input that give some of its own values again: what was an integer stays one."""
