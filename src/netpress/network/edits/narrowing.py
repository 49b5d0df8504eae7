"""The edit that gives layers fewer channels.

It lists the new sizes of every layer that changes, layers of equal sizes together:

    {"kind": "narrow", "groups": [{"layers": ["stem.conv"], "inputs": 3, "outputs": 12, "groups": 1},
                                  {"layers": ["stem.norm"], "inputs": 12, "outputs": 12, "groups": 1}, ...]}

Sizes are all that an architecture needs. Which channels stay is in the tensors: whoever makes the edit puts the kept
values where the first ones are (`netpress.compression.channels.surgery`).
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from netpress.network.edits import EDITS, Edit
from netpress.numerics.layers import QuantizedLayer
from netpress.settings import Count, Settings

Narrowable = _ConvNd | _BatchNorm | nn.Linear


class Sizes(NamedTuple):
    """How many channels a layer reads and gives, and in how many groups; a norm gives what it reads."""

    inputs: int
    outputs: int
    groups: int = 1


class NarrowedGroup(Settings):
    """Layers of equal new sizes."""

    layers: tuple[str, ...]
    inputs: Count
    outputs: Count
    groups: Count = 1


class Narrow(Edit):
    """Take channels from convolutions, linear layers and batch norms: of each tensor the first ones stay."""

    kind: Literal["narrow"] = "narrow"
    groups: tuple[NarrowedGroup, ...]

    @classmethod
    def of(cls, sizes: Mapping[str, Sizes]) -> Self:
        """The edit that gives each named layer these sizes."""
        groups: dict[Sizes, list[str]] = {}
        for name, size in sizes.items():
            groups.setdefault(size, []).append(name)
        return cls(groups=tuple(NarrowedGroup(layers=tuple(names), **size._asdict()) for size, names in groups.items()))

    def apply(self, module: nn.Module) -> None:
        """See `Edit.apply`. Raises TypeError for a layer of another kind and ValueError for sizes that it cannot have,
        both naming it; the module is then as it was.
        """
        new = {name: Sizes(group.inputs, group.outputs, group.groups) for group in self.groups for name in group.layers}
        layers = {name: module.get_submodule(name) for name in new}
        for name, layer in layers.items():
            try:
                _check(layer, new[name])
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name or 'the network itself'}: {error}") from None
        for name, layer in layers.items():
            assert isinstance(layer, Narrowable)
            _narrow(layer, new[name])


def is_narrowable(layer: nn.Module) -> bool:
    """Whether `Narrow` can change this layer: torch's convolutions, linear layers and batch norms, with own tensors.

    A layer with groups must be depthwise or have whole channels a group on both sides, as torch demands; those that
    are transposed, or calculate their weights before each use, stay.
    """
    if not isinstance(layer, Narrowable) or isinstance(layer, _ConvTransposeNd):
        return False
    own = layer._parameters.get("weight")
    return isinstance(own, nn.Parameter) or (isinstance(layer, _BatchNorm) and not layer.affine)


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each output channel reads one input channel, its own, so that both go together."""
    return isinstance(layer, _ConvNd) and layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1


def sizes_of(layer: nn.Module) -> Sizes:
    """The sizes of a narrowable layer."""
    if isinstance(layer, _ConvNd):
        return Sizes(layer.in_channels, layer.out_channels, layer.groups)
    if isinstance(layer, nn.Linear):
        return Sizes(layer.in_features, layer.out_features)
    assert isinstance(layer, _BatchNorm)
    return Sizes(layer.num_features, layer.num_features)


def _check(layer: nn.Module, new: Sizes) -> None:
    if not is_narrowable(layer):
        raise TypeError(f"{type(layer).__name__} cannot be narrowed")
    old = sizes_of(layer)
    if new.inputs > old.inputs or new.outputs > old.outputs:
        raise ValueError(
            f"{new.inputs} to {new.outputs} channels are more than the {old.inputs} to {old.outputs} there"
        )
    if isinstance(layer, _BatchNorm) and new.inputs != new.outputs:
        raise ValueError(f"a norm of {new.inputs} channels cannot give {new.outputs}")
    if new.inputs % new.groups or new.outputs % new.groups:
        raise ValueError(f"{new.inputs} to {new.outputs} channels cannot have {new.groups} groups")
    depthwise = is_depthwise(layer) and new.groups == new.inputs == new.outputs
    if new.groups != old.groups and not depthwise:
        raise ValueError(f"{old.groups} groups cannot become {new.groups}")


def _narrow(layer: Narrowable, new: Sizes) -> None:
    rows = slice(new.outputs)
    if isinstance(layer, _BatchNorm):
        layer.num_features = new.outputs
        for name, buffer in (("running_mean", layer.running_mean), ("running_var", layer.running_var)):
            if buffer is not None:
                setattr(layer, name, buffer[rows].clone())
    elif isinstance(layer, _ConvNd):
        layer.in_channels, layer.out_channels, layer.groups = new.inputs, new.outputs, new.groups
    else:
        layer.in_features, layer.out_features = new.inputs, new.outputs
    if layer.weight is not None:
        kept = layer.weight[rows] if layer.weight.dim() == 1 else layer.weight[rows, : new.inputs // new.groups]
        layer.weight = _replaced(layer.weight, kept)
    if layer.bias is not None:
        layer.bias = _replaced(layer.bias, layer.bias[rows])
    if isinstance(layer, QuantizedLayer) and layer.weight_scale is not None and layer.weight_scale.dim():
        layer.weight_scale = _replaced(layer.weight_scale, layer.weight_scale[rows])


def _replaced(parameter: Tensor, kept: Tensor) -> nn.Parameter:
    """A parameter of its own, if it is another one: what stays whole stays the same `nn.Parameter`."""
    if kept.shape == parameter.shape and isinstance(parameter, nn.Parameter):
        return parameter
    with torch.no_grad():
        return nn.Parameter(kept.detach().clone(), requires_grad=parameter.requires_grad)


EDITS.add("narrow", Narrow)
