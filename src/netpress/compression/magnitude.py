"""Which weights go: the smallest magnitudes, by exact counts.

The count is that of a percentile threshold, as KAIST used it (repository
Kthyeon/micronet_neurips_challenge: `numpy.percentile(|w|, 100 * amount)`, keep what
is above). A percentile of n values lies at rank amount * (n - 1) of the sorted
values, and the value at that rank is not above the threshold, so that

    removed = floor(amount * (n - 1)) + 1

of the n weights go. Here the weights are ranked rather than compared with a rounded
threshold: the count is exact whatever the ties, and equal magnitudes go in the order
of the tensors and of their elements.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction as Ratio
from typing import Literal

import torch
from torch import Tensor

from netpress.errors import Failure, UserError

Scope = Literal["global", "layer"]


class TooFew(UserError):
    """An amount that leaves fewer weights than there are tensors to keep alive."""


@dataclass(frozen=True)
class Choice:
    """Masks chosen by magnitude, and what was done other than asked.

    masks: tensor name -> bool, True = the weight stays; the tensor's shape.
    rescued: tensors that the ranking would have emptied: each keeps its largest weight.
    sparser: tensors that were sparser than asked already and stay as they are (scope "layer").
    """

    masks: dict[str, Tensor]
    rescued: list[str]
    sparser: list[str]


def count_removed(amount: float, count: int) -> int:
    """Weights of `count` that are not above the `amount` percentile of their magnitudes (0.6 of 450,456: 270,274).

    0 removes none (a percentile would take the smallest one). `amount` is read as the
    decimal that it is written as, so that no rounding of amount * (count - 1) shifts the count.
    """
    if amount <= 0 or count == 0:
        return 0
    return min(count, math.floor(Ratio(repr(amount)) * (count - 1)) + 1)


def choose_masks(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], amount: float, scope: Scope) -> Choice:
    """Masks that remove `amount` of all `weights`, those removed before (by `masks`) included and never revived.

    scope "global" ranks all tensors together; "layer" removes the amount from each.
    No tensor is emptied: where the ranking would take all of it, its largest weight stays,
    and with scope "global" the next smallest weight of all goes in its place, so that the
    count holds. Raises UserError if the weights are sparser than asked already, TooFew if
    the amount leaves fewer weights than tensors, Failure if a weight is not finite.
    """
    magnitudes = {name: _magnitudes(name, weight, masks.get(name)) for name, weight in weights.items()}
    if scope == "global":
        return _choose_together(magnitudes, amount)
    chosen: dict[str, Tensor] = {}
    rescued: list[str] = []
    sparser: list[str] = []
    for name, magnitude in magnitudes.items():
        removed = count_removed(amount, magnitude.numel())
        if _count_zeros(magnitude) > removed:
            sparser.append(name)
            chosen[name] = magnitude > 0
            continue
        if removed == magnitude.numel():
            rescued.append(name)
            removed -= 1
        chosen[name] = _keep_largest([magnitude], removed)[0]
    if sparser and len(sparser) == len(magnitudes):
        raise UserError(_already_sparser(list(magnitudes.values()), amount))
    return Choice(chosen, rescued, sparser)


def _choose_together(magnitudes: dict[str, Tensor], amount: float) -> Choice:
    tensors = list(magnitudes.values())
    count = sum(tensor.numel() for tensor in tensors)
    removed = count_removed(amount, count)
    if sum(map(_count_zeros, tensors)) > removed:
        raise UserError(_already_sparser(tensors, amount))
    kept = _keep_largest(tensors, removed)
    alive = [bool((tensor > 0).any()) for tensor in tensors]
    rescued = [
        name for name, mask, living in zip(magnitudes, kept, alive, strict=True) if living and not bool(mask.any())
    ]
    if rescued:
        if count - removed < sum(alive):
            raise TooFew(
                f"amount {amount:g} leaves {count - removed:,} of {count:,} weights in {sum(alive)} tensors: "
                "not one for each; choose a smaller amount"
            )
        kept = _keep_largest([_protect_largest(tensor) for tensor in tensors], removed)
        # What goes in the place of one tensor's last weight can make another's the least of all that stay.
        gone = torch.cat([tensor[~mask] for tensor, mask in zip(tensors, kept, strict=True)])
        largest_gone = float(gone.max())
        rescued = [
            name
            for (name, tensor), living in zip(magnitudes.items(), alive, strict=True)
            if living and (name in rescued or float(tensor.max()) < largest_gone)
        ]
    return Choice(dict(zip(magnitudes, kept, strict=True)), rescued, [])


def _magnitudes(name: str, weight: Tensor, mask: Tensor | None) -> Tensor:
    """|weight|, where removed weights rank below every weight that is only zero. Same shape."""
    magnitude = weight.detach().abs()
    if not bool(torch.isfinite(magnitude).all()):
        raise Failure(f"{name} holds weights that are not finite: nothing can be ranked by magnitude")
    return magnitude if mask is None else magnitude.masked_fill(~mask.to(weight.device), -1)


def _count_zeros(magnitude: Tensor) -> int:
    return int((magnitude <= 0).sum())


def _already_sparser(magnitudes: list[Tensor], amount: float) -> str:
    count = sum(tensor.numel() for tensor in magnitudes)
    zeros = sum(map(_count_zeros, magnitudes))
    return (
        f"amount {amount:g}: {zeros:,} of the {count:,} selected weights ({zeros / count:.4%}) are zero already, "
        "more than that; choose a larger amount (first_amount is that of the first round)"
    )


def _protect_largest(magnitude: Tensor) -> Tensor:
    """The magnitudes with the largest (the last of equals, which the ranking takes last) made infinite."""
    flat = magnitude.flatten()
    largest = flat.max()
    if largest > 0:
        flat = flat.clone()
        flat[(flat == largest).nonzero()[-1]] = math.inf
    return flat.view_as(magnitude)


def _keep_largest(magnitudes: list[Tensor], removed: int) -> list[Tensor]:
    """One mask a tensor, without the `removed` smallest values of all; of equal ones the first go first."""
    values = torch.cat([tensor.flatten() for tensor in magnitudes])  # [weights]
    order = torch.sort(values, stable=True).indices
    keep = torch.ones_like(values, dtype=torch.bool)
    keep[order[:removed]] = False
    parts = keep.split([tensor.numel() for tensor in magnitudes])
    return [part.view(tensor.shape).clone() for part, tensor in zip(parts, magnitudes, strict=True)]
