"""Crop, flip, cutout and mixing: every result is one of the possible ones, and all of them occur."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.data import AugmentSettings, MixSettings, augment, mix


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=seeded(seed))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 3), st.booleans(), st.integers(4, 9), st.integers(4, 9), st.sampled_from([1, 3]), st.integers(0, 99)
)
def test_crops_are_windows_of_the_padded_image(
    padding: int, flip: bool, height: int, width: int, channels: int, seed: int
) -> None:
    images = random_images(6, channels, height, width, seed=seed)
    before = images.clone()
    changed = augment(images, AugmentSettings(crop=padding, flip=flip, fill=9), seeded(seed))
    assert torch.equal(images, before)
    padded = torch.nn.functional.pad(images, (padding,) * 4, value=9)
    for place in range(6):
        windows = [
            padded[place, :, y : y + height, x : x + width]
            for y, x in itertools.product(range(2 * padding + 1), repeat=2)
        ]
        possible = windows + [window.flip(2) for window in windows] if flip else windows
        assert any(torch.equal(changed[place], window) for window in possible)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.booleans(), st.integers(4, 9), st.integers(4, 9), st.integers(0, 99))
def test_reflected_crops_are_windows_of_what_torch_pads(
    padding: int, flip: bool, height: int, width: int, seed: int
) -> None:
    images = random_images(6, 3, height, width, seed=seed)
    changed = augment(images, AugmentSettings(crop=padding, flip=flip, fill="reflect"), seeded(seed))
    padded = torch.nn.functional.pad(images.float(), (padding,) * 4, mode="reflect").to(torch.uint8)
    for place in range(6):
        windows = [
            padded[place, :, y : y + height, x : x + width]
            for y, x in itertools.product(range(2 * padding + 1), repeat=2)
        ]
        possible = windows + [window.flip(2) for window in windows] if flip else windows
        assert any(torch.equal(changed[place], window) for window in possible)


def test_an_image_smaller_than_its_padding_is_reflected_again_and_again() -> None:
    image = torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8).expand(200, -1, -1, -1)  # one pixel high
    changed = augment(image, AugmentSettings(crop=7, flip=False, fill="reflect"), seeded())
    wave = [10, 20, 30, 20] * 8  # each place of the wave, as often as it goes on
    rows = {tuple(row.flatten().tolist()) for row in changed}
    assert rows == {tuple(wave[start : start + 3]) for start in range(4)}


def test_all_windows_and_both_sides_occur_evenly() -> None:
    image = torch.arange(25, dtype=torch.uint8).view(1, 1, 5, 5)
    changed = augment(image.expand(9000, -1, -1, -1), AugmentSettings(crop=1, fill=200), seeded())
    kinds, counts = changed.unique(dim=0, return_counts=True)
    assert len(kinds) == 18  # 9 windows, either side
    assert counts.min() > 400
    assert counts.max() < 600


def test_cutout_fills_one_clipped_square() -> None:
    images = random_images(500, 3, 12, 10) // 2
    changed = augment(images, AugmentSettings(crop=0, flip=False, cutout=6, cutout_fill=250), seeded())
    filled = (changed == 250).all(1)  # [batch, height, width]
    assert torch.equal(changed.masked_fill(filled[:, None], 0), images.masked_fill(filled[:, None], 0))
    rows, columns = filled.any(2).sum(1), filled.any(1).sum(1)
    assert torch.equal(filled.sum((1, 2)), rows * columns)
    assert (int(rows.min()), int(rows.max())) == (3, 6)  # at the border at least half remains
    assert (int(columns.min()), int(columns.max())) == (3, 6)


def test_nothing_asked_changes_nothing() -> None:
    images = random_images(4, 3, 8, 8)
    assert torch.equal(augment(images, AugmentSettings(crop=0, flip=False), seeded()), images)


def test_images_draw_alike_from_equal_generators() -> None:
    images = random_images(40, 3, 8, 8)
    chosen = AugmentSettings(cutout=3)
    assert torch.equal(augment(images, chosen, seeded(5)), augment(images, chosen, seeded(5)))
    assert not torch.equal(augment(images, chosen, seeded(5)), augment(images, chosen, seeded(6)))


@pytest.mark.parametrize("seed", range(12))
def test_cutmix_weight_is_the_share_of_own_pixels(seed: int) -> None:
    labels = torch.arange(16)
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 3, 9, 7).contiguous()
    before = images.clone()
    mixed, told = mix(images, labels, MixSettings(kind="cutmix"), seeded(seed))
    assert torch.equal(images, before)
    assert torch.equal(told.labels_a, labels)
    assert torch.equal(told.labels_b.sort().values, labels)
    for place in range(16):
        own, other = mixed[place] == labels[place], mixed[place] == told.labels_b[place]
        assert bool((own | other).all())
        if told.labels_b[place] != place:
            assert own.float().mean().item() == pytest.approx(told.weight)


def test_cutmix_weights_spread_as_beta() -> None:
    images, labels = torch.zeros(2, 1, 32, 32), torch.arange(2)
    generator = seeded()
    weights = [mix(images, labels, MixSettings(kind="cutmix"), generator)[1].weight for _ in range(400)]
    assert min(weights) < 0.25
    assert max(weights) > 0.95
    # Boxes clipped at the border leave more than the drawn mean of a half.
    assert 0.55 < sum(weights) / 400 < 0.75


def test_mixup_blends_images_and_says_the_share() -> None:
    images, labels = torch.rand(8, 3, 4, 4, generator=seeded()), torch.arange(8)
    mixed, told = mix(images, labels, MixSettings(kind="mixup", alpha=0.4), seeded(3))
    expected = told.weight * images + (1 - told.weight) * images[told.labels_b]
    assert torch.allclose(mixed, expected, atol=1e-6)


def test_mixing_keeps_channels_last() -> None:
    images = torch.rand(8, 3, 4, 4).to(memory_format=torch.channels_last)
    for kind in ("cutmix", "mixup"):
        mixed, _ = mix(images, torch.arange(8), MixSettings(kind=kind), seeded())
        assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_probability_and_none() -> None:
    images, labels = torch.rand(4, 3, 4, 4, generator=seeded()), torch.arange(4)
    generator = seeded()
    mixed = [mix(images, labels, MixSettings(kind="mixup", probability=0.3), generator)[1] for _ in range(500)]
    assert 0.22 < sum(told.weight != 1.0 for told in mixed) / 500 < 0.38
    same, told = mix(images, labels, MixSettings(), generator)
    assert torch.equal(same, images)
    assert told.weight == 1.0
