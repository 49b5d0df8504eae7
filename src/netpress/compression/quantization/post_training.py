"""Post-training quantization: it puts quantized layers in, sets their scales from images, and corrects biases."""

import torch

from netpress.compression.fold import FoldSettings, fold
from netpress.compression.quantization.assignment import choose_formats, round_others
from netpress.compression.quantization.output_scales import set_output_scales
from netpress.compression.quantization.scales import (
    calibrate_weights,
    correct_biases,
    keep_grids,
    keep_steps,
    set_inputs,
    watch_inputs,
    without,
)
from netpress.compression.quantization.settings import PRESETS, QuantizeSettings
from netpress.compression.quantization.shared_scales import share_scales
from netpress.data import Images, normalize
from netpress.errors import UserError
from netpress.models.blocks import CosineLinear
from netpress.network import Network, copy
from netpress.network.edits.folding import merge_statistics
from netpress.network.edits.quantizing import Quantize
from netpress.network.edits.ranging import ScaleNorms, unscaled_norms
from netpress.numerics.calibration import MinMax
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import freeze, quantized_layers
from netpress.process.devices import generator_for
from netpress.program import has_integer_arithmetic
from netpress.stage import Context
from netpress.tracing.foldable import find_foldable_norms

CORRECTED = 512  # images that correct biases, all in one batch


def quantize_once(network: Network, settings: QuantizeSettings, context: Context) -> Network:
    """Post-training quantization without a word and without evaluation: for tables of many widths.

    The norms must be folded already. Raises as the stage `quantize`.
    """
    formats = share_scales(network.module, choose_formats(network.module, settings), settings)
    quantized = calibrate(network, formats, settings, context)
    settle(quantized, settings)
    return quantized


def fold_first(network: Network, settings: QuantizeSettings, context: Context) -> Network:
    """The network with its norms folded, if the settings say so and any can be; else as it is.

    The directions of a cosine head stay as they are: they may have to train yet.
    """
    folds = settings.folds and not quantized_layers(network.module)
    if not (folds and find_foldable_norms(network.module, network.input.size)):
        return network
    return fold(network, FoldSettings(directions=False), context)


def draw_images(settings: QuantizeSettings, context: Context) -> Images:
    """The training images that calibrate."""
    generator = generator_for(context.seed, "quantize", "calibration")
    drawn = torch.randperm(len(context.data.train), generator=generator)[: settings.calibration_images]
    return context.data.train.take(drawn)


def calibrate(
    start: Network,
    formats: dict[str, LayerFormats],
    settings: QuantizeSettings,
    context: Context,
    first: dict[str, LayerFormats] | None = None,
) -> Network:
    """A copy of `start` with quantized layers whose scales and zero points are set, weights still real.

    `first` are formats of other widths that the layers begin with; the network's file lists `formats`.
    """
    preset = PRESETS[settings.preset]
    quantized = copy(start)
    try:
        put_layers(quantized, formats)
    except UserError as error:
        raise UserError(f"{context.name}: {error}") from error
    layers = {name: layer for name, layer in quantized_layers(quantized.module).items() if name in formats}
    formats = first or formats
    for name, layer in layers.items():
        layer.formats = formats[name]
        layer.unit_rows = isinstance(start.module.get_submodule(name), CosineLinear)
    kept = keep_grids(start.module, layers)
    weights, inputs = keep_steps(start.module, without(layers, kept))
    _say_kept(settings, context, weight_calibration=kept | weights, calibration=kept | inputs)
    observers = {}
    images: Images | None = None
    if context.dataset is not None:
        images = draw_images(settings, context)
        statistics = (start.input.mean, start.input.std)
        method = settings.calibration or preset.calibration
        watched = without(formats, kept | inputs)
        if watched:
            observers = watch_inputs(start.module, watched, images, statistics, method, context.seed)
    calibrate_weights(without(layers, kept | weights), settings.weight_calibration or preset.weight_calibration)
    set_inputs(layers, observers)
    if images is None:
        return quantized
    device = next(start.module.parameters()).device
    seen = images.images[: max(CORRECTED, settings.range_images)]
    pixels = normalize(seen.to(device), start.input.mean, start.input.std)
    if has_integer_arithmetic(quantized):
        set_output_scales(quantized, pixels[: settings.range_images], settings.headroom)
    if settings.correct_biases:
        correct_biases(start.module, quantized.module, without(layers, kept), pixels[:CORRECTED])
    return quantized


def _say_kept(settings: QuantizeSettings, context: Context, **kept: set[str]) -> None:
    """Say where a calibration that was asked for finds steps that stay."""
    for name, layers in kept.items():
        if getattr(settings, name) is not None and layers:
            context.console.warn(f"{context.name}: {name}: {len(layers)} layers keep their steps, so not for them")


def settle(quantized: Network, settings: QuantizeSettings) -> None:
    """Give every tensor the values that its format stores, in place: real weights end here."""
    own = MinMax() if settings.keep_formats else PRESETS[settings.preset].bias_calibration  # finds a kept grid again
    freeze(quantized.module, settings.bias_calibration or own)
    merge_statistics(quantized.module)
    round_others(quantized)


def put_layers(network: Network, formats: dict[str, LayerFormats]) -> None:
    """Put quantized layers in the places of those named, values stay. Raises UserError where one cannot be."""
    integer = any(layer.arithmetic == "integer" for layer in formats.values())
    norms = unscaled_norms(network.module) if integer else ()
    try:
        network.edit(Quantize.of(formats))
        if norms:
            network.edit(ScaleNorms(norms=norms))
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error
