"""The edit that turns convolutions and linear layers into quantized ones.

It lists the formats of every layer that it turns, layers with equal formats together:

    {"kind": "quantize", "groups": [{"layers": ["stem.conv", ...], "formats": {"weight": {...}, ...}}]}

Scales and zero points are tensors of the new layers. They lie in the network file like all other tensors. A cosine
layer becomes a quantized linear one, its directions scaled to length 1 (`netpress.network.edits.directions`).
"""

from collections.abc import Mapping
from typing import Literal, Self

from torch import nn

from netpress.models.blocks import CosineLinear
from netpress.network.edits import EDITS, Edit, replace_module
from netpress.network.edits.directions import fixed_directions, scale_directions
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import quantized_like
from netpress.settings import Settings


class QuantizedGroup(Settings):
    """Layers with equal formats."""

    layers: tuple[str, ...]
    formats: LayerFormats


class Quantize(Edit):
    """Replace layers by quantized ones that take over their weights and biases; the new scales are 1.

    The rows of a cosine layer's weight are scaled to length 1.
    """

    kind: Literal["quantize"] = "quantize"
    groups: tuple[QuantizedGroup, ...]

    @classmethod
    def of(cls, formats: Mapping[str, LayerFormats]) -> Self:
        """The edit that gives each named layer these formats."""
        groups: dict[LayerFormats, list[str]] = {}
        for name, layer_formats in formats.items():
            groups.setdefault(layer_formats, []).append(name)
        return cls(groups=tuple(QuantizedGroup(layers=tuple(n), formats=f) for f, n in groups.items()))

    def apply(self, module: nn.Module) -> None:
        """See `Edit.apply`. Raises TypeError for a layer that cannot be quantized and ValueError for formats that it
        cannot have, both naming it; the module is then as it was.
        """
        formats = {name: group.formats for group in self.groups for name in group.layers}
        _refuse_second_names(module, formats)
        new: dict[str, nn.Module] = {}
        cosines: list[CosineLinear] = []
        for name, layer_formats in formats.items():
            layer = module.get_submodule(name)
            if type(layer) is CosineLinear:
                cosines.append(layer)
                layer = fixed_directions(layer)
            try:
                new[name] = quantized_like(layer, layer_formats)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name or 'the network itself'}: {error}") from error
        if "" in new:
            raise TypeError("a network that is a single layer cannot be quantized; put it in a Sequential")
        for cosine in cosines:
            scale_directions(cosine)
        for name, layer in new.items():
            replace_module(module, name, layer)


def _refuse_second_names(module: nn.Module, formats: Mapping[str, LayerFormats]) -> None:
    names: dict[int, str] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        first = names.setdefault(id(part), name)
        if first != name and (name in formats or first in formats):
            raise TypeError(f"{name}: the same module as {first}; a layer used under two names cannot be quantized")


EDITS.add("quantize", Quantize)
