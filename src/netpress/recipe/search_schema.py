"""The [search] table of a recipe: which of its settings are looked for, and what is better.

    [search]
    trials = 30
    objectives = ["accuracy", "score"]
    [search.space]
    "model.expansion" = { low = 1.0, high = 4.0, step = 0.5 }
    "stages.1.amount" = { low = 0.3, high = 0.9 }
    "model.preset" = ["tiny", "small"]

`netpress search recipe` tries recipes of this space; `netpress.runs.search` says how.
"""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from netpress.recipe.overrides import split_path
from netpress.recipe.sweep_schema import overlap
from netpress.settings import Natural, Settings, at_least

Objective = Literal["accuracy", "score", "flash", "ram", "file", "multiply_adds"]
MOST_TRIALS = 10_000
ROOTS = ("data", "model", "networks", "seed", "stages")


class Range(Settings):
    """Numbers between two ends, both included; whole ones where both ends and the step are whole."""

    low: int | float
    high: int | float
    step: int | float | None = None
    """The distance of the values; without it every number, or every whole one."""
    log: bool = False
    """Whether equal ratios are as likely as each other, as for a learning rate; not with a step."""

    @property
    def whole(self) -> bool:
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} must be below high = {self.high}")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step = {self.step} must be above 0 and at most high - low")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log = true needs low above 0, and takes no step")
        return self


def _which(value: Any) -> str:
    return "range" if isinstance(value, Mapping | Range) else "values"


Choice = Annotated[tuple[Any, ...], Field(min_length=1)]
Candidates = Annotated[Annotated[Range, Tag("range")] | Annotated[Choice, Tag("values")], Discriminator(_which)]


class Stopping(Settings):
    """Ends a trial whose accuracy, on the images that are selected on, falls below the median of the trials before it.

    Compared is the best epoch so far with the best of the others within as large a share of their epochs. (The median
    rule of Vizier, Golovin et al. 2017, section 3.2.)
    """

    after_trials: Annotated[int, at_least(1)] = 5
    """Trials that must be done before one is stopped."""
    after: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """The share of a training's epochs that every trial has."""


class Search(Settings):
    """Looks for the best recipe of a space."""

    space: dict[str, Candidates]
    """Setting path in quotes -> a list of values, or a range: { low, high, step, log }."""
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 30
    """Recipes that are trained. Those that need more than [limits] allow are only counted, and not among them."""
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1, max_length=2)] = ("accuracy",)
    """What is better: `accuracy` on the images to select on; lower `score`, `flash`, `ram`, `file` (bytes) or
    `multiply_adds`. With two, the result is a front."""
    sampler: Literal["tpe", "random"] = "tpe"
    """`tpe`: values like those of the better trials (Bergstra et al. 2011; Optuna's, multivariate). `random`: any."""
    random_trials: Natural = 8
    """Of `tpe`: how many begin at random."""
    stop: Stopping | None = None
    """Stops poor trials early; without it all go to their end."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.space:
            raise ValueError("space: name at least one setting to look for")
        for path in self.space:
            keys = split_path(path)
            if keys[0] not in ROOTS or not all(keys):
                raise ValueError(f'space."{path}" cannot be looked for; a path begins with {", ".join(ROOTS)}')
        for one, other in itertools.combinations(self.space, 2):
            if overlap(one, other):
                raise ValueError(f'space."{one}" and "{other}" set the same')
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives: names the same twice")
        if self.stop is not None and self.objectives != ("accuracy",):
            raise ValueError("stop: goes by accuracy alone, and would end small networks where others count too")
        return self
