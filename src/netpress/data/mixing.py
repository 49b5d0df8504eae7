"""Mixing two images of a batch and their labels: CutMix and mixup."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from netpress.settings import Fraction, Settings, between


class MixSettings(Settings):
    """Whether and how the images of a training batch are mixed."""

    kind: Literal["none", "cutmix", "mixup"] = "none"
    """`cutmix` pastes a box of one image into another (Yun et al. 2019), `mixup` averages both (Zhang et al. 2018)."""

    alpha: Annotated[float, between(0.001, 1000)] = 1.0
    """The share of the first image is drawn from Beta(alpha, alpha); 1 is uniform."""

    probability: Fraction = 1.0
    """How likely a batch is mixed at all."""


@dataclass(frozen=True)
class Mixed:
    """The two labels of every image of a mixed batch; the loss is weight * L(a) + (1 - weight) * L(b)."""

    labels_a: Tensor  # int64 [batch]
    labels_b: Tensor  # int64 [batch]
    weight: float


def mix(images: Tensor, labels: Tensor, settings: MixSettings, generator: torch.Generator) -> tuple[Tensor, Mixed]:
    """Mix a batch with a permutation of itself: one share and one box for the whole batch.

    images: float [batch, channels, height, width], unchanged; labels: int64 [batch].
    CutMix cuts a box of the area 1 - share around a uniform centre, clips it to the image
    and takes the weight from the pixels that stay (Yun et al. 2019, algorithm A1).
    """
    unmixed = images, Mixed(labels, labels, 1.0)
    if settings.kind == "none":
        return unmixed
    # numpy draws from Beta; torch has no Beta that takes a generator.
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    draw = np.random.default_rng(seed)
    if draw.random() >= settings.probability:
        return unmixed
    share = float(draw.beta(settings.alpha, settings.alpha))
    partner = torch.from_numpy(draw.permutation(len(labels))).to(images.device)
    if settings.kind == "mixup":
        return torch.lerp(images[partner], images, share), Mixed(labels, labels[partner], share)
    height, width = images.shape[2:]
    top, bottom = _cut(height, share, int(draw.integers(height)))
    left, right = _cut(width, share, int(draw.integers(width)))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right][partner]
    weight = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, Mixed(labels, labels[partner], weight)


def _cut(length: int, share: float, centre: int) -> tuple[int, int]:
    half = int(length * math.sqrt(1 - share)) // 2
    return max(0, centre - half), min(length, centre + half)
