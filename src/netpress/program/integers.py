"""The operations of integer arithmetic: 16-bit integers v, each buffer of which has one scale, a power of two.

    Pixels      image -> v             a table of 256 values a channel
    Requantize  v -> layer's integers  the stored input of a quantized layer
    Convolution, Linear                sums of products, as with every arithmetic
    Shift       sums -> v              S(x, amount), a channel each
    Scale       v -> v                 R(v, multiplier) + bias, a channel each

R and S are those of `netpress.numerics.fixed_point`. Concatenate, Pad, Reshape, Permute and MaximumPool are the same
operations as on floats. docs/formats.md defines each one so that C can be written from it.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from netpress.program.operations import Operation


@dataclass(frozen=True, eq=False)
class Saturating(Operation):
    """What is clamped to 16 bits, and counted where that changes a value. Not used alone."""


@dataclass(frozen=True, eq=False)
class Pixels(Operation):
    """The image's own 8-bit pixels become table[channel][pixel]."""

    table: Tensor
    """int32 [channels, 256]."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """How the images were normalised that pixels are found again in."""


@dataclass(frozen=True, eq=False)
class Requantize(Operation):
    """S(R(v, multiplier), amount) + zero point, clamped to the format's range; v is first shifted to the left where
    amount < 0.
    """

    multiplier: int
    amount: int
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Shift(Saturating):
    """S(x, amount), saturated."""

    amount: Tensor
    """int32 [] or [channels, 1, 1] or [channels]."""
    wide: bool = False
    """Whether adding half a step could overflow 32 bits."""

    @cached_property
    def steps(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Amounts to the right, half a step of each, and amounts to the left, None where there are none."""
        dtype = torch.int64 if self.wide else torch.int32
        right, left = self.amount.clamp(min=0).to(dtype), (-self.amount).clamp(min=0).to(dtype)
        half = torch.bitwise_left_shift(torch.ones_like(right), right) >> 1
        return right, half, left if bool(left.any()) else None


@dataclass(frozen=True, eq=False)
class Scale(Saturating):
    """R(v, multiplier) + bias, saturated."""

    multiplier: Tensor
    """int32, within 16 bits: [] or [channels, 1, 1] or [channels]."""
    bias: Tensor
    """int32, within 16 bits, likewise."""


@dataclass(frozen=True, eq=False)
class IntegerAdd(Saturating):
    """The saturated sum of two buffers of one scale, or of one and a constant."""

    constant: Tensor | None = None
    """int32, within 16 bits."""


@dataclass(frozen=True, eq=False)
class IntegerMultiply(Saturating):
    """R(a, b), saturated."""


@dataclass(frozen=True, eq=False)
class Clamp(Operation):
    """v within low ... high."""

    low: int
    high: int


@dataclass(frozen=True, eq=False)
class LeakyRelu(Operation):
    """v, or R(v, multiplier) where v < 0."""

    multiplier: int


@dataclass(frozen=True, eq=False)
class HardGate(Operation):
    """x / 6 + 1/2 within 0 ... 1: S(R(v, multiplier), amount) + 2**14 within 0 ... 2**15 - 1, of scale 2**-15.

    v is first shifted to the left where amount < 0.
    """

    multiplier: int
    amount: int


@dataclass(frozen=True, eq=False)
class Curve(Operation):
    """A function of each value by its 257 values at equal distances, linear in between, of scale 2**-15.

    u = S(v, amount) + 2**15, i = u >> 8, f = u & 255; T[i] + ((T[i + 1] - T[i]) * f + 128 >> 8).
    """

    table: Tensor
    """int32 [257], within 16 bits."""
    amount: int


@dataclass(frozen=True, eq=False)
class IntegerPool(Operation):
    """The mean of windows of n values: t = S(sum, ceil(log2 n)), t + R(t, multiplier)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    ceil_mode: bool
    amount: int
    multiplier: int


@dataclass(frozen=True, eq=False)
class IntegerMean(Operation):
    """The mean over `axes` of n values in all, as `IntegerPool`."""

    axes: tuple[int, ...]
    keeps_axes: bool
    amount: int
    multiplier: int


@dataclass(frozen=True, eq=False)
class IntegerUnitLength(Operation):
    """Vectors along `axis` become those of length 1, of scale 2**-15.

    s: the sum of squares; 4**e * s within 2**60 ... 2**62 - 1; n = isqrt(4**e * s); (v * 2**(15 + e) + n // 2) // n,
    rounded down, saturated. Zeros stay zeros.
    """

    axis: int


@dataclass(frozen=True, eq=False)
class Restore(Operation):
    """The real numbers that 16-bit integers stand for: exact in float32."""

    scale: float
