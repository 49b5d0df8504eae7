"""Which layers of a network are in factors, and what that made of their size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from netpress.models.factorized import Factorized, Ranks, layer_widths


@dataclass(frozen=True)
class LayerInFactors:
    """A layer in factors: its kernel (() of a linear layer), its ranks, and those that would lose nothing.

    `whole` counts the weights that the layer has in one piece, `weights` those of its factors: without the bias, masked
    weights included.
    """

    name: str
    kernel: tuple[int, ...]
    ranks: Ranks
    full_ranks: Ranks
    whole: int
    weights: int

    def __str__(self) -> str:
        return f"ranks {_join(self.ranks)} of {_join(self.full_ranks)}"

    def as_json(self) -> dict[str, Any]:
        """A dict of plain values."""
        plain = {"name": self.name, "kernel": list(self.kernel), "ranks": list(self.ranks)}
        return plain | {"full_ranks": list(self.full_ranks), "whole": self.whole, "weights": self.weights}


def layers_in_factors(module: nn.Module) -> tuple[LayerInFactors, ...]:
    """The layers of `module` that are in factors, in the module's order."""
    return tuple(_measure(name, part) for name, part in module.named_modules() if isinstance(part, Factorized))


def describe_ranks(layers: Sequence[LayerInFactors]) -> str:
    """One layer's ranks, or what became of several, in words; "" of none."""
    if len(layers) < 2:
        return "".join(map(str, layers))
    left = sum(layer.weights for layer in layers) / sum(layer.whole for layer in layers)
    return f"{len(layers)} layers in factors, {left:.0%} of their weights"


def _measure(name: str, layer: Factorized) -> LayerInFactors:
    factors = [factor for factor in (layer.first, layer.middle, layer.last) if factor is not None]
    placed = layer.middle or layer.first
    inputs, outputs = layer_widths(layer)
    taps = placed.weight[0, 0].numel()
    kernel = placed.kernel_size if isinstance(placed, nn.Conv2d) else ()
    weights = sum(factor.weight.numel() for factor in factors)
    return LayerInFactors(name, kernel, layer.ranks, layer.full_ranks, inputs * outputs * taps, weights)


def _join(ranks: Ranks) -> str:
    return ", ".join(map(str, ranks))
