"""How much accuracy each layer costs at each width, when it alone is quantized and all others stay in floats."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from netpress.compression.quantization.post_training import fold_first, quantize_once
from netpress.compression.quantization.settings import PRESETS, QuantizeSettings
from netpress.data import Images
from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.network import Network, copy
from netpress.network.edits import replace_module
from netpress.numerics.formats import Fixed, Integer
from netpress.numerics.layers import quantized_layers
from netpress.process.console import Console
from netpress.process.devices import generator_for
from netpress.stage import Context

WIDTHS = (8, 6, 4)


@dataclass(frozen=True)
class Sensitivity:
    """What one layer alone costs at one width."""

    layer: str
    bits: int
    accuracy: float
    """Share of the images answered right with this layer quantized."""
    lost: float
    """What the network in floats answers more, as a share of the images."""
    loss: float
    """By how much the mean cross-entropy rises."""

    @property
    def harm(self) -> float:
        """For comparing layers: lost accuracy, and where images are too few to tell, a little of the loss."""
        return max(0.0, self.lost) + 0.01 * max(0.0, self.loss)


def with_width(settings: QuantizeSettings, bits: int) -> QuantizeSettings:
    """The settings with weights and inputs of so many bits in every layer that is not left out.

    Raises UserError for a preset whose formats have no width to change.
    """
    preset = PRESETS[settings.preset]
    weights, inputs = settings.weights or preset.weights, settings.inputs or preset.inputs
    if not isinstance(weights, Integer | Fixed) or not isinstance(inputs, Integer | Fixed):
        raise UserError(f"widths are chosen among integers or fixed point; the preset {settings.preset} has others")
    changes = {"weights": type(weights)(**{**weights.model_dump(), "bits": bits})}
    changes["inputs"] = type(inputs)(**{**inputs.model_dump(), "bits": bits})
    alone = {"rules": (), "train": None, "bits": None, "learn": ("weight_steps",), "falling": (), "prune": None}
    return settings.model_copy(update=changes | alone)


def measure_sensitivity(
    network: Network,
    settings: QuantizeSettings,
    context: Context,
    widths: Sequence[int] = WIDTHS,
    images: int = 1000,
) -> list[Sensitivity]:
    """The accuracy that each layer costs alone at each width, in the order of the network's layers.

    Norms are folded first. `images` images that a run selects on, drawn at random, decide. Biases are not corrected,
    and what is outside the layer's sums is float32: one layer is one change.
    Raises UserError as the `quantize` stage does.
    """
    start = folded(network, settings, context)
    seen = draw_images(context, images)
    floats = evaluate(start, seen, device=context.device)
    rows: list[Sensitivity] = []
    alone = settings.model_copy(update={"correct_biases": False, "arithmetic": "float32"})
    for bits in widths:
        quantized = quantize_once(start, with_width(alone, bits), context)
        with context.console.progress(f"{bits} bits", len(quantized_layers(quantized.module))) as progress:
            for done, (name, layer) in enumerate(quantized_layers(quantized.module).items()):
                plain = start.module.get_submodule(name)
                replace_module(start.module, name, layer.eval())
                measured = evaluate(start, seen, device=context.device)
                replace_module(start.module, name, plain)
                lost = floats.accuracy - measured.accuracy
                rows.append(Sensitivity(name, bits, measured.accuracy, lost, measured.loss - floats.loss))
                progress.update(done + 1)
    order = {name: index for index, name in enumerate(dict.fromkeys(row.layer for row in rows))}
    return sorted(rows, key=lambda row: (order[row.layer], -row.bits))


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
