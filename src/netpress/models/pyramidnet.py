"""PyramidNet with ShakeDrop: the network that Wave Computing compressed in 2019 (272 layers, alpha 200).

Han, Kim and Kim, "Deep Pyramidal Residual Networks" (arXiv 1610.02915): the width grows by
the same amount at every block, and shortcuts are padded with zero channels. Yamada et al.,
"ShakeDrop Regularization" (arXiv 1802.02375), disturbs the residual branches in training.
"""

import math
from collections import OrderedDict
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from netpress.models.blocks import head
from netpress.models.registry import ModelSettings, register_family
from netpress.settings import Count, NonNegative, Share

EXPANSION = 4  # output channels of a bottleneck as a multiple of its inner ones
CONVOLUTIONS = 3  # of a bottleneck
STAGES = 3


class PyramidNetSettings(ModelSettings):
    """PyramidNet with bottlenecks and ShakeDrop (Wave Computing 2019: 272): width grows at every block."""

    depth: Count = 272
    """Layers: 9n + 2, for n bottlenecks in each of three stages."""
    alpha: NonNegative = 200.0
    """Channels, before the expansion by 4, that are added over the whole network to the 16 of the stem."""
    shakedrop: Share = 0.5
    """Probability at the last block that its branch is disturbed in training; it grows linearly from the first."""

    @model_validator(mode="after")
    def _whole_bottlenecks(self) -> Self:
        if (self.depth - 2) % (STAGES * CONVOLUTIONS) or self.depth < 11:
            raise ValueError(f"depth = {self.depth} is not 9n + 2 with n at least 1, such as 110, 164 or 272")
        return self


class ShakeDrop(nn.Module):
    """In training, with probability `rate`, a block's branch is scaled by noise, backward by other noise.

    Each forward pass draws one gate for the batch. Open (1 - rate): the branch passes. Shut: image by image it is
    multiplied by alpha ~ U(-1, 1) forward, and its gradient by an independent beta ~ U(0, 1). In evaluation
    the branch is multiplied by its expected factor, 1 - rate (equation 6 of the paper).
    Like `nn.Dropout`, it draws from torch's default generator, which the training loop seeds at every step.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1.0 - self.rate)
        forward, backward = self.draw(x)
        shaken = x * backward
        return shaken + (x * forward - shaken).detach()  # the value of x * forward, the gradient of x * backward

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What each image of x [batch, ...] is multiplied with, and its gradient: [batch, 1, 1, 1] both."""
        shape = (x.shape[0], 1, 1, 1)
        shut = (torch.rand((), device=x.device) < self.rate).to(x.dtype)
        alpha = torch.empty(shape, device=x.device, dtype=x.dtype).uniform_(-1.0, 1.0)
        beta = torch.empty(shape, device=x.device, dtype=x.dtype).uniform_(0.0, 1.0)
        return 1.0 + shut * (alpha - 1.0), 1.0 + shut * (beta - 1.0)  # 1 where open, alpha and beta where shut

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4f}"


class Bottleneck(nn.Module):
    """[batch, inputs, h, w] -> [batch, 4 * inside, h/stride, w/stride]; its shortcut gets zero channels."""

    def __init__(self, inputs: int, inside: int, stride: int, rate: float) -> None:
        super().__init__()
        outputs = inside * EXPANSION
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, inside, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inside)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(inside, inside, 3, stride, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(inside)
        self.relu3 = nn.ReLU()
        self.conv3 = nn.Conv2d(inside, outputs, 1, bias=False)
        self.norm4 = nn.BatchNorm2d(outputs)
        self.shakedrop = ShakeDrop(rate)
        self.downsample = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else None
        self.added_channels = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.norm1(x))
        y = self.conv2(self.relu2(self.norm2(y)))
        y = self.norm4(self.conv3(self.relu3(self.norm3(y))))
        shortcut = x if self.downsample is None else self.downsample(x)
        if self.added_channels:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.added_channels))
        return self.shakedrop(y) + shortcut


class PyramidNet(nn.Sequential):
    """[batch, channels, height, width] -> logits [batch, classes]."""

    def __init__(self, settings: PyramidNetSettings) -> None:
        per_stage = (settings.depth - 2) // (STAGES * CONVOLUTIONS)
        total = STAGES * per_stage
        channels = 16
        stem = nn.Conv2d(settings.channels, channels, 3, padding=1, bias=False)
        stem_norm = nn.BatchNorm2d(channels)
        blocks: list[nn.Module] = []
        for index in range(total):
            inside = math.floor(16 + settings.alpha * (index + 1) / total + 0.5)
            stride = 2 if index and index % per_stage == 0 else 1
            blocks.append(Bottleneck(channels, inside, stride, settings.shakedrop * (index + 1) / total))
            channels = inside * EXPANSION
        last = head(channels, settings.classes, norm=True)
        super().__init__(OrderedDict(stem=stem, stem_norm=stem_norm, blocks=nn.Sequential(*blocks), **last))


PRESETS = {
    "272": {"depth": 272, "alpha": 200.0},
    "110": {"depth": 110, "alpha": 84.0},
}

register_family("pyramidnet", PyramidNetSettings, PyramidNet, PRESETS)
