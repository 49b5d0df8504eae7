"""What a pruning ranks: single weights, or blocks of weights that stay or go together.

A block is ranked by the mean magnitude of its weights. Among blocks of one size that is the order of their sums, which
Mao et al. ranked by (2017, "Exploring the regularity of sparse structure in convolutional neural networks"). The mean
also compares blocks with single weights and with the narrower blocks at a tensor's end, because it says how much
magnitude each stored value keeps; ranked by sums, these would go before all others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from netpress.errors import Failure
from netpress.numerics.block_masks import Pattern, block_grid, spread_blocks, sum_blocks


@dataclass(frozen=True)
class Units:
    """What is ranked of one tensor: its weights or, with a pattern, its blocks.

    magnitudes: of each unit, below 0 where all of it was removed before. exists: True where a weight was not, of the
    tensor's shape; None: none was. weights: of the tensor.
    """

    magnitudes: Tensor
    exists: Tensor | None
    weights: torch.Size
    pattern: Pattern | None = None

    @property
    def count(self) -> int:
        return self.weights.numel()

    @cached_property
    def sizes(self) -> Tensor:
        """How many weights go with each unit: those removed before do not go again. Flat."""
        if self.pattern is None:
            return (self.magnitudes >= 0).flatten().long()
        exists = torch.ones(self.weights, dtype=torch.bool) if self.exists is None else self.exists
        return sum_blocks(exists.to(self.magnitudes.device).long(), self.pattern).flatten()

    @property
    def zeros(self) -> int:
        """Weights that were removed before, or would go before any that makes a difference."""
        if self.pattern is None:
            return int((self.magnitudes <= 0).sum())
        return self.count - int(self.sizes[self.magnitudes.flatten() > 0].sum())

    @property
    def largest(self) -> int:
        """Weights of the unit that goes last."""
        return 1 if self.pattern is None else int(self.sizes[_last_largest(self.magnitudes)])

    def mask(self, keep: Tensor) -> Tensor:
        """The tensor's mask if these units stay; what was removed before does not come back."""
        if self.pattern is None:
            return keep
        mask = spread_blocks(keep, self.weights, self.pattern)
        return mask if self.exists is None else mask & self.exists.to(mask.device)

    def protected(self) -> "Units":
        """The same with the unit that goes last made infinite, if there is one that is not zero."""
        flat = self.magnitudes.flatten()
        last = _last_largest(self.magnitudes)
        if flat[last] <= 0:
            return self
        flat = flat.clone()
        flat[last] = math.inf
        return replace(self, magnitudes=flat.view_as(self.magnitudes))


def make_units(name: str, weight: Tensor, mask: Tensor | None, pattern: Pattern | None) -> Units:
    """What is ranked of a weight. Raises Failure for one that is not finite."""
    magnitudes = magnitudes_of(name, weight, mask)
    if pattern is None:
        return Units(magnitudes, mask, weight.shape)
    # In float64 the sum of so few is the same in whatever order a processor adds them.
    ones = torch.ones(weight.shape, dtype=torch.float64, device=weight.device)
    means = sum_blocks(magnitudes.double().clamp(min=0), pattern) / sum_blocks(ones, pattern)
    if mask is not None:
        means = means.masked_fill(~block_grid(mask, pattern).to(weight.device), -1)
    return Units(means, mask, weight.shape, pattern)


def keep_largest(units: Sequence[Units], removed: int) -> list[Tensor]:
    """Which units of each tensor stay: all but the smallest of all, of which so many go as have `removed` weights at
    most, those removed before included. Of equal ones the first go first. bool, of the magnitudes' shapes."""
    values = torch.cat([one.magnitudes.flatten() for one in units])
    if any(one.pattern is not None for one in units):
        sizes = torch.cat([one.sizes for one in units])
        order = values.argsort(stable=True)
        gone = sizes[order].cumsum(0) <= removed - (sum(one.count for one in units) - int(sizes.sum()))
        keep = torch.empty_like(gone).index_copy_(0, order, ~gone)
    else:
        keep = torch.ones_like(values, dtype=torch.bool)
        if removed:  # no need to sort all
            largest = values.kthvalue(removed).values  # that goes
            keep = values > largest
            equal = (values == largest).nonzero()[:, 0]
            keep[equal[removed - int((values < largest).sum()) :]] = True
    parts = keep.split([one.magnitudes.numel() for one in units])
    return [part.view(one.magnitudes.shape).clone() for one, part in zip(units, parts, strict=True)]


def magnitudes_of(name: str, weight: Tensor, mask: Tensor | None) -> Tensor:
    """|weight|, where removed weights rank below every weight that is only zero. Same shape."""
    magnitude = weight.detach().abs()
    if not bool(torch.isfinite(magnitude).all()):
        raise Failure(f"{name} holds weights that are not finite: nothing can be ranked by magnitude")
    return magnitude if mask is None else magnitude.masked_fill(~mask.to(weight.device), -1)


def _last_largest(magnitudes: Tensor) -> int:
    """The place of the largest, the last of equals, which the ranking takes last."""
    flat = magnitudes.flatten()
    return int((flat == flat.max()).nonzero()[-1])
