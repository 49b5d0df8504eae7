"""The losses that a recipe may choose from: a new one is named here, and nowhere else."""

from typing import Annotated

from pydantic import Field

from netpress.training.losses.adaptive import AdaptiveLabelSmoothing
from netpress.training.losses.angle import Angle
from netpress.training.losses.labels import CrossEntropy, LabelSmoothing
from netpress.training.losses.refinery import LabelRefinery

ChosenLoss = Annotated[
    CrossEntropy | LabelSmoothing | AdaptiveLabelSmoothing | Angle | LabelRefinery, Field(discriminator="kind")
]
"""The settings of a loss, told apart by `kind`."""
