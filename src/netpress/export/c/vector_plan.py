"""What the vectors of a C file do, step by step, and how and where each step's values lie.

A step makes channels of values (sums of a layer, a pool, a copy), lets functions of single values work on them and
stores them once: as rows [channel][pixel], or as the places that the sums of the next layer read.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from netpress.export.c.plan import ON_ROWS, Geometry, Node, join, needed_nodes
from netpress.program.integers import IntegerUnitLength, Requantize, Restore
from netpress.program.operations import Concatenate, Convolution, IntegerSums, Linear, Operation, Program

PIXELS = 32
"""Channels are padded to a multiple of so many pixels: the widest vector."""
CHANNELS = 4
"""Channels that are made at once; tensors have a multiple of so many."""
ALIGNED = 64  # bytes
TILE = 64
"""Pixels that a layer's sums are made of at once, at most."""

Layout = Literal["rows", "places", "guarded"]


def rounded(count: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-count // unit) * unit


@dataclass
class Tensor:
    """A stored buffer: 16-bit integers."""

    channels: int
    plane: int
    layout: Layout = "rows"
    small: bool = False
    """Of places: whether they may be bytes."""
    below: int = 0
    """Of guarded tensors: what the layer is padded with, which is subtracted before storing."""
    guard: int = 0
    """Pixels before the first channel and behind each."""
    offset: int = 0
    """In the arena, bytes."""

    @property
    def pitch(self) -> int:
        """Pixels from one channel to the next."""
        wide = self.layout == "places" and self.plane > PIXELS
        return rounded(self.plane, TILE if wide else PIXELS) + self.guard

    @property
    def size(self) -> int:
        """Bytes."""
        ahead = 2 * PIXELS if self.guard else 0
        return 2 * (rounded(self.channels, CHANNELS) * self.pitch + self.guard + ahead)

    @property
    def start(self) -> int:
        """Where in the arena its first value lies."""
        return self.offset + 2 * self.guard


@dataclass
class VectorStep:
    """One function of the C file: what makes values, None to take those of `source`, and what works on them."""

    first: Node | None
    source: str | None
    rest: list[Node]
    output: str
    offset: int = 0
    """Where in the arena its scratch memory lies."""

    def reads(self) -> list[str]:
        """The buffers that it reads."""
        nodes = ([self.first] if self.first else []) + self.rest
        made = {node.output for node in nodes}
        names = [name for node in nodes for name in node.inputs] + ([self.source] if self.source else [])
        return [name for name in dict.fromkeys(names) if name not in made]


@dataclass
class VectorPlan:
    """Steps in order, and the tensors that they store."""

    program: Program
    steps: list[VectorStep]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    arena: int = 0
    """Bytes."""
    output: str = ""

    def image(self, name: str) -> tuple[int, int]:
        """Height and width of a buffer's channels."""
        geometry = Geometry.of(self.program.buffers[name].shape)
        return geometry.height, geometry.width

    def declared(self, name: str) -> tuple[int, int]:
        """Channels and pixels of a buffer's shape."""
        geometry = Geometry.of(self.program.buffers[name].shape)
        return geometry.channels, geometry.plane


class NoVectors(Exception):
    """There is no kernel in vectors for something; the portable path has one."""


def plan_vectors(program: Program) -> VectorPlan:
    """The steps of an integer program that `netpress.export.c.plan` takes. Raises NoVectors."""
    nodes, names = join(program)
    last = program.operations[-1]
    assert isinstance(last, Restore)
    made = VectorPlan(program, [])
    made.output = names.get(last.inputs[0], last.inputs[0])
    nodes = needed_nodes(nodes, made.output)
    readers = Counter(name for node in nodes for name in node.inputs)
    readers[made.output] += 1
    for node in nodes:
        _check(made, node)
        count, plane = _dimensions(made, node)
        made.tensors[node.output] = Tensor(count, plane)
        _place(made, node, readers)
    stored = {step.output for step in made.steps}
    made.tensors = {name: tensor for name, tensor in made.tensors.items() if name in stored}
    for node in nodes:
        if isinstance(node.operation, IntegerSums) and readers[node.inputs[0]] == 1:
            _lay_out(made, node)
    _arrange(made)
    return made


def _dimensions(made: VectorPlan, node: Node) -> tuple[int, int]:
    """Channels and pixels of what a node writes. What is only reshaped keeps those that it had."""
    read = [made.tensors[name] for name in node.inputs if name in made.tensors]
    if isinstance(node.operation, Requantize | IntegerUnitLength):
        return read[0].channels, read[0].plane
    if isinstance(node.operation, Concatenate) and len({part.plane for part in read}) == 1:
        return sum(part.channels for part in read), read[0].plane
    return made.declared(node.output)


def _check(made: VectorPlan, node: Node) -> None:
    """Raise NoVectors for what reads a reshaped buffer in another shape than it lies in, and for wide weights."""
    operation = node.operation
    if (
        isinstance(operation, IntegerSums)
        and not -(2**15) <= int(operation.weight.min()) <= int(operation.weight.max()) < 2**15
    ):
        raise NoVectors
    if isinstance(operation, Linear | Concatenate | IntegerUnitLength | Requantize):
        return
    for name, real in zip(operation.inputs, node.inputs, strict=False):
        tensor = made.tensors.get(real)
        if tensor and (tensor.channels, tensor.plane) != made.declared(name):
            raise NoVectors


def _place(made: VectorPlan, node: Node, readers: Counter[str]) -> None:
    """Add a node to the step that makes what it reads, or as a step of its own."""
    if not isinstance(node.operation, ON_ROWS):
        made.steps.append(VectorStep(node, None, [], node.output))
        return
    tensor = made.tensors[node.output]
    whole = [name for name in node.inputs if made.tensors[name].plane == tensor.plane]
    for step in reversed(made.steps):
        if step.output not in node.inputs:
            continue
        first = step.first.operation if step.first else None
        joined = isinstance(first, IntegerUnitLength | Concatenate) or node.inputs.count(step.output) > 1
        ended = step.rest and isinstance(step.rest[-1].operation, Requantize)
        if readers[step.output] == 1 and step.output in whole and not joined and not ended:
            step.rest.append(node)
            step.output = node.output
            return
        break  # of two, only the one that is made last has the other at hand
    made.steps.append(VectorStep(None, whole[0], [node], node.output))


def is_depthwise(made: VectorPlan, operation: Operation) -> bool:
    """Whether each channel is summed alone, at places of the input."""
    if not isinstance(operation, Convolution) or operation.weight.shape[1] != 1:
        return False
    channels_in, height, width = made.program.buffers[operation.inputs[0]].shape
    outputs, high, wide = made.program.buffers[operation.output].shape
    (down, across), groups = operation.window.stride, operation.window.groups
    alone = channels_in == outputs == groups and outputs > 1
    return alone and (high - 1) * down < height and (wide - 1) * across < width


def _lay_out(made: VectorPlan, node: Node) -> None:
    """How the input of a layer lies that nothing else reads."""
    operation, tensor = node.operation, made.tensors[node.inputs[0]]
    assert isinstance(operation, IntegerSums)
    step = next(step for step in made.steps if step.output == node.inputs[0])
    if not step.rest or not isinstance(step.rest[-1].operation, Requantize):
        return
    if is_depthwise(made, operation):
        assert isinstance(operation, Convolution)
        width, window = made.image(operation.inputs[0])[1], operation.window
        left, _, top, _ = window.padding
        reach = [(count - 1) * apart for count, apart in zip(operation.weight.shape[2:], window.dilation, strict=True)]
        behind = max(reach[0] - top, 0) * width + max(reach[1] - left, 0)
        tensor.layout, tensor.below = "guarded", int(operation.padding_value)
        tensor.guard = rounded(max(top * width + left, behind, 1), PIXELS)
        return
    if isinstance(operation, Convolution):
        window = operation.window
        pointwise = operation.weight[0, 0].numel() == 1 and window.stride == (1, 1) and not any(window.padding)
    else:
        pointwise = tensor.plane == 1
    if pointwise:
        buffer, weight = made.program.buffers[node.inputs[0]], operation.weight
        tensor.layout = "places"
        tensor.small = not buffer.signed and buffer.bits <= 8 and int(weight.min()) >= -128 and int(weight.max()) < 128


# --- the arena


def _scratch(made: VectorPlan, step: VectorStep) -> int:
    """Bytes of memory that a step needs while it runs."""
    if step.first is None:
        return 0
    operation, tensor = step.first.operation, made.tensors[step.output]
    rows = 2 * CHANNELS * rounded(tensor.plane, PIXELS)
    if not isinstance(operation, IntegerSums):
        return rows
    read = made.tensors[step.first.inputs[0]]
    if read.layout == "guarded":
        return rows + 2 * (rounded(made.image(operation.inputs[0])[1], PIXELS) + PIXELS)
    return 0 if read.layout == "places" else 2 * TILE * gathered(operation)


def gathered(operation: IntegerSums) -> int:
    """How many values meet a kernel at one pixel, in all groups."""
    groups = operation.window.groups if isinstance(operation, Convolution) else 1
    return rounded(groups * operation.weight[0].numel(), CHANNELS)


def _arrange(made: VectorPlan) -> None:
    """Give each tensor the lowest place that is free while it is needed."""
    last = {made.output: len(made.steps)}
    for index, step in enumerate(made.steps):
        last |= dict.fromkeys(step.reads(), index)
    last[made.output] = len(made.steps)
    taken: list[tuple[int, int, int]] = []  # the step that ends it, from, to

    def place(size: int, index: int, end: int) -> int:
        held = sorted((start, stop) for ends, start, stop in taken if ends >= index)
        offset = 0
        for start, stop in held:
            if offset + size <= start:
                break
            offset = max(offset, rounded(stop, ALIGNED))
        taken.append((end, offset, offset + size))
        return offset

    for index, step in enumerate(made.steps):
        tensor = made.tensors[step.output]
        tensor.offset = place(tensor.size, index, last.get(step.output, index))
        step.offset = place(_scratch(made, step), index, index)
    lines = [
        gathered(step.first.operation)
        for step in made.steps
        if step.first and isinstance(step.first.operation, IntegerSums)
    ]
    used = max([stop for _, _, stop in taken] + [2 * CHANNELS * line for line in lines])
    made.arena = used + ALIGNED - 4
