"""EfficientNet at 32x32, as the UCI and Qualcomm team shaped it in 2019, and the published B0 for 224x224.

Tan and Le, "EfficientNet" (arXiv 1905.11946). For 32x32 the team keeps the stem and all
but two stages at stride 1, scales width and depth down as well as up (`ex`: .8 and .8,
`exx`: .8 and .7), gives the projections a bias, and ends in a cosine head: 200 features
of length 1, compared with one learned direction a class.
"""

import math
from collections import OrderedDict
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from netpress.models.blocks import (
    ConvNorm,
    CosineLinear,
    DropConnect,
    Normalize,
    SqueezeExcite,
    initialize_he_out,
    round_channels,
)
from netpress.models.registry import Factor, ModelSettings, register_family
from netpress.settings import Count, Share

MOMENTUM = 0.01  # of the norms' running statistics
WIDTH_OF_STEM, WIDTH_OF_HEAD = 32, 1280
# Expansion, channels, blocks and kernel of each stage of B0 (Table 1 of the paper).
STAGES = (
    (1, 16, 1, 3),
    (6, 24, 2, 3),
    (6, 40, 2, 5),
    (6, 80, 3, 3),
    (6, 112, 3, 5),
    (6, 192, 4, 5),
    (6, 320, 1, 3),
)


def _seven_strides(strides: tuple[int, ...]) -> tuple[int, ...]:
    if len(strides) != len(STAGES):
        raise ValueError(f"{len(strides)} strides, but there are {len(STAGES)} stages")
    return strides


class EfficientNetSettings(ModelSettings):
    """EfficientNet (UCI 2019 at 32x32: b0, b3, ex, exx; the published B0 at 224x224): inverted residuals, swish."""

    width: Factor = 1.0
    """Multiplies the channels of every stage; they are rounded to multiples of 8."""
    depth: Factor = 1.0
    """Multiplies the number of blocks of every stage, rounded up."""
    stem_stride: Literal[1, 2] = 1
    """Stride of the first convolution."""
    strides: Annotated[tuple[Literal[1, 2], ...], AfterValidator(_seven_strides)] = (1, 1, 2, 1, 1, 2, 1)
    """Stride of the first block of each of the seven stages."""
    head: Literal["cosine", "linear"] = "cosine"
    """Cosines between 200 normalized features and the classes, or dropout and a linear layer."""
    cosine_features: Count = 200
    """Features that the cosine head compares."""
    dropout: Share = 0.2
    """Probability that a feature is dropped before a linear head, in training; the cosine head has none."""
    drop_connect: Share = 0.2
    """Probability that a block's residual branch is dropped, in training."""
    drop_connect_growth: Literal["constant", "linear"] = "constant"
    """The same probability in every block (UCI), or from 0 in the first towards it (the published network)."""
    project_bias: bool = True
    """Whether the projections have a bias although a norm follows (UCI's have, the published network's have not)."""


class Block(nn.Module):
    """[batch, inputs, h, w] -> [batch, outputs, h/stride, w/stride]: expand, depthwise, gate, project, add."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        expansion: int,
        kernel: int,
        stride: int,
        size: int,
        drop_connect: float,
        settings: EfficientNetSettings,
    ) -> None:
        super().__init__()
        inside = inputs * expansion
        self.expand = ConvNorm(inputs, inside, momentum=MOMENTUM, activation=nn.SiLU()) if expansion > 1 else None
        self.depthwise = same_conv_norm(inside, inside, kernel, stride, size, groups=inside)
        self.squeeze_excite = SqueezeExcite(inside, max(1, inputs // 4), nn.SiLU())
        self.project = ConvNorm(inside, outputs, bias=settings.project_bias, momentum=MOMENTUM)
        self.residual = stride == 1 and inputs == outputs
        self.drop_connect = DropConnect(drop_connect) if self.residual and drop_connect else None

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.depthwise(y)
        y = self.project(y * self.squeeze_excite(y))
        if not self.residual:
            return y
        if self.drop_connect is not None:
            y = self.drop_connect(y)
        return y + x


def same_conv_norm(inputs: int, outputs: int, kernel: int, stride: int, size: int, groups: int = 1) -> nn.Sequential:
    """Convolution, norm and swish with TensorFlow's "same" padding for an input of `size` x `size`.

    TensorFlow pads by what the last window needs, and the odd one goes right and below: at stride 2 on an
    even size that is one less at the left. A padding that is equal on both sides is left to the convolution.
    """
    needed = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    before, after = needed // 2, needed - needed // 2
    block = ConvNorm(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=before if before == after else 0,
        groups=groups,
        momentum=MOMENTUM,
        activation=nn.SiLU(),
    )
    if before != after:
        padding: dict[str, nn.Module] = {"pad": nn.ZeroPad2d((before, after, before, after))}
        return nn.Sequential(OrderedDict(padding | dict(block.named_children())))
    return block


class EfficientNet(nn.Module):
    """[batch, channels, height, width] -> [batch, classes]: logits, or cosines in [-1, 1]."""

    def __init__(self, settings: EfficientNetSettings) -> None:
        super().__init__()
        channels = round_channels(WIDTH_OF_STEM * settings.width)
        size = settings.image_size
        self.stem = same_conv_norm(settings.channels, channels, 3, settings.stem_stride, size)
        size = math.ceil(size / settings.stem_stride)
        repeats = [math.ceil(settings.depth * blocks) for _, _, blocks, _ in STAGES]
        rows: list[nn.Module] = []
        for (expansion, width, _, kernel), stride, count in zip(STAGES, settings.strides, repeats, strict=True):
            outputs = round_channels(width * settings.width)
            for index in range(count):
                growth = len(rows) / sum(repeats) if settings.drop_connect_growth == "linear" else 1.0
                step = stride if index == 0 else 1
                drop = settings.drop_connect * growth
                rows.append(Block(channels, outputs, expansion, kernel, step, size, drop, settings))
                channels, size = outputs, math.ceil(size / step)
        self.blocks = nn.Sequential(*rows)
        features = round_channels(WIDTH_OF_HEAD * settings.width)
        self.head = ConvNorm(channels, features, momentum=MOMENTUM, activation=nn.SiLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = _classifier(features, settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.pool(self.head(self.blocks(self.stem(x))))))


def _classifier(features: int, settings: EfficientNetSettings) -> nn.Sequential:
    if settings.head == "linear":
        linear = nn.Linear(features, settings.classes)
        return nn.Sequential(OrderedDict(dropout=nn.Dropout(settings.dropout), linear=linear))
    return nn.Sequential(
        OrderedDict(
            embed=nn.Linear(features, settings.cosine_features),
            normalize=Normalize(),
            cosine=CosineLinear(settings.cosine_features, settings.classes),
        )
    )


def initialize(module: nn.Module, settings: EfficientNetSettings, generator: torch.Generator) -> None:
    """Set the first weights in place, as the team's code does."""
    initialize_he_out(module, generator)


PRESETS: dict[str, dict[str, Any]] = {
    "b0": {"width": 1.0, "depth": 1.0},
    "b3": {"width": 1.2, "depth": 1.4, "dropout": 0.3},
    "ex": {"width": 0.8, "depth": 0.8, "dropout": 0.0, "drop_connect": 0.0},
    "exx": {"width": 0.8, "depth": 0.7, "dropout": 0.0, "drop_connect": 0.0},
    "b0-224": {
        "classes": 1000,
        "image_size": 224,
        "stem_stride": 2,
        "strides": [1, 2, 2, 2, 1, 2, 1],
        "head": "linear",
        "drop_connect_growth": "linear",
        "project_bias": False,
    },
}

register_family("efficientnet", EfficientNetSettings, EfficientNet, initialize, PRESETS)
