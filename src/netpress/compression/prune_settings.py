"""The settings of the `prune` stage."""

from typing import Annotated, Literal, Self

from pydantic import model_validator

from netpress.compression.gradual import Amount, Gradual
from netpress.compression.magnitude import Scope
from netpress.compression.schedule import Growth, amounts
from netpress.numerics.block_masks import BlockSize
from netpress.settings import Count, Fraction, Settings, at_most
from netpress.training import TrainSettings
from netpress.training.settings import MOST_ROUNDS


class PruneSettings(Settings):
    """Prune the smallest weights in rounds, each with its own training."""

    kind: Literal["prune"] = "prune"
    amount: Amount
    """Share of the selected weights that is gone at the end, those gone before included: 0.6 leaves 40%."""
    rounds: Annotated[Count, at_most(MOST_ROUNDS)] = 1
    """Rounds of pruning and training."""
    first_amount: Amount | None = None
    """Share that is gone after the first round; without it, equal steps from a dense network."""
    schedule: Growth = "linear"
    """How the amount rises: equal steps, or (exponential) the same share of what is left in each round."""
    scope: Scope = "global"
    """global ranks all selected weights together, layer takes the amount from each tensor by itself."""
    layers: str | tuple[str, ...] = "all"
    """Which layers: a kind, a pattern of layer names, or a list of them; all: every tensor of 2 or more dimensions."""
    pattern: BlockSize | None = None
    """Blocks of [outputs, inputs] weights that stay or go as a whole, as [1, 4]; a mask costs one bit a block then."""
    weights: Literal["keep", "rewind", "reinitialize"] = "keep"
    """What a round's training starts from: the weights as they are, the run's first ones, or new random ones."""
    gate: Fraction | None = None
    """Accuracy on the selection images to keep: the stage ends before the first round that falls below it."""
    masks_from: Literal["kept", "last"] = "kept"
    """Ranked from the second round on: the weights that the training before kept (`train.keep`), or its very last."""
    soft: bool = False
    """Zero the smallest weights at the beginning of each epoch only, so that they may grow back until the last one."""
    gradual: Gradual | None = None
    """Remove a round's weights while it trains, ever more of them, where without it all go before: a table; `{}`
    takes its defaults."""
    train: TrainSettings | None = None
    """The training of each round; without it, one round of pruning alone."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.first_amount is not None:
            if self.first_amount > self.amount:
                raise ValueError(f"first_amount {self.first_amount} is above amount {self.amount}")
            if self.rounds == 1 and self.first_amount != self.amount:
                raise ValueError("first_amount needs more than one round")
        if self.train is None:
            for setting, idle in (("rounds", 1), ("weights", "keep"), ("masks_from", "kept"), ("soft", False)):
                if getattr(self, setting) != idle:
                    raise ValueError(f"{setting} = {getattr(self, setting)!r} needs a training a round: add train")
            if self.gradual is not None:
                raise ValueError("gradual prunes while a round trains: add train")
        return self

    @model_validator(mode="after")
    def _softness_makes_sense(self) -> Self:
        if self.soft:
            for setting, only in (("weights", "keep"), ("masks_from", "kept")):
                if getattr(self, setting) != only:
                    raise ValueError(
                        f"{setting} = {getattr(self, setting)!r} does not go with soft, which ranks and keeps the "
                        f"weights that the round itself trained; take {setting} = {only!r}"
                    )
            if self.train is not None and (self.train.keep == "best" or self.train.early_stopping is not None):
                raise ValueError(
                    "soft does not go with train.keep = 'best' or train.early_stopping: the accuracy of an epoch is "
                    "that of the weights before they are zeroed"
                )
        return self

    @model_validator(mode="after")
    def _gradual_makes_sense(self) -> Self:
        if self.gradual is not None and self.train is not None:
            for setting, only in (("weights", "keep"), ("masks_from", "kept"), ("soft", False)):
                if getattr(self, setting) != only:
                    raise ValueError(
                        f"{setting} = {getattr(self, setting)!r} does not go with gradual, which ranks and keeps the "
                        f"weights that the round itself trains; take {setting} = {only!r}"
                    )
            self.gradual.refuse_training(self.train, "gradual")
        return self

    def amounts(self) -> list[float]:
        """The share that is gone after each round."""
        return amounts(self.amount, self.rounds, self.schedule, self.first_amount)
