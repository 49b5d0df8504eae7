"""The number formats of a network's tensors and values, by name, as its file lists them.

    {"stem.conv.weight": {"kind": "int", "bits": 4}, "stem.conv.input": {...}, "*": {"kind": "float16"}, ...}

A quantized layer owns its formats: those of its tensors, and of what enters it (`NAME.input`). They are read from
the layer, and never kept a second time. What no quantized layer owns (other tensors, and `*` for all other values)
is `Network.other_formats`.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from netpress.errors import quote
from netpress.numerics.formats import AnyFormat, parse_format
from netpress.numerics.layers import quantized_layers

REST = "*"
"""Stands for every value that no layer's format describes."""


def layer_formats(module: nn.Module) -> dict[str, dict[str, Any]]:
    """The formats of what the module's quantized layers store and take in, in order of definition."""
    return {name: brief(format) for name, format in _owned_formats(module).items()}


def brief(format: AnyFormat) -> dict[str, Any]:
    """A format as a file holds it: the kind, and what differs from that kind's defaults."""
    values = {"kind": format.kind, **format.model_dump(exclude_defaults=True)}
    return values if "scales" not in values else {**values, "scales": brief(format.scales)}  # type: ignore[union-attr]


def other_formats(module: nn.Module, formats: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those of `formats` that no quantized layer of the module owns.

    Raises ValueError where `formats` contradict a layer, leave one out, or describe what is not there.
    """
    in_layers = _owned_formats(module)
    for name, format in in_layers.items():
        claim = formats.get(name)
        if claim is None or parse_format(claim) != format:
            raise ValueError(f"formats.{name}: the layer computes with {format.kind}, the file says {quote(claim)}")
    others = {name: format for name, format in formats.items() if name not in in_layers}
    stored = module.state_dict().keys()
    for name in others:
        if name not in stored and name != REST:
            raise ValueError(f"formats.{name}: no quantized layer computes with it")
    return others


def _owned_formats(module: nn.Module) -> dict[str, AnyFormat]:
    layers = quantized_layers(module)
    return {f"{name}.{key}": format for name, layer in layers.items() for key, format in layer.tensor_formats().items()}
