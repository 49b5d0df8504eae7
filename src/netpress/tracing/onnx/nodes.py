"""The types with which an ONNX graph is read: a value, a node, and the plan to calculate a node."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from netpress.errors import UserError
from netpress.numerics.formats import AnyFormat

Function = Callable[..., Any]


@dataclass
class Value:
    """What flows along an edge of the graph.

    `tensor` is on the meta device if the value depends on the image; otherwise it is a constant, with its values.
    `format`: the integers that a DequantizeLinear made these numbers of; `scale` and `zero_point` of a constant's.
    `made_of`: for a constant that the graph calculates, the function and the constants that it is made of. The tracer
    calculates it once more, so that one rule (`netpress.tracing.constants`) says what of it is stored.
    """

    tensor: Tensor
    constant: bool
    format: AnyFormat | None = None
    scale: Tensor | None = None
    zero_point: Tensor | None = None
    made_of: "tuple[Function, tuple[Value, ...]] | None" = None


@dataclass
class Node:
    """A node of the graph, ready to be read."""

    place: str
    """Its name in messages and rows."""
    kind: str
    """Its operator."""
    attributes: dict[str, Any]
    inputs: list[Value | None]
    opset: int
    outputs: int = 1
    whole: bool = field(init=False)
    """Whether it depends on constants alone."""

    def __post_init__(self) -> None:
        self.whole = all(value.constant for value in self.inputs if value is not None)

    def refuse(self, why: str) -> UserError:
        return UserError(f"{self.place} ({self.kind}): {why}")

    def value(self, index: int) -> Value | None:
        return self.inputs[index] if len(self.inputs) > index else None

    def tensor(self, index: int = 0) -> Tensor:
        return self.given(index).tensor

    def given(self, index: int) -> Value:
        value = self.value(index)
        if value is None:
            raise self.refuse(f"its input {index} is missing")
        return value

    def numbers(self, index: int, name: str = "", default: Any = None) -> Any:
        """Constants that shape the operation: the input at `index`, in older files the attribute `name`."""
        value = self.value(index)
        if value is None:
            return self.attributes.get(name, default)
        if not value.constant:
            raise self.refuse(f"its input {index} depends on the image; only constants are counted here")
        return value.tensor.tolist()

    def axis(self, stated: int) -> int:
        """An axis of the first input, from 0."""
        places = self.tensor().dim()
        if not -places <= stated < max(1, places):
            raise self.refuse(f"axis {stated} of a tensor that has {places}")
        return stated % max(1, places)

    def axes(self, index: int, default: Sequence[int]) -> list[int]:
        """The axes at an input or in the attribute `axes`, from 0."""
        axes = self.numbers(index, "axes", None)
        axes = list(default) if axes is None else [axes] if isinstance(axes, int) else axes
        return [self.axis(axis) for axis in axes]


@dataclass
class Plan:
    """How to calculate a node: a function of the inputs at `operands`."""

    function: Function
    operands: tuple[int, ...]


Reader = Callable[[Node], Plan]


def all_operands(node: Node) -> tuple[int, ...]:
    return tuple(index for index, value in enumerate(node.inputs) if value is not None)


def same(x: Tensor) -> Tensor:
    return x


def unary(function: Function) -> Reader:
    return lambda node: Plan(function, (0,))
