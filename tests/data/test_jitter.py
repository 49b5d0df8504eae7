"""Colour jitter: every image against Pillow's ImageEnhance, and what is drawn."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from test_policies import real_images
from torch import Tensor

from netpress.data import AugmentSettings, augment
from netpress.data.jitter import JitterSettings, draw_jitter, jitter, run_jitter
from netpress.settings import SettingsError, parse

ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_pillow(image: Tensor, names: list[str], kinds: list[int], factors: list[float]) -> Tensor:
    grey = len(image) == 1
    pixels = image[0] if grey else image.permute(1, 2, 0)
    changed = Image.fromarray(pixels.contiguous().numpy())
    for kind, factor in zip(kinds, factors, strict=True):
        changed = ENHANCERS[names[kind]](changed).enhance(factor)
    result = torch.from_numpy(np.array(changed))
    return result[None] if grey else result.permute(2, 0, 1)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(
    "strengths",
    [
        {"brightness": 0.2, "contrast": 0.2},
        {"brightness": 0.4, "contrast": 0.4},
        {"contrast": 3.0},
        {"brightness": 1.5, "contrast": 0.8, "saturation": 2.0},
    ],
)
def test_every_image_equals_pillow(strengths: dict[str, float], channels: int) -> None:
    images = real_images(400)[:, :channels]
    before = images.clone()
    settings = JitterSettings(**strengths)
    names = list(strengths)
    kinds, factors = draw_jitter(len(images), settings, seeded(3))
    changed = run_jitter(images, names, kinds, factors)
    assert torch.equal(images, before)
    rows = zip(images, kinds.tolist(), factors.tolist(), strict=True)
    assert torch.equal(changed, torch.stack([with_pillow(image, names, *drawn) for image, *drawn in rows]))
    assert torch.equal(jitter(images, settings, seeded(3)), changed)


def test_factors_are_even_and_orders_equally_likely() -> None:
    settings = JitterSettings(brightness=0.4, contrast=2.0, saturation=0.1)
    kinds, factors = draw_jitter(12000, settings, seeded())
    orders, counts = kinds.unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert 1800 < int(counts.min()) <= int(counts.max()) < 2200
    for kind, (low, high) in enumerate([(0.6, 1.4), (0.0, 3.0), (0.9, 1.1)]):
        shares = np.histogram(factors[kinds == kind].double().numpy(), bins=10, range=(low, high))[0] / 12000
        assert shares.sum() == pytest.approx(1, abs=2e-4)  # none outside, but for float32's rounding at the ends
        assert np.abs(shares - 0.1).max() < 0.015


def test_equal_seeds_give_equal_images_and_others_do_not() -> None:
    images = real_images(50)
    settings = AugmentSettings(jitter=JitterSettings(brightness=0.4), crop=0, flip=False)
    assert torch.equal(augment(images, settings, seeded(1)), jitter(images, settings.jitter, seeded(1)))  # type: ignore[arg-type]
    assert not torch.equal(augment(images, settings, seeded(1)), augment(images, settings, seeded(2)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"augment\.jitter: jitter changes nothing: give brightness"),
        ({"contrast": -0.1}, r"augment\.jitter\.contrast: -0\.1 is not between 0 and 10"),
        ({"hue": 0.1}, r"augment\.jitter\.hue: no such setting"),
    ],
)
def test_wrong_jitter_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse(AugmentSettings, {"jitter": values}, "augment")
