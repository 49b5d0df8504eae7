"""The amount that each round of a pruning removes: 0.15, 0.3, 0.45, 0.6."""

from fractions import Fraction as Ratio
from typing import Literal

Growth = Literal["linear", "exponential"]


def amounts(final: float, rounds: int, growth: Growth = "linear", first: float | None = None) -> list[float]:
    """The share of the weights that is gone after each round: rising from `first` to `final`.

    linear: equal steps; without `first`, of final / rounds each (Kim et al., PMLR 123, section 5:
    k/n of p in round k of n). exponential: each round takes the same share of what is left, as in
    the original lottery tickets (Frankle and Carbin 2018); without `first`, that of n rounds from
    a dense network. Linear amounts are exact decimals: 0.15, 0.3, 0.45, 0.6.
    """
    if rounds == 1:
        return [final]
    if growth == "linear":
        end = Ratio(repr(final))
        start = end / rounds if first is None else Ratio(repr(first))
        return [float(start + (end - start) * step / (rounds - 1)) for step in range(rounds)]
    left = (1 - final) ** (1 / rounds) if first is None else 1 - first
    ratio = ((1 - final) / left) ** (1 / (rounds - 1))
    return [1 - left * ratio**step for step in range(rounds - 1)] + [final]
