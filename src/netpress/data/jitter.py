"""Colour jitter: brightness, contrast and saturation of each image times random factors, in random order."""

from typing import Annotated, Self

import torch
from pydantic import model_validator
from torch import Tensor

from netpress.data.operations import luma
from netpress.settings import Settings, between

Strength = Annotated[float, between(0, 10)]


class JitterSettings(Settings):
    """How far the colours of each image go; v draws a factor evenly from 1 - v (at least 0) to 1 + v."""

    brightness: Strength = 0.0
    """Of the distance to black; 0: not."""

    contrast: Strength = 0.0
    """Of the distance to the mean of the grey image; 0: not."""

    saturation: Strength = 0.0
    """Of the distance to the grey image; 0: not."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.strengths:
            raise ValueError("jitter changes nothing: give brightness, contrast or saturation above 0")
        return self

    @property
    def strengths(self) -> dict[str, float]:
        """Those above 0."""
        return {name: value for name, value in self.model_dump().items() if value > 0}


def jitter(images: Tensor, settings: JitterSettings, generator: torch.Generator) -> Tensor:
    """Change the colours of a batch: uint8 [batch, 1 or 3, height, width], unchanged; same shape back.

    Each image draws its factors and their order. All numbers are drawn on the generator's device.
    """
    kinds, factors = draw_jitter(len(images), settings, generator)
    return run_jitter(images, list(settings.strengths), kinds.to(images.device), factors.to(images.device))


def draw_jitter(batch: int, settings: JitterSettings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What each image goes through: kinds int64 and factors float32, both [batch, changes], in order.

    A kind is a place in the list of `settings.strengths`.
    """
    strengths = torch.tensor(list(settings.strengths.values()), dtype=torch.float64, device=generator.device)
    shape = (2, batch, len(strengths))
    uniform, keys = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
    low = (1 - strengths).clamp(min=0)
    factors = low + uniform * (1 + strengths - low)
    kinds = keys.argsort(1)
    return kinds, factors.gather(1, kinds).float()


def run_jitter(images: Tensor, names: list[str], kinds: Tensor, factors: Tensor) -> Tensor:
    """Change colours as Pillow's ImageEnhance does, one change after the other, each cut off to uint8.

    kinds, factors: [batch, changes], on the images' device; a kind is a place in `names`.
    """
    values = images.float()
    for place in range(kinds.shape[1]):
        other = _other(values, names, kinds[:, place].view(-1, 1, 1, 1))
        # In float32 and this order, as Pillow's blend: other + factor * (value - other).
        values = (values - other).mul_(factors[:, place].view(-1, 1, 1, 1)).add_(other).clamp_(0, 255).floor_()
    return values.to(torch.uint8)


def _other(values: Tensor, names: list[str], kinds: Tensor) -> Tensor:
    """What each image is blended with: black, its mean grey, rounded, or its grey image; [batch, 1, height, width]."""
    grey = luma(values)
    other = torch.zeros_like(grey)
    if "contrast" in names:
        mean = grey.mean((1, 2, 3), keepdim=True, dtype=torch.float64).add_(0.5).floor_().float()
        other = torch.where(kinds == names.index("contrast"), mean, other)
    if "saturation" in names:
        other = torch.where(kinds == names.index("saturation"), grey, other)
    return other
