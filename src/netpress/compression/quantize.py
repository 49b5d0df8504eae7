"""The `quantize` stage: formats, norms folded, calibration, training if asked for, values put on their grids.

03-quantize/metrics.jsonl          one line: what was quantized and how accurate it was before and after
            train/...              the training, where there is one
"""

from typing import Any

from torch import nn

from netpress.compression.fold import FoldSettings, fold
from netpress.compression.fold import leave as leave_folded
from netpress.compression.quantization.assignment import choose_formats, describe, record_formats, trim_masks
from netpress.compression.quantization.automatic import choose_widths
from netpress.compression.quantization.post_training import calibrate, put_layers
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.network import Network, copy
from netpress.network.edits.folding import find_foldable_norms, merge_statistics
from netpress.numerics.accumulators import operand_bits
from netpress.numerics.formats import Fixed, Integer
from netpress.numerics.integer import check_claims, layer_sums
from netpress.numerics.layers import freeze, quantized_layers
from netpress.stage import STAGES, Context, Outlook, PlanRow, Stage
from netpress.training import MeanTeacher, load_teachers, run_training
from netpress.training.train import check_within as check_training


def quantize(network: Network, settings: QuantizeSettings, context: Context) -> Network:
    """A quantized copy of `network`; what its file will hold is what it computes with.

    Raises UserError for settings that do not fit the network or where data to calibrate on is missing, Failure for
    values that are not finite or accumulators that are too narrow.
    """
    if settings.bits == "auto":
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
    if settings.folds and not quantized_layers(start.module) and find_foldable_norms(start.module):
        start = fold(start, FoldSettings(), context)
        start.module.to(context.device)
    quantized = calibrate(start, formats, settings, context)
    line: dict[str, Any] = {"quantized": len(formats)}
    if context.dataset is not None:
        line["accuracy_before"] = evaluate(start, context.data.selection).accuracy
    if settings.train is not None:
        check_claims(layer_sums(quantized.module))  # too narrow sums are told before the training, too
        if context.dataset is not None:
            line["accuracy_calibrated"] = evaluate(quantized, context.data.selection).accuracy
        _train(quantized, start, settings, context)
    freeze(quantized.module)
    merge_statistics(quantized.module)
    record_formats(quantized)
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
    put_layers(network, formats)


def _train(quantized: Network, start: Network, settings: QuantizeSettings, context: Context) -> None:
    """Train weights and the scales that learn, in place. Weights stay real until they are frozen."""
    assert settings.train is not None
    for layer in quantized_layers(quantized.module).values():
        for scale, name in ((layer.weight_scale, "weight_steps"), (layer.input_scale, "input_steps")):
            if scale is not None:
                scale.requires_grad_(name in settings.learn)
    teacher: nn.Module | None = None
    distillation = settings.train.distillation
    if distillation is not None:
        names = distillation.teachers
        teacher = load_teachers(names, start, context.allow_import) if names else MeanTeacher([start], start.input)
    run_training(quantized, settings.train, context.part("train"), teacher=teacher)


STAGES.add("quantize", Stage(QuantizeSettings, quantize, plan, check=check, leave=leave))
