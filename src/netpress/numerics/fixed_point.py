"""Arithmetic in 16-bit integers: one rescale, rounding shifts, saturation.

    y = R(x, m) = (x * m + 2**14) >> 15          int16 times int16: the one rescale; m / 2**15 is the factor
    y = S(x, n) = (x + 2**(n - 1)) >> n          a shift that rounds; below 0, x * 2**-n instead

`>>` rounds down, so both round to the nearest number and halves up. Every result that is stored is clamped to 16 bits,
-32768 ... 32767. pmulhrsw (x86), sqrdmulh (Arm) and q15mulr (WebAssembly) are R; S(x, n) is R(x, 2**(15 - n)) where x
has 16 bits.

Here values lie in int32, sums in int64 where a rounding shift could leave 32 bits. docs/formats.md has the whole
arithmetic; `netpress.program.integers` has the operations.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor

from netpress.numerics.rounding import pass_through

LOW, HIGH = -(2**15), 2**15 - 1
"""The smallest and the largest stored value."""
ONE = 15
"""Fractional bits of factors: a gate of 1 is 2**15 - 1."""
MULTIPLIER_BITS = 11
"""Significant bits of a channel's multiplier: as many as the float16 scale has that the file holds for it."""
FARTHEST = 31, -15
"""The longest shifts to the right and to the left."""


def rescale(values: Tensor, multiplier: Tensor | int) -> Tensor:
    """R: values times multiplier / 2**15, both within 16 bits, rounded."""
    return (values * multiplier).add_(1 << 14).bitwise_right_shift_(15)


def saturate(values: Tensor) -> Tensor:
    """Clamped to 16 bits, as int32."""
    return values.clamp(LOW, HIGH).int()


def shift(values: Tensor, amount: Tensor) -> Tensor:
    """S of `values` by `amount` ([] or in a shape that meets them), saturated: int32.

    values: int32, or int64 where adding half a step could overflow 32 bits.
    """
    right = amount.clamp(min=0).to(values.dtype)
    half = torch.bitwise_left_shift(torch.ones_like(right), right) >> 1
    shifted = saturate((values + half) >> right)
    if bool((amount < 0).any()):
        shifted = saturate(shifted << (-amount).clamp(min=0).int())
    return shifted


class Factor(NamedTuple):
    """multiplier / 2**15 * 2**-amount, the integers that stand for a real factor."""

    multiplier: Tensor
    """int32, +-2**14 ... +-(2**15 - 1), or 0."""
    amount: Tensor
    """int32: the shift to the right; below 0 to the left."""


def as_factor(factor: Tensor, significant: int = ONE) -> Factor:
    """The factors nearest to real ones (float64), with so many significant bits. Those below 2**-32 become 0.

    Those of 2**15 and more become the largest.
    """
    mantissa, exponent = torch.frexp(factor.double())
    whole = (mantissa * 2.0**significant).round()  # +-2**(significant - 1) ... +-2**significant
    over = whole.abs() == 2**significant
    whole, exponent = torch.where(over, whole / 2, whole), exponent + over.int()
    multiplier = (whole * 2.0 ** (ONE - significant)).int()
    amount = torch.where(whole == 0, 0, -exponent).int()
    tiny, huge = amount > FARTHEST[0], amount < FARTHEST[1]
    multiplier = torch.where(huge, multiplier.sign() * HIGH, multiplier.masked_fill(tiny, 0))
    return Factor(multiplier, amount.masked_fill(tiny, 0).clamp(min=FARTHEST[1]))


@dataclass(frozen=True)
class IntegerRescaling:
    """From sums to 16-bit values: shift, saturate, rescale, add the bias, saturate. Shapes as `Rescaling` has them."""

    factor: Tensor
    """What a unit of the sums is worth, float64."""
    bias: Tensor
    """What is added, float64."""
    scale: Tensor
    """What a unit of the output is worth: a power of two, []."""

    @cached_property
    def constants(self) -> tuple[Factor, Tensor]:
        """The factor of 11 significant bits, and the bias in 16 bits in units of the output."""
        scale = self.scale.double()
        return as_factor(self.factor / scale, MULTIPLIER_BITS), saturate((self.bias / scale).round())

    def integers(self, sums: Tensor) -> Tensor:
        """The stored values, int32, for whole sums of any type."""
        (multiplier, amount), bias = self.constants
        narrow = sums.dtype == torch.float32 and int(amount.max()) < 30  # float32 holds no sums beyond 2**24 exactly
        values = rescale(shift(sums.int() if narrow else sums.long(), amount), multiplier)
        return saturate(values.add_(bias))

    def apply(self, sums: Tensor) -> Tensor:
        """The values that these integers stand for, in float32: exact."""
        return self.integers(sums).float() * self.scale

    def real(self, sums: Tensor) -> Tensor:
        """The output before any rounding, float32."""
        return sums.float() * self.factor.float() + self.bias.float()

    def shifted(self, sums: Tensor) -> Tensor:
        """What saturates before the multiplication, as the real number that it stands for on the output's grid."""
        mantissa, _ = torch.frexp(self.factor)
        return sums.float() * (self.factor / mantissa.abs().clamp(min=0.5)).float()

    def detached(self) -> Self:
        """The same constants without gradients."""
        return replace(self, factor=self.factor.detach(), bias=self.bias.detach(), scale=self.scale.detach())


@dataclass(frozen=True)
class TrainedRescaling:
    """The same in floats that gradients pass straight through, except where a value saturates.

    The sums are centred here: what the zero point adds to them, in integers, is `zero`.
    """

    factor: Tensor
    bias: Tensor
    scale: Tensor
    zero: Tensor | None

    def apply(self, sums: Tensor) -> Tensor:
        """The outputs, rounded to their grid, for centred sums."""
        factor, scale = self.factor.detach(), float(self.scale)
        mantissa, exponent = torch.frexp(factor)
        short = torch.ldexp((mantissa * 2.0**MULTIPLIER_BITS).round(), exponent - MULTIPLIER_BITS)
        # Before it is multiplied by the mantissa, a sum is an integer of 16 bits.
        centre = torch.zeros_like(factor) if self.zero is None else -factor * self.zero
        products = (sums.float() * pass_through(short, self.factor)).clamp(
            centre + scale * LOW * mantissa.abs(), centre + scale * HIGH * mantissa.abs()
        )
        values = (products + self.bias).clamp(scale * LOW, scale * HIGH)
        return pass_through((values.detach() / self.scale).round_().mul_(self.scale), values)
