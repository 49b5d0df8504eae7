"""The functions that integer arithmetic has as tables: 257 values at equal distances, in units of 2**-15."""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from netpress.numerics.fixed_point import HIGH

POINTS = 257


class Table(NamedTuple):
    """A function's values, and where they lie: x = (i - 128) * 2**(8 - fraction)."""

    values: tuple[int, ...]
    fraction: int
    """Fractional bits of the 16-bit integers whose upper 8 bits are the place in the table."""


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _tanh_gelu(x: float) -> float:
    return (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


CURVES: dict[str, tuple[Callable[[float], float], int]] = {
    "sigmoid": (_sigmoid, 12),  # within -8 ... 8
    "tanh": (math.tanh, 13),  # within -4 ... 4
    "silu": (_sigmoid, 12),
    "gelu": (lambda x: (1 + math.erf(x / math.sqrt(2))) / 2, 13),
    "gelu tanh": (_tanh_gelu, 13),
    "mish": (lambda x: math.tanh(math.log1p(math.exp(x))), 12),
}
"""Each function, or the factor by which it multiplies x; and fractional bits. Beyond the table its ends hold."""
GATED = ("silu", "gelu", "gelu tanh", "mish")
"""What is x times a factor."""


@cache
def table(name: str) -> Table:
    """The table of a function of `CURVES`. No value lies so near to a half that a library's last bit could matter."""
    function, fraction = CURVES[name]
    step = 2.0 ** (8 - fraction)
    values = (round(function((place - 128) * step) * 2**15) for place in range(POINTS))
    return Table(tuple(min(value, HIGH) for value in values), fraction)
