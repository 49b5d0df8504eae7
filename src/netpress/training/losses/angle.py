"""The angle loss: cross-entropy of scaled cosines, with a margin that the true class must win by.

Wang et al., arXiv 1801.05599, the equation of L_AMS:

    loss = - log softmax(scale * (cosines - margin * onehot(label)))_label

The label of a mixed image is two: each has a loss with the margin at its own class, and they are weighted.
"""

from dataclasses import replace
from typing import Annotated, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from netpress.data import Mixed
from netpress.errors import UserError
from netpress.models.blocks import CosineLinear
from netpress.network import Network, build
from netpress.numerics.layers import QuantizedLayer
from netpress.settings import Positive, between
from netpress.training.losses.loss import Lesson, Loss, LossSettings


class Angle(LossSettings):
    """Cross-entropy of scaled cosines with an additive margin (AM-softmax, Wang et al., arXiv 1801.05599).

    For networks that end in a cosine head, as `efficientnet:ex` does. Evaluations keep the cross-entropy of the plain
    cosines, whatever the scale.
    """

    kind: Literal["angle"] = "angle"
    scale: Positive = 5.0
    """Multiplies the cosines, which alone are too close together for a distribution to be sure of anything."""
    margin: Annotated[float, between(0, 2)] = 0.0
    """Subtracted from the cosine of the true class, in training; 0 is a scaled cosine."""

    def check(self, student: Network) -> None:
        name, last = last_layer(student.module)
        if isinstance(last, CosineLinear) or (isinstance(last, QuantizedLayer) and last.unit_rows):
            return
        if _has_fixed_directions(student, name):
            raise UserError(
                f"loss: angle trains directions of length 1, and a stage before fixed those of {name}, so that "
                "training would change their lengths; train with it before, or within the first `quantize` (a `fold` "
                "before that needs directions = false), or take another loss"
            )
        raise UserError(
            f"loss: angle needs cosines, and the network ends in {name or 'itself'}, of type "
            f'{type(last).__name__}; take a model with a cosine head (efficientnet has head = "cosine"), or '
            "another loss"
        )

    def make(self, lesson: Lesson) -> "AngleLoss":
        return AngleLoss(self)


class AngleLoss(Loss):
    """Called with cosines, [batch, classes] in [-1, 1]."""

    def __init__(self, settings: Angle) -> None:
        self.scale = settings.scale
        self.margin = settings.margin

    def __call__(self, logits: Tensor, labels: Mixed, pixels: Tensor) -> Tensor:
        loss = self._of_one(logits, labels.labels_a)
        if labels.weight < 1:
            loss = labels.weight * loss + (1 - labels.weight) * self._of_one(logits, labels.labels_b)
        return loss

    def _of_one(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """The mean loss where the labels [batch] are not mixed."""
        own = F.one_hot(labels, cosines.shape[1])  # [batch, classes]
        return F.cross_entropy(self.scale * (cosines - self.margin * own), labels)


def _has_fixed_directions(network: Network, name: str) -> bool:
    """Whether the layer called `name` was a cosine layer before edits made it a linear one."""
    if not network.architecture.edits:
        return False
    first = build(replace(network.architecture, edits=[]))
    return isinstance(dict(first.named_modules()).get(name), CosineLinear)


def last_layer(module: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the last layer that changes anything, in the order in which layers were made.

    Identities, which folding leaves in the place of norms, change nothing.
    """
    leaves = [(name, layer) for name, layer in module.named_modules() if not list(layer.children())]
    return next((leaf for leaf in reversed(leaves) if not isinstance(leaf[1], nn.Identity)), leaves[-1])
