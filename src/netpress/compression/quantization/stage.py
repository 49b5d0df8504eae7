"""The `quantize` stage: formats, norms folded, calibration, training if asked for, values put on their grids.

03-quantize/metrics.jsonl          one line: what was quantized and how accurate it was before and after
            train/...              the training, where there is one
"""

from typing import Any

import torch

from netpress.compression.folding import FoldSettings, fold
from netpress.compression.folding import leave as leave_folded
from netpress.compression.quantization.calibrating import calibrate_weights, correct_biases, set_inputs, watch_inputs
from netpress.compression.quantization.layout import choose_formats, describe, round_others, trim_masks
from netpress.compression.quantization.settings import PRESETS, QuantizeSettings
from netpress.data import Images, normalize
from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.network import Network, copy
from netpress.network.edits.folding import merge_statistics
from netpress.network.edits.quantizing import Quantize
from netpress.numerics.accumulators import operand_bits
from netpress.numerics.claims import check_claims, layer_sums
from netpress.numerics.formats import Fixed, Integer
from netpress.numerics.layers import LayerFormats, freeze, quantized_layers
from netpress.process.devices import generator_for
from netpress.stage import Context, Outlook, PlanRow, register_stage
from netpress.tracing.foldable import find_foldable_norms
from netpress.training import run_training
from netpress.training.train import check_within as check_training

CORRECTED = 512  # images that correct biases, all in one batch


def quantize(network: Network, settings: QuantizeSettings, context: Context) -> Network:
    """A quantized copy of `network`; what its file will hold is what it computes with.

    Raises UserError for settings that do not fit the network or where data to calibrate on is missing, Failure for
    values that are not finite or accumulators that are too narrow.
    """
    if settings.bits == "auto":
        from netpress.compression.quantization.automatic import choose_widths  # which quantizes by what is here

        settings = choose_widths(network, settings, context)
    formats = choose_formats(network.module, settings)
    needs_data = any(isinstance(chosen.input, Fixed | Integer) for chosen in formats.values())
    if context.dataset is None and (needs_data or settings.train is not None):
        raise UserError(
            f"{context.name}: {settings.preset} calibrates what enters each layer on training images; give --data DIR "
            "or a [data] table"
        )
    start = copy(network)
    start.module.to(context.device)
    if settings.folds and not quantized_layers(start.module) and find_foldable_norms(start.module, start.input.size):
        start = fold(start, FoldSettings(), context)
        start.module.to(context.device)
    quantized = _calibrate(start, formats, settings, context)
    line: dict[str, Any] = {"quantized": len(formats)}
    if context.dataset is not None:
        line["accuracy_before"] = evaluate(start, context.data.selection).accuracy
    if settings.train is not None:
        check_claims(layer_sums(quantized.module))  # too narrow sums are told before the training, too
        if context.dataset is not None:
            line["accuracy_calibrated"] = evaluate(quantized, context.data.selection).accuracy
        _train(quantized, start, settings, context)
    freeze(quantized.module, PRESETS[settings.preset].bias_calibration)
    merge_statistics(quantized.module)
    round_others(quantized)
    trim_masks(quantized)
    check_claims(layer_sums(quantized.module))
    said = f"{context.name}: {len(formats)} layers quantized"
    if context.dataset is not None:
        line["accuracy"] = evaluate(quantized, context.data.selection).accuracy
        said += f", accuracy {line['accuracy_before']:.2%} before, {line['accuracy']:.2%} after"
    context.truncate_log(0)
    context.log(line)
    context.console.say(said)
    return quantized


def plan(network: Network, settings: QuantizeSettings) -> list[PlanRow]:
    """One row for each layer: its formats. Raises UserError as the stage would."""
    epochs = settings.train.epochs if settings.train else 0
    auto = f"one of {', '.join(str(bits) for bits in settings.widths)} bits"
    rows: list[PlanRow] = [
        {
            "what": name,
            "weights": describe(chosen.weight) if settings.bits is None else auto,
            "inputs": describe(chosen.input) if settings.bits is None else auto,
            "bias": describe(chosen.bias),
            "arithmetic": chosen.arithmetic,
        }
        for name, chosen in choose_formats(network.module, settings).items()
    ]
    return [*rows, {"what": "training", "epochs": epochs}] if epochs else rows


def check(outlook: Outlook, settings: QuantizeSettings) -> None:
    """Raise UserError for widths that cannot be chosen any more, and for a training that could not begin."""
    if settings.bits == "auto":
        outlook.refuse_quantized('bits = "auto"', "widths are chosen for a network in floats")
    for name, formats in choose_formats(outlook.network.module, settings).items():
        narrowest = max(operand_bits(formats.weight), operand_bits(formats.input))
        if formats.integer and isinstance(formats.accumulators, int) and formats.accumulators <= narrowest:
            raise UserError(
                f"accumulators = {formats.accumulators}: no wider than the {narrowest} bits of a value in {name}, "
                'which they sum products of; give many more, or "tree"'
            )
    if settings.train is not None:
        check_training(outlook, settings.train, own_teacher=True)


def leave(network: Network, settings: QuantizeSettings) -> None:
    """Put the layers in that the stage would, in place, norms folded first where it folds them; values stay."""
    formats = choose_formats(network.module, settings)
    if settings.folds and not quantized_layers(network.module):
        leave_folded(network)
    _put(network, formats)


def _put(network: Network, formats: dict[str, LayerFormats]) -> None:
    try:
        network.edit(Quantize.of(formats))
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def quantize_once(network: Network, settings: QuantizeSettings, context: Context) -> Network:
    """Post-training quantization without a word and without evaluation: for tables of many widths.

    The norms must be folded already. Raises as `quantize`.
    """
    formats = choose_formats(network.module, settings)
    quantized = _calibrate(network, formats, settings, context)
    freeze(quantized.module, PRESETS[settings.preset].bias_calibration)
    merge_statistics(quantized.module)
    round_others(quantized)
    return quantized


def _calibrate(
    start: Network, formats: dict[str, LayerFormats], settings: QuantizeSettings, context: Context
) -> Network:
    """A copy of `start` with quantized layers whose scales and zero points are set, weights still real."""
    preset = PRESETS[settings.preset]
    observers = {}
    images: Images | None = None
    if context.dataset is not None:
        generator = generator_for(context.seed, "quantize", "calibration")
        chosen = torch.randperm(len(context.data.train), generator=generator)[: settings.calibration_images]
        images = context.data.train.take(chosen)
        statistics = (start.input.mean, start.input.std)
        method = settings.calibration or preset.calibration
        observers = watch_inputs(start.module, formats, images, statistics, method, context.seed)
    quantized = copy(start)
    try:
        _put(quantized, formats)
    except UserError as error:
        raise UserError(f"{context.name}: {error}") from error
    layers = {name: layer for name, layer in quantized_layers(quantized.module).items() if name in formats}
    calibrate_weights(layers, settings.weight_calibration or preset.weight_calibration)
    set_inputs(layers, observers)
    if images is not None and settings.correct_biases:
        device = next(start.module.parameters()).device
        pixels = normalize(images.images[:CORRECTED].to(device), start.input.mean, start.input.std)
        correct_biases(start.module, quantized.module, layers, pixels)
    return quantized


def _train(quantized: Network, start: Network, settings: QuantizeSettings, context: Context) -> None:
    """Train weights and the scales that learn, in place. Weights stay real until they are frozen."""
    assert settings.train is not None
    for layer in quantized_layers(quantized.module).values():
        for scale, name in ((layer.weight_scale, "weight_steps"), (layer.input_scale, "input_steps")):
            if scale is not None:
                scale.requires_grad_(name in settings.learn)
    run_training(quantized, settings.train, context.part("train"), own_teacher=start)


register_stage("quantize", QuantizeSettings, quantize, plan, check=check, leave=leave)
