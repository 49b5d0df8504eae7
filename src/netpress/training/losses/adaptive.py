"""Adaptive label smoothing: classes that look alike to the classifier share more of the target."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netpress.errors import UserError
from netpress.network import Network
from netpress.settings import Positive, Share
from netpress.training.losses.labels import TableLoss
from netpress.training.losses.loss import Lesson, LossSettings
from netpress.training.part import State


class AdaptiveLabelSmoothing(LossSettings):
    """Cross-entropy where `epsilon` of the target goes to the other classes by their likeness to the label.

    Likeness is the cosine of the classifier's weight rows, read anew at the start of each epoch
    (Kim et al., PMLR 123, equation 3). The team's code differs from its paper: `variant = "code"`.
    """

    kind: Literal["adaptive_label_smoothing"] = "adaptive_label_smoothing"
    epsilon: Share = 0.2
    """Share of the target that goes to other classes."""
    temperature: Positive = 0.2
    """Divides the cosine (variant paper only); smaller is more pointed."""
    variant: Literal["paper", "code"] = "paper"
    """paper: exp(cosine / temperature); code: exp(|cosine|), no temperature."""

    def check(self, student: Network) -> None:
        rows = len(classifier_weight(student.module))
        if rows != len(student.classes):
            raise UserError(
                f"loss: adaptive label smoothing compares the classifier's rows, and the last linear layer has {rows} "
                f"for {len(student.classes)} classes"
            )

    def make(self, lesson: Lesson) -> "AdaptiveLoss":
        return AdaptiveLoss(lesson.student.module, self)

    def targets(self, classifier: Tensor) -> Tensor:
        """Target distribution of each label: [classes, classes], rows sum to 1.

        `classifier` is the last linear layer's weight, [classes, features].
        """
        own = torch.eye(len(classifier), device=classifier.device)
        return (1 - self.epsilon) * own + self.epsilon * class_likeness(classifier, self)


class AdaptiveLoss(TableLoss):
    """A table that is read from the module's classifier at the start of each epoch."""

    def __init__(self, module: nn.Module, settings: AdaptiveLabelSmoothing) -> None:
        self.module = module
        self.settings = settings
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self.table = self.settings.targets(classifier_weight(self.module))

    def state_dict(self) -> State:
        return {"table": self.table}

    def load_state_dict(self, state: State) -> None:
        self.table = state["table"].to(classifier_weight(self.module).device)


def class_likeness(classifier: Tensor, settings: AdaptiveLabelSmoothing) -> Tensor:
    """What each class gives to the others: [classes, classes], zero diagonal, rows sum to 1.

    `classifier` is the last linear layer's weight, [classes, features].
    """
    rows = F.normalize(classifier.detach().float(), dim=1)
    cosine = rows @ rows.T  # [classes, classes]
    scores = cosine.abs() if settings.variant == "code" else cosine / settings.temperature
    scores = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), -torch.inf)
    return scores.softmax(dim=1)


def classifier_weight(module: nn.Module) -> Tensor:
    """The weight of the last linear layer (or, without one, the last 1x1 convolution): [classes, features].

    Raises UserError where the network has neither.
    """
    layers = list(module.modules())
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    pointwise = [layer for layer in layers if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)]
    if not (linear or pointwise):
        raise UserError("adaptive label smoothing needs a classifier: this network has no linear layer")
    return (linear or pointwise)[-1].get_parameter("weight").flatten(1)
