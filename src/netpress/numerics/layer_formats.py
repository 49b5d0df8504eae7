"""How one layer stores and computes: the formats of its weights, its inputs and its bias, and the arithmetic around."""

from typing import Annotated, Literal

from pydantic import Field

from netpress.numerics.accumulators import is_integer
from netpress.numerics.formats import Fixed, Float16, Float32, Integer, Minifloat, NumberFormat, Power
from netpress.numerics.rescaling import Arithmetic
from netpress.settings import Settings, between

WIDEST_INPUT = 15
"""Bits of the values that enter a layer in integer arithmetic: they are made of 16-bit ones."""


class LayerFormats(Settings):
    """How one layer stores and computes."""

    weight: NumberFormat = Integer(bits=8, scale="channel")
    """Format of the weights."""
    input: NumberFormat = Integer(bits=8, scale="tensor", signed=False, zero_point=True)
    """Format of the values that enter the layer: one scale for the tensor."""
    bias: Annotated[Float16 | Float32 | Fixed, Field(discriminator="kind")] = Float16()
    """Format of the bias; fixed point takes its exponent from the biases when the layer is frozen."""
    arithmetic: Arithmetic = "float16"
    """Arithmetic outside the sums, in evaluation: scale, bias, and what other modules do with the output."""
    accumulators: Literal["tree"] | Annotated[int, between(2, 64)] = Field(default="tree")
    """Width of the sums: an adder tree that grows a bit a level, or one width in bits for all."""

    @property
    def integer(self) -> bool:
        """Whether the sums are of integers."""
        return is_integer(self.weight) and is_integer(self.input)


def check_formats(formats: LayerFormats) -> None:
    """Raise ValueError for formats that a layer cannot compute with."""
    weight, value = formats.weight, formats.input
    if isinstance(weight, Integer) and (weight.zero_point or weight.scale == "none" or not weight.signed):
        raise ValueError("weights are signed integers with a scale and without a zero point")
    if isinstance(value, Integer) and value.scale != "tensor":
        raise ValueError('inputs have one scale: use scale = "tensor"')
    if not isinstance(value, Float16 | Float32 | Fixed | Integer):
        raise ValueError(f"inputs cannot be {value.kind}; use int, fixed, float16 or float32")
    if isinstance(weight, Power | Minifloat):
        raise ValueError(
            f"weights cannot be {weight.kind}, which is for scales; use int, fixed, ternary, binary or floats"
        )
    if isinstance(weight, Integer) and weight.bits < 2:
        raise ValueError("weights of 1 bit are kind = 'binary'")
    if formats.arithmetic == "integer":
        if not formats.integer:
            needs = 'arithmetic = "integer" needs weights and inputs that are integers, not floats'
            raise ValueError(f'{needs}; arithmetic = "float16" takes both')
        if value.bits > WIDEST_INPUT:
            raise ValueError(f'arithmetic = "integer" takes inputs of at most {WIDEST_INPUT} bits, not {value.bits}')
