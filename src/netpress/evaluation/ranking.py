"""Which classes a network's logits put first, and how likely it takes them for.

Logits in float16 tie. Of the 10,000 answers of `networks/kaist-int` to CIFAR-100, a few have two classes in first
place. `topk` leaves the order of equal values to the library, the device and the batch. This file states the order
once, and every figure that ranks answers (accuracy, top-5, equal answers) ranks by it.
"""

import math

import torch
from torch import Tensor

from netpress.errors import UserError
from netpress.network import Network


def rank_classes(logits: Tensor, places: int) -> Tensor:
    """The classes in the first `places` places, fewer where there are fewer: int64 [batch, places].

    logits: [batch, classes]. By value, and of equal values the lowest index first, on every device; NaN comes before
    all numbers.
    """
    # + 0.0: a negative zero is the same value as zero, also where a sort compares bits.
    order = torch.sort(logits + 0.0, dim=1, descending=True, stable=True).indices
    return order[:, :places]


def probabilities_of(logits: Tensor, scale: float = 1.0) -> Tensor:
    """The softmax of the logits [batch, classes], each multiplied by `scale` before: float64 [batch, classes].

    A network that ends in cosines is trained with a scale of its loss, which its file does not say; by 1, its
    probabilities lie close together.
    """
    return (logits.double() * scale).softmax(1)


def check_scale(scale: float) -> None:
    """Raise UserError for what cannot multiply logits before a softmax."""
    if not 0 < scale < math.inf:
        raise UserError(f"--scale {scale}: must be above 0, and finite")


def ends_in_cosines(network: Network) -> bool:
    """Whether the network was built with a cosine head, whatever became of its layer since."""
    return network.architecture.settings.get("head") == "cosine"


def best_class(logits: Tensor) -> Tensor:
    """The class in first place, as `rank_classes` has it, without ranking the others: int64 [batch]."""
    return logits.argmax(dim=1)  # of several largest values the first one, by torch's documentation
