"""Which layers can be put into factors, and what they cost at each rank.

A layer that is in factors already is analysed by its core alone, so that it stays three factors however often it is
factorized: new outer factors are multiplied into `first` and `last`. Of two factors `last` is looked at within the
space that it spans: it is F w, with orthonormal columns F [outputs, rank], and w [rank, rank] is cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from netpress.errors import UserError
from netpress.models.factorized import Factorized, Layer, Ranks, has_core, layer_widths
from netpress.network import Network
from netpress.network.selection import layers_with_weights, select
from netpress.scoring import TRACKS, Operation, Trace, trace_network

Unit = Literal["parameters", "operations", "score"]
Numbers = Any
"""A number, or an array of numpy of them."""


@dataclass(frozen=True)
class Candidate:
    """A layer that can be put into factors; `analysed` is the layer, or its factor, whose weights are cut.

    `places` are positions of its input and of its output, one image: pixels of maps, 1 for a vector.
    `alive` are weights that exist, those of all factors together; `zeros` those that masks remove.
    """

    name: str
    layer: Layer | Factorized
    analysed: str
    places: tuple[int, int]
    alive: int
    zeros: int

    @property
    def frame(self) -> Tensor | None:
        """F of two factors, [outputs, rank], float64; None for other layers."""
        if not isinstance(self.layer, Factorized) or self.layer.middle is not None:
            return None
        return torch.linalg.qr(self.layer.last.weight.detach().double().flatten(1))[0]

    @property
    def weight(self) -> Tensor:
        """What is cut: [rows, columns, height, width], or [rows, columns] of a linear layer."""
        weight = _analysed(self.layer)[1].weight.detach()
        frame = self.frame
        return weight if frame is None else torch.einsum("or,oi...->ri...", frame, weight.double()).to(weight.dtype)

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of what is cut: its outputs and its inputs."""
        rows, columns = _analysed(self.layer)[1].weight.shape[:2]
        return (rows if has_core(self.layer) or self.is_new else columns), columns

    @property
    def is_new(self) -> bool:
        """Whether the layer is not in factors yet."""
        return not isinstance(self.layer, Factorized)

    @property
    def description(self) -> str:
        """The layer's size, for people: 3x3, 64 to 128."""
        inputs, outputs = layer_widths(self.layer)
        kernel = "x".join(str(side) for side in self._kernel)
        return f"{kernel}, {inputs} to {outputs}" if kernel else f"{inputs} to {outputs}"

    @property
    def _kernel(self) -> tuple[int, ...]:
        layer = self.layer
        if isinstance(layer, Factorized):
            layer = layer.middle or layer.first
        return tuple(layer.kernel_size) if isinstance(layer, nn.Conv2d) else ()

    def ranks(self, rows: int, columns: int) -> Ranks:
        """The ranks of the factors that keep so many rows and columns."""
        return (columns, rows) if has_core(self.layer) else (min(rows, columns),)

    def weights(self, rows: Numbers, columns: Numbers) -> Numbers:
        """Weights of factors that keep so many rows and columns, or each of many such choices."""
        inputs, outputs = layer_widths(self.layer)
        if has_core(self.layer):
            return inputs * columns + self._area * columns * rows + rows * outputs
        return np.minimum(rows, columns) * (inputs + outputs)

    def multiply_adds(self, rows: Numbers, columns: Numbers) -> Numbers:
        """Multiply-adds of such factors, one image."""
        inputs, outputs = layer_widths(self.layer)
        before, after = self.places
        if has_core(self.layer):
            return before * inputs * columns + after * rows * (self._area * columns + outputs)
        return after * np.minimum(rows, columns) * (inputs + outputs)

    def cost(self, rows: Numbers, columns: Numbers, unit: Unit) -> Numbers:
        """What such factors cost. A score is the official one, with numbers of 32 bits."""
        return _weigh(self.weights(rows, columns), self.multiply_adds(rows, columns), unit)

    def cost_now(self, unit: Unit) -> float:
        """What the layer costs as it is, without the weights that masks remove."""
        if isinstance(self.layer, Factorized):
            columns, rows = self.layer.ranks * 2 if self.layer.middle is None else self.layer.ranks
            weights, operations = self.weights(rows, columns), self.multiply_adds(rows, columns)
        else:
            weights = self.layer.weight.numel()
            operations = self.places[1] * weights
        return float(_weigh(self.alive, operations * self.alive / weights, unit))

    @property
    def _area(self) -> int:
        area = 1
        for side in self._kernel:
            area *= side
        return area


def _weigh(weights: Numbers, multiply_adds: Numbers, unit: Unit) -> Numbers:
    if unit == "parameters":
        return weights
    if unit == "operations":
        return multiply_adds
    track = TRACKS["cifar100"]
    return weights / track.params + 2 * multiply_adds / track.operations


@dataclass(frozen=True)
class Found:
    """The layers that a setting means: those that can be put into factors, and why others stay whole."""

    candidates: tuple[Candidate, ...]
    left: dict[str, str]


def find_candidates(network: Network, what: str | Sequence[str] = "all") -> Found:
    """The layers that `what` means (see `netpress.network.selection`), in order of definition.

    Raises UserError where a pattern matches nothing, or none of the layers can be put into factors.
    """
    chosen = {name for name, _ in select(network.module, what)}
    parts = _layers(network.module)
    traced = trace_network(network)
    calls = _calls(traced)
    owners = _owners(network.module)
    candidates: list[Candidate] = []
    left: dict[str, str] = {}
    for name, layer in parts.items():
        if not name:
            left["the network itself"] = "put it in a Sequential"
            continue
        analysed = _analysed_name(name, layer)
        if analysed not in chosen:
            continue
        reason = _reason(layer, calls.get(analysed, []), owners)
        if reason is not None:
            left[name] = reason
            continue
        assert isinstance(layer, Layer | Factorized)
        candidates.append(Candidate(name, layer, analysed, _places(name, layer, calls), *_count_weights(network, name)))
    if not candidates:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:4])
        raise UserError(f"layers: none of those meant can be factorized ({reasons})")
    return Found(tuple(candidates), left)


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    """Layers with weights by name, those in factors as one."""
    found: dict[str, nn.Module] = {}
    for name, layer in layers_with_weights(module):
        owner, _, _ = name.rpartition(".")
        around = module.get_submodule(owner) if owner else module
        if isinstance(around, Factorized):
            found[owner] = around
        else:
            found[name] = layer
    return found


def _analysed(layer: nn.Module) -> tuple[str, Layer]:
    """The factor that is cut, and its name within the layer: the layer itself where it is whole."""
    if not isinstance(layer, Factorized):
        assert isinstance(layer, Layer)
        return "", layer
    return ("core", layer.middle) if layer.middle is not None else ("last", layer.last)


def _analysed_name(name: str, layer: nn.Module) -> str:
    return f"{name}.{_analysed(layer)[0]}" if isinstance(layer, Factorized) else name


def _reason(layer: nn.Module, calls: Sequence[Operation], owners: dict[int, int]) -> str | None:
    """Why a layer stays whole; None where it can be put into factors."""
    if type(layer) not in (nn.Conv2d, nn.Linear, Factorized):
        return f"a {type(layer).__name__} has no factors"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return "depthwise" if layer.groups == layer.in_channels else f"{layer.groups} groups"
    weight = _analysed(layer)[1]._parameters.get("weight")
    if weight is None:
        return "its weights are calculated before each use"
    if owners.get(id(weight), 1) > 1:
        return "its weights are another layer's too"
    if len(calls) != 1:
        return "never used" if not calls else f"used {len(calls)} times an image"
    if min(weight.shape[:2]) == 1:
        return "one channel"
    return None


def _calls(traced: Trace) -> dict[str, list[Operation]]:
    """The operations with weights that each module carries out, by the module's name."""
    calls: dict[str, list[Operation]] = {}
    for operation in traced.operations:
        if operation.kind in ("conv", "linear"):
            calls.setdefault(operation.module, []).append(operation)
    return calls


def _owners(module: nn.Module) -> dict[int, int]:
    """How many names each parameter has, by identity."""
    owners: dict[int, int] = {}
    for _, parameter in module.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return owners


def _places(name: str, layer: nn.Module, calls: dict[str, list[Operation]]) -> tuple[int, int]:
    """Positions of the layer's input and output, one image."""
    inputs, outputs = layer_widths(layer)  # type: ignore[arg-type]
    first, last = (f"{name}.first", f"{name}.last") if isinstance(layer, Factorized) else (name, name)
    read = list(calls[first][0].inputs[0])
    if isinstance(layer, nn.Conv2d):
        down, across = _padded_before(layer)
        read[-2:] = read[-2] - down, read[-1] - across
    return torch.Size(read).numel() // inputs, calls[last][0].outputs // outputs


def _padded_before(layer: nn.Conv2d) -> tuple[int, int]:
    """Rows and columns of padding that the convolution's operation reads, as torch puts them there before it.

    All of it where it is not of zeros, and of zeros what one side has more than the other.
    """
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    if layer.padding_mode != "zeros":
        return top + bottom, left + right
    return abs(bottom - top), abs(right - left)


def _count_weights(network: Network, name: str) -> tuple[int, int]:
    """Weights of a layer that exist, and those that masks remove."""
    layer = network.module.get_submodule(name)
    names = {f"{name}.{inner}": weight for inner, weight in layer.named_parameters() if weight.dim() > 1}
    every = sum(weight.numel() for weight in names.values())
    zeros = sum(int((~network.masks[one]).sum()) for one in names if one in network.masks)
    return every - zeros, zeros
