"""Losses that depend on the label alone: cross-entropy and label smoothing.

Each is a cross-entropy against a distribution over the classes, one for each label. So such a loss is a table of
target rows, and mixed labels are mixed rows:

    loss = - sum_k q(k | labels) log softmax(logits)_k,   q = weight q(a) + (1 - weight) q(b)
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from netpress.data import Mixed
from netpress.settings import Share
from netpress.training.losses.loss import Lesson, Loss, LossSettings


class CrossEntropy(LossSettings):
    """Cross-entropy with the label itself."""

    kind: Literal["cross_entropy"] = "cross_entropy"

    def make(self, lesson: Lesson) -> "TableLoss":
        return TableLoss(None)


class LabelSmoothing(LossSettings):
    """Cross-entropy where `epsilon` of the target is spread evenly (Szegedy et al. 2016)."""

    kind: Literal["label_smoothing"] = "label_smoothing"
    epsilon: Share = 0.1
    """Share of the target that is spread."""
    over: Literal["all", "others"] = "all"
    """Spread over all classes, or over the classes other than the label."""

    def make(self, lesson: Lesson) -> "TableLoss":
        return TableLoss(self.targets(len(lesson.student.classes)).to(lesson.device))

    def targets(self, classes: int) -> Tensor:
        """Target distribution of each label: [classes, classes], rows sum to 1."""
        own = torch.eye(classes)
        if self.over == "all":
            return (1 - self.epsilon) * own + self.epsilon / classes
        return (1 - self.epsilon) * own + self.epsilon / max(1, classes - 1) * (1 - own)


class TableLoss(Loss):
    """Cross-entropy against the table's rows of the labels: [classes, classes], rows sum to 1.

    Without a table the targets are the labels themselves, which needs no rows.
    """

    def __init__(self, table: Tensor | None) -> None:
        self.table = table

    def __call__(self, logits: Tensor, labels: Mixed, pixels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, self.table)


def cross_entropy(logits: Tensor, labels: Mixed, table: Tensor | None) -> Tensor:
    """Mean cross-entropy of `logits` [batch, classes] against the table's rows of the mixed labels, or the labels."""
    if table is None:
        loss = F.cross_entropy(logits, labels.labels_a)
        if labels.weight < 1:
            loss = labels.weight * loss + (1 - labels.weight) * F.cross_entropy(logits, labels.labels_b)
        return loss
    targets = table[labels.labels_a]  # [batch, classes]
    if labels.weight < 1:
        targets = torch.lerp(table[labels.labels_b], targets, labels.weight)
    return F.cross_entropy(logits, targets)
