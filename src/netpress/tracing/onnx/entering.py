"""How an image enters an ONNX file: as numbers, or as bytes that the graph normalizes first.

A file that takes bytes, 0 to 255, makes numbers of them with a factor and a sum for each channel, which is
(pixel / 255 - mean) / deviation. The rules of the challenge say nothing of it, and the organisers' own count begins
behind it, as that of a network file does. So it is left out of what is counted, and the score card says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

AFFINE = ("Mul", "Div", "Add", "Sub")
LONGEST = 4
"""Nodes: a cast, and what (pixel / 255 - mean) / deviation takes."""


@dataclass(frozen=True)
class Entrance:
    """Where the network begins in a graph."""

    source: str
    """The value that the network begins with: the graph's input, or that input normalized."""
    nodes: frozenset[int] = frozenset()
    """The places of the nodes before it."""
    said: Sequence[str] = ()
    """In words, what is not counted."""


def find_entrance(graph: Any, source: Any) -> Entrance:
    """The entrance of the graph whose input is the entry `source`. Raises nothing, whatever the graph is."""
    from onnx import TensorProto

    kind = source.type.tensor_type
    sizes = [dim.dim_value for dim in kind.shape.dim]
    if kind.elem_type != TensorProto.UINT8 or len(sizes) != 4 or sizes[1] < 1:
        return Entrance(source.name)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    name, multiplications, additions, stored = source.name, 0, 0, 0
    places: list[int] = []
    while len(places) < LONGEST and name not in {entry.name for entry in graph.output}:
        readers = [place for place, node in enumerate(graph.node) if name in node.input]
        if len(readers) != 1 or graph.node[readers[0]].domain not in ("", "ai.onnx"):
            break
        node = graph.node[readers[0]]
        if not places:
            if not _makes_floats(node):
                break
        else:
            number = _number_of(node, name, constants, sizes[1])
            if number is None:
                break
            stored += number
            multiplications += node.op_type in ("Mul", "Div")
            additions += node.op_type in ("Add", "Sub")
        name = node.output[0]
        places.append(readers[0])
    if not multiplications + additions:
        return Entrance(source.name)
    said = (
        f"the normalization of the pixels is not counted, as for a network file: {multiplications} multiplication and "
        f"{additions} addition a value of the image, {stored} stored values"
    )
    return Entrance(name, frozenset(places), (said,))


def _makes_floats(node: Any) -> bool:
    from onnx import TensorProto

    kinds = [entry.i for entry in node.attribute if entry.name == "to"]
    return bool(node.op_type == "Cast" and kinds == [TensorProto.FLOAT] and len(node.output) == 1)


def _number_of(node: Any, name: str, constants: dict[str, Any], channels: int) -> int | None:
    """How many values a node adds to `name` or multiplies it by, one for all or one a channel; None if otherwise."""
    if node.op_type not in AFFINE or len(node.input) != 2 or len(node.output) != 1:
        return None
    other = node.input[1] if node.input[0] == name else node.input[0]
    if other == name or other not in constants or (node.op_type in ("Div", "Sub") and node.input[0] != name):
        return None
    shape = list(constants[other].dims)
    if all(size == 1 for size in shape):
        return 1
    return channels if shape[-3:] == [channels, 1, 1] and all(size == 1 for size in shape[:-3]) else None
