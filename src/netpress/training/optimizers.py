"""Optimizers with their parameter groups, and the learning rate over a round."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from netpress.settings import Fraction, NonNegative, Positive, Settings, Share


class _Optimizer(Settings):
    learning_rate: Positive = 0.1
    """Highest learning rate of a round."""
    weight_decay: NonNegative = 1e-5
    """L2 penalty of the weights (adamw: decoupled)."""
    decay_1d: bool = False
    """Decay biases and the scales and shifts of norms too; False is the no-bias-decay of He et al. 2019."""


class Sgd(_Optimizer):
    """Stochastic gradient descent with momentum, as torch defines it."""

    kind: Literal["sgd"] = "sgd"
    momentum: Share = 0.9
    """Share of the last step's direction that is kept."""
    nesterov: bool = True
    """Look ahead along the momentum (Sutskever et al. 2013)."""


class Adam(_Optimizer):
    """Adam (Kingma and Ba 2015): the decay is added to the gradient."""

    kind: Literal["adam"] = "adam"
    learning_rate: Positive = 1e-3
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    epsilon: Positive = 1e-8
    """Added to the root of the mean square before dividing by it."""


class AdamW(_Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-2
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    epsilon: Positive = 1e-8
    """Added to the root of the mean square before dividing by it."""


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


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float, decay_1d: bool) -> list[dict[str, object]]:
    """Two parameter groups: tensors of more than one dimension, which decay, and the rest, which need not."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    groups: list[dict[str, object]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": weight_decay if decay_1d else 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(module: nn.Module, settings: Sgd | Adam | AdamW) -> torch.optim.Optimizer:
    """A new optimizer of all trained parameters of `module`, updated all at once."""
    groups = decay_groups(module.parameters(), settings.weight_decay, settings.decay_1d)
    match settings:
        case Sgd():
            return torch.optim.SGD(
                groups,
                lr=settings.learning_rate,
                momentum=settings.momentum,
                nesterov=settings.nesterov and settings.momentum > 0,
                foreach=True,
            )
        case Adam():
            return torch.optim.Adam(
                groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, foreach=True
            )
        case AdamW():
            return torch.optim.AdamW(
                groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, foreach=True
            )
