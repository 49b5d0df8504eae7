"""Taking channels out of a network: which positions of which tensors stay, and a check of what is left.

A channel that is gone computes as a channel of zeros that nobody reads. So the check sets the weights of the removed
channels to zero in the network from before, where they are made and where they are read, and compares the answers.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from netpress.compression.channels.structure import ChannelGroup
from netpress.errors import Failure
from netpress.network import Network
from netpress.network.edits.narrowing import Narrow, Sizes, is_depthwise, sizes_of
from netpress.process.devices import generator_for

TOLERANCE = 1e-6  # largest difference of an answer in float64, as a share of the largest answer
IMAGES = 2  # random inputs in the check


@dataclass(frozen=True)
class Kept:
    """The channels of one layer that stay, ascending: int64 [outputs] and [inputs]."""

    outputs: Tensor
    inputs: Tensor


def kept_channels(module: nn.Module, groups: Sequence[ChannelGroup], removed: Sequence[Tensor]) -> dict[str, Kept]:
    """What stays of each layer that loses channels, by name; `removed` has unit numbers (int64) for each group."""
    alive: dict[str, tuple[Tensor, Tensor]] = {}
    for group, units in zip(groups, removed, strict=True):
        if not len(units):
            continue
        for axis in group.axes:
            sizes = sizes_of(module.get_submodule(axis.layer))
            fresh = torch.ones(sizes.outputs, dtype=torch.bool), torch.ones(sizes.inputs, dtype=torch.bool)
            outputs, inputs = alive.setdefault(axis.layer, fresh)
            gone = axis.positions[torch.isin(group.units[axis.channels], units)]
            if axis.side != "inputs":
                outputs[gone] = False
            if axis.side != "outputs":
                inputs[gone] = False
    places = {name: (both[0].nonzero()[:, 0], both[1].nonzero()[:, 0]) for name, both in alive.items()}
    return {name: Kept(*both) for name, both in places.items()}


def narrow_network(network: Network, groups: Sequence[ChannelGroup], removed: Sequence[Tensor]) -> dict[str, Kept]:
    """Take units of channels out of `network`, in place; returns what stayed of each layer that lost some.

    Masks and formats of single tensors follow the values that stay.
    """
    kept = kept_channels(network.module, groups, removed)
    if not kept:
        return kept
    before = {name: _tensors(network.module.get_submodule(name)) for name in kept}
    masks, patterns, formats = dict(network.masks), dict(network.patterns), dict(network.other_formats)
    old = {name: _slices(network.module.get_submodule(name), stays) for name, stays in kept.items()}
    network.edit(_edit(network.module, kept))
    for name, tensors in before.items():
        _fill(network.module.get_submodule(name), tensors, old[name])
        for key in tensors:
            tensor = f"{name}.{key}" if name else key
            if tensor in masks:
                network.masks[tensor] = _take(masks[tensor], old[name])
                if tensor in patterns:
                    network.patterns[tensor] = patterns[tensor]
    left = network.module.state_dict().keys()
    network.other_formats |= {name: format for name, format in formats.items() if name in left}
    return kept


def narrow_module(module: nn.Module, groups: Sequence[ChannelGroup], removed: Sequence[Tensor]) -> dict[str, Kept]:
    """As `narrow_network`, of a module alone."""
    kept = kept_channels(module, groups, removed)
    before = {name: _tensors(module.get_submodule(name)) for name in kept}
    old = {name: _slices(module.get_submodule(name), stays) for name, stays in kept.items()}
    if kept:
        _edit(module, kept).apply(module)
    for name, tensors in before.items():
        _fill(module.get_submodule(name), tensors, old[name])
    return kept


def check_removal(before: Network, after: Network, kept: dict[str, Kept], seed: int) -> float:
    """The largest difference of an answer, as a share of the largest, between `after` and zeros in its channels' place.

    Both are on the CPU. Raises Failure above the tolerance: then the network mixes channels in a way that the
    dependencies do not show.
    """
    silent = copy.deepcopy(before.module)
    for name, stays in kept.items():
        _silence(silent.get_submodule(name), stays)
    images = torch.randn(IMAGES, *before.input.size, generator=generator_for(seed, "channels", "check"))
    expected = _answers(silent, images)
    found = _answers(copy.deepcopy(after.module), images)
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not difference <= TOLERANCE:
        raise Failure(
            f"without the removed channels the network answers otherwise than with zeros in their place (by "
            f"{difference:.2g} of the largest answer): its forward pass mixes channels in a way that cannot be seen; "
            "name with `layers` those whose channels may go"
        )
    return difference


def _answers(module: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        answers: Tensor = module.double().eval()(images.double())
    return answers


def _edit(module: nn.Module, kept: dict[str, Kept]) -> Narrow:
    sizes = {}
    for name, stays in kept.items():
        layer = module.get_submodule(name)
        inputs, outputs = len(stays.inputs), len(stays.outputs)
        sizes[name] = Sizes(inputs, outputs, outputs if is_depthwise(layer) else sizes_of(layer).groups)
    return Narrow.of(sizes)


@dataclass(frozen=True)
class _Slices:
    """The rows and the columns of a layer's tensors that stay; no columns where rows are all there is."""

    rows: Tensor
    columns: Tensor | None


def _slices(layer: nn.Module, stays: Kept) -> _Slices:
    if is_depthwise(layer) or isinstance(layer, _BatchNorm):
        return _Slices(stays.outputs, None)
    sizes = sizes_of(layer)
    # Each group of a convolution keeps the same places of its inputs.
    return _Slices(stays.outputs, stays.inputs[stays.inputs < sizes.inputs // sizes.groups])


def _take(tensor: Tensor, slices: _Slices) -> Tensor:
    taken = tensor.index_select(0, slices.rows.to(tensor.device))
    if tensor.dim() > 1 and slices.columns is not None:
        taken = taken.index_select(1, slices.columns.to(tensor.device))
    return taken


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    """Those of a layer's own tensors that have channels."""
    own = {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers(recurse=False))}
    return {name: tensor.detach() for name, tensor in own.items() if tensor.dim()}


@torch.no_grad()
def _fill(layer: nn.Module, before: dict[str, Tensor], slices: _Slices) -> None:
    for name, tensor in _tensors(layer).items():
        if not tensor.is_meta:
            tensor.copy_(_take(before[name], slices))


@torch.no_grad()
def _silence(layer: nn.Module, stays: Kept) -> None:
    slices = _slices(layer, stays)
    for parameter in layer.parameters(recurse=False):
        rows = torch.zeros(len(parameter), dtype=torch.bool).index_fill(0, slices.rows, True)
        parameter[~rows] = 0
        if parameter.dim() > 1 and slices.columns is not None:
            columns = torch.zeros(parameter.shape[1], dtype=torch.bool).index_fill(0, slices.columns, True)
            parameter[:, ~columns] = 0
