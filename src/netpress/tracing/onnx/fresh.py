"""ONNX operators that make constants from a shape, a range or a seed, such as ConstantOfShape and Range.

If an operand is a tensor (RandomNormalLike), only its shape matters.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from netpress.tracing.onnx.nodes import Node

Maker = Callable[[], Tensor]
KINDS = (
    "ConstantOfShape",
    "Range",
    "EyeLike",
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
)


def fresh(node: Node, fill: Any) -> tuple[int, Maker]:
    """How many values a node of KINDS makes, and how. `fill`: the value of a ConstantOfShape."""
    match node.kind:
        case "ConstantOfShape":
            shape = node.numbers(0)
            return _count(shape), lambda: torch.full(shape, fill)
        case "Range":
            start, limit, step = (_number(node, index) for index in range(3))
            if not step:
                raise node.refuse("it goes on in steps of 0")
            count = max(0, math.ceil((limit - start) / step))
            return count, lambda: torch.arange(start, limit, step)[:count]
        case "EyeLike":
            rows, columns = node.tensor().shape
            shift = node.attributes.get("k", 0)
            return rows * columns, lambda: _diagonal(rows, columns, shift)
    shape = list(node.tensor().shape) if node.kind.endswith("Like") else list(node.attributes.get("shape", []))
    return _count(shape), lambda: _drawn(node, shape)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= max(0, int(length))
    return count


def _number(node: Node, index: int) -> Any:
    number = node.numbers(index)
    return number[0] if isinstance(number, list) else number


def _diagonal(rows: int, columns: int, shift: int) -> Tensor:
    wide = torch.eye(rows + abs(shift), columns + abs(shift))
    down, right = max(0, -shift), max(0, shift)
    return (
        wide[right : right + rows, right + shift : right + shift + columns]
        if shift >= 0
        else wide[down + shift : down + shift + rows, down : down + columns]
    )


def _drawn(node: Node, shape: list[int]) -> Tensor:
    """Random numbers: which ones does not matter, but that they are not zero does."""
    generator = torch.Generator().manual_seed(int(node.attributes.get("seed", 0)))
    if node.kind.startswith("RandomNormal"):
        normal = torch.randn(shape, generator=generator)
        return normal * node.attributes.get("scale", 1.0) + node.attributes.get("mean", 0.0)
    low, high = node.attributes.get("low", 0.0), node.attributes.get("high", 1.0)
    return torch.rand(shape, generator=generator) * (high - low) + low
