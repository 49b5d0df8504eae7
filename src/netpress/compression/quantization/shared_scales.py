"""One scale for all weights of a layer where one a channel gains nothing: `tensor_scales` of the stage `quantize`.

A layer whose channels are alike loses little by a common scale, and saves the scales of all channels but one. What it
loses is the squared error of rounding its weights, as a share of their squares; for inputs of equal power that do not
depend on each other, it is the share of noise in the layer's output, too.
"""

from torch import Tensor, nn

from netpress.compression.quantization.settings import PRESETS, QuantizeSettings
from netpress.models.blocks import CosineLinear
from netpress.numerics.calibration import AnyCalibration, calibrate_tensor
from netpress.numerics.formats import Binary, GridFormat, Integer, Ternary, scale_count, scale_format
from netpress.numerics.layer_formats import LayerFormats
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
        if isinstance(part, CosineLinear) or not isinstance(weight, Integer | Ternary | Binary):
            continue
        values = part.weight.detach().cpu()
        shared = weight.model_copy(update={"scale": "tensor"})
        if scale_bits(shared, values) >= scale_bits(weight, values):
            continue
        added = rounding_error(values, shared, method) - rounding_error(values, weight, method)
        if added <= most * float(values.double().square().sum()):
            chosen[name] = layer.model_copy(update={"weight": shared})
    return chosen


def scale_bits(format: GridFormat, weight: Tensor) -> int:
    """Bits that the scales of a weight take in the file, with the base of minifloats."""
    stored = scale_format(format)
    base = scale_format(stored).bits if stored.kind == "minifloat" else 0
    return scale_count(format, weight.shape) * stored.bits + base


def rounding_error(weight: Tensor, format: GridFormat, method: AnyCalibration) -> float:
    """The squared error of all weights, rounded to the grid that the method finds."""
    scale, _ = calibrate_tensor(weight, format, method)
    return float((dequantize(quantize(weight.float(), format, scale), scale) - weight).double().square().sum())
