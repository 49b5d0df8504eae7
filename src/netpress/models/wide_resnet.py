"""Wide residual networks: 28-10 is the baseline of the CIFAR-100 track, which every score is relative to.

Zagoruyko and Komodakis (arXiv 1605.07146): pre-activation blocks of two 3x3 convolutions.
"""

from collections import OrderedDict
from typing import Self

from pydantic import model_validator
from torch import Tensor, nn

from netpress.models.blocks import head
from netpress.models.registry import ModelSettings, register_family
from netpress.settings import Count, Share


class WideResNetSettings(ModelSettings):
    """Wide ResNet (28-10: the baseline of the CIFAR-100 track; 40-2): few wide pre-activation blocks."""

    depth: Count = 28
    """Layers: 6n + 4, for n blocks in each of three stages."""
    width: Count = 10
    """Multiplies the channels 16, 32 and 64 of the three stages."""
    dropout: Share = 0.0
    """Probability that a value between the two convolutions of a block is dropped, in training."""

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if (self.depth - 4) % 6 or self.depth < 10:
            raise ValueError(f"depth = {self.depth} is not 6n + 4 with n at least 1, such as 16, 28 or 40")
        return self


class Block(nn.Module):
    """[batch, inputs, h, w] -> [batch, outputs, h/stride, w/stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.norm1(x))
        y = self.relu2(self.norm2(self.conv1(active)))
        y = self.conv2(self.dropout(y))
        return y + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Sequential):
    """[batch, channels, height, width] -> logits [batch, classes]."""

    def __init__(self, settings: WideResNetSettings) -> None:
        channels = 16
        stem = nn.Conv2d(settings.channels, channels, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for stage in range(3):
            outputs = 16 * settings.width * 2**stage
            for index in range((settings.depth - 4) // 6):
                stride = 2 if stage and index == 0 else 1
                blocks.append(Block(channels, outputs, stride, settings.dropout))
                channels = outputs
        last = head(channels, settings.classes, norm=True)
        super().__init__(OrderedDict(stem=stem, blocks=nn.Sequential(*blocks), **last))


PRESETS = {"28-10": {"depth": 28, "width": 10}, "40-2": {"depth": 40, "width": 2}}

register_family("wide_resnet", WideResNetSettings, WideResNet, PRESETS)
