"""DenseNet-BC for 32x32: the CIFAR-10 system of IMT Atlantique (2022), and the 2019 winner's network.

Huang et al., "Densely Connected Convolutional Networks" (arXiv 1608.06993). A bottleneck
is norm, ReLU, 1x1 to 4 x growth, norm, ReLU, 3x3 to growth, and its output is
concatenated to its input; between blocks a transition halves channels and resolution.
IMT scales four blocks by growth rate (cifar 12, small 9, tiny 6, nano 4); DenseNet-BC-100-12,
which won the CIFAR-100 track, has three blocks of 16.
"""

from collections import OrderedDict
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, model_validator
from torch import Tensor, nn

from netpress.errors import UserError
from netpress.models.blocks import head
from netpress.models.registry import Classes, Factor, ModelSettings, register_family
from netpress.settings import Count

Place = Literal["stem", "bottleneck1", "bottleneck2", "transition"]


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class DenseNetSettings(ModelSettings):
    """DenseNet-BC (IMT 2022: cifar, small, tiny, nano; 2019 winner: bc-100-12): concatenated bottlenecks."""

    classes: Classes = 10
    """How many classes the network tells apart: the length of its output."""
    growth: Count = 12
    """Channels that each bottleneck adds."""
    blocks: tuple[Count, ...] = (6, 12, 24, 16)
    """Bottlenecks in each dense block."""
    bottleneck: Count = 4
    """Channels between the two convolutions of a bottleneck, as a multiple of the growth."""
    reduction: Factor = 0.5
    """Channels after a transition as a part of those before."""
    groups: Count = 1
    """Groups of the convolutions at the places named by `grouped`."""
    grouped: Annotated[tuple[Place, ...], BeforeValidator(_as_tuple)] = ()
    """Where `groups` applies: stem, bottleneck1 (the 1x1), bottleneck2 (the 3x3), transition."""

    @model_validator(mode="after")
    def _groups_have_a_place(self) -> Self:
        if self.groups > 1 and not self.grouped:
            raise ValueError(f"groups = {self.groups}, but grouped names no place")
        if not self.blocks:
            raise ValueError("blocks is empty: a DenseNet has at least one dense block")
        return self

    def groups_at(self, place: Place) -> int:
        """Groups of the convolutions at `place`."""
        return self.groups if place in self.grouped else 1


def _convolution(inputs: int, outputs: int, kernel: int, place: Place, settings: DenseNetSettings) -> nn.Conv2d:
    groups = settings.groups_at(place)
    if inputs % groups or outputs % groups:
        *fewer, most = [str(count) for count in range(1, inputs + 1) if inputs % count == outputs % count == 0]
        possible = f"{', '.join(fewer)} or {most}" if fewer else most
        raise UserError(
            f"densenet: the {place} convolution of {inputs} to {outputs} channels cannot have {groups} groups, "
            f"only {possible}"
        )
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


class Bottleneck(nn.Module):
    """[batch, inputs, h, w] -> [batch, growth + inputs, h, w]: what is new stands first."""

    def __init__(self, inputs: int, settings: DenseNetSettings) -> None:
        super().__init__()
        inside = settings.bottleneck * settings.growth
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = _convolution(inputs, inside, 1, "bottleneck1", settings)
        self.norm2 = nn.BatchNorm2d(inside)
        self.relu2 = nn.ReLU()
        self.conv2 = _convolution(inside, settings.growth, 3, "bottleneck2", settings)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu1(self.norm1(x)))
        y = self.conv2(self.relu2(self.norm2(y)))
        return torch.cat([y, x], 1)


class Transition(nn.Module):
    """[batch, inputs, h, w] -> [batch, outputs, h/2, w/2]."""

    def __init__(self, inputs: int, outputs: int, settings: DenseNetSettings) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.conv = _convolution(inputs, outputs, 1, "transition", settings)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(self.relu(self.norm(x))))


class DenseNet(nn.Sequential):
    """[batch, channels, height, width] -> logits [batch, classes]."""

    def __init__(self, settings: DenseNetSettings) -> None:
        channels = 2 * settings.growth
        stem = _convolution(settings.channels, channels, 3, "stem", settings)
        parts: list[nn.Module] = []
        for index, count in enumerate(settings.blocks):
            if index:
                outputs = max(1, int(channels * settings.reduction))
                parts.append(Transition(channels, outputs, settings))
                channels = outputs
            for _ in range(count):
                parts.append(Bottleneck(channels, settings))
                channels += settings.growth
        last = head(channels, settings.classes, norm=True)
        super().__init__(OrderedDict(stem=stem, blocks=nn.Sequential(*parts), **last))


PRESETS: dict[str, dict[str, Any]] = {
    "cifar": {"growth": 12},
    "small": {"growth": 9},
    "tiny": {"growth": 6},
    "nano": {"growth": 4},
    "bc-100-12": {"growth": 12, "blocks": [16, 16, 16], "classes": 100},
}

register_family("densenet", DenseNetSettings, DenseNet, PRESETS)
