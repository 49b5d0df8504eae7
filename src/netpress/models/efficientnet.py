"""EfficientNet at 32x32, as the UCI and Qualcomm team shaped it in 2019, and the published B0 for 224x224.

Tan and Le, "EfficientNet" (arXiv 1905.11946). For 32x32 the team keeps the stem and all
but two stages at stride 1, scales width and depth down as well as up (`ex`: .8 and .8,
`exx`: .8 and .7), gives the projections a bias, and ends in a cosine head: 200 features
of length 1, compared with one learned direction a class.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from torch import nn

from netpress.models.blocks import ConvNorm, CosineLinear, Normalize, head, round_channels, same_padding
from netpress.models.inverted_residual import InvertedResidual
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


def _same_conv_norm(inputs: int, outputs: int, kernel: int, stride: int, size: int) -> ConvNorm:
    """Convolution, norm and swish, padded as TensorFlow pads an input of `size` x `size`."""
    padding = same_padding(size, kernel, stride)
    return ConvNorm(inputs, outputs, kernel, stride=stride, padding=padding, momentum=MOMENTUM, activation=nn.SiLU())


def _blocks(channels: int, size: int, settings: EfficientNetSettings) -> Iterator[InvertedResidual]:
    """All blocks, for images of `size` x `size` with `channels` channels."""
    repeats = [math.ceil(settings.depth * blocks) for _, _, blocks, _ in STAGES]
    made = 0
    for (expansion, width, _, kernel), first_stride, count in zip(STAGES, settings.strides, repeats, strict=True):
        outputs = round_channels(width * settings.width)
        for index in range(count):
            stride = first_stride if index == 0 else 1
            growth = made / sum(repeats) if settings.drop_connect_growth == "linear" else 1.0
            residual = stride == 1 and channels == outputs
            yield InvertedResidual(
                channels,
                channels * expansion,
                outputs,
                activation=nn.SiLU,
                widens=expansion > 1,
                kernel=kernel,
                stride=stride,
                padding=same_padding(size, kernel, stride),
                squeezed=max(1, channels // 4),
                gated="inside",
                project_bias=settings.project_bias,
                momentum=MOMENTUM,
                shortcut=nn.Identity() if residual else None,
                drop_connect=settings.drop_connect * growth if residual else 0.0,
            )
            made += 1
            channels, size = outputs, math.ceil(size / stride)


class EfficientNet(nn.Sequential):
    """[batch, channels, height, width] -> [batch, classes]: logits, or cosines in [-1, 1]."""

    def __init__(self, settings: EfficientNetSettings) -> None:
        channels, size = round_channels(WIDTH_OF_STEM * settings.width), settings.image_size
        stem = _same_conv_norm(settings.channels, channels, 3, settings.stem_stride, size)
        blocks = list(_blocks(channels, math.ceil(size / settings.stem_stride), settings))
        features = round_channels(WIDTH_OF_HEAD * settings.width)
        outputs = blocks[-1].project.conv.out_channels
        widest = ConvNorm(outputs, features, momentum=MOMENTUM, activation=nn.SiLU())
        last = head(features, settings.classes, classifier=_classifier(features, settings))
        super().__init__(OrderedDict(stem=stem, blocks=nn.Sequential(*blocks), head=widest, **last))


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

register_family("efficientnet", EfficientNetSettings, EfficientNet, PRESETS)
