"""The learning rate over a round: a cosine, steps or a constant, after a warm-up.

A rate of .1 that falls along a cosine for 150 epochs is .099989 in the first and 0 in the last.
"""

import math
from typing import Literal

from netpress.settings import Fraction, NonNegative, Settings


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


class Constant(_Schedule):
    """The same learning rate throughout."""

    kind: Literal["constant"] = "constant"


def learning_rate(highest: float, schedule: Cosine | Step | Constant, unit: int, units: int, warmup: int = 0) -> float:
    """Learning rate of `unit` (from 0) of a round of `units` epochs or steps, `warmup` of them rising."""
    if unit < warmup:
        return highest * (unit + 1) / warmup
    place, places = unit + 1 - warmup, max(1, units - warmup)
    match schedule:
        case Cosine(minimum=minimum):
            return minimum + (highest - minimum) * (1 + math.cos(math.pi * place / places)) / 2
        case Step(milestones=milestones, factor=factor):
            return highest * factor ** sum(place >= round(milestone * places) for milestone in milestones)
        case Constant():
            return highest


def rate_at(
    highest: float, schedule: Cosine | Step | Constant, epoch: int, step: int, epochs: int, steps: int
) -> float:
    """Learning rate at `step` of `epoch` (both from 0) of a round of `epochs` with `steps` each."""
    if schedule.per == "epoch":
        return learning_rate(highest, schedule, epoch, epochs, round(schedule.warmup))
    return learning_rate(highest, schedule, epoch * steps + step, epochs * steps, round(schedule.warmup * steps))
