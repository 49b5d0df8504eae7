"""How large a network is, and how large it would be with layers in factors."""

import functools
from collections.abc import Sequence
from math import prod
from typing import cast

from torch import Tensor, nn

from netpress.compression.factorization.selection import Ranking, State
from netpress.models.factorized import Ranks
from netpress.models.registry import IMPORTED
from netpress.network import Network, copy
from netpress.network.edits.factorizing import Factorize
from netpress.scoring import ScoreSettings, choose_settings, score_trace, trace_network


def count_parameters(network: Network) -> int:
    """All parameters, those of norms included, but for the weights that masks remove."""
    removed = sum(int((~mask).sum()) for mask in network.masks.values())
    return sum(prod(parameter.shape) for parameter in network.module.parameters()) - removed


def measure_score(network: Network, settings: ScoreSettings | None) -> float:
    """The network's score as it is, by the run's convention or the official one."""
    traced = trace_network(network)
    dataset = network.facts.get("dataset")
    return score_trace(traced, settings or choose_settings(), network.formats, dataset=dataset).score


class Sizes:
    """Sizes of one network in states of its layers, found without touching its values."""

    def __init__(self, network: Network, rankings: Sequence[Ranking], settings: ScoreSettings | None) -> None:
        self.settings = settings
        self.candidates = {ranking.candidate.name: ranking.candidate for ranking in rankings}
        self.before = count_parameters(network)
        self.shapes = copy(network)
        if network.architecture.family != IMPORTED:  # others' modules may compute with values
            self.shapes.module.to("meta")

    def ranks(self, state: State) -> dict[str, Ranks]:
        """The ranks of the layers that a state puts into factors."""
        return {name: self.candidates[name].ranks(*sides) for name, sides in state.items() if sides is not None}

    def parameters(self, state: State) -> int:
        """As `count_parameters`, of the network in this state."""
        changed = {name: sides for name, sides in state.items() if sides is not None}
        more = sum(
            self.candidates[name].weights(*sides) - self.candidates[name].alive for name, sides in changed.items()
        )
        return self.before + int(more)

    @functools.cached_property
    def score_before(self) -> float:
        """The score of the network before."""
        return measure_score(self.shapes, self.settings)

    def cost(self, state: State) -> float:
        """What the layers cost in this state, by their weights and multiply-adds alone: about a part of a score."""
        layers = self.candidates
        return sum(
            layers[name].cost_now("score") if sides is None else float(layers[name].cost(*sides, "score"))
            for name, sides in state.items()
        )

    def network(self, state: State) -> Network:
        """The network in this state; its weights have no meaning."""
        shaped = copy(self.shapes)
        ranks = self.ranks(state)
        if ranks:
            shaped.edit(Factorize.of(ranks))
            for name in ranks:  # zeros would be counted as weights that are gone
                for factor in shaped.module.get_submodule(name).children():
                    nn.init.ones_(cast(Tensor, factor.weight))
        return shaped

    def score(self, state: State) -> float:
        """As `measure_score`, of the network in this state."""
        return measure_score(self.network(state), self.settings)
