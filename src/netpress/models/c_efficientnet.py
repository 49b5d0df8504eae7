"""C-EfficientNet: the 2nd and 3rd place of the CIFAR-100 track, NeurIPS 2019 MicroNet Challenge.

Kim, Kim and Yun, "Efficient Model for Image Classification With Regularization Tricks",
PMLR 123:13-26, and the code and weights that the team released. MobileNetV2 blocks with
one expansion ratio everywhere, squeeze-and-excitation at the end of each, hard-swish.

Paper and code differ, and so do these settings: `widths` "v1" and "v2" are the released
networks (v1 is also what the paper's figures are for), "paper" is what its Table 1 prints.
At stride 2 the code computes the squeeze-and-excitation gate and throws it away;
`released = true` does the same, so that their weights load and their operations count.
Otherwise the gate is used in every block, as the paper's text and figure say.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import nn

from netpress.models.blocks import ConvNorm, head, initialize, zero_bias
from netpress.models.inverted_residual import InvertedResidual
from netpress.models.registry import Factor, ModelSettings, register_family
from netpress.settings import Fraction, OpenFraction, Share


@dataclass(frozen=True)
class Stage:
    """`blocks` blocks of `width` output channels, the first of which has `stride`."""

    width: int
    blocks: int
    stride: int = 1


@dataclass(frozen=True)
class Widths:
    """A table of the network: the stem, then stages."""

    stem: int
    stem_stride: int
    stages: tuple[Stage, ...]


def _published(widths: tuple[int, ...], blocks: tuple[int, ...]) -> Widths:
    strides = (1, 2, 1, 2, 2, 1, 1)
    return Widths(32, 1, tuple(Stage(*row) for row in zip(widths, blocks, strides, strict=True)))


WIDTHS = {
    "v1": _published((16, 32, 48, 72, 80, 88, 106), (2, 2, 3, 5, 1, 2, 1)),
    "v2": _published((20, 36, 56, 80, 88, 96, 114), (2, 2, 3, 5, 1, 2, 1)),
    "paper": _published((20, 36, 56, 80, 88, 96, 114), (2, 3, 3, 5, 1, 2, 1)),
    "tiny": Widths(16, 2, (Stage(16, 1), Stage(24, 2, 2), Stage(40, 2, 2), Stage(64, 1))),
    "micro": Widths(8, 1, (Stage(16, 3, 2), Stage(32, 5, 2), Stage(48, 1, 2))),
}


class CEfficientNetSettings(ModelSettings):
    """C-EfficientNet (KAIST, 2nd and 3rd place of 2019): inverted residuals, hard-swish, gates on the output."""

    widths: Literal["v1", "v2", "paper", "tiny", "micro"] = "v1"
    """Table of widths and block counts; tiny and micro are ours, for small trials and small machines."""
    expansion: Factor = 3.0
    """Channels inside a block as a multiple of its input's (the paper's i)."""
    width_factor: Factor = 1.0
    """Multiplies every width of the table, rounded to whole channels."""
    depth_factor: Factor = 1.0
    """Multiplies the number of stride-1 blocks of every stage, rounded up."""
    dropout: Share = 0.3
    """Probability that a feature is dropped before the classifier, in training."""
    squeeze_ratio: Fraction = 0.25
    """Channels inside squeeze-and-excitation as a part of the block's output; 0 leaves it out."""
    downsample: Literal["plain", "shortcut"] = "plain"
    """At stride 2: a 3x3 depthwise kernel without shortcut (code), or a 2x2 one with a 1x1 shortcut (figure)."""
    downsample_gate: bool = True
    """Whether blocks of stride 2 have squeeze-and-excitation too."""
    released: bool = False
    """As in the released weights: at stride 2 the gate is there and computed, but not applied."""
    norm_momentum: OpenFraction = 0.01
    """How far each step moves the norms' running statistics (the paper's average decay of .99); more for short runs."""
    init: Literal["he_out", "orthogonal", "trained_scale"] = "he_out"
    """First weights: as their code, as the paper (semi-orthogonal by QR), or scaled like their converged nets."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.released and (self.downsample != "plain" or not self.downsample_gate or not self.squeeze_ratio):
            raise ValueError(
                "released = true goes with downsample = 'plain', downsample_gate = true and a squeeze_ratio above 0"
            )
        table = WIDTHS[self.widths]
        halvings = [table.stem_stride, *(stage.stride for stage in table.stages)].count(2)
        if self.downsample == "shortcut" and self.image_size % 2**halvings:
            # The 2x2 kernel drops an odd last row that the shortcut keeps.
            raise ValueError(f"downsample = 'shortcut' needs an image_size that is a multiple of {2**halvings}")
        return self


def _block(inputs: int, outputs: int, stride: int, settings: CEfficientNetSettings) -> InvertedResidual:
    """A block as the code has it, or, with downsample = "shortcut", as the figure draws it at stride 2."""
    even_kernel = stride == 2 and settings.downsample == "shortcut"
    shortcut: nn.Module | None = None
    if stride == 1 and inputs == outputs:
        shortcut = nn.Identity()
    elif stride == 1 or even_kernel:
        shortcut = ConvNorm(inputs, outputs, stride=stride, momentum=settings.norm_momentum)
    gated = settings.squeeze_ratio and (stride == 1 or settings.downsample_gate)
    return InvertedResidual(
        inputs,
        max(1, int(settings.expansion * inputs)),
        outputs,
        activation=nn.Hardswish,
        kernel=2 if even_kernel else 3,
        stride=stride,
        padding=0 if even_kernel else 1,
        squeezed=max(1, int(settings.squeeze_ratio * outputs)) if gated else 0,
        gated="nothing" if settings.released and stride == 2 else "output",
        momentum=settings.norm_momentum,
        shortcut=shortcut,
    )


class CEfficientNet(nn.Sequential):
    """[batch, channels, height, width] -> logits [batch, classes]."""

    def __init__(self, settings: CEfficientNetSettings) -> None:
        table = WIDTHS[settings.widths]

        def scale(width: int) -> int:
            return max(1, round(width * settings.width_factor))

        channels = scale(table.stem)
        stem = ConvNorm(
            settings.channels,
            channels,
            3,
            stride=table.stem_stride,
            momentum=settings.norm_momentum,
            activation=nn.Hardswish(),
        )
        blocks: list[nn.Module] = []
        for stage in table.stages:
            down = stage.stride - 1  # how many blocks of the stage reduce the resolution: 0 or 1
            repeats = down + math.ceil((stage.blocks - down) * settings.depth_factor)
            for index in range(repeats):
                outputs = scale(stage.width)
                blocks.append(_block(channels, outputs, stage.stride if index == 0 else 1, settings))
                channels = outputs
        last = head(channels, settings.classes, dropout=settings.dropout)
        super().__init__(OrderedDict(stem=stem, blocks=nn.Sequential(*blocks), **last))


def initialize_as_told(module: nn.Module, settings: CEfficientNetSettings, generator: torch.Generator) -> None:
    """Set the first weights in place, as `settings.init` says."""
    initialize(module, generator, classifier_std=0.01)
    if settings.init == "orthogonal":
        initialize_orthogonal(module, generator)
    elif settings.init == "trained_scale":
        initialize_trained_scale(module, generator)


def initialize_orthogonal(module: nn.Module, generator: torch.Generator) -> None:
    """Make every weight that is a matrix semi-orthogonal: all its singular values 1 (section 3.1 of the paper).

    A normal matrix, transposed if it is wider than tall, is factored by QR; Q, with signs such that it is uniformly
    distributed, becomes the weight, and the bias 0. Matrices are the 1x1 convolutions, those of
    squeeze-and-excitation included, and the classifier: what the orthogonality regularizer can act on. The stem and
    the depthwise kernels are no matrices between channels and keep their initialization; a norm follows each, so
    their scale has no effect.
    """
    for layer in module.modules():
        pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
        if pointwise or isinstance(layer, nn.Linear):
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            nn.init.orthogonal_(layer.weight, generator=generator)
            zero_bias(layer)


def initialize_trained_scale(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the blocks' convolutions at the scale that the team found in its converged networks.

    Standard deviations of their code: expand .65/sqrt(in), depthwise 9.37*sqrt(2/C), project 1.18/sqrt(in).
    (In the released weights the first and third hold; depthwise kernels are nearer to .34 whatever C is.
    Their own routine, by an error, never ran.) All other layers keep their initialization.
    """
    for block in module.modules():
        if isinstance(block, InvertedResidual):
            assert block.expand is not None
            expand, depthwise, project = block.expand.conv, block.depthwise.conv, block.project.conv
            nn.init.normal_(expand.weight, 0.0, 0.65 / math.sqrt(expand.in_channels), generator=generator)
            nn.init.normal_(depthwise.weight, 0.0, 9.37 * math.sqrt(2 / depthwise.in_channels), generator=generator)
            nn.init.normal_(project.weight, 0.0, 1.18 / math.sqrt(project.in_channels), generator=generator)


PRESETS = {
    "v1": {"widths": "v1", "expansion": 3.0},
    "v2": {"widths": "v2", "expansion": 2.5},
    "paper": {"widths": "paper", "expansion": 3.0, "downsample": "shortcut", "init": "orthogonal"},
    "released-v1": {"widths": "v1", "expansion": 3.0, "released": True},
    "released-v2": {"widths": "v2", "expansion": 2.5, "released": True},
    "tiny": {"widths": "tiny", "expansion": 3.0, "dropout": 0.1, "norm_momentum": 0.1},
    "micro": {"widths": "micro", "expansion": 3.0, "dropout": 0.0, "squeeze_ratio": 0.0, "norm_momentum": 0.1},
}

register_family("c_efficientnet", CEfficientNetSettings, CEfficientNet, PRESETS, initialize_as_told)
