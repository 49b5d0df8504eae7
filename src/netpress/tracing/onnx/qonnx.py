"""QONNX's operators Quant and BipolarQuant, which round real numbers to any number of bits.

Quant reads x, scale, zero point, bits; BipolarQuant x and scale (github.com/fastmachinelearning/qonnx, custom operators
of version 1). Older files name other domains.
"""

import torch
from torch import Tensor

from netpress.numerics.formats import AnyFormat, Binary, Fixed, Integer, Spread, Ternary, integer_range
from netpress.tracing.onnx.nodes import Node, Value

DOMAINS = ("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas")
KINDS = tuple(f"{domain}.{kind}" for domain in DOMAINS for kind in ("Quant", "IntQuant", "BipolarQuant"))
WIDEST = 16
ROUNDING: dict[str, object] = {
    "ROUND": torch.round,
    "HALF_EVEN": torch.round,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "DOWN": torch.trunc,
    "ROUND_TO_ZERO": torch.trunc,
    "UP": lambda x: x.sign() * x.abs().ceil(),
    "HALF_UP": lambda x: x.sign() * (x.abs() + 0.5).floor(),
    "HALF_DOWN": lambda x: x.sign() * (x.abs() - 0.5).ceil(),
}
"""How numbers become whole, by the operator's own words."""


def constants(node: Node) -> tuple[Value, Value | None, Integer | Fixed | None]:
    """Scale, zero point where it is not 0, and the integers that the operator makes; None for more than 16 bits.

    Raises UserError where they are no constants, or no such integers.
    """
    bipolar = node.kind.endswith("BipolarQuant")
    scale, zero, width = node.given(1), None if bipolar else node.given(2), None if bipolar else node.given(3)
    if not all(value is None or value.constant for value in (scale, zero, width)):
        raise node.refuse("its scale, zero point and bits must be constants")
    bits = 1.0 if width is None else float(width.tensor.flatten()[0]) if width.tensor.numel() == 1 else 0.0
    if bits < 1 or bits != int(bits):
        raise node.refuse("its bits must be one whole number of 1 or more")
    if zero is not None and not zero.tensor.any():
        zero = None
    if bits > WIDEST:
        return scale, zero, None
    signed = bool(bipolar or node.attributes.get("signed", 1))
    if bits > 1 and signed and zero is None and _is_power(scale.tensor):
        return scale, zero, Fixed(bits=int(bits))
    return scale, zero, Integer(bits=int(bits), scale=_spread(scale), signed=signed, zero_point=zero is not None)


def rounded(node: Node, scale: Value, zero: Value | None, format: Integer | Fixed | None) -> Value:
    """A constant as the operator rounds it, with the format in which it is stored. Raises UserError."""
    x, factor = node.tensor(), scale.tensor
    if format is None:
        return Value(x, constant=True)
    narrow = bool(node.attributes.get("narrow", 0))
    signed = getattr(format, "signed", True)
    if format.bits == 1 and signed:  # signs alone
        signs = torch.where(x >= 0, 1.0, -1.0)
        return Value(signs * factor, True, Binary(scale=_spread(scale)), factor.flatten())
    rounding = ROUNDING.get(str(node.attributes.get("rounding_mode", "ROUND")).upper())
    if not callable(rounding):
        raise node.refuse(f"its rounding mode {node.attributes['rounding_mode']} is not known")
    low, high = integer_range(format)
    low, high = (low + 1, high) if narrow and signed else (low, high - narrow)
    point: Tensor | float = 0.0 if zero is None else zero.tensor.float()
    real = (rounding((x / factor + point).clamp(low, high)) - point) * factor
    stored: AnyFormat = format
    if (low, high) == (-1, 1) and zero is None:
        stored = Ternary(scale=_spread(scale))
    return Value(real, True, stored, factor.flatten(), None if zero is None else zero.tensor.flatten())


def _spread(scale: Value) -> Spread:
    return "channel" if scale.tensor.numel() > 1 else "tensor"


def _is_power(scale: Tensor) -> bool:
    """Whether it is one power of two: a shift, where other scales are multiplications."""
    return scale.numel() == 1 and bool(torch.frexp(scale.float())[0] == 0.5)
