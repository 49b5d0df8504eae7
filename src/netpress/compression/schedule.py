"""The amount that each round of a pruning removes: 0.15, 0.3, 0.45, 0.6."""

from fractions import Fraction as Ratio
from typing import Literal

Growth = Literal["linear", "exponential"]

DECIMALS = 12  # of an amount that is a root: binary numbers err from the 16th on, and no network has 10**12 weights


def amounts(final: float, rounds: int, growth: Growth = "linear", first: float | None = None) -> list[float]:
    """The share of the weights that is gone after each round: rising from `first` to `final`.

    linear: equal steps; without `first`, of final / rounds each (Kim et al., PMLR 123, section 5:
    k/n of p in round k of n). exponential: each round takes the same share of what is left, as in
    the original lottery tickets (Frankle and Carbin 2018); without `first`, that of n rounds from
    a dense network: 0.83193 in 5 rounds is 30% of what is left each time, 0.3, 0.51, 0.657, 0.7599, 0.83193.
    Amounts are exact decimals, those of roots after DECIMALS places, so that counts are those of 0.3 and not of
    0.30000000000000004.
    """
    if rounds == 1:
        return [final]
    if growth == "linear":
        end = Ratio(repr(final))
        start = end / rounds if first is None else Ratio(repr(first))
        return [float(start + (end - start) * step / (rounds - 1)) for step in range(rounds)]
    left = (1 - final) ** (1 / rounds) if first is None else 1 - first
    ratio = ((1 - final) / left) ** (1 / (rounds - 1))
    return [round(1 - left * ratio**step, DECIMALS) for step in range(rounds - 1)] + [final]
