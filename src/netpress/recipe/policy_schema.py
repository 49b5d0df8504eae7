"""The [policy_search] table of a recipe: how much a search for augmentation policies does, and what is better.

    [policy_search]
    folds = 5
    candidates = 100
    epochs_scale = 0.5

`netpress search policy` reads it, and no other command; `netpress.runs.search.policy` says how it searches. The
defaults are those of Fast AutoAugment (Lim et al. 2019, section 4).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from netpress.settings import Count, Natural, Positive, Settings, at_most

MOST_FOLDS = 100
MOST_CANDIDATES = 10_000


class PolicySearch(Settings):
    """Looks for augmentations after which a network still knows images that it was not trained on."""

    folds: Annotated[int, Field(ge=2, le=MOST_FOLDS)] = 5
    """Parts of the training images, each with every class's share. Of each part a network is trained on the others."""
    rounds: Annotated[Count, at_most(100)] = 2
    """Searches of each fold, each from nothing."""
    candidates: Annotated[Count, at_most(MOST_CANDIDATES)] = 200
    """Policies that a round tries; each costs one pass over the fold's images, and no training."""
    best: Annotated[Count, at_most(MOST_CANDIDATES)] = 10
    """How many of a round's candidates the found policy is made of."""
    sub_policies: Annotated[Count, at_most(20)] = 5
    """Pairs of operations, each with probability and level, that make one candidate."""
    objective: Literal["accuracy", "loss"] = "loss"
    """What is better of the augmented images: higher `accuracy` or lower cross-entropy (`loss`)."""
    images: Count | None = None
    """So many of a fold's images judge the candidates, each class with its share; without it, all of them."""
    epochs_scale: Positive = 1.0
    """Multiplies the epochs of the trainings, as --epochs-scale does."""
    sampler: Literal["tpe", "random"] = "tpe"
    """`tpe`: candidates like the better ones before (Bergstra et al. 2011; Optuna's, multivariate). `random`: any."""
    random_trials: Natural = 20
    """Of `tpe`: how many candidates of a round begin at random."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.best > self.candidates:
            raise ValueError(f"best = {self.best} of {self.candidates} candidates: there are not so many")
        if self.folds * self.rounds * self.best * self.sub_policies > MOST_CANDIDATES:
            raise ValueError(
                f"folds x rounds x best x sub_policies are more than the {MOST_CANDIDATES:,} sub-policies that a "
                "policy may have"
            )
        return self
