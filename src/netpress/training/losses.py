"""Losses against soft targets: cross-entropy, label smoothing, adaptive label smoothing, distillation.

Every loss is a cross-entropy against a distribution over the classes that depends on the label alone.
So a loss is a table of target rows, and mixed labels are mixed rows:

    loss = - sum_k q(k | labels) log softmax(logits)_k,   q = weight q(a) + (1 - weight) q(b)
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netpress.data import Mixed
from netpress.errors import UserError
from netpress.evaluation.ranking import best_class
from netpress.settings import Count, Fraction, Positive, Settings, Share


class CrossEntropy(Settings):
    """Cross-entropy with the label itself."""

    kind: Literal["cross_entropy"] = "cross_entropy"


class LabelSmoothing(Settings):
    """Cross-entropy where `epsilon` of the target is spread evenly (Szegedy et al. 2016)."""

    kind: Literal["label_smoothing"] = "label_smoothing"
    epsilon: Share = 0.1
    """Share of the target that is spread."""
    over: Literal["all", "others"] = "all"
    """Spread over all classes, or over the classes other than the label."""


class AdaptiveLabelSmoothing(Settings):
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


class Distillation(Settings):
    """A teacher's softened answers as a second target (Hinton et al. 2015)."""

    teachers: tuple[str, ...] = ()
    """Network files or run folders; their probabilities are averaged. Empty where the stage supplies a teacher."""
    weight: Fraction = 0.5
    """Share of the teacher in the loss; the rest is the labels'."""
    temperature: Positive = 4.0
    """Divides both logits; the term is multiplied by its square, so that gradients keep their size."""


LabelLoss = CrossEntropy | LabelSmoothing | AdaptiveLabelSmoothing


def target_table(settings: LabelLoss, classes: Count, likeness: Tensor | None = None) -> Tensor:
    """Target distribution of each label: [classes, classes], rows sum to 1.

    `likeness` is the table of `class_likeness`, needed by adaptive label smoothing alone.
    """
    device = likeness.device if likeness is not None else None
    own = torch.eye(classes, device=device)
    match settings:
        case CrossEntropy():
            return own
        case LabelSmoothing(epsilon=epsilon, over="all"):
            return (1 - epsilon) * own + epsilon / classes
        case LabelSmoothing(epsilon=epsilon):
            return (1 - epsilon) * own + epsilon / max(1, classes - 1) * (1 - own)
        case AdaptiveLabelSmoothing(epsilon=epsilon):
            if likeness is None:
                raise ValueError("adaptive label smoothing needs the likeness of the classes")
            return (1 - epsilon) * own + epsilon * likeness


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


def cross_entropy(logits: Tensor, mixed: Mixed, table: Tensor | None) -> Tensor:
    """Mean cross-entropy of `logits` [batch, classes] against the table's rows of the mixed labels.

    `table` None means the labels themselves, which needs no rows.
    """
    if table is None:
        loss = F.cross_entropy(logits, mixed.labels_a)
        if mixed.weight < 1:
            loss = mixed.weight * loss + (1 - mixed.weight) * F.cross_entropy(logits, mixed.labels_b)
        return loss
    targets = table[mixed.labels_a]  # [batch, classes]
    if mixed.weight < 1:
        targets = torch.lerp(table[mixed.labels_b], targets, mixed.weight)
    return F.cross_entropy(logits, targets)


def distill(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from the teacher's softened distribution, times temperature squared.

    Both logits are [batch, classes]; the mean over the batch is returned (Hinton et al. 2015).
    """
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def count_right(logits: Tensor, mixed: Mixed) -> Tensor:
    """Images answered rightly, a mixed image counting as the shares of its two labels: float scalar."""
    answers = best_class(logits)
    right = (answers == mixed.labels_a).sum().float()
    if mixed.weight < 1:
        right = mixed.weight * right + (1 - mixed.weight) * (answers == mixed.labels_b).sum()
    return right
