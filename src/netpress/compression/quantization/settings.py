"""The settings of the `quantize` stage, and its presets: int8, int6, int4, fixed-9-12, half, binary."""

import itertools
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from netpress.compression.gradual import GradualPruning
from netpress.numerics.calibration import Calibration, MinMax, Sigma, SquaredError
from netpress.numerics.formats import Binary, Fixed, Float16, Float32, Integer, NumberFormat, ScaleFormat
from netpress.numerics.rescaling import Arithmetic
from netpress.settings import Count, Fraction, Positive, Settings, between
from netpress.training import TrainSettings

Preset = Literal["fixed-9-12", "int8", "int6", "int4", "half", "binary"]
BiasFormat = Annotated[Float16 | Float32 | Fixed, Field(discriminator="kind")]


class FormatRule(Settings):
    """Formats for some layers; what is left out stays as it was."""

    layers: str | tuple[str, ...]
    """A kind (stem, depthwise, classifier, ...), a pattern of layer names, or a list of them."""
    weights: NumberFormat | None = None
    """Format of their weights."""
    inputs: NumberFormat | None = None
    """Format of the values that enter them."""
    bias: BiasFormat | None = None
    """Format of their biases."""
    scales: ScaleFormat | None = None
    """Format of the scales of their weights, where there is one a channel."""


class QuantizeSettings(Settings):
    """Store and compute with few bits: choose formats, calibrate on training images, train if asked to."""

    kind: Literal["quantize"] = "quantize"
    preset: Preset = "int8"
    """Formats for the whole network; the settings below change single ones."""
    keep_formats: bool = False
    """Layers that are quantized already keep the formats of their weights, inputs and biases, and with them their
    integers, where the settings below name no others; the preset is for what is left."""
    weights: NumberFormat | None = None
    """Format of all weights, in place of the preset's and of its wider first and last layers."""
    inputs: NumberFormat | None = None
    """Format of the values that enter each layer, in place of the preset's and of its wider ones."""
    bias: BiasFormat | None = None
    """Format of the biases, in place of the preset's."""
    scales: ScaleFormat | None = None
    """Format of the scales of weights, where there is one a channel, in place of what the weights' formats say."""
    tensor_scales: Annotated[float, between(0, 1)] | None = None
    """A layer with a scale a channel gets one for the whole tensor where that saves bits and adds at most this to
    the squared error of rounding, as a share of a channel's squared weights, in the mean of its channels."""
    rules: tuple[FormatRule, ...] = ()
    """Formats for single layers or kinds; later rules win."""
    bits: Literal["auto"] | None = None
    """With `auto`, weights and inputs of each layer get widths of their own: answers that move least for the score
    that is saved."""
    target_accuracy: Fraction | None = None
    """For `auto`: the accuracy to keep on the images that the run selects on, quantized and not yet trained."""
    target_score: Positive | None = None
    """For `auto`: the score to reach, in place of an accuracy to keep."""
    widths: tuple[Annotated[int, between(2, 16)], ...] = (8, 7, 6, 5, 4)
    """For `auto`: the widths to choose from."""
    auto_images: Count = 1000
    """For `auto`: so many of the images that the run selects on decide."""
    leave_out: tuple[str, ...] = ()
    """Kinds or patterns of layers that stay in floats."""
    arithmetic: Arithmetic | None = None
    """Arithmetic outside the sums of products (scales, biases, activations, pools), in place of the preset's: that of
    floats, or of 16-bit integers, as int8, int6 and int4 have it."""
    accumulators: Literal["tree"] | Annotated[int, between(2, 64)] = "tree"
    """Width of the sums: an adder tree that grows by a bit a level, or so many bits; too few is an error."""
    calibration: Calibration | None = None
    """How the range of a layer's input is found, in place of the preset's."""
    weight_calibration: Calibration | None = None
    """How the range of weights is found, in place of the preset's."""
    bias_calibration: Calibration | None = None
    """How the range of biases in fixed point is found, in place of the preset's."""
    calibration_images: Count = 1024
    """Training images, drawn at random, that calibrate."""
    range_images: Count = 256
    """Of them, for integer arithmetic, those on which the ranges of 16-bit values are met."""
    headroom: Annotated[float, between(1, 16)] = 2.0
    """For integer arithmetic: the range of 16-bit values as a multiple of the largest that was met. Less rounds less;
    what is beyond saturates. With many range_images 1 may do."""
    correct_biases: bool = True
    """Shift biases so that every channel keeps the mean that it has in floats (at most 512 of those images)."""
    fold: bool | None = None
    """Fold norms into the convolutions before them first, as the `fold` stage does; by default as the preset says."""
    train: TrainSettings | None = None
    """Training of the quantized network; without it, post-training quantization. Its teacher is the network before
    quantization where `distillation` or the loss `label_refinery` names none."""
    learn: tuple[Literal["weight_steps", "input_steps"], ...] = ("weight_steps",)
    """Scales that learn with the weights (LSQ, Esser et al. 2020); the others stay as calibrated."""
    falling: tuple[Annotated[int, between(3, 16)], ...] = ()
    """Widths on the way, as [8, 6, 5]: one for each of the first rounds of `train`. Weights and inputs have so many
    bits at least; the rounds that are left train the formats themselves. A width may stand twice."""
    falling_steps: Literal["scaled", "measured"] = "measured"
    """Where the steps of the next width come from: those that were learned, times the lost levels, or the weights and
    images anew, as at the beginning."""
    prune: GradualPruning | None = None
    """Prune gradually while the network trains."""

    @property
    def folds(self) -> bool:
        """Whether norms are folded first."""
        return PRESETS[self.preset].fold if self.fold is None else self.fold

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.train is None and self.learn != ("weight_steps",):
            raise ValueError("learn needs a training: add train")
        if self.train is None and (self.falling or self.prune is not None):
            raise ValueError(f"{'falling' if self.falling else 'prune'} needs a training: add train")
        targets = [target for target in (self.target_accuracy, self.target_score) if target is not None]
        if self.bits == "auto" and (len(targets) != 1 or self.rules):
            raise ValueError('bits = "auto" needs either target_accuracy or target_score, and takes no rules')
        if self.bits == "auto" and self.keep_formats:
            raise ValueError('keep_formats is for quantized networks, and bits = "auto" for those in floats')
        if not self.widths:
            raise ValueError("widths: is empty; name at least one width to choose from")
        if len(set(self.widths)) < len(self.widths):
            raise ValueError("widths: names a width twice")
        if self.bits is None and targets:
            raise ValueError('target_accuracy and target_score need bits = "auto"')
        return self

    @model_validator(mode="after")
    def _trains_what_it_is_to_be(self) -> Self:
        if self.train is None:
            return self
        if self.prune is not None:
            self.prune.refuse_training(self.train, "prune")
        if any(later > earlier for earlier, later in itertools.pairwise(self.falling)):
            raise ValueError(f"falling: {list(self.falling)} must not rise")
        if len(self.falling) >= self.train.rounds > 0 and self.falling:
            raise ValueError(
                f"falling: {len(self.falling)} widths take a round of the training each, and one is left for the "
                f"formats themselves: train.rounds must be {len(self.falling) + 1} or more, not {self.train.rounds}"
            )
        return self


class PresetFormats(Settings):
    """What a preset stands for. Its rules pass over kinds that a network does not have."""

    weights: NumberFormat
    inputs: NumberFormat
    bias: BiasFormat = Float16()
    rules: tuple[FormatRule, ...] = ()
    arithmetic: Arithmetic = "float16"
    calibration: Calibration = SquaredError()
    weight_calibration: Calibration = SquaredError()
    bias_calibration: Calibration = Sigma(deviations=10.0)
    """Of biases in fixed point: as the Wave team's, who had such."""
    fold: bool = True


def _weights(bits: int) -> Integer:
    return Integer(bits=bits, scale="channel")


def _inputs(bits: int) -> Integer:
    return Integer(bits=bits, scale="tensor", signed=False, zero_point=True)


_ENDS = tuple(FormatRule(layers=kind, weights=_weights(8), inputs=_inputs(8)) for kind in ("stem", "classifier"))


def _depthwise(bits: int) -> FormatRule:
    """Depthwise weights are few and sensitive."""
    return FormatRule(layers="depthwise", weights=_weights(bits))


def _integers(bits: int, *rules: FormatRule) -> PresetFormats:
    """Integers everywhere: 16-bit ones between the layers."""
    return PresetFormats(weights=_weights(bits), inputs=_inputs(bits), rules=rules, arithmetic="integer")


PRESETS: dict[str, PresetFormats] = {
    "fixed-9-12": PresetFormats(
        weights=Fixed(bits=9),
        inputs=Fixed(bits=12),
        bias=Fixed(bits=9),
        calibration=MinMax(),
        fold=False,
    ),
    "int8": _integers(8),
    "int6": _integers(6, *_ENDS, _depthwise(8)),
    "int4": _integers(4, *_ENDS, _depthwise(6)),
    "half": PresetFormats(weights=Float16(), inputs=Float16()),
    "binary": PresetFormats(weights=Binary(scale="channel"), inputs=_inputs(8), rules=_ENDS),
}
"""fixed-9-12: the Wave team's widths and their first entry's norms, which stay: folded into weights, they spread the
channels too far for one exponent. Its ranges are found as below; theirs (sigma, 18 and 10 deviations) lose .4 points
more on KAIST's network. int8: all of 8 bits. int6, int4: weights and inputs of so many bits, first and last layer 8,
depthwise weights 8 and 6. These three compute in integers alone; the others are float16 outside the sums. half:
everything really in float16. binary: weights of one bit with a scale a channel (BinaryConnect when trained), inputs,
first and last layer of 8 bits."""
