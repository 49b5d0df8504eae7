"""Low-bit numbers: the `quantize` stage. Importing it registers the stage and its edit."""

from netpress.compression.quantization.layout import choose_formats, round_others, trim_masks
from netpress.compression.quantization.settings import PRESETS, FormatRule, QuantizeSettings
from netpress.compression.quantization.stage import plan, quantize, quantize_once

__all__ = [
    "PRESETS",
    "FormatRule",
    "QuantizeSettings",
    "choose_formats",
    "plan",
    "quantize",
    "quantize_once",
    "round_others",
    "trim_masks",
]
