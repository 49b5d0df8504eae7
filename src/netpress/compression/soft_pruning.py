"""Soft pruning: weights are zeroed at the beginning of each epoch, and train on.

He et al. 2018 ("Soft filter pruning", algorithm 1) did so with the filters of the smallest norm; here single weights or
small blocks of them go, those of the smallest magnitudes. What was zeroed by mistake grows back before the next epoch,
and something else goes.
"""

import torch

from netpress.compression.magnitude import Scope, choose_masks
from netpress.compression.masks import select_patterns, select_ranked, select_weights
from netpress.network import Network
from netpress.numerics.block_masks import BlockSize
from netpress.training.part import Part


class SoftPruning(Part):
    """Zeroes `amount` of the selected weights of `network`, the smallest, whenever an epoch begins.

    Nothing holds them at zero, and their momentum stays. It remembers nothing: the weights themselves decide.
    Weights that the network's own masks removed count, and stay removed. Raises as `choose_masks`.
    """

    def __init__(
        self,
        network: Network,
        amount: float,
        layers: str | tuple[str, ...],
        scope: Scope,
        pattern: BlockSize | None = None,
    ) -> None:
        self.network, self.amount, self.layers, self.scope = network, amount, layers, scope
        self.patterns = select_patterns(network, layers, pattern)

    @torch.no_grad()
    def begin_epoch(self) -> None:
        weights = select_weights(self.network, self.layers)
        ranked = select_ranked(self.network, self.layers)
        masks = choose_masks(ranked, self.network.masks, self.amount, self.scope, self.patterns).masks
        for name, weight in weights.items():
            weight.data.masked_fill_(~masks[name].to(weight.device), 0)
