"""Grids: the scales on which a tensor's values are whole numbers.

The values 0.5, -1.0 and 0.25 lie on the grid of scale 0.25, as the integers 2, -4 and 1.

A quantized tensor holds floats that lie on a grid. Each is `integer * scale`, an exact product in float32
(`formats.significant_bits`). So code that knows nothing of quantization can read the tensor, and packing finds the
integers again without loss.
"""

import torch
from torch import Tensor

from netpress.numerics.formats import (
    Fixed,
    GridFormat,
    Integer,
    Minifloat,
    integer_range,
    scale_format,
    significant_bits,
)


def along_channels(scale: Tensor, tensor: Tensor) -> Tensor:
    """A scale [] or [channels] in the shape in which it meets `tensor` [channels, ...]."""
    return scale if scale.dim() == 0 else scale.reshape(-1, *([1] * (tensor.dim() - 1)))


def round_scale(scale: Tensor, significant: int = 11, power_of_two: bool = False) -> Tensor:
    """The nearest positive float16 with at most `significant` significant bits; with `power_of_two` the next power up.

    Scales too small for float16 become its smallest number, 2**-24. The result is float32.
    """
    if power_of_two:
        mantissa, exponent = torch.frexp(scale.double())
        return torch.exp2((exponent - (mantissa == 0.5).int()).double()).float()
    mantissa, exponent = torch.frexp(scale.double())  # .5 <= mantissa < 1
    short = (mantissa * 2.0**significant).round() * torch.exp2(exponent.double() - significant)
    return short.clamp(2.0**-24, 32768.0).half().float()


def round_scales(scales: Tensor, format: GridFormat) -> Tensor:
    """The scales of one tensor, [] or [channels], as the file stores those of this format: float32, each above 0.

    Of minifloats those become the smallest that the exponents do not reach down to from the largest.
    """
    rounded = round_scale(scales, significant_bits(format), power_of_two=isinstance(format, Fixed))
    stored = scale_format(format)
    if not isinstance(stored, Minifloat) or not rounded.numel():
        return rounded
    _, exponent = torch.frexp(rounded.max())
    return rounded.clamp(min=2.0 ** (int(exponent) - 2**stored.exponent_bits))


def find_grid(tensor: Tensor, format: GridFormat) -> tuple[Tensor, Tensor | None]:
    """The coarsest (scale, zero point) on which all values are integers of the format.

    float32 values are integers times a power of two, so a greatest common divisor is the grid: exact, no search
    by error. Scale [] or [channels]; the zero point is None for formats without. ValueError where there is no grid.
    """
    tensor = tensor.detach()
    rows = tensor.flatten(1) if format.scale == "channel" and tensor.dim() > 1 else tensor.reshape(-1, 1)
    rows = rows if format.scale == "channel" and tensor.dim() else tensor.reshape(1, -1)
    if not torch.isfinite(rows).all():
        raise ValueError("values are not finite")
    if not rows.shape[1]:
        rows = torch.zeros(len(rows), 1)
    mantissa, exponent = torch.frexp(rows.double())
    zero = rows == 0
    lowest = exponent.masked_fill(zero, 1024).amin(1, keepdim=True).masked_fill(zero.all(1, keepdim=True), 0)
    shift = (exponent - lowest).masked_fill(zero, 0)
    if bool((shift > 30).any()):
        raise ValueError(f"values span more than a grid of {format.bits}-bit integers")
    integers = (mantissa * 2.0**24).to(torch.int64).abs() << shift  # float32 has 24 significant bits
    divisor = _common_divisor(integers)  # [rows]
    if isinstance(format, Fixed):
        divisor = divisor & -divisor
    scale = torch.where(divisor == 0, 1.0, divisor.double() * torch.exp2(lowest[:, 0].double() - 24)).float()
    scale = _shorten(scale, format).reshape(tensor.shape[:1] if format.scale == "channel" else ())
    if not (isinstance(format, Integer) and format.zero_point):
        return scale, None
    low, _ = integer_range(format)
    smallest = rows.amin(1).clamp(max=0).reshape(scale.shape)
    return scale, low - (smallest / scale).round().to(torch.int64)


def _shorten(scale: Tensor, format: GridFormat) -> Tensor:
    """Divide scales that float16 cannot hold by the smallest integer that makes them short enough."""
    significant = significant_bits(format)
    if isinstance(format, Fixed):
        return scale
    shortened = round_scale(scale, significant)
    missing = shortened != scale
    for divisor in range(2, 2**format.bits):
        if not bool(missing.any()):
            break
        short = round_scale(scale / divisor, significant)
        fits = missing & (short.double() * divisor == scale.double())
        shortened = torch.where(fits, short, shortened)
        missing = missing & ~fits
    return torch.where(missing, scale, shortened)  # what float16 cannot hold is refused where it is stored


def _common_divisor(integers: Tensor) -> Tensor:
    """[rows, values] -> greatest common divisor of each row, by halving the row."""
    while integers.shape[1] > 1:
        if integers.shape[1] % 2:
            integers = torch.nn.functional.pad(integers, (0, 1))  # gcd(a, 0) = a
        integers = torch.gcd(*integers.chunk(2, dim=1))
    return integers[:, 0]
