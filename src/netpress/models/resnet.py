"""ResNet-18 for 32x32: the network that IMT's CIFAR-10 score is relative to.

He et al. (arXiv 1512.03385), with the stem that small images need: 3x3, stride 1, no pooling.
"""

from collections import OrderedDict
from typing import Annotated, Self

from pydantic import model_validator
from torch import Tensor, nn

from netpress.models.blocks import ConvNorm, head
from netpress.models.registry import Classes, ModelSettings, register_family
from netpress.settings import Count, at_most


class ResNetSettings(ModelSettings):
    """ResNet for 32x32 (18: the baseline of IMT's CIFAR-10 score): basic blocks of two 3x3 convolutions."""

    classes: Classes = 10
    """How many classes the network tells apart: the length of its output."""
    width: Count = 64
    """Channels of the first stage; each later stage doubles them."""
    blocks: tuple[Count, ...] = (2, 2, 2, 2)
    """Blocks in each stage; every stage but the first halves the resolution."""
    stem_stride: Annotated[Count, at_most(8)] = 1
    """Stride of the first convolution: 2 computes all that follows on half the resolution, a quarter of the pixels."""

    @model_validator(mode="after")
    def _has_blocks(self) -> Self:
        if not self.blocks:
            raise ValueError("blocks is empty: a ResNet has at least one stage")
        return self


class Block(nn.Module):
    """[batch, inputs, h, w] -> [batch, outputs, h/stride, w/stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, 3, stride=stride, activation=nn.ReLU())
        self.second = ConvNorm(outputs, outputs, 3)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = ConvNorm(inputs, outputs, stride=stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return self.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Sequential):
    """[batch, channels, height, width] -> logits [batch, classes]."""

    def __init__(self, settings: ResNetSettings) -> None:
        channels = settings.width
        stem = ConvNorm(settings.channels, channels, 3, stride=settings.stem_stride, activation=nn.ReLU())
        blocks: list[nn.Module] = []
        for stage, count in enumerate(settings.blocks):
            outputs = settings.width * 2**stage
            for index in range(count):
                blocks.append(Block(channels, outputs, 2 if stage and index == 0 else 1))
                channels = outputs
        last = head(channels, settings.classes)
        super().__init__(OrderedDict(stem=stem, blocks=nn.Sequential(*blocks), **last))


PRESETS = {"18": {"blocks": [2, 2, 2, 2]}}

register_family("resnet", ResNetSettings, ResNet, PRESETS)
