"""Gradual pruning: the pruned share rises while a training takes its steps, and masks may change until they are frozen.

The share follows the cubic schedule of Zhu and Gupta (2017, "To prune, or not to prune", equation 1), fast at first,
when much is superfluous, and slower and slower:

    share = amount + (first - amount) * (1 - progress)**3        progress from 0 at `begin` to 1 at `end`

The smallest weights of the moment go. What was masked may come back until the masks are frozen: a masked weight is 0 in
the network, and its value waits beside it. With `hidden = "learn"` that value goes on learning: the gradient that
reaches the 0 moves it, with its momentum (straight through; Guo et al. 2016, "Dynamic network surgery"). With "rest" it
stays what it was, and comes back only where those that stayed have become smaller, as in Zhu and Gupta's code.

Between two steps the network has its masks on. So measurements, averages and saved states see pruned weights.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import AfterValidator, model_validator
from torch import Tensor

from netpress.compression.magnitude import Choice, Scope, choose_masks
from netpress.compression.masks import (
    add_masks,
    densities,
    select_patterns,
    select_ranked,
    select_weights,
    total_density,
)
from netpress.network import Network
from netpress.numerics.block_masks import BlockSize
from netpress.settings import Count, Fraction, Settings, below
from netpress.training import TrainSettings
from netpress.training.masking import MaskHolder
from netpress.training.part import State, prefixed, section


def leaves_some(amount: float) -> float:
    """The amount itself. Raises ValueError for one that leaves nothing."""
    if amount == 1:
        raise ValueError("1 leaves no weights; choose less")
    return amount


Amount = Annotated[Fraction, AfterValidator(leaves_some)]  # a share of the weights that is gone: 0 to below 1


class Gradual(Settings):
    """When the pruned share rises within a training, and when the masks are frozen, as shares of its steps."""

    begin: Annotated[Fraction, below(1)] = 0.0
    """Share of the training's steps before the first weight goes."""
    end: Annotated[Fraction, below(1)] = 0.5
    """Share of the steps at which the whole amount is gone."""
    frozen: Annotated[Fraction, below(1)] = 0.7
    """Share of the steps at which the masks are chosen for the last time; what they remove then never comes back."""
    every: Count = 10
    """Steps between choices of the masks."""
    hidden: Literal["learn", "rest"] = "learn"
    """What a masked weight's value does until then: it learns from the gradient that reaches it, or stays as it was."""

    @model_validator(mode="after")
    def _come_in_order(self) -> Self:
        if not self.begin <= self.end <= self.frozen:
            raise ValueError(
                f"begin = {self.begin:g}, end = {self.end:g} and frozen = {self.frozen:g} must come in this order"
            )
        return self

    def share(self, first: float, amount: float, step: int, steps: int) -> float:
        """The share of the weights that is gone at `step` (from 0) of `steps`, if `first` was before."""
        begin, end = self.begin * steps, self.end * steps
        progress = 1.0 if step >= end else max(0.0, (step - begin) / (end - begin))
        return amount if progress == 1 else amount + (first - amount) * (1 - progress) ** 3

    def refuse_training(self, train: TrainSettings, name: str) -> None:
        """Raise ValueError for a training that would keep weights from before the masks were whole."""
        if train.keep == "best" or train.early_stopping is not None:
            raise ValueError(
                f"{name} does not go with train.keep = 'best' or train.early_stopping: an epoch before the end has "
                "more weights than the network is to have"
            )


class GradualPruning(Gradual):
    """Prune while the stage trains."""

    amount: Amount
    """Share of the selected weights that is gone at the end, those gone before included: 0.6 leaves 40%."""
    scope: Scope = "global"
    """global ranks all selected weights together, layer takes the amount from each tensor by itself."""
    layers: str | tuple[str, ...] = "all"
    """Which layers: a kind, a pattern of layer names, or a list of them; all: every tensor of 2 or more dimensions."""
    pattern: BlockSize | None = None
    """Blocks of [outputs, inputs] weights that stay or go as a whole, as [1, 4]; a mask costs one bit a block then."""

    def choose(self, network: Network, amount: float, masks: Mapping[str, Tensor]) -> Choice:
        """The masks that take so much of the weights as they are, those that `masks` removed among it.

        Raises as `choose_masks`.
        """
        patterns = select_patterns(network, self.layers, self.pattern)
        return choose_masks(select_ranked(network, self.layers), masks, amount, self.scope, patterns)


class GradualMasks(MaskHolder):
    """Holds the network's own masks, and those that grow; at the end of `frozen` the latter are the network's own too.

    Raises UserError where the network is sparser than asked, or a layer pattern matches nothing.
    """

    def __init__(self, network: Network, settings: GradualPruning) -> None:
        super().__init__(network)
        self.network, self.settings = network, settings
        self.weights = select_weights(network, settings.layers)
        self.patterns = select_patterns(network, settings.layers, settings.pattern)
        settings.choose(network, settings.amount, network.masks)  # what cannot be is told now
        self.first = self.pruned = total_density(densities(network, settings.layers)).sparsity
        self.steps = 0
        self.frozen = False
        self.kept = {name: torch.ones_like(weight).detach() for name, weight in self.weights.items()}
        """1 where a weight is there now, 0 where it is not; as the weights lie in memory."""
        self.values = {name: torch.zeros_like(weight).detach() for name, weight in self.weights.items()}
        """Values of the weights that are not there now; 0 elsewhere."""

    def begin_training(self, steps: int) -> None:
        self.steps = steps

    @torch.no_grad()
    def begin_step(self, step: int) -> None:
        settings = self.settings
        last = step >= math.floor(settings.frozen * self.steps)
        if self.frozen or not (last or (step % settings.every == 0 and step >= settings.begin * self.steps)):
            return
        share = settings.amount if last else settings.share(self.first, settings.amount, step, self.steps)
        self._show()
        chosen = settings.choose(self.network, share, self.network.masks).masks
        self.pruned = 1 - sum(int(mask.sum()) for mask in chosen.values()) / sum(
            mask.numel() for mask in chosen.values()
        )
        if last:
            self._freeze(chosen)
        else:
            for name, mask in chosen.items():
                self.kept[name].copy_(mask)
            self._hide()

    def after_backward(self) -> None:
        super().after_backward()
        if self.frozen:
            return
        if self.settings.hidden == "learn":
            self._show()
        else:
            gradients = {name: weight.grad for name, weight in self.weights.items() if weight.grad is not None}
            torch._foreach_mul_(list(gradients.values()), [self.kept[name] for name in gradients])

    @torch.no_grad()
    def after_move(self) -> None:
        super().after_move()
        if not self.frozen:
            if self.settings.hidden == "learn":
                self._hide()
            else:
                torch._foreach_mul_(self._data(), list(self.kept.values()))

    def mask_copies(self, tensors: Mapping[str, Tensor]) -> None:
        super().mask_copies(tensors)
        if not self.frozen:
            torch._foreach_mul_([tensors[name] for name in self.weights], list(self.kept.values()))

    def figures(self) -> State:
        return {"pruned": self.pruned}

    def state_dict(self) -> State:
        kept = {name: mask.bool() for name, mask in self.kept.items()}
        state = {"first": self.first, "pruned": self.pruned, "frozen": self.frozen} | prefixed("kept", kept)
        return state if self.frozen else state | prefixed("values", self.values)

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        self.first, self.pruned = state["first"], state["pruned"]
        kept = section("kept", state)
        if state["frozen"]:
            self._freeze({name: kept[name] for name in self.weights})
            return
        values = section("values", state)
        for name in self.weights:
            self.kept[name].copy_(kept[name])
            self.values[name].copy_(values[name])

    def _data(self) -> list[Tensor]:
        return [weight.data for weight in self.weights.values()]

    def _show(self) -> None:
        """Put the hidden values back among the weights."""
        torch._foreach_add_(self._data(), list(self.values.values()))
        torch._foreach_zero_(list(self.values.values()))

    def _hide(self) -> None:
        """Take the values of masked weights out of the network."""
        weights, kept, values = self._data(), list(self.kept.values()), list(self.values.values())
        torch._foreach_copy_(values, weights)
        torch._foreach_mul_(weights, kept)
        torch._foreach_sub_(values, weights)

    def _freeze(self, chosen: Mapping[str, Tensor]) -> None:
        """Make these masks the network's own. What they remove is gone."""
        for name, mask in chosen.items():
            self.kept[name].copy_(mask)
        add_masks(self.network, chosen, self.patterns)
        super().__init__(self.network)
        self.frozen, self.values = True, {}
