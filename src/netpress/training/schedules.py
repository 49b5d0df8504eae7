"""The learning rate over a round: a cosine, steps, pieces or a constant, after a warm-up.

A rate of .1 that falls along a cosine for 150 epochs is .099989 in the first and 0 in the last.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction as Ratio
from typing import Annotated, Literal, Self

from pydantic import model_validator

from netpress.settings import Fraction, NonNegative, OpenFraction, Settings, below

OUTLINE_ERROR = 0.01  # of the highest rate


class _Schedule(Settings):
    per: Literal["epoch", "step"] = "step"
    """Change the learning rate once an epoch or at every step."""
    warmup: NonNegative = 0.0
    """Epochs of linear rise from 0 at the start of a round, before the schedule begins."""


class Cosine(_Schedule):
    """Half a cosine from the learning rate down to `minimum` (Loshchilov and Hutter 2017).

    Unit e = 1 ... n of a round has minimum + (rate - minimum) (1 + cos(pi e / n)) / 2, so the last one
    has the minimum and the first is a little below the full rate: the 2019 code stepped its schedule first.
    """

    kind: Literal["cosine"] = "cosine"
    minimum: NonNegative = 0.0
    """Learning rate of the last epoch (or step)."""


class Step(_Schedule):
    """Multiply by `factor` at each milestone."""

    kind: Literal["step"] = "step"
    milestones: tuple[Fraction, ...] = (0.6667, 0.9)
    """Shares of a round; unit e = 1 ... n is past a milestone m when e >= round(m n)."""
    factor: Fraction = 0.1
    """What the learning rate is multiplied by at each milestone."""


class Piecewise(_Schedule):
    """Another multiple of the learning rate from each milestone on.

    With milestones of .25 and .5 and multipliers of .1 and .002, a rate of .5 is .5 in epochs 0 to 449 of 1,800, .05
    from epoch 450 and .001 from epoch 900.
    """

    kind: Literal["piecewise"] = "piecewise"
    milestones: tuple[Annotated[OpenFraction, below(1)], ...]
    """Shares of a round, rising; unit u = 0 ... n - 1 is past a milestone m when u >= m n."""
    multipliers: tuple[NonNegative, ...]
    """One a milestone: what the learning rate is multiplied by from there on, not what it was before."""

    @model_validator(mode="after")
    def _rise_in_pairs(self) -> Self:
        if not self.milestones:
            raise ValueError("milestones: is empty; kind = 'constant' has none")
        if len(self.milestones) != len(self.multipliers):
            raise ValueError(f"{len(self.milestones)} milestones need as many multipliers, not {len(self.multipliers)}")
        for earlier, later in itertools.pairwise(self.milestones):
            if earlier >= later:
                raise ValueError(f"milestones: {later:g} does not rise above {earlier:g}")
        return self


class Constant(_Schedule):
    """The same learning rate throughout."""

    kind: Literal["constant"] = "constant"


Schedule = Cosine | Step | Piecewise | Constant


def learning_rate(highest: float, schedule: Schedule, unit: int, units: int, warmup: int = 0) -> float:
    """Learning rate of `unit` (from 0) of a round of `units` epochs or steps, `warmup` of them rising."""
    if unit < warmup:
        return highest * (unit + 1) / warmup
    place, places = unit + 1 - warmup, max(1, units - warmup)
    match schedule:
        case Cosine(minimum=minimum):
            return minimum + (highest - minimum) * (1 + math.cos(math.pi * place / places)) / 2
        case Step(milestones=milestones, factor=factor):
            return highest * factor ** sum(place >= round(milestone * places) for milestone in milestones)
        case Piecewise(milestones=milestones, multipliers=multipliers):
            # As decimals: .7 of 10 units is 7 and no more.
            passed = sum(place - 1 >= Ratio(repr(milestone)) * places for milestone in milestones)
            return highest * (1.0, *multipliers)[passed]
        case Constant():
            return highest


def rate_at(highest: float, schedule: Schedule, epoch: int, step: int, epochs: int, steps: int) -> float:
    """Learning rate at `step` of `epoch` (both from 0) of a round of `epochs` with `steps` each."""
    if schedule.per == "epoch":
        return learning_rate(highest, schedule, epoch, epochs, round(schedule.warmup))
    return learning_rate(highest, schedule, epoch * steps + step, epochs * steps, round(schedule.warmup * steps))


def outline(rates: Sequence[float]) -> list[list[float]]:
    """The rates of an epoch's steps by few points [place, rate], joined by straight lines; places from 0 up to 1.

    The first and the last step are among them, and every other rate lies within OUTLINE_ERROR of the highest one from
    the lines, so that peaks and edges are kept (Douglas and Peucker 1973, measured along the rate).
    """
    if len(rates) < 2:
        return [[0.0, rate] for rate in rates]
    bearable = OUTLINE_ERROR * max(map(abs, rates))
    kept, parts = {0, len(rates) - 1}, [(0, len(rates) - 1)]
    while parts:
        start, end = parts.pop()
        rise = (rates[end] - rates[start]) / (end - start)
        errors = [abs(rates[step] - rates[start] - rise * (step - start)) for step in range(start, end + 1)]
        worst = start + errors.index(max(errors))
        if errors[worst - start] > bearable:
            kept.add(worst)
            parts += [(start, worst), (worst, end)]
    return [[round(step / len(rates), 6), rates[step]] for step in sorted(kept)]
