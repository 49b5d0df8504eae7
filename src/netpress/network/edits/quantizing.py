"""Turning convolutions and linear layers into quantized ones, and recording it as an edit.

The edit holds the formats of every layer that was turned, those with equal formats together:

    {"kind": "quantize", "groups": [{"layers": ["stem.conv", ...], "formats": {"weight": {...}, ...}}]}

Steps and zero points are tensors of the new layers and lie in the network file like all others.
"""

from collections.abc import Mapping
from typing import Literal

from torch import nn

from netpress.network.edits import Edit, register_edit, replace_module
from netpress.numerics.layers import LayerFormats, quantized_like
from netpress.settings import Settings, parse


class QuantizedGroup(Settings):
    """Layers with equal formats."""

    layers: tuple[str, ...]
    formats: LayerFormats


class QuantizingEdit(Settings):
    """What the edit holds."""

    kind: Literal["quantize"]
    groups: tuple[QuantizedGroup, ...]


def put_quantizers(module: nn.Module, formats: Mapping[str, LayerFormats]) -> Edit:
    """Replace each named layer by a quantized one with the same weights, in place, and return the edit.

    The new layers' scales are 1 until something sets them. Raises TypeError for a layer that cannot be quantized
    and ValueError for formats that it cannot have, both naming it; the module is then as it was.
    """
    made: dict[str, nn.Module] = {}
    names: dict[int, str] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        first = names.setdefault(id(part), name)
        if first != name and (name in formats or first in formats):
            raise TypeError(f"{name}: the same module as {first}; a layer used under two names cannot be quantized")
    for name, chosen in formats.items():
        try:
            made[name] = quantized_like(module.get_submodule(name), chosen)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name or 'the network itself'}: {error}") from error
    for name, layer in made.items():
        if not name:
            raise TypeError("a network that is a single layer cannot be quantized; put it in a Sequential")
        replace_module(module, name, layer)
    return quantizing_edit(formats)


def quantizing_edit(formats: Mapping[str, LayerFormats]) -> Edit:
    """The edit that puts quantizers of these formats into a rebuilt module."""
    groups: dict[LayerFormats, list[str]] = {}
    for name, chosen in formats.items():
        groups.setdefault(chosen, []).append(name)
    described = [{"layers": names, "formats": chosen.model_dump(mode="json")} for chosen, names in groups.items()]
    return {"kind": "quantize", "groups": described}


def _replay(module: nn.Module, edit: Edit) -> nn.Module:
    understood = parse(QuantizingEdit, edit)
    put_quantizers(module, {name: group.formats for group in understood.groups for name in group.layers})
    return module


register_edit("quantize", _replay, QuantizingEdit)
