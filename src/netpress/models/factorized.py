"""A layer in factors: what a convolution or a linear layer becomes when it is factorized.

    k x k    first 1x1 (inputs to columns), core k x k (columns to rows), last 1x1 (rows to outputs)
    1x1      first (inputs to rank), last (rank to outputs); so do linear layers

The ranks are (columns, rows) or (rank,). The core has the layer's stride, padding and dilation, and of two factors the
first has. The bias is the last factor's: before a padded core it would be missing at the borders.
"""

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
from torch import nn

Layer = nn.Conv2d | nn.Linear
Ranks = tuple[int, ...]


class Factorized(nn.Sequential):
    """The factors of one layer, as a module with that layer's inputs and outputs: children `first`, `core`, `last`."""

    first: Layer
    last: Layer

    @property
    def middle(self) -> nn.Conv2d | None:
        """The core; None where there are only two factors."""
        core = self._modules.get("core")
        assert core is None or isinstance(core, nn.Conv2d)
        return core

    @property
    def ranks(self) -> Ranks:
        """(columns, rows) of three factors, (rank,) of two."""
        columns = _widths(self.first)[1]
        return (columns,) if self.middle is None else (columns, self.middle.out_channels)

    @property
    def full_ranks(self) -> Ranks:
        """The ranks that lose nothing."""
        return full_ranks(*layer_widths(self), self.middle is not None)

    def extra_repr(self) -> str:
        return f"ranks {', '.join(map(str, self.ranks))} of {', '.join(map(str, self.full_ranks))}"


def full_ranks(inputs: int, outputs: int, three: bool) -> Ranks:
    """The ranks at which the factors of a layer of `inputs` and `outputs` lose nothing."""
    return (inputs, outputs) if three else (min(inputs, outputs),)


def layer_widths(layer: Layer | Factorized) -> tuple[int, int]:
    """Channels or features that go into a layer, in factors or not, and come out of it."""
    if isinstance(layer, Factorized):
        return _widths(layer.first)[0], _widths(layer.last)[1]
    return _widths(layer)


def has_core(layer: Layer | Factorized) -> bool:
    """Whether the layer's factors are three, whether it is in factors already or not."""
    if isinstance(layer, Factorized):
        return layer.middle is not None
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


def factorized(layer: Layer | Factorized, ranks: Ranks) -> Factorized:
    """Factors with these ranks that stand for `layer`, in factors already or not, also on the meta device.

    New weights are 0; the bias is the layer's own parameter. Raises ValueError for ranks that are too many or too few,
    below 1 or above those that lose nothing, and for a grouped convolution.
    """
    inputs, outputs = layer_widths(layer)
    three = has_core(layer)
    full = full_ranks(inputs, outputs, three)
    if len(ranks) != len(full) or not all(1 <= rank <= most for rank, most in zip(ranks, full, strict=True)):
        raise ValueError(f"ranks {list(ranks)}: this layer needs from {[1] * len(full)} to {list(full)}")
    placed, bias = layer, (layer.last if isinstance(layer, Factorized) else layer).bias
    if isinstance(layer, Factorized):
        placed = layer.middle or layer.first
    assert isinstance(placed, Layer)
    if isinstance(placed, nn.Conv2d) and placed.groups > 1:
        raise ValueError("a grouped convolution cannot be factorized")
    names = ("first", "core", "last") if three else ("first", "last")
    widths = (inputs, *ranks, outputs)
    factors = {
        name: _factor(placed, *pair, whole=name == ("core" if three else "first"))
        for name, pair in zip(names, pairwise(widths), strict=True)
    }
    factors["last"].bias = bias
    return Factorized(OrderedDict[str, nn.Module](factors)).train(layer.training)


def _factor(layer: Layer, inputs: int, outputs: int, whole: bool) -> Layer:
    """A linear layer or a convolution, as `layer` is, its weights 0: with `whole` of the same kernel, else 1x1."""
    made: Layer
    with torch.device("meta"):  # nothing is drawn
        if isinstance(layer, nn.Linear):
            made = nn.Linear(inputs, outputs, bias=False)
        elif whole:
            names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
            same: dict[str, Any] = {name: getattr(layer, name) for name in names}
            made = nn.Conv2d(inputs, outputs, **same, bias=False)
        else:
            made = nn.Conv2d(inputs, outputs, 1, bias=False)
    zeros = layer.weight.detach().new_zeros(made.weight.shape)
    made.weight = nn.Parameter(zeros, requires_grad=layer.weight.requires_grad)
    return made


def _widths(layer: Layer) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels
