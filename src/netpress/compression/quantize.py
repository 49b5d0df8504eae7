"""The `quantize` stage: it gives each layer formats, calibrates it, trains it if asked to, and rounds its values.

It folds norms first where the settings say so.

    03-quantize/metrics.jsonl     one line: how many layers were quantized, and the accuracy before and after
                train/...         the training, where there is one
"""

import functools
from typing import Any

from netpress.compression.fold import with_folds
from netpress.compression.gradual import GradualMasks, GradualPruning
from netpress.compression.masks import add_masks
from netpress.compression.quantization.assignment import choose_formats, describe, round_others, trim_masks
from netpress.compression.quantization.automatic import choose_widths
from netpress.compression.quantization.falling import FallingWidths, check_falling, least_bits, widened
from netpress.compression.quantization.post_training import calibrate, fold_first, put_layers, settle
from netpress.compression.quantization.sensitivity import with_width
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantization.shared_scales import share_scales
from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.network import Network, copy
from netpress.numerics.accumulators import operand_bits
from netpress.numerics.claims import check_claims, layer_sums
from netpress.numerics.formats import Fixed, Integer
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import quantized_layers
from netpress.program import check_operations
from netpress.stage import STAGES, Context, Outlook, Plan, PlanRow, Stage
from netpress.tracing.foldable import find_foldable_norms
from netpress.training import TrainSettings, run_training
from netpress.training.masking import MaskHolder
from netpress.training.train import check_within as check_training
from netpress.training.train import plan_answers


def quantize(network: Network, settings: QuantizeSettings, context: Context) -> Network:
    """A quantized copy of `network`; what its file will hold is what it computes with.

    Raises UserError for settings that do not fit the network or where data to calibrate on is missing, Failure for
    values that are not finite or accumulators that are too narrow.
    """
    automatic = settings.bits == "auto"
    if automatic:
        settings = choose_widths(network, settings, context)
    formats = choose_formats(network.module, settings)
    if not automatic:
        check_falling(formats, settings)
    needs_data = any(isinstance(layer.input, Fixed | Integer) for layer in formats.values())
    if context.dataset is None and (needs_data or settings.train is not None):
        raise UserError(
            f"{context.name}: {settings.preset} calibrates what enters each layer on training images; give --data DIR "
            "or a [data] table"
        )
    start = fold_first(copy(network), settings, context)
    formats = share_scales(start.module, formats, settings)
    start.module.to(context.device)
    first = widened(formats, settings.falling[0]) if settings.falling else formats
    quantized = calibrate(start, formats, settings, context, first)
    line: dict[str, Any] = {"quantized": len(formats)}
    if context.dataset is not None:
        line["accuracy_before"] = evaluate(start, context.data.selection).accuracy
    if settings.train is not None:
        check_claims(layer_sums(quantized.module))  # too narrow sums are told before the training, too
        if context.dataset is not None:
            line["accuracy_calibrated"] = evaluate(quantized, context.data.selection).accuracy
        _train(quantized, start, formats, settings, context)
    settle(quantized, settings)
    trim_masks(quantized)
    check_claims(layer_sums(quantized.module))
    message = f"{context.name}: {len(formats)} layers quantized"
    if context.dataset is not None:
        line["accuracy"] = evaluate(quantized, context.data.selection).accuracy
        message += f", accuracy {line['accuracy_before']:.2%} before, {line['accuracy']:.2%} after"
    context.truncate_log(0)
    context.log(line)
    context.console.say(message)
    return quantized


def plan(outlook: Outlook, settings: QuantizeSettings) -> Plan:
    """One row for each layer: its formats; then one for the training.

    Raises UserError as the stage would, for widths that cannot be chosen any more, for what integer arithmetic has no
    operation for, and for a training that could not begin.
    """
    network = outlook.network
    formats = choose_formats(network.module, settings)
    if settings.bits == "auto":
        outlook.refuse_quantized('bits = "auto"', "widths are chosen for a network in floats")
        _check_accumulators(choose_formats(network.module, with_width(settings, max(settings.widths))))
    _check_accumulators(formats)
    if settings.bits is None:
        check_falling(formats, settings)
    if settings.train is not None:
        check_training(outlook, settings.train, own_teacher=True)
    auto = f"one of {', '.join(str(bits) for bits in settings.widths)} bits"
    rows: list[PlanRow] = [
        {
            "what": name,
            "weights": describe(layer.weight) if settings.bits is None else auto,
            "inputs": describe(layer.input) if settings.bits is None else auto,
            "bias": describe(layer.bias),
            "arithmetic": layer.arithmetic,
        }
        for name, layer in formats.items()
    ]
    if settings.train is not None:
        epochs = settings.train.epochs
        rows.append({"what": "training", "epochs": epochs, **plan_answers(outlook, (settings.train, epochs))})
        rows += _plan_falling(settings, formats)
    folds = settings.folds and not quantized_layers(network.module)
    planned = with_folds(network, find_foldable_norms(network.module, network.input.size) if folds else ())
    put_layers(planned, formats)
    if settings.prune is not None:
        rows.append(_plan_pruning(planned, settings.prune))
    check_operations(planned)
    round_others(planned)  # a network that begins with this one is counted as what its file will say
    undecided = settings.bits == "auto" or settings.tensor_scales is not None
    return Plan(rows, planned, undecided=("flash", "ram", "score") if undecided else ())


def _plan_falling(settings: QuantizeSettings, formats: dict[str, LayerFormats]) -> list[PlanRow]:
    """A row for each width on the way and one for the rounds that are left, if widths fall."""
    assert settings.train is not None
    train, falling = settings.train, settings.falling
    rows: list[PlanRow] = [
        {"what": f"round {index + 1}", "bits": bits, "epochs": train.epochs_of(index)}
        for index, bits in enumerate(falling)
    ]
    if falling:
        last: int | str = "auto" if settings.bits else min(map(least_bits, formats.values()))
        left = sum(train.epochs_of(index) for index in range(len(falling), train.rounds))
        rows.append({"what": f"round {len(falling) + 1} on", "bits": last, "epochs": left})
    return rows


def _plan_pruning(planned: Network, prune: GradualPruning) -> PlanRow:
    """Prune the planned network as the end of its training is to have it, in place: the row says how much is left."""
    choice = prune.choose(planned, prune.amount, planned.masks)
    add_masks(planned, choice.masks, choice.patterns)
    weights = sum(mask.numel() for mask in choice.masks.values())
    left = sum(int(mask.sum()) for mask in choice.masks.values())
    return {"what": "pruning", "amount": prune.amount, "weights": weights, "left": left, "estimated": True}


def _check_accumulators(formats: dict[str, LayerFormats]) -> None:
    for name, layer in formats.items():
        narrowest = max(operand_bits(layer.weight), operand_bits(layer.input))
        if layer.integer and isinstance(layer.accumulators, int) and layer.accumulators <= narrowest:
            raise UserError(
                f"accumulators = {layer.accumulators}: no wider than the {narrowest} bits of a value in {name}, "
                'which they sum products of; give many more, or "tree"'
            )


def _train(
    quantized: Network,
    start: Network,
    formats: dict[str, LayerFormats],
    settings: QuantizeSettings,
    context: Context,
) -> None:
    """Train weights and the scales that learn, in place. Weights stay real until they are frozen.

    Widths fall to `formats` meanwhile, and weights are pruned, where the settings say so.
    """
    assert settings.train is not None
    for layer in quantized_layers(quantized.module).values():
        for scale, name in ((layer.weight_scale, "weight_steps"), (layer.input_scale, "input_steps")):
            if scale is not None:
                scale.requires_grad_(name in settings.learn)
    parts = {"falling": FallingWidths(quantized, formats, settings, context)} if settings.falling else {}
    masks = MaskHolder if settings.prune is None else functools.partial(GradualMasks, settings=settings.prune)
    run_training(quantized, settings.train, context.part("train"), parts, own_teacher=start, masks=masks)


def trainings(settings: QuantizeSettings) -> dict[str, TrainSettings]:
    """As in `Stage`."""
    return {} if settings.train is None else {"train": settings.train}


STAGES.add("quantize", Stage(QuantizeSettings, quantize, plan, counts=True, trainings=trainings))
