"""What each layer costs at each width, when it alone is quantized and all others stay in floats."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from netpress.compression.quantization.post_training import fold_first, quantize_once
from netpress.compression.quantization.settings import PRESETS, QuantizeSettings
from netpress.data import Images
from netpress.errors import Failure, UserError
from netpress.evaluation.accuracy import NO_ANSWER, collect_answers
from netpress.evaluation.ranking import best_class
from netpress.network import Network, copy
from netpress.network.edits import replace_module
from netpress.numerics.formats import AnyFormat, Fixed, Float32, Integer
from netpress.numerics.layers import quantized_layers
from netpress.process.console import Console
from netpress.process.devices import generator_for
from netpress.stage import Context

WIDTHS = (8, 6, 4)
WORST = 1e9  # nats

Part = Literal["both", "weights", "inputs"]


@dataclass(frozen=True)
class Sensitivity:
    """What one layer alone costs at one width, of its weights, its inputs or both."""

    layer: str
    bits: int
    accuracy: float
    """Share of the images answered right with this layer quantized."""
    lost: float
    """What the network in floats answers more, as a share of the images."""
    loss: float
    """By how much the mean cross-entropy rises."""
    divergence: float = 0.0
    """Mean Kullback-Leibler divergence of the answers from those in floats, in nats. It tells layers apart with far
    fewer images than the accuracy needs: each image counts, not only those whose class changes."""
    part: Part = "both"


def with_widths(settings: QuantizeSettings, weights: int | None, inputs: int | None) -> QuantizeSettings:
    """The settings with weights and inputs of so many bits in every layer that is not left out; None: float32.

    Raises UserError for a preset whose formats have no width to change.
    """
    preset = PRESETS[settings.preset]
    changes: dict[str, Any] = {
        "weights": _of_width(settings, settings.weights or preset.weights, weights),
        "inputs": _of_width(settings, settings.inputs or preset.inputs, inputs),
    }
    alone = {"rules": (), "train": None, "bits": None, "learn": ("weight_steps",), "falling": (), "prune": None}
    return settings.model_copy(update=changes | alone)


def _of_width(settings: QuantizeSettings, format: AnyFormat, bits: int | None) -> AnyFormat:
    if not isinstance(format, Integer | Fixed):
        raise UserError(f"widths are chosen among integers or fixed point; the preset {settings.preset} has others")
    return Float32() if bits is None else type(format)(**{**format.model_dump(), "bits": bits})


def with_width(settings: QuantizeSettings, bits: int) -> QuantizeSettings:
    """As `with_widths`, the same for weights and inputs."""
    return with_widths(settings, bits, bits)


def measure_sensitivity(
    network: Network,
    settings: QuantizeSettings,
    context: Context,
    widths: Sequence[int] = WIDTHS,
    images: int = 1000,
    parts: Sequence[Part] = ("both",),
) -> list[Sensitivity]:
    """What each layer costs alone at each width, in the order of the network's layers; of `parts`, each by itself.

    Norms are folded first. `images` images that a run selects on, drawn at random, decide. Biases are not corrected,
    and what is outside the layer's sums is float32: one layer is one change.
    Raises UserError as the `quantize` stage does, Failure where the network in floats answers no numbers.
    """
    start = folded(network, settings, context)
    seen = draw_images(context, images)
    floats = collect_answers(start.module, start, seen)
    if not bool(torch.isfinite(floats).all()):
        raise Failure(NO_ANSWER)
    rows: list[Sensitivity] = []
    alone = settings.model_copy(update={"correct_biases": False, "arithmetic": "float32"})
    for part in parts:
        for bits in widths:
            weights, inputs = (None if part == "inputs" else bits), (None if part == "weights" else bits)
            quantized = quantize_once(start, with_widths(alone, weights, inputs), context)
            what = f"{bits} bits" if part == "both" else f"{part} of {bits} bits"
            with context.console.progress(what, len(quantized_layers(quantized.module))) as progress:
                for done, (name, layer) in enumerate(quantized_layers(quantized.module).items()):
                    plain = start.module.get_submodule(name)
                    replace_module(start.module, name, layer.eval())
                    answers = collect_answers(start.module, start, seen)
                    replace_module(start.module, name, plain)
                    rows.append(_compared(name, bits, part, floats, answers, seen.labels.cpu()))
                    progress.update(done + 1)
    order = {name: index for index, name in enumerate(dict.fromkeys(row.layer for row in rows))}
    return sorted(rows, key=lambda row: (order[row.layer], parts.index(row.part), -row.bits))


def _compared(layer: str, bits: int, part: Part, before: Tensor, after: Tensor, labels: Tensor) -> Sensitivity:
    """What the answers `after` say beside those `before`: logits [images, classes]."""
    accuracy, accuracy_before = (float((best_class(each) == labels).double().mean()) for each in (after, before))
    risen = float(F.cross_entropy(after, labels)) - float(F.cross_entropy(before, labels))
    first, second = (F.log_softmax(each.double(), dim=1) for each in (before, after))
    divergence = float(F.kl_div(second, first, reduction="batchmean", log_target=True))
    return Sensitivity(layer, bits, accuracy, accuracy_before - accuracy, risen, divergence, part)


def harms(rows: Sequence[Sensitivity]) -> dict[str, dict[Part, dict[int, float]]]:
    """The divergence that each layer, part and width costs; a narrower width never less than a wider one.

    A divergence that is no number harms more than any other.
    """
    table: dict[str, dict[Part, dict[int, float]]] = {}
    for row in sorted(rows, key=lambda row: -row.bits):
        widths = table.setdefault(row.layer, {}).setdefault(row.part, {})
        divergence = row.divergence if row.divergence == row.divergence else WORST
        widths[row.bits] = max([divergence, *widths.values()])
    return {layer: table[layer] for layer in dict.fromkeys(row.layer for row in rows)}


def folded(network: Network, settings: QuantizeSettings, context: Context) -> Network:
    """A copy of the network on the context's device, its norms folded if the settings say so and any can be.

    Raises UserError for one that is quantized already: its layers have no floats to compare with.
    """
    if quantized_layers(network.module):
        raise UserError(f"{context.name}: widths are chosen for a network in floats, and this one is quantized already")
    start = fold_first(copy(network), settings, replace(context, console=Console(quiet=True)))
    start.module.to(context.device).eval()
    return start


def draw_images(context: Context, count: int) -> Images:
    """So many of the images that the run selects on, the same for every seed-equal call."""
    selection = context.data.selection
    if count >= len(selection):
        return selection
    generator = generator_for(context.seed, "quantize", "sensitivity")
    return selection.take(torch.randperm(len(selection), generator=generator)[:count])
