"""Widths that fall while the quantized network trains: 8 bits, then 6, then 5, then those that its formats say.

Each width has a round of the training, with a new optimizer and a new schedule (`train.rounds`); all rounds that are
left train the last widths. Weights stay real all the while, so a width begins with what the width before learned. Its
steps come from those that were learned there, or are found anew from the weights and the images.

A layer never has fewer bits than its formats give it in the end: one of 8 bits keeps them.
"""

from collections.abc import Mapping
from typing import Any

import torch

from netpress.compression.quantization.output_scales import set_output_scales
from netpress.compression.quantization.post_training import Images, draw_images
from netpress.compression.quantization.scales import calibrate_weights, set_inputs, watch_inputs
from netpress.compression.quantization.settings import PRESETS, QuantizeSettings
from netpress.data import normalize
from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.network import Network
from netpress.numerics.formats import AnyFormat, Fixed, GridFormat, Integer, integer_range
from netpress.numerics.grid import round_scales
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import QuantizedLayer, quantized_layers
from netpress.program import has_integer_arithmetic
from netpress.stage import Context
from netpress.training.part import Part, State


def widened(formats: Mapping[str, LayerFormats], bits: int) -> dict[str, LayerFormats]:
    """The formats with weights and inputs of at least so many bits, where they are integers or fixed point."""
    return {
        name: layer.model_copy(update={"weight": _widened(layer.weight, bits), "input": _widened(layer.input, bits)})
        for name, layer in formats.items()
    }


def check_falling(formats: Mapping[str, LayerFormats], settings: QuantizeSettings) -> None:
    """Raise UserError for a width that no layer would have."""
    for bits in settings.falling:
        if widened(formats, bits) == formats:
            raise UserError(f"falling: {bits} bits: no layer ends with fewer, so none would fall from there")


class FallingWidths(Part):
    """Gives the layers of a network the formats of each round, and their steps. It begins with those of the first."""

    def __init__(
        self, network: Network, formats: Mapping[str, LayerFormats], settings: QuantizeSettings, context: Context
    ) -> None:
        self.network, self.formats, self.settings, self.context = network, formats, settings, context
        self.round = 0
        self.accuracy: float | None = None
        self._put()

    @property
    def bits(self) -> int | None:
        """The least width of this round; None where all layers have what they end with."""
        return self.settings.falling[self.round] if self.round < len(self.settings.falling) else None

    def begin_round(self) -> None:
        self.round += 1
        if self.round <= len(self.settings.falling) and self.settings.falling[self.round - 1] != self.bits:
            self._fall()

    def figures(self) -> State:
        known = {} if self.accuracy is None else {"accuracy_calibrated": self.accuracy}
        self.accuracy = None
        least = min(least_bits(layer.formats) for layer in self._layers().values())
        return {"bits": least} | known

    def state_dict(self) -> State:
        return {"round": self.round, "accuracy": self.accuracy}

    def load_state_dict(self, state: State) -> None:
        self.round, self.accuracy = state["round"], state["accuracy"]
        self._put()

    def _layers(self) -> dict[str, QuantizedLayer]:
        return {name: layer for name, layer in quantized_layers(self.network.module).items() if name in self.formats}

    def _put(self) -> None:
        """Give the layers the formats of this round; scales stay."""
        formats = self.formats if self.bits is None else widened(self.formats, self.bits)
        for name, layer in self._layers().items():
            layer.formats = formats[name]

    @torch.no_grad()
    def _fall(self) -> None:
        """Go to the formats of this round, with steps for them."""
        layers = self._layers()
        before = {name: layer.formats for name, layer in layers.items()}
        images = draw_images(self.settings, self.context)
        if self.settings.falling_steps == "measured":
            self._measure(layers, images)
        else:
            self._put()
            for name, layer in layers.items():
                scale_steps(layer, before[name])
        spec, device = self.network.input, self.context.device
        if has_integer_arithmetic(self.network):
            seen = images.images[: self.settings.range_images].to(device)
            pixels = normalize(seen, spec.mean, spec.std)
            set_output_scales(self.network, pixels, self.settings.headroom)
        if len(self.context.data.selection):
            self.accuracy = evaluate(self.network, self.context.data.selection, device=device).accuracy

    def _measure(self, layers: dict[str, QuantizedLayer], images: Images) -> None:
        settings, spec, preset = self.settings, self.network.input, PRESETS[self.settings.preset]
        formats = self.formats if self.bits is None else widened(self.formats, self.bits)
        changed = {name: formats[name] for name, layer in layers.items() if layer.formats != formats[name]}
        method, seed = settings.calibration or preset.calibration, self.context.seed
        observers = watch_inputs(self.network.module, changed, images, (spec.mean, spec.std), method, seed)
        self._put()
        narrower = {name: layers[name] for name in changed}
        calibrate_weights(narrower, settings.weight_calibration or preset.weight_calibration)
        set_inputs(narrower, observers)


def scale_steps(layer: QuantizedLayer, before: LayerFormats) -> None:
    """Stretch the steps that served the formats `before` so that the layer's own reach as far, zero point included."""
    weight, value = layer.formats.weight, layer.formats.input
    _stretch(layer.weight_scale, before.weight, weight)
    ratio = _stretch(layer.input_scale, before.input, value)
    if layer.input_zero_point is not None and isinstance(value, Integer) and isinstance(before.input, Integer):
        (old_low, _), (low, high) = integer_range(before.input), integer_range(value)
        layer.input_zero_point.sub_(old_low).div_(ratio).add_(low).round_().clamp_(low, high)


def _stretch(scale: Any, before: AnyFormat, after: AnyFormat) -> float:
    if scale is None or not isinstance(before, GridFormat) or not isinstance(after, GridFormat) or before == after:
        return 1.0
    if isinstance(after, Fixed):
        ratio = 2.0 ** (before.bits - after.bits)
    else:
        (low, high), (least, most) = integer_range(before), integer_range(after)
        asymmetric = isinstance(after, Integer) and (after.zero_point or not after.signed)
        ratio = (high - low) / (most - least) if asymmetric else high / most
    scale.data.copy_(round_scales(scale.data * ratio, after))
    return ratio


def _widened(format: Any, bits: int) -> Any:
    if isinstance(format, Integer | Fixed) and format.bits < bits:
        return format.model_copy(update={"bits": bits})
    return format


def least_bits(formats: LayerFormats) -> int:
    """The width of the layer's weights or inputs, whichever has fewer bits."""
    return min(formats.weight.bits, formats.input.bits)
