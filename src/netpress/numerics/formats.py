"""Number formats: how the values of a tensor or of an activation are stored and computed.

    {"kind": "int", "bits": 8, "scale": "channel"}

A format is data. It lies as such a dict in the network file, beside the tensor that it describes. Each format maps a
stored number to a real one by `value = (stored - zero_point) * scale`:

| kind | stored | scale |
|---|---|---|
| float32, float16 | the value itself | none |
| power | the exponent of a power of two, 8 bits | none |
| minifloat | a positive number: exponent and mantissa of a few bits each | one power of two a tensor, 8 bits |
| fixed | `bits`-bit signed integer | one power of two a tensor (Wave, MicroNet Challenge 2019) |
| int | `bits`-bit integer | one float16 a tensor, or one an output channel: float16, or minifloat (`scales`) |
| ternary | -1, 0, +1: a bit says which exist, a second bit the sign | likewise |
| binary | -1, +1: one bit | likewise |

Rounding is half to even everywhere (`torch.round`, IEEE 754). Values beyond the range clamp to its ends.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from netpress.settings import Settings, between, parse

Spread = Literal["tensor", "channel"]
"""One scale for the whole tensor, or one for each output channel (dimension 0)."""


class Float32(Settings):
    """IEEE single precision: 24 significant bits."""

    kind: Literal["float32"] = "float32"

    @property
    def bits(self) -> int:
        return 32


class Float16(Settings):
    """IEEE half precision: 11 significant bits, largest value 65504."""

    kind: Literal["float16"] = "float16"

    @property
    def bits(self) -> int:
        return 16


class Power(Settings):
    """A power of two, 2**e, of which the exponent -128 <= e <= 127 is stored: the scale of a fixed-point tensor."""

    kind: Literal["power"] = "power"

    @property
    def bits(self) -> int:
        return 8


class Minifloat(Settings):
    """Positive numbers 2**(base + e) * (1 + m / 2**mantissa_bits): the scales of channels.

    e has `exponent_bits`, m `mantissa_bits`. The base, one a tensor, is stored as a power of two of 8 bits.
    """

    kind: Literal["minifloat"] = "minifloat"
    exponent_bits: Annotated[int, between(1, 5)] = 4
    """The largest number is nearly 2**2**exponent_bits times the smallest; smaller ones become the smallest."""
    mantissa_bits: Annotated[int, between(0, 10)] = 4
    """Bits behind the point: a number is rounded by 2**-(mantissa_bits + 1) of itself at most."""

    @property
    def bits(self) -> int:
        return self.exponent_bits + self.mantissa_bits

    @property
    def scale(self) -> Spread:
        return "tensor"


ScaleFormat = Annotated[Float16 | Minifloat, Field(discriminator="kind")]
"""How scales are stored, where there is one a channel; one for a whole tensor is a float16."""


class Fixed(Settings):
    """Fixed point: signed integers of `bits` bits times one power of two for the whole tensor."""

    kind: Literal["fixed"] = "fixed"
    bits: Annotated[int, between(2, 16)] = 9
    """Bits a value, sign included."""

    @property
    def scale(self) -> Spread:
        return "tensor"


class Integer(Settings):
    """Integers of `bits` bits times a scale, with or without a zero point."""

    kind: Literal["int"] = "int"
    bits: Annotated[int, between(1, 16)] = 8
    """Bits a value."""
    scale: Literal["none", "tensor", "channel"] = "channel"
    """One scale a tensor, one an output channel, or none: the value is the integer."""
    signed: bool = True
    """-2**(bits-1) ... 2**(bits-1)-1 if true, else 0 ... 2**bits-1."""
    zero_point: bool = False
    """Whether a stored integer, one for each scale, is subtracted before scaling."""
    scales: ScaleFormat = Float16()
    """Format of the scales, where there is one a channel."""


class Ternary(Settings):
    """-1, 0, +1 times a scale. Zeros cost only their bit in the mask, others one bit more (their sign)."""

    kind: Literal["ternary"] = "ternary"
    scale: Spread = "tensor"
    """One scale a tensor, or one an output channel."""
    scales: ScaleFormat = Float16()
    """Format of the scales, where there is one a channel."""

    @property
    def bits(self) -> int:
        return 1


class Binary(Settings):
    """-1, +1 times a scale: one bit a value."""

    kind: Literal["binary"] = "binary"
    scale: Spread = "tensor"
    """One scale a tensor, or one an output channel."""
    scales: ScaleFormat = Float16()
    """Format of the scales, where there is one a channel."""

    @property
    def bits(self) -> int:
        return 1


AnyFormat = Float32 | Float16 | Power | Minifloat | Fixed | Integer | Ternary | Binary
NumberFormat = Annotated[AnyFormat, Field(discriminator="kind")]
GridFormat = Fixed | Integer | Ternary | Binary
"""The formats whose values are small integers times a scale."""


class _Holder(Settings):
    format: NumberFormat


def parse_format(values: Mapping[str, Any] | AnyFormat, path: str = "format") -> AnyFormat:
    """The format that a dict describes. Raises SettingsError naming every wrong key."""
    if not isinstance(values, Mapping):
        return values
    # JSON numbers, and one place that words the errors
    return parse(_Holder, {"format": dict(values)}, path.removesuffix("format").rstrip(".")).format


def integer_range(format: GridFormat) -> tuple[int, int]:
    """The smallest and the largest stored integer."""
    if isinstance(format, Ternary | Binary):
        return -1, 1
    if isinstance(format, Integer) and not format.signed:
        return 0, 2**format.bits - 1
    return -(2 ** (format.bits - 1)), 2 ** (format.bits - 1) - 1


def scale_count(format: AnyFormat, shape: Sequence[int]) -> int:
    """How many scales a tensor of this shape has."""
    spread = getattr(format, "scale", "none")
    if spread == "none":
        return 0
    return 1 if spread == "tensor" or not shape else shape[0]


def scale_format(format: GridFormat | Minifloat) -> Power | Float16 | Minifloat:
    """How the scales themselves are stored: an 8-bit exponent for fixed point and minifloats, else by the format."""
    if isinstance(format, Fixed | Minifloat):
        return Power()
    return format.scales if format.scale == "channel" else Float16()


def zero_point_format(format: Integer) -> Integer:
    """How zero points are stored: as integers of the range they shift."""
    return Integer(bits=format.bits, scale="none", signed=format.signed)


def significant_bits(format: GridFormat) -> int:
    """How many significant bits a scale may have so that integer * scale is exact in float32.

    A float16 scale has 11, a minifloat one more than its mantissa; wide integers leave fewer of float32's 24. Exact
    products are what lets a tensor of floats on a grid and its packed integers be one and the same.
    """
    low, high = integer_range(format)
    span = high - low if isinstance(format, Integer) and format.zero_point else max(-low, high)
    stored = scale_format(format)
    own = stored.mantissa_bits + 1 if isinstance(stored, Minifloat) else 11
    return min(own, 24 - max(1, (span - 1).bit_length()))
