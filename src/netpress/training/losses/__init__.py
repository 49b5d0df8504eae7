"""Losses: one file each, with their settings; `registry.py` names them all."""

from netpress.training.losses.adaptive import AdaptiveLabelSmoothing
from netpress.training.losses.angle import Angle
from netpress.training.losses.distillation import Distillation
from netpress.training.losses.labels import CrossEntropy, LabelSmoothing
from netpress.training.losses.loss import Lesson, Loss, LossSettings
from netpress.training.losses.refinery import LabelRefinery
from netpress.training.losses.registry import ChosenLoss

__all__ = [
    "AdaptiveLabelSmoothing",
    "Angle",
    "ChosenLoss",
    "CrossEntropy",
    "Distillation",
    "LabelRefinery",
    "LabelSmoothing",
    "Lesson",
    "Loss",
    "LossSettings",
]
