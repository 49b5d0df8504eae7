"""Which classes a network's logits put first.

Logits in float16 tie. Of the 10,000 answers of `networks/kaist-int` to CIFAR-100, a few have two classes in first
place. `topk` leaves the order of equal values to the library, the device and the batch. This file states the order
once, and every figure that ranks answers (accuracy, top-5, equal answers) ranks by it.
"""

import torch
from torch import Tensor


def rank_classes(logits: Tensor, places: int) -> Tensor:
    """The classes in the first `places` places, fewer where there are fewer: int64 [batch, places].

    logits: [batch, classes]. By value, and of equal values the lowest index first, on every device; NaN comes before
    all numbers.
    """
    # + 0.0: a negative zero is the same value as zero, also where a sort compares bits.
    order = torch.sort(logits + 0.0, dim=1, descending=True, stable=True).indices
    return order[:, :places]


def best_class(logits: Tensor) -> Tensor:
    """The class in first place, as `rank_classes` has it, without ranking the others: int64 [batch]."""
    return logits.argmax(dim=1)  # of several largest values the first one, by torch's documentation
