"""Which channels of a network can only go together, and which must stay.

A channel of one layer is read by others: where blocks are added up, the layers of all of them lose the same channels;
where parts are concatenated, the readers lose them at an offset. Torch-Pruning (Fang et al., "DepGraph", CVPR 2023;
extra `structured`) finds these dependencies from one forward pass:

    find_groups(network, "all")     a ChannelGroup for each set of layers that depend on one another

It takes every operator that it does not know for one that leaves channels in their places. Where that is not so, or
where a network fixes a number of channels, nothing may go, and the group says why (`ChannelGroup.whole`).
"""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from netpress.compression.channels.removal import narrow_module
from netpress.compression.channels.structure import ALONE, Axis, ChannelGroup, Side, on_shapes
from netpress.errors import UserError
from netpress.network import Network
from netpress.network.edits.narrowing import is_depthwise, is_narrowable, sizes_of
from netpress.network.selection import layers_with_weights, select


def import_torch_pruning() -> Any:
    """The package. Raises UserError, which says what to install, where it is not there."""
    try:
        import torch_pruning
    except ImportError as error:
        raise UserError(
            f'removing channels needs Torch-Pruning: pip install "netpress[structured]" ({error})'
        ) from None
    return torch_pruning


def find_groups(network: Network, layers: str | Sequence[str] = "all") -> list[ChannelGroup]:
    """All groups of channels that some layer makes, in the order of the network's layers.

    `layers`: whose outputs may lose channels (as `netpress.network.selection.select`); a group with another layer
    stays whole. Depthwise convolutions make no channels, they follow. Works on shapes as on values. Raises UserError
    for a pattern that matches nothing, where the dependencies cannot be found, and without the package.
    """
    selected = {name for name, _ in select(network.module, layers)}
    module = _shapes(network)
    graph, result = _trace(module, network)
    names = {id(part): name for name, part in module.named_modules()}
    shared = _sharing(module)
    found = [_read_group(graph, group, names, result) for group in _all_groups(graph)]
    groups = [_judge(group, module, selected, shared) for group in found]
    order = {name: place for place, (name, _) in enumerate(layers_with_weights(module))}
    groups.sort(key=lambda group: order.get(group.name, len(order)))
    return _try_out(groups, module, network.input.size)


def unreached(network: Network, groups: Sequence[ChannelGroup]) -> list[str]:
    """Layers that make channels of which no group knows: what the network answers does not depend on them."""
    known = {axis.layer for group in groups for axis in group.axes if axis.side != "inputs"}
    return [name for name, layer in layers_with_weights(network.module) if name not in known]


def _shapes(network: Network) -> nn.Module:
    """A copy of the module in evaluation mode, on shapes if its forward pass runs on them."""
    module = copy.deepcopy(network.module).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    shapes = on_shapes(module)
    if any(parameter.is_meta for parameter in module.parameters()):
        return shapes
    return shapes if _fails(shapes, network.input.size) is None else module.cpu()


def _image(module: nn.Module, size: tuple[int, int, int]) -> Tensor:
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    return torch.zeros(1, *size, device=device)


def _fails(module: nn.Module, size: tuple[int, int, int]) -> str | None:
    """Why the forward pass fails, in one line; None where it runs."""
    try:
        with torch.no_grad():
            module(_image(module, size))
    except Exception as error:  # a user's own module may raise anything
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _trace(module: nn.Module, network: Network) -> tuple[Any, Any]:
    """The dependency graph of the module, and the gradient function of the network's answers in it."""
    pruning = import_torch_pruning()
    answers: list[Tensor] = []

    def forward(module: nn.Module, image: Tensor) -> list[Tensor]:
        made: list[Tensor] = []
        hooks = [
            part.register_forward_hook(lambda _part, _inputs, output: made.append(output))
            for part in module.modules()
            if not list(part.children())
        ]
        try:
            answers.append(module(image) * 1.0)  # an operator of its own, so that the answers have a node
        finally:
            for hook in hooks:
                hook.remove()
        # What layers make and nobody uses has dependencies too: those layers still run.
        used = _functions(answers[0].grad_fn)
        return answers + [x * 1.0 for x in made if isinstance(x, Tensor) and x.grad_fn and x.grad_fn not in used]

    try:
        with torch.enable_grad():
            image = _image(module, network.input.size)
            graph = pruning.DependencyGraph().build_dependency(module, image, forward_fn=forward, verbose=False)
    except Exception as error:  # of the package, or of a user's own module
        raise UserError(
            f"{type(module).__name__}: the dependencies between its channels cannot be found: "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    return graph, answers[0].grad_fn


def _functions(last: Any) -> set[Any]:
    """All gradient functions that lead to this one."""
    seen, waiting = {last}, [last]
    while waiting:
        new = {function for function, _ in waiting.pop().next_functions if function is not None} - seen
        seen |= new
        waiting += new
    return seen


def _all_groups(graph: Any) -> Iterator[Any]:
    try:
        yield from graph.get_all_groups()
    except Exception as error:
        raise UserError(
            f"the dependencies between the network's channels cannot be followed: {type(error).__name__}: {error}"
        ) from error


def _read_group(graph: Any, group: Any, names: dict[int, str], result: Any) -> ChannelGroup:
    """Our form of one of the package's groups; `whole` for what its operators forbid."""
    axes: list[Axis] = []
    whole = ""
    for item in group:
        node, part = item.dep.target, item.dep.target.module
        name = names.get(id(part))
        if isinstance(part, nn.Parameter):
            whole = whole or "the forward pass uses a parameter of its own on them"
        elif name is not None:
            outputs = graph.is_out_channel_pruning_fn(item.dep.handler)
            side: Side = "outputs" if outputs else "inputs"
            if is_depthwise(part) or not isinstance(part, nn.modules.conv._ConvNd | nn.Linear):
                side = "channels"
            pairs = sorted(zip(item.idxs, item.root_idxs, strict=True))
            positions, channels = (torch.tensor(column) for column in zip(*pairs, strict=True))
            axes.append(Axis(name, side, positions, channels))
        elif node.grad_fn is result:
            whole = whole or "they are the network's answers"
        elif _pads_channels(node.grad_fn):
            whole = whole or "a padding adds a fixed number of channels to them"
    root = group[0]
    return ChannelGroup(names[id(root.dep.target.module)], tuple(axes), torch.arange(len(root.idxs)), whole)


def _pads_channels(function: Any) -> bool:
    """Whether an operator of [batch, channels, height, width] is a padding along the channels."""
    if function is None or not function.name().startswith("ConstantPadNd"):
        return False
    padding = tuple(function._saved_pad)
    return any(padding[4:])


def _sharing(module: nn.Module) -> set[str]:
    """Layers that have a tensor, or their very self, in common with another place of the network."""
    parts = list(module.named_modules(remove_duplicate=False))
    uses = Counter(id(tensor) for _, part in parts for tensor in part.parameters(recurse=False))
    return {name for name, part in parts if any(uses[id(tensor)] > 1 for tensor in part.parameters(recurse=False))}


def _judge(group: ChannelGroup, module: nn.Module, selected: set[str], shared: set[str]) -> ChannelGroup:
    """The group with its units, and with the first reason why none of its channels can go."""
    whole = group.whole
    axes: list[Axis] = []
    for axis in group.axes:
        layer = module.get_submodule(axis.layer)
        if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
            continue  # one slope for whatever channels there are
        axes.append(axis)
        if not is_narrowable(layer):
            whole = whole or f"{axis.layer} ({type(layer).__name__}) cannot lose single channels"
        elif axis.side == "outputs" and axis.layer not in selected:
            whole = whole or f"{axis.layer} is not among the layers asked for"
        elif axis.layer in shared:
            whole = whole or f"{axis.layer} shares its tensors with another layer"
        elif int(axis.positions.max()) >= _length(layer, axis.side):
            whole = whole or f"{axis.layer} has another number of channels than {group.name}"
    group = replace(group, axes=tuple(axes), whole=whole)
    if whole:
        return group
    units = _join_units(group, module)
    if units is None:
        return replace(group, whole="a grouped convolution takes them apart with other channels")
    return replace(group, units=units, whole=ALONE if int(units.max()) == 0 else "")


def _length(layer: nn.Module, side: Side) -> int:
    sizes = sizes_of(layer)
    return sizes.inputs if side == "inputs" else sizes.outputs


def _join_units(group: ChannelGroup, module: nn.Module) -> Tensor | None:
    """The unit of each channel, numbered as they come; None where a grouped convolution ties them to other channels.

    Each group of a convolution reads and gives as many channels as the others. So what goes from one of its groups
    goes from each of them, at the same place.
    """
    units = torch.arange(group.count)
    for axis in group.axes:
        layer = module.get_submodule(axis.layer)
        groups = sizes_of(layer).groups
        if groups == 1 or is_depthwise(layer):
            continue
        length = _length(layer, axis.side) // groups
        places = axis.positions % length
        if bool((torch.bincount(places) % groups).any()) or len(axis.positions) != len(axis.positions.unique()):
            return None
        for place in places.unique():
            joined = units[axis.channels[places == place]]
            units[torch.isin(units, joined)] = joined.min()
    return units.unique(return_inverse=True)[1]


def _try_out(groups: list[ChannelGroup], module: nn.Module, size: tuple[int, int, int]) -> list[ChannelGroup]:
    """The groups, those whole without which the forward pass fails: views of a fixed size, for example."""
    free = [place for place, group in enumerate(groups) if not group.whole]
    if _fails_without(free, groups, module, size) is None:
        return groups
    tried = list(groups)
    for place in free:
        reason = _fails_without([place], groups, module, size)
        if reason is not None:
            tried[place] = replace(groups[place], whole=f"the forward pass fails without one of them ({reason})")
    left = [place for place, group in enumerate(tried) if not group.whole]
    reason = _fails_without(left, tried, module, size)
    if reason is not None:
        raise UserError(f"{type(module).__name__}: its forward pass fails with fewer channels: {reason}")
    return tried


def _fails_without(
    places: list[int], groups: list[ChannelGroup], module: nn.Module, size: tuple[int, int, int]
) -> str | None:
    """Why the forward pass fails without the first unit of these groups; None where it runs."""
    if not places:
        return None
    narrowed = copy.deepcopy(module)
    narrow_module(narrowed, [groups[place] for place in places], [torch.tensor([0])] * len(places))
    return _fails(narrowed, size)
