"""Putting layers into factors: the structure by an edit, the values by truncation, the norms' statistics anew."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from netpress.compression.factorization.curvature import Curvature
from netpress.compression.factorization.layers import Candidate
from netpress.compression.factorization.selection import Ranking, State
from netpress.compression.factorization.truncation import Factors, Truncation, truncate
from netpress.models.factorized import Factorized, Layer
from netpress.network import Network
from netpress.network.edits.factorizing import Factorize


def cut(
    network: Network,
    rankings: Sequence[Ranking],
    curvatures: Mapping[str, Curvature],
    state: State,
    truncation: Truncation,
) -> dict[str, int]:
    """Put each layer for which `state` names rows and columns into factors, in place.

    rankings are of layers of this network. Returns the masks that ended, as `Network.edit`.
    """
    new: dict[str, Factors] = {}
    changed: list[Candidate] = []
    for ranking in rankings:
        candidate = ranking.candidate
        sides = state[candidate.name]
        if sides is not None:
            factors = truncate(candidate.weight, curvatures[candidate.name], ranking.kept(sides), truncation)
            new[candidate.name] = _with_outer(candidate, factors)
            changed.append(candidate)
    if not changed:
        return {}
    ranks = {one.name: one.ranks(*_sides(state, one.name)) for one in changed}
    ended = network.edit(Factorize.of(ranks))
    for name, factors in new.items():
        fill(network, name, factors)
    return ended


@torch.no_grad()
def fill(network: Network, name: str, factors: Factors) -> None:
    """Give the layer `name`, which is in factors, these values; of two factors the core goes into both."""
    layer = network.module.get_submodule(name)
    assert isinstance(layer, Factorized)
    if layer.middle is None:
        last, first = factors.as_two()
    else:
        last, first = factors.last, factors.first
        _put(layer.middle, factors.core)
    _put(layer.first, first)
    _put(layer.last, last)


def outer_matrix(layer: Layer) -> Tensor:
    """The weights of a factor of one place as a matrix, float64: [outputs, inputs]."""
    return layer.weight.detach().double().flatten(1)


def _with_outer(candidate: Candidate, factors: Factors) -> Factors:
    """Factors of the whole layer from those of the weights that were analysed: see `layers.py`."""
    layer, frame = candidate.layer, candidate.frame
    if not isinstance(layer, Factorized):
        return factors
    last = outer_matrix(layer.last) if frame is None else frame
    return Factors(last @ factors.last, factors.core, factors.first @ outer_matrix(layer.first))


def _put(layer: nn.Conv2d | nn.Linear, values: Tensor) -> None:
    layer.weight.copy_(values.reshape(layer.weight.shape).to(layer.weight.dtype))


def _sides(state: State, name: str) -> tuple[int, int]:
    sides = state[name]
    assert sides is not None
    return sides
