"""Which units of channels go: the least important ones, just as many as a target asks for.

All units of all groups are put in one order. The fewest that reach the target go. A group keeps its best ones,
whatever their rank.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction as Ratio
from typing import Literal

import torch
from torch import Tensor

from netpress.compression.channels.structure import ALONE, ChannelGroup

Scope = Literal["global", "layer"]


@dataclass(frozen=True)
class Order:
    """All units that may go, the first to go first: groups and units are int64 [count]."""

    groups: Tensor
    units: Tensor

    def __len__(self) -> int:
        return len(self.units)

    def first(self, count: int, groups: int) -> list[Tensor]:
        """The first `count` units, as unit numbers for each of so many groups."""
        which, units = self.groups[:count], self.units[:count]
        return [units[which == group] for group in range(groups)]


def order_units(
    groups: Sequence[ChannelGroup], importance: Sequence[Tensor] | None, scope: Scope, layer_keep: float
) -> Order:
    """The order in which units go.

    scope "global" ranks all by their importance; "layer" takes equal shares of each group. Without importances, equal
    shares of the first ones go: for plans. Of equals the first go first. Each group keeps `layer_keep` of its units,
    rounded up, and one at least.
    """
    columns: list[Tensor] = []  # of each group: [key, group, unit] of the units that may go
    for number, group in enumerate(groups):
        count = len(group.sizes)
        worth = torch.arange(count, dtype=torch.float64) if importance is None else importance[number]
        units = worth.argsort(stable=True)
        shares = torch.arange(1, count + 1, dtype=torch.float64) / count
        keys = worth[units] if scope == "global" and importance is not None else shares
        leaves = 0 if group.whole else count - max(1, math.ceil(Ratio(repr(layer_keep)) * count))
        table = torch.stack([keys, torch.full_like(keys, number), units.double()])
        columns.append(table[:, :leaves])
    if not columns:
        return Order(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    keys, which, units = torch.cat(columns, dim=1)
    ranks = keys.argsort(stable=True)
    return Order(which[ranks].long(), units[ranks].long())


def countable_channels(groups: Sequence[ChannelGroup]) -> int:
    """Channels of the groups that can lose some, those with nothing left to lose included."""
    return sum(group.count for group in groups if group.whole in ("", ALONE))


def fewest(measure: Callable[[int], float], goal: float | Ratio, most: int) -> int | None:
    """The smallest count, up to `most`, whose measure is at the goal or below; None where none is.

    The measure falls as the count grows.
    """
    if measure(most) > goal:
        return None
    low, high = -1, most  # low does not reach it, high does
    while high - low > 1:
        middle = (low + high) // 2
        if measure(middle) <= goal:
            high = middle
        else:
            low = middle
    return high
