"""What a C file does, step by step, and where in the arena each step's values lie.

A step makes its output channel by channel: it calculates a row (sums of a layer, a pool, a copy), lets functions of
single values work on it, and stores it, perhaps as the integers that enter the next layer. So what is between a layer's
sums and the next layer's integers never lies in memory as a whole.
"""

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Self

from netpress.errors import UserError
from netpress.program.integers import (
    Clamp,
    Curve,
    HardGate,
    IntegerAdd,
    IntegerMean,
    IntegerMultiply,
    IntegerPool,
    IntegerUnitLength,
    LeakyRelu,
    Pixels,
    Requantize,
    Restore,
    Scale,
    Shift,
)
from netpress.program.operations import (
    Concatenate,
    Convolution,
    IntegerSums,
    MaximumPool,
    Operation,
    Pad,
    Program,
    Reshape,
)

ON_ROWS = (Clamp, Curve, HardGate, IntegerAdd, IntegerMultiply, LeakyRelu, Requantize, Scale, Shift)
"""What works on a row, value by value."""
MAKING_ROWS = (Pixels, IntegerSums, IntegerPool, IntegerMean, MaximumPool, Pad)
"""What makes a row."""


@dataclass(frozen=True)
class Node:
    """One operation, or several that C does as one."""

    operation: Operation
    inputs: tuple[str, ...]
    output: str
    gated: bool = False
    """Of a gate: whether the value is multiplied by it."""
    finish: tuple[Shift, Scale | None] | None = None
    """Of sums: what makes a layer's output of them, which always follows them at once."""


@dataclass(frozen=True)
class Geometry:
    """Channels, rows and columns of a buffer; a vector has one row and one column."""

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Self:
        """The geometry of an image's or a vector's shape."""
        if len(shape) == 3:
            return cls(*shape)
        return cls(shape[0], 1, math.prod(shape[1:]))

    @property
    def plane(self) -> int:
        """Values in a channel."""
        return self.height * self.width


@dataclass(frozen=True)
class Reading:
    """What a step reads of a buffer: for output row y the rows y * stride - top and following ones, `span` in all."""

    name: str
    stride: int = 1
    span: int = 1
    top: int = 0
    whole: bool = False
    """All rows, for each row of the output."""
    by_channel: bool = True
    """Whether a channel of the output is made of the same channel alone."""


@dataclass
class Step:
    """One function of the C file: it makes some rows of its output, channel by channel."""

    first: Node | None
    """What makes the rows; None copies them from `source`."""
    source: str | None
    rest: list[Node]
    output: str
    geometry: Geometry

    @property
    def nodes(self) -> list[Node]:
        return ([] if self.first is None else [self.first]) + self.rest


@dataclass
class Plan:
    """Steps in order, and the buffers that they store to."""

    steps: list[Step]
    program: Program
    names: dict[str, str]
    """Of a reshaped buffer, the one whose memory it is."""
    output: str = ""
    geometries: dict[str, Geometry] = field(default_factory=dict)

    def name(self, name: str) -> str:
        """Whose memory a buffer is."""
        return self.names.get(name, name)

    def item(self, name: str) -> str:
        """The type of a stored value: u8, s8 or s16."""
        buffer = self.program.buffers[name]
        if buffer.bits > 8:
            return "s16"
        return "s8" if buffer.signed else "u8"

    def shaped(self, name: str) -> Geometry:
        """A buffer as an operation sees it, which may be another geometry than that of its memory."""
        return Geometry.of(self.program.buffers[name].shape)

    def kept(self, name: str) -> bool:
        """Whether an operation sees a buffer's rows as they lie in memory."""
        return self.shaped(name) == self.geometries[self.name(name)]

    def reads(self, step: Step) -> list[Reading]:
        """What a step reads, each buffer once for each time that it reads it."""
        read = [Reading(str(step.source))] if step.first is None else self._first_reads(step.first)
        made = {node.output for node in step.nodes} | {reading.name for reading in read}
        others = [name for node in step.rest for name in node.inputs if name not in made]
        return read + [Reading(name, whole=self.geometries[name] != step.geometry) for name in others]

    def _first_reads(self, node: Node) -> list[Reading]:
        operation = node.operation
        match operation:
            case Pixels():
                return []
            case Concatenate():
                return [Reading(name, by_channel=False) for name in node.inputs]
            case Pad() if self.kept(operation.inputs[0]):
                return [Reading(node.inputs[0], top=sides(operation)[2], by_channel=not any(operation.widths[4:]))]
            case Convolution() if self.kept(operation.inputs[0]):
                window, rows = operation.window, operation.weight.shape[2]
                single = operation.weight.shape[1] == 1 and window.groups == len(operation.weight)
                span = (rows - 1) * window.dilation[0] + 1
                return [Reading(node.inputs[0], window.stride[0], span, window.padding[2], by_channel=single)]
            case IntegerPool() | MaximumPool() if (
                self.kept(operation.inputs[0]) and self.shaped(node.output).height > 1
            ):
                apart = operation.dilation[0] if isinstance(operation, MaximumPool) else 1
                span = (operation.kernel[0] - 1) * apart + 1
                return [Reading(node.inputs[0], operation.stride[0], span, operation.padding[0])]
        by_channel = isinstance(operation, IntegerMean | IntegerPool | MaximumPool)
        return [Reading(node.inputs[0], whole=True, by_channel=by_channel)]


def sides(operation: Pad) -> tuple[int, ...]:
    """What a Pad adds on the left, right, top, bottom, and before and after the channels."""
    return (*operation.widths, *[0] * (6 - len(operation.widths)))


def plan(program: Program) -> Plan:
    """The steps of an integer program. Raises UserError, naming the operation, for what C has no kernel for."""
    nodes, names = _join(program)
    made = Plan([], program, names)
    last = program.operations[-1]
    assert isinstance(last, Restore)
    made.output = made.name(last.inputs[0])
    nodes = _needed(nodes, made.output)
    readers = Counter(made.name(name) for node in nodes for name in node.inputs)
    readers[made.output] += 1
    for node in _ordered(nodes, made):
        _place(made, node, readers)
    return made


def _needed(nodes: list[Node], output: str) -> list[Node]:
    """The nodes that the output depends on: some networks have gates that nothing uses."""
    needed, kept = {output}, list[Node]()
    for node in reversed(nodes):
        if node.output in needed:
            kept.append(node)
            needed.update(node.inputs)
    return kept[::-1]


def _ordered(nodes: list[Node], made: Plan) -> list[Node]:
    """The nodes in an order of execution that keeps little in memory.

    What makes a vector waits for the images that can be made: so a block's shortcut is made in the strips of its main
    branch, though the program has a gate between them. Of these, what frees most comes first: of two layers that
    read one image, the one with the smaller output.
    """
    waiting, ordered, known = list(nodes), list[Node](), {made.program.input}
    readers = Counter(name for node in nodes for name in node.inputs)
    readers[made.output] += 1

    def grows(node: Node) -> int:
        freed = [name for name in set(node.inputs) if readers[name] == node.inputs.count(name)]
        return _bits(made, node.output) - sum(_bits(made, name) for name in freed if name != made.program.input)

    while waiting:
        ready = [node for node in waiting if known.issuperset(node.inputs)]
        images = [node for node in ready if made.shaped(node.output).height > 1]
        node = min(images, key=grows) if images else ready[0]
        waiting.remove(node)
        ordered.append(node)
        known.add(node.output)
        readers.subtract(node.inputs)
    return ordered


def _bits(made: Plan, name: str) -> int:
    buffer = made.program.buffers[name]
    return math.prod(buffer.shape) * buffer.bits


def _join(program: Program) -> tuple[list[Node], dict[str, str]]:
    """The operations as nodes: sums with what finishes them, gates with their products; names of reshaped buffers."""
    names: dict[str, str] = {}
    readers = Counter(name for operation in program.operations for name in operation.inputs)
    nodes: list[Node] = []
    for operation in program.operations[:-1]:
        read = tuple(names.get(name, name) for name in operation.inputs)
        before = nodes[-1] if nodes else None
        if isinstance(operation, Reshape):
            names[operation.output] = read[0]
        elif before and isinstance(before.operation, IntegerSums) and not before.finish:
            assert isinstance(operation, Shift)
            nodes[-1] = replace(before, output=operation.output, finish=(operation, None))
        elif before and before.finish and before.finish[1] is None and isinstance(operation, Scale):
            nodes[-1] = replace(before, output=operation.output, finish=(before.finish[0], operation))
        elif (
            before
            and isinstance(operation, IntegerMultiply)
            and isinstance(before.operation, HardGate | Curve)
            and operation.inputs == (before.inputs[0], before.output)
            and readers[before.output] == 1
        ):
            nodes[-1] = replace(before, output=operation.output, gated=True)
        else:
            nodes.append(Node(operation, read, operation.output))
    return nodes, names


def _place(made: Plan, node: Node, readers: Counter[str]) -> None:
    """Add a node to the step that makes what it reads, or as a step of its own."""
    operation = node.operation
    geometry = made.shaped(node.output)
    if isinstance(operation, MAKING_ROWS):
        _check(operation, made.program)
        _append(made, Step(node, None, [], node.output, geometry))
        return
    if isinstance(operation, IntegerUnitLength | Concatenate):
        if operation.axis != 1 or (isinstance(operation, IntegerUnitLength) and geometry.plane != 1):
            raise _no_kernel(operation, "along other axes than channels")
        _append(made, Step(node, None, [], node.output, geometry))
        return
    if not isinstance(operation, ON_ROWS):
        raise _no_kernel(operation, "of this kind")
    read = [made.geometries[name] for name in node.inputs]
    if len(node.inputs) == 1 and isinstance(operation, Requantize):
        geometry = read[0]  # which may have been reshaped
    whole = [name for name, each in zip(node.inputs, read, strict=True) if each == geometry]
    if not whole or any(each != geometry and (each.channels, each.plane) != (geometry.channels, 1) for each in read):
        raise _no_kernel(operation, f"of {' and '.join(str((each.channels, each.plane)) for each in read)} values")
    for step in reversed(made.steps):
        if step.output not in node.inputs:
            continue
        first = step.first.operation if step.first else None
        joined = isinstance(first, IntegerUnitLength | Concatenate) or node.inputs.count(step.output) > 1
        ends = made.item(step.output) != "s16" or (step.rest and isinstance(step.rest[-1].operation, Requantize))
        if readers[step.output] == 1 and step.geometry == geometry and step.output in whole and not (joined or ends):
            step.rest.append(node)
            step.output = node.output
            made.geometries[node.output] = geometry
            return
        break  # of two, only the one that is made last has the other at hand
    _append(made, Step(None, whole[0], [node], node.output, geometry))


def _append(made: Plan, step: Step) -> None:
    made.steps.append(step)
    made.geometries[step.output] = step.geometry


def _check(operation: Operation, program: Program) -> None:
    shape = program.buffers[operation.inputs[0]].shape
    if isinstance(operation, IntegerMean) and (operation.axes != (2, 3) or len(shape) != 3):
        raise _no_kernel(operation, "over other axes than height and width")
    linear = isinstance(operation, IntegerSums) and not isinstance(operation, Convolution)
    if linear and len(shape) > 1 and shape[0] > 1:
        raise _no_kernel(operation, "of more than one vector")
    if isinstance(operation, Pad) and (len(shape) != 3 or len(operation.widths) > 6):
        raise _no_kernel(operation, "of what is no image")


def _no_kernel(operation: Operation, what: str) -> UserError:
    return UserError(f"{operation.name}: C has no kernel for a {operation.kind} {what}")
