"""Which weights go: those of the smallest magnitude, by exact counts.

    of 450,456 weights, an amount of 0.6 removes 270,274

KAIST's code (repository Kthyeon/micronet_neurips_challenge) keeps what is above `numpy.percentile(|w|, 100 * amount)`.
The percentile of n values lies at rank amount * (n - 1) of the sorted values, and the value at that rank is not above
it. So the percentile removes

    floor(amount * (n - 1)) + 1

of the n weights. Here weights are ranked, not compared with a rounded threshold, so the count is exact whatever the
ties. Of equal magnitudes the first go first, in the order of the tensors and of their elements.

Blocks of weights (`netpress.compression.units`) go, smallest first, as long as no more weights are gone than asked: the
count is exact to less than a block.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction as Ratio
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from netpress.compression.units import Units, keep_largest, magnitudes_of, make_units
from netpress.errors import UserError
from netpress.numerics.block_masks import Pattern, spread_blocks, sum_blocks

Scope = Literal["global", "layer"]
NO_PATTERNS: Mapping[str, Pattern] = MappingProxyType({})


class TooFew(UserError):
    """An amount that leaves fewer weights than there are tensors to keep alive."""


@dataclass(frozen=True)
class Choice:
    """Masks chosen by magnitude, and what was done other than asked.

    masks: tensor name -> bool, True = the weight stays; the tensor's shape.
    rescued: tensors that the ranking would have emptied: each keeps its largest weight.
    sparser: tensors that were sparser than asked already and stay as they are (scope "layer").
    patterns: the blocks that the masks were chosen in, of tensors that have such.
    """

    masks: dict[str, Tensor]
    rescued: list[str]
    sparser: list[str]
    patterns: dict[str, Pattern] = field(default_factory=dict)


def count_removed(amount: float, count: int) -> int:
    """Weights of `count` that are not above the `amount` percentile of their magnitudes (0.6 of 450,456: 270,274).

    0 removes none (a percentile would take the smallest one). `amount` is read as the
    decimal that it is written as, so that no rounding of amount * (count - 1) shifts the count.
    """
    if amount <= 0 or count == 0:
        return 0
    return min(count, math.floor(Ratio(repr(amount)) * (count - 1)) + 1)


def choose_masks(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    amount: float,
    scope: Scope,
    patterns: Mapping[str, Pattern] = NO_PATTERNS,
) -> Choice:
    """Masks that remove `amount` of all `weights`, those removed before (by `masks`) included and never revived.

    scope "global" ranks all tensors together; "layer" removes the amount from each. `patterns` says of which tensors
    whole blocks go, and which. No tensor is emptied: where the ranking would take all of it, its largest weight (or
    block) stays, and with scope "global" the next smallest of all goes in its place, so that the
    count holds. Raises UserError if the weights are sparser than asked already, TooFew if
    the amount leaves fewer weights than tensors, Failure if a weight is not finite.
    """
    if any(weight.is_meta for weight in weights.values()):
        return _choose_blindly(weights, masks, amount, scope, patterns)
    units = {name: make_units(name, weight, masks.get(name), patterns.get(name)) for name, weight in weights.items()}
    if scope == "global":
        kept, rescued = _choose_together(units, amount)
        return Choice(kept, rescued, [], dict(patterns))
    chosen: dict[str, Tensor] = {}
    rescued, sparser = [], []
    for name, one in units.items():
        removed = count_removed(amount, one.count)
        if one.zeros > removed:
            sparser.append(name)
            chosen[name] = one.mask(one.magnitudes > 0)
            continue
        if removed == one.count:
            rescued.append(name)
            removed -= 1
        chosen[name] = one.mask(keep_largest([one], removed)[0])
    if sparser and len(sparser) == len(units):
        raise UserError(_already_sparser(_count(units.values()), _count_zeros(units.values()), amount))
    return Choice(chosen, rescued, sparser, dict(patterns))


def count_left(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    amounts: Sequence[float],
    scope: Scope,
    patterns: Mapping[str, Pattern] = NO_PATTERNS,
) -> dict[str, list[int]]:
    """How many weights each tensor keeps after each of the rising `amounts`, if no weight changes in between.

    The same as `choose_masks` again and again, each time with the masks that it gave before, from one ranking. Raises
    as it does. Weights without values (on the meta device) go in equal shares of each tensor where all are ranked.
    """
    left: dict[str, list[int]] = {name: [] for name in weights}
    if patterns:
        for amount in amounts:
            masks = choose_masks(weights, masks, amount, scope, patterns).masks
            for name, mask in masks.items():
                left[name].append(int(mask.sum()))
        return left
    sizes = [weight.numel() for weight in weights.values()]
    if scope == "global" and not any(weight.is_meta for weight in weights.values()):
        magnitudes = [magnitudes_of(name, weight, masks.get(name)) for name, weight in weights.items()]
        counts = _gone_together(magnitudes, amounts)
        rows = zip(weights, sizes, counts, strict=True)
        return {name: [size - int(gone) for gone in row] for name, size, row in rows}
    zeros = [_zeros(name, weight, masks.get(name)) for name, weight in weights.items()]
    for amount in amounts:
        zeros = _find_gone(sizes, zeros, amount, scope)
        for name, size, zero in zip(weights, sizes, zeros, strict=True):
            left[name].append(size - zero)
    return left


def _gone_together(magnitudes: list[Tensor], amounts: Sequence[float]) -> np.ndarray[Any, Any]:
    """How many weights of each tensor are gone after each amount, all ranked together: [tensors, amounts]."""
    sizes = np.array([tensor.numel() for tensor in magnitudes])
    count = int(sizes.sum())
    removed = [count_removed(amount, count) for amount in amounts]
    zeros = sum(int((tensor <= 0).sum()) for tensor in magnitudes)
    if zeros > removed[0]:
        raise UserError(_already_sparser(count, zeros, amounts[0]))
    alive = np.array([bool((tensor > 0).any()) for tensor in magnitudes])
    values = [np.sort(tensor.flatten().cpu().numpy()) for tensor in magnitudes]
    gone = _gone_by_rank(values, removed)
    emptied = np.any((gone == sizes[:, None]) & alive[:, None], axis=0)  # [amounts]
    if not bool(np.any(emptied)):
        return gone
    for place in map(int, np.flatnonzero(emptied)):
        if count - removed[place] < alive.sum():
            raise _too_few(amounts[place], count, removed[place], int(alive.sum()))
    for row, living in zip(values, alive, strict=True):
        row[-1] = math.inf if living else row[-1]  # the largest stays
    return np.where(emptied, _gone_by_rank(values, removed), gone)


def _gone_by_rank(values: list[np.ndarray[Any, Any]], removed: list[int]) -> np.ndarray[Any, Any]:
    """How many of each tensor's `values`, rising, are among the so many smallest of all: [tensors, amounts].

    Of equal values those of the first tensors go first.
    """
    every = np.sort(np.concatenate(values))
    largest = every[np.maximum(np.array(removed), 1) - 1]  # that goes: [amounts]
    below = np.array([np.searchsorted(row, largest, "left") for row in values])
    equal = np.array([np.searchsorted(row, largest, "right") for row in values]) - below
    before = np.cumsum(equal, axis=0) - equal  # equal ones in the tensors before
    wanted = np.array(removed) - below.sum(axis=0)
    return np.where(np.array(removed) > 0, below + np.clip(wanted - before, 0, equal), 0)


def _zeros(name: str, weight: Tensor, mask: Tensor | None) -> int:
    if not weight.is_meta:
        return int((magnitudes_of(name, weight, mask) <= 0).sum())
    return 0 if mask is None else mask.numel() - int(mask.sum())


def _find_gone(sizes: list[int], zeros: list[int], amount: float, scope: Scope) -> list[int]:
    """How many weights of each tensor are gone, by their number alone; so many `zeros` are already."""
    return (_gone_by_layer if scope == "layer" else _gone_in_shares)(sizes, zeros, amount)


def _gone_by_layer(sizes: list[int], zeros: list[int], amount: float) -> list[int]:
    """How many weights of each tensor are gone once `amount` of each is; one stays, and none comes back."""
    by_size = {size: count_removed(amount, size) for size in set(sizes)}
    removed = [by_size[size] for size in sizes]
    if all(zero > count for zero, count in zip(zeros, removed, strict=True)):
        raise UserError(_already_sparser(sum(sizes), sum(zeros), amount))
    return [max(zero, min(count, size - 1)) for size, zero, count in zip(sizes, zeros, removed, strict=True)]


def _gone_in_shares(sizes: list[int], zeros: list[int], amount: float) -> list[int]:
    """How many weights of each tensor are gone once `amount` of all is, if each loses the same share of what it has."""
    removed = count_removed(amount, sum(sizes))
    if sum(zeros) > removed:
        raise UserError(_already_sparser(sum(sizes), sum(zeros), amount))
    alive = [size > zero for size, zero in zip(sizes, zeros, strict=True)]
    if sum(sizes) - removed < sum(alive):
        raise _too_few(amount, sum(sizes), removed, sum(alive))
    room = [max(0, size - zero - 1) for size, zero in zip(sizes, zeros, strict=True)]  # one stays
    more, most = removed - sum(zeros), max(1, sum(room))
    gone = [zero + more * free // most for zero, free in zip(zeros, room, strict=True)]
    for place, free in enumerate(room):  # what rounding down left over
        step = min(removed - sum(gone), zeros[place] + free - gone[place])
        gone[place] += step
    return gone


def _choose_blindly(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    amount: float,
    scope: Scope,
    patterns: Mapping[str, Pattern],
) -> Choice:
    """Masks of as many weights as values would leave, those removed before among them; which ones has no meaning."""
    sizes = [weight.numel() for weight in weights.values()]
    zeros = [_zeros(name, weight, masks.get(name)) for name, weight in weights.items()]
    chosen: dict[str, Tensor] = {}
    for (name, weight), gone in zip(weights.items(), _find_gone(sizes, zeros, amount, scope), strict=True):
        mask, pattern = masks.get(name), patterns.get(name)
        exists = torch.ones(weight.shape, dtype=torch.bool) if mask is None else mask
        units = exists.int() if pattern is None else sum_blocks(exists.int(), pattern)  # weights that go with each
        keep = (units.flatten().cumsum(0) > gone - int((~exists).sum())).view(units.shape)
        chosen[name] = exists & (keep if pattern is None else spread_blocks(keep, weight.shape, pattern))
    return Choice(chosen, [], [], dict(patterns))


def _choose_together(units: dict[str, Units], amount: float) -> tuple[dict[str, Tensor], list[str]]:
    """The masks of all tensors, and those that would have been emptied."""
    every = list(units.values())
    count, zeros = _count(every), _count_zeros(every)
    removed = count_removed(amount, count)
    if zeros > removed:
        raise UserError(_already_sparser(count, zeros, amount))
    kept = keep_largest(every, removed)
    alive = [bool((one.magnitudes > 0).any()) for one in every]
    rescued = [name for name, keep, living in zip(units, kept, alive, strict=True) if living and not bool(keep.any())]
    if rescued:
        if count - removed < sum(one.largest for one, living in zip(every, alive, strict=True) if living):
            raise _too_few(amount, count, removed, sum(alive))
        kept = keep_largest([one.protected() for one in every], removed)
        # What goes in the place of one tensor's last weight can make another's the least of all that stay.
        gone = torch.cat([one.magnitudes[~keep] for one, keep in zip(every, kept, strict=True)])
        largest_gone = float(gone.max())
        rescued = [
            name
            for (name, one), living in zip(units.items(), alive, strict=True)
            if living and (name in rescued or float(one.magnitudes.max()) < largest_gone)
        ]
    return {name: one.mask(keep) for (name, one), keep in zip(units.items(), kept, strict=True)}, rescued


def _count(units: Iterable[Units]) -> int:
    return sum(one.count for one in units)


def _count_zeros(units: Iterable[Units]) -> int:
    return sum(one.zeros for one in units)


def _too_few(amount: float, count: int, removed: int, tensors: int) -> TooFew:
    return TooFew(
        f"amount {amount:g} leaves {count - removed:,} of {count:,} weights in {tensors} tensors: "
        "not one for each; choose a smaller amount"
    )


def _already_sparser(count: int, zeros: int, amount: float) -> str:
    """What is said where an amount is less than what is gone."""
    return (
        f"amount {amount:g}: {zeros:,} of the {count:,} selected weights ({zeros / count:.4%}) are zero already, "
        "more than that; choose a larger amount (first_amount is that of the first round)"
    )
