"""One scale for all weights of a layer where one a channel gains nothing: `tensor_scales` of the stage `quantize`.

A layer whose channels are alike loses little by a common scale, and saves the scales of all channels but one. What it
loses is the squared error of rounding a channel's weights, as a share of their squares; for inputs of equal power that
do not depend on each other, it is the share of noise in the channel's output, too.
"""

from torch import Tensor, nn

from netpress.compression.quantization.scales import finer_by
from netpress.compression.quantization.settings import PRESETS, QuantizeSettings
from netpress.models.blocks import CosineLinear
from netpress.numerics.calibration import AnyCalibration, calibrate_tensor
from netpress.numerics.formats import Binary, GridFormat, Integer, Ternary, scale_count, scale_format
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import QuantizedLayer
from netpress.numerics.rounding import dequantize, quantize


def share_scales(
    module: nn.Module, formats: dict[str, LayerFormats], settings: QuantizeSettings
) -> dict[str, LayerFormats]:
    """The formats, with one scale a tensor where the settings' `tensor_scales` lets that be; `module` has the weights.

    A cosine head keeps a scale for each direction: it makes their lengths 1. Weights of shapes alone change nothing.
    """
    most = settings.tensor_scales
    if most is None:
        return formats
    method = settings.weight_calibration or PRESETS[settings.preset].weight_calibration
    chosen = {}
    for name, layer in formats.items():
        part, weight = module.get_submodule(name), layer.weight
        chosen[name] = layer
        unit_rows = isinstance(part, CosineLinear) or (isinstance(part, QuantizedLayer) and part.unit_rows)
        if unit_rows or not isinstance(weight, Integer | Ternary | Binary):
            continue
        values = part.weight.detach().cpu()  # type: ignore[operator]
        shared = weight.model_copy(update={"scale": "tensor"})
        if scale_bits(shared, values) >= scale_bits(weight, values):
            continue
        stays = isinstance(part, QuantizedLayer) and finer_by(part.formats.weight, weight) is not None
        added = rounding_error(values, shared, method) - (0.0 if stays else rounding_error(values, weight, method))
        if added <= most:
            chosen[name] = layer.model_copy(update={"weight": shared})
    return chosen


def scale_bits(format: GridFormat, weight: Tensor) -> int:
    """Bits that the scales of a weight take in the file, with the base of minifloats."""
    stored = scale_format(format)
    base = scale_format(stored).bits if stored.kind == "minifloat" else 0
    return scale_count(format, weight.shape) * stored.bits + base


def rounding_error(weight: Tensor, format: GridFormat, method: AnyCalibration) -> float:
    """The squared error of weights rounded to the grid that the method finds, as a share of their squares.

    That of a channel, in the mean of all channels that have a weight which is not 0.
    """
    scale, _ = calibrate_tensor(weight, format, method)
    error = dequantize(quantize(weight.float(), format, scale), scale) - weight
    power = weight.double().square().flatten(1).sum(1)  # [channels]
    share = error.double().square().flatten(1).sum(1) / power
    return float(share[power > 0].mean()) if bool((power > 0).any()) else 0.0
