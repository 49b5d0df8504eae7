"""Channels that count for nothing: those that nothing reads, and those that are zero for every image.

The network as a program (`netpress.program`) shows which channel goes where. A channel of one buffer that is the same
channel in others, through norms, activations, sums, gates, pools and depthwise convolutions, can only go from all of
them: together they are a class. A class goes where every product of weights that reads it multiplies it by zeros, or
reads zeros whatever the image. Then the answers stay the same. A channel of another constant stays, and so does one of
integers that stand for 0 by a zero point: without it, biases would be rounded otherwise.
"""

import torch
from torch import Tensor, nn

from netpress.compression.channels.structure import Axis, ChannelGroup, Side
from netpress.network import Network
from netpress.network.edits.narrowing import is_depthwise, is_narrowable
from netpress.program import operations as ops
from netpress.program.execution import run
from netpress.program.lowering import has_integer_arithmetic, lower, lower_floats
from netpress.program.operations import Operation, Program

PRODUCTS = (ops.IntegerSums, ops.FloatConvolution, ops.FloatLinear)


def removable_channels(network: Network) -> tuple[list[ChannelGroup], list[Tensor]]:
    """Groups of channels, and the units of each that can go, as `narrow_network` takes them; none for shapes.

    A group is one class. One channel of each layer stays at least, and whatever a mask in blocks covers. Raises
    UserError where no program can be made of the network.
    """
    if any(parameter.is_meta for parameter in network.module.parameters()):
        return [], []
    flow = Flow(network)
    left = {(layer, side): len(places) for layer, side, places in flow.axes}
    groups: list[ChannelGroup] = []
    for places in flow.idle_classes():
        if all(left[layer, side] > len(at) for layer, side, at in places):
            for layer, side, at in places:
                left[layer, side] -= len(at)
            axes = [Axis(layer, side, torch.tensor(at), torch.zeros(len(at)).long()) for layer, side, at in places]
            groups.append(ChannelGroup(places[0][0], tuple(axes), torch.zeros(1, dtype=torch.int64)))
    return groups, [torch.tensor([0]) for _ in groups]


class Flow:
    """What a program does with each channel of each buffer, which is a place: `starts[buffer]` + channel."""

    def __init__(self, network: Network) -> None:
        self.network, self.module, self.program = network, network.module, lower_floats(network)
        self.starts: dict[str, int] = {}
        count = 0
        for name in self.program.buffers:
            self.starts[name] = count
            count += self.channels(name)
        self.parents = list(range(count))
        self.fixed = torch.zeros(count, dtype=torch.bool)  # cannot go, whatever the values
        self.constant = torch.zeros(count, dtype=torch.bool)  # the same for every image and pixel
        self.zero = torch.zeros(count, dtype=torch.bool)  # and that is 0
        self.needed = torch.zeros(count, dtype=torch.bool)
        self.axes: list[tuple[str, Side, list[int]]] = []
        self.layers = _layers_of_their_own(network, self.program)
        self.fix(self.program.input, self.program.output)
        self._follow()
        self.needed[self.places(self.program.output)] = True
        for operation in reversed(self.program.operations):
            self._need(operation)

    def channels(self, buffer: str) -> int:
        shape = self.program.buffers[buffer].shape
        return shape[0] if shape else 1

    def places(self, buffer: str) -> Tensor:
        return torch.arange(self.channels(buffer)) + self.starts[buffer]

    def fix(self, *buffers: str) -> None:
        for buffer in buffers:
            self.fixed[self.places(buffer)] = True

    def root(self, place: int) -> int:
        while self.parents[place] != place:
            self.parents[place] = self.parents[self.parents[place]]
            place = self.parents[place]
        return place

    def unite(self, first: Tensor, second: Tensor) -> None:
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            self.parents[self.root(one)] = self.root(other)

    def idle_classes(self) -> list[list[tuple[str, Side, list[int]]]]:
        """Where each class that can go lies: layer, side, positions."""
        kept = {self.root(place) for place in self.fixed.nonzero()[:, 0].tolist()}
        classes: dict[int, list[tuple[str, Side, list[int]]]] = {}
        for layer, side, places in self.axes:
            at: dict[int, list[int]] = {}
            for position, place in enumerate(places):
                at.setdefault(self.root(place), []).append(position)
            for root, positions in at.items():
                classes.setdefault(root, []).append((layer, side, positions))
        return [places for root, places in classes.items() if root not in kept]

    # --- forwards: which channels are one another, and which are constant

    def _follow(self) -> None:
        """From the image on. What a constant is shows a blank image, in exact integers where these are what runs."""
        values = _run_blank(self.program, self.module)
        if has_integer_arithmetic(self.network):
            exact = _run_blank(lower(self.network), self.module)  # its buffers have the same names
            values |= {name: exact[name] for name in values.keys() & exact.keys()}
        for operation in self.program.operations:
            places = self.places(operation.output)
            self.constant[places] = self._join(operation, values)
            zeros = (values[operation.output].reshape(len(places), -1) == 0).all(1).cpu()
            # Beside a zero point, 0 is no number 0; and the point's share in a bias would be rounded otherwise.
            plain = not self.program.buffers[operation.output].zero_point
            self.zero[places] = self.constant[places] & zeros & plain

    def _join(self, operation: Operation, values: dict[str, Tensor]) -> Tensor:
        """Unite the places of what it reads and writes; which channels of its output are constant: bool [channels]."""
        read, places = [self.places(name) for name in operation.inputs], self.places(operation.output)
        constants = [self.constant[one] for one in read]
        match operation:
            case ops.IntegerSums() | ops.FloatConvolution() | ops.FloatLinear():
                return self._join_product(operation, values[operation.inputs[0]])
            case ops.BatchNorm() if operation.name in self.layers:
                self.axes.append((operation.name, "channels", places.tolist()))
                constants = [constants[0] | _silenced(operation)]
            case ops.AveragePool(padding=(0, 0)) | ops.MaximumPool() | ops.AdaptivePool():
                pass
            case ops.AveragePool() | ops.UnitLength(axis=1):
                constants = [self.zero[read[0]]]
            case ops.Mean() if 1 not in operation.axes:
                pass
            case ops.Pad() if not any(operation.widths[4:]):
                constants = [self.zero[read[0]]] if operation.value == 0 else [torch.zeros_like(constants[0])]
            case ops.Activation() | ops.Rescale() | ops.Quantize() | ops.Cast():
                pass
            case ops.Add() | ops.Multiply() if _meets_alike(operation, [len(one) for one in read]):
                if isinstance(operation, ops.Multiply) and len(read) == 2:
                    both = constants[0] & constants[1]
                    constants = [both | self.zero[read[0]] | self.zero[read[1]]]
            case ops.Concatenate(axis=1):
                self.unite(torch.cat(read), places)
                return torch.cat(constants)
            case ops.Reshape() if len(places) % len(read[0]) == 0 and len(operation.shape) in (1, 2):
                repeats = len(places) // len(read[0])
                if len(operation.shape) == 1 or repeats == 1:
                    self.unite(read[0].repeat_interleave(repeats), places)
                    return constants[0].repeat_interleave(repeats)
                self.fix(*operation.inputs, operation.output)
                return torch.zeros(len(places), dtype=torch.bool)
            case _:
                self.fix(*operation.inputs, operation.output)
                return torch.zeros(len(places), dtype=torch.bool)
        for one in read:
            self.unite(one, places)
        return torch.stack(constants).all(0)

    def _join_product(self, operation: Operation, values: Tensor) -> Tensor:
        (source,), places = operation.inputs, self.places(operation.output)
        read, weight = self.places(source), _dense(operation)
        if operation.name not in self.layers or weight is None or weight.shape != (len(places), len(read)):
            self.fix(source, operation.output)
            return torch.zeros(len(places), dtype=torch.bool)
        layer = self.module.get_submodule(operation.name)
        if is_depthwise(layer):
            self.unite(read, places)
            self.axes.append((operation.name, "channels", places.tolist()))
        elif getattr(layer, "groups", 1) > 1:
            self.fix(source, operation.output)
        else:
            self.axes += [(operation.name, "inputs", read.tolist()), (operation.name, "outputs", places.tolist())]
        steady = self.constant[read]
        if any(getattr(getattr(operation, "window", None), "padding", ())):
            padding = getattr(operation, "padding_value", 0.0)
            steady = steady & (values.reshape(len(read), -1) == padding).all(1).cpu()
        return ~(weight & ~steady).any(1)

    # --- backwards: which channels the answers depend on

    def _need(self, operation: Operation) -> None:
        needed = self.needed[self.places(operation.output)]
        reads = [self.places(name) for name in operation.inputs]
        if isinstance(operation, PRODUCTS):
            weight = _dense(operation)
            if weight is None or weight.shape != (len(needed), len(reads[0])):
                self.needed[reads[0]] = True
                return
            wanted = weight[needed].any(0)
            self.needed[reads[0]] |= wanted
            if not self._coupled(operation):
                self.fixed[reads[0]] |= wanted & ~self.zero[reads[0]]
        elif isinstance(operation, ops.UnitLength):
            self.needed[reads[0]] = True
            self.fixed[reads[0]] |= ~self.zero[reads[0]]
        elif isinstance(operation, ops.Concatenate) and operation.axis == 1:
            for places, part in zip(reads, needed.split([len(one) for one in reads]), strict=True):
                self.needed[places] |= part
        elif isinstance(operation, ops.Reshape) and len(needed) % len(reads[0]) == 0:
            self.needed[reads[0]] |= needed.reshape(len(reads[0]), -1).any(1)
        elif all(len(places) == len(needed) for places in reads):
            for number, places in enumerate(reads):
                idle = torch.zeros_like(needed)
                if isinstance(operation, ops.BatchNorm):
                    idle = _silenced(operation)
                elif isinstance(operation, ops.Multiply) and len(reads) == 2:
                    idle = self.zero[reads[1 - number]]
                self.needed[places] |= needed & ~idle
        else:
            for places in reads:
                self.needed[places] = True

    def _coupled(self, operation: Operation) -> bool:
        """Whether what it reads goes with what it writes, so that whoever reads that decides."""
        return operation.name in self.layers and is_depthwise(self.module.get_submodule(operation.name))


@torch.inference_mode()
def _run_blank(program: Program, module: nn.Module) -> dict[str, Tensor]:
    """What every buffer holds for a blank image."""
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    values = {program.input: torch.zeros(1, *program.buffers[program.input].shape, device=device)}
    for operation in program.operations:
        values[operation.output] = run(operation, [values[name] for name in operation.inputs])
    return values


def _layers_of_their_own(network: Network, program: Program) -> set[str]:
    """Layers that can lose channels: they run once, share no tensor, and no mask in blocks covers them."""
    blocks = {name.rpartition(".")[0] for name in network.whole_patterns()}
    uses: dict[int, int] = {}
    names = [op.name for op in program.operations if isinstance(op, (*PRODUCTS, ops.BatchNorm))]
    modules = dict(network.module.named_modules(remove_duplicate=False))
    for part in modules.values():
        for tensor in part.parameters(recurse=False):
            uses[id(tensor)] = uses.get(id(tensor), 0) + 1
    return {
        name
        for name in names
        if names.count(name) == 1
        and name
        and name not in blocks
        and name in modules
        and is_narrowable(modules[name])
        and all(uses[id(tensor)] == 1 for tensor in modules[name].parameters(recurse=False))
    }


def _silenced(operation: ops.BatchNorm) -> Tensor:
    """Channels that a norm multiplies by 0: bool [channels]."""
    weight = operation.variance.new_ones(()) if operation.weight is None else operation.weight
    return (weight == 0).expand_as(operation.variance).cpu()


def _dense(operation: Operation) -> Tensor | None:
    """Which input each output of a product is made of: bool [outputs, inputs]; None where that is not so simple."""
    assert isinstance(operation, PRODUCTS)
    weight = operation.weight
    present = (weight != 0).reshape(*weight.shape[:2], -1).any(2).cpu()
    window = getattr(operation, "window", None)
    if window is None or window.groups == 1:
        return present
    outputs, inputs = len(present) // window.groups, present.shape[1]
    spread = torch.zeros(len(present), inputs * window.groups, dtype=torch.bool)
    for group in range(window.groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        spread[rows, group * inputs : (group + 1) * inputs] = present[rows]
    return spread


def _meets_alike(operation: ops.Add | ops.Multiply, channels: list[int]) -> bool:
    """Whether channels meet the same channels, or one number."""
    if len(channels) == 2:
        return channels[0] == channels[1]
    constant = operation.constant
    return not isinstance(constant, Tensor) or constant.numel() == 1
