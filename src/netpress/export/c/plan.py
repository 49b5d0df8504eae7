"""What a C file does, step by step, and where in the arena each step's values lie.

A step makes its output channel by channel: it calculates a row (sums of a layer, a pool, a copy), lets functions of
single values work on it, and stores it, perhaps as the integers that enter the next layer. So what is between a layer's
sums and the next layer's integers never lies in memory as a whole.
"""

import math
from collections import Counter
from dataclasses import dataclass, field, replace

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

ALIGNED = 4  # bytes
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


@dataclass
class Step:
    """One function of the C file."""

    first: Node | None
    """What makes the rows; None copies them from `source`."""
    source: str | None
    rest: list[Node]
    output: str
    shape: tuple[int, int]
    """Channels, and values in each."""
    offset: int = 0
    """Where in the arena its scratch memory lies."""

    @property
    def nodes(self) -> list[Node]:
        return ([] if self.first is None else [self.first]) + self.rest

    def reads(self) -> list[tuple[str, bool]]:
        """What it reads, and whether of each only the channel that it makes, before it stores that."""
        by_channel = self.first is None or reads_by_channel(self.first)
        read = [(name, by_channel) for name in (self.first.inputs if self.first else (str(self.source),))]
        made = {node.output for node in self.nodes} | {name for name, _ in read}
        return read + [(name, True) for node in self.rest for name in node.inputs if name not in made]


@dataclass
class Plan:
    """Steps in order, and the buffers that they store to."""

    steps: list[Step]
    program: Program
    names: dict[str, str]
    """Of a reshaped buffer, the one whose memory it is."""
    offsets: dict[str, int] = field(default_factory=dict)
    arena: int = 0
    """Bytes."""
    output: str = ""

    def channels(self, name: str) -> tuple[int, int]:
        """Channels of a buffer, and values in each."""
        return channels(self.program.buffers[name].shape)

    def item(self, name: str) -> str:
        """The type of a stored value: u8, s8 or s16."""
        buffer = self.program.buffers[name]
        if buffer.bits > 8 or (not buffer.signed and buffer.bits > 8):
            return "s16"
        return "s8" if buffer.signed else "u8"


def channels(shape: tuple[int, ...]) -> tuple[int, int]:
    """The first length of a shape, and the product of the others."""
    return shape[0], math.prod(shape[1:])


def reads_by_channel(node: Node) -> bool:
    """Whether a row is made of the same channel of the input alone."""
    operation = node.operation
    if isinstance(operation, Convolution):
        return operation.weight.shape[1] == 1 and operation.window.groups == len(operation.weight)
    if isinstance(operation, Pad):
        return not any(operation.widths[4:])
    return not isinstance(operation, IntegerSums | IntegerUnitLength | Concatenate)


def plan(program: Program) -> Plan:
    """The steps of an integer program. Raises UserError, naming the operation, for what C has no kernel for."""
    nodes, names = join(program)
    readers = Counter(names.get(name, name) for node in nodes for name in node.inputs)
    made = Plan([], program, names)
    last = program.operations[-1]
    assert isinstance(last, Restore)
    made.output = names.get(last.inputs[0], last.inputs[0])
    readers[made.output] += 1
    for node in nodes:
        _place(made, node, readers)
    _arrange(made)
    return made


def join(program: Program) -> tuple[list[Node], dict[str, str]]:
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
    operation, program = node.operation, made.program
    shape = channels(program.buffers[node.output].shape)
    if isinstance(operation, MAKING_ROWS):
        _check(operation, program)
        made.steps.append(Step(node, None, [], node.output, shape))
        return
    if isinstance(operation, IntegerUnitLength | Concatenate):
        if operation.axis != 1 or (isinstance(operation, IntegerUnitLength) and shape[1] != 1):
            raise _no_kernel(operation, "along other axes than channels")
        made.steps.append(Step(node, None, [], node.output, shape))
        return
    if not isinstance(operation, ON_ROWS):
        raise _no_kernel(operation, "of this kind")
    if len(node.inputs) == 1 and isinstance(operation, Requantize):
        shape = made.channels(node.inputs[0])  # which may have been reshaped
    whole = [name for name in node.inputs if made.channels(name) == shape]
    if not whole or any(made.channels(name) not in (shape, (shape[0], 1)) for name in node.inputs):
        raise _no_kernel(operation, f"of {' and '.join(str(made.channels(name)) for name in node.inputs)} values")
    for step in reversed(made.steps):
        if step.output not in node.inputs:
            continue
        first = step.first.operation if step.first else None
        joined = isinstance(first, IntegerUnitLength | Concatenate) or node.inputs.count(step.output) > 1
        ends = made.item(step.output) != "s16" or (step.rest and isinstance(step.rest[-1].operation, Requantize))
        if readers[step.output] == 1 and step.shape == shape and step.output in whole and not (joined or ends):
            step.rest.append(node)
            step.output = node.output
            return
        break  # of two, only the one that is made last has the other at hand
    made.steps.append(Step(None, whole[0], [node], node.output, shape))


def _check(operation: Operation, program: Program) -> None:
    shape = program.buffers[operation.inputs[0]].shape
    if isinstance(operation, IntegerMean) and (operation.axes != (2, 3) or len(shape) != 3):
        raise _no_kernel(operation, "over other axes than height and width")
    if (
        isinstance(operation, IntegerSums)
        and not isinstance(operation, Convolution)
        and len(shape) > 1
        and shape[0] > 1
    ):
        raise _no_kernel(operation, "of more than one vector")
    if isinstance(operation, Pad) and (len(shape) != 3 or len(operation.widths) > 6):
        raise _no_kernel(operation, "of what is no image")


def _no_kernel(operation: Operation, what: str) -> UserError:
    return UserError(f"{operation.name}: C has no kernel for a {operation.kind} {what}")


# --- the arena


@dataclass
class _Block:
    size: int
    start: int
    end: int
    offset: int = 0


def _arrange(made: Plan) -> None:
    """Give each buffer its place: one that is read for the last time may be overwritten, channel by channel."""
    last = {made.output: len(made.steps)}
    for index, step in enumerate(made.steps):
        for name, _ in step.reads():
            last[name] = max(last.get(name, 0), index)
    blocks: dict[str, _Block] = {}
    places: list[_Block] = []
    for index, step in enumerate(made.steps):
        values, width = step.shape[0] * step.shape[1], 2 if made.item(step.output) == "s16" else 1
        block = _overwritten(made, step, index, blocks, width)
        if block is None:
            block = _Block(values * width, index, index)
            places.append(block)
        block.end = max(block.end, last.get(step.output, index))
        blocks[step.output] = block
    scratch = [_Block(6 * step.shape[1], index, index) for index, step in enumerate(made.steps)]
    made.arena = _pack(places + scratch)
    made.offsets = {name: block.offset for name, block in blocks.items()}
    for step, block in zip(made.steps, scratch, strict=True):
        step.offset = block.offset


def _overwritten(made: Plan, step: Step, index: int, blocks: dict[str, _Block], width: int) -> _Block | None:
    reads = step.reads()
    whole = {name for name, by_channel in reads if not by_channel}
    for name, _ in reads:
        if name in whole or name not in blocks or blocks[name].end != index:
            continue
        count, each = made.channels(name)
        bytes_each = each * (2 if made.item(name) == "s16" else 1)
        if count == step.shape[0] and step.shape[1] * width <= bytes_each:
            return blocks[name]
    return None


def _pack(blocks: list[_Block]) -> int:
    """Set offsets so that blocks of one time do not overlap, the largest first; returns the bytes that this takes."""
    placed: list[_Block] = []
    for block in sorted(blocks, key=lambda one: (-one.size, one.start)):
        beside = [other for other in placed if other.start <= block.end and block.start <= other.end]
        block.offset = 0
        for other in sorted(beside, key=lambda one: one.offset):
            if block.offset + block.size <= other.offset:
                break
            block.offset = max(block.offset, -(-(other.offset + other.size) // ALIGNED) * ALIGNED)
        placed.append(block)
    return max((block.offset + block.size for block in blocks), default=0)
