"""The settings of the `factorize` stage."""

from typing import Annotated, Literal, Self

from pydantic import model_validator

from netpress.compression.factorization.regrowth import RegrowSettings
from netpress.compression.factorization.selection import CostSelection, Selection
from netpress.compression.factorization.truncation import Truncation
from netpress.settings import Count, Fraction, OpenFraction, Positive, Settings, Share, at_least, at_most
from netpress.training import TrainSettings
from netpress.training.settings import MOST_ROUNDS

KEPT_A_ROUND = 0.7  # where nothing is asked for


class FactorizeSettings(Settings):
    """Put layers into factors by the curvature of the loss (EigenDamage), train, regrow, until a target or the gate."""

    kind: Literal["factorize"] = "factorize"
    keep: OpenFraction | None = None
    """Share of the selected layers' rows and columns that stays, in each round; 1 puts all layers into factors that
    lose nothing, with `selection.kind` global. If absent: 0.7, but in a single round with a target, or with a gate and
    no training, all that it takes.
    """
    compression: Share | None = None
    """The target: share of all the network's parameters, norms included, that is gone."""
    score: Positive | None = None
    """The target: the score of the network as it is, by the run's convention."""
    gate: Fraction | None = None
    """The accuracy on the selection images that the network must keep: the last network at or above it is the result.
    Without `train` as much is cut as the network stands."""
    layers: str | tuple[str, ...] = "all"
    """Which layers: a kind, a pattern of layer names, or a list of them. Grouped convolutions always stay whole."""
    selection: Selection = CostSelection()
    """How ranks are decided: `cost` cuts where least is lost for what is saved, `global` as Wave did."""
    truncation: Truncation = "weighted"
    """What the factors are made of: rows and columns of the `eigenbasis`, the `tucker` decomposition of the weights,
    or that of the weights `weighted` by both Fisher factors."""
    images: Annotated[Count, at_least(2)] = 2048
    """Training images, drawn at random, on which the curvature is measured and norms are measured anew."""
    batch_size: Count = 64
    """Images at once in these passes."""
    train: TrainSettings | None = None
    """The training after each factorization."""
    train_larger: TrainSettings | None = None
    """The training in place of `train` while the network has as many parameters as at first or more."""
    regrow: RegrowSettings | None = None
    """Regrowth after each factorization but the last, once the network is smaller than at first; a round of its own."""
    rounds: Annotated[Count, at_most(MOST_ROUNDS)] = 1
    """Rounds at most, those of regrowth included."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.rounds == 1:
            for setting in ("regrow", "train_larger"):
                if getattr(self, setting) is not None:
                    raise ValueError(f"{setting} needs more than one round: raise rounds")
        if self.train_larger is not None and self.train is None:
            raise ValueError("train_larger takes the place of train: add train")
        return self

    @property
    def share(self) -> float | None:
        """Rows and columns that stay in a round; None where the target alone decides."""
        if self.keep is not None:
            return self.keep
        stood = self.gate if self.train is None else None  # what a network stands after training nobody knows before
        alone = self.rounds == 1 and any(target is not None for target in (self.compression, self.score, stood))
        return None if alone else KEPT_A_ROUND
