"""Contact sheets: where each image lies, and how large they are."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from netpress.data.sheets import SIDES, SMALLEST, choose_size, draw_sheet


def images(count: int, channels: int = 3, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


def read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_lies_in_its_place_as_it_is(channels):
    shown = images(5, channels)
    sheet = read(draw_sheet(shown, columns=2, side=8)).reshape(24, 16, channels)
    for place, image in enumerate(shown):
        row, column = divmod(place, 2)
        tile = sheet[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
        assert np.array_equal(tile, image.permute(1, 2, 0).numpy())
    assert not sheet[16:, 8:].any()  # the last row is not full


def test_images_of_other_channels_are_shown_in_grey():
    shown = torch.tensor([10, 21], dtype=torch.uint8).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    assert (read(draw_sheet(shown, 1, 4)) == 16).all()  # 15.5, rounded to even


def test_large_images_are_shown_smaller():
    shown = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    shown[:, 0, :, 32:] = 200
    sheet = read(draw_sheet(shown, 1, 16))
    assert sheet.shape == (16, 16, 3)
    assert sheet[:, :7, 0].max() == 0 and (sheet[:, 9:, 0] == 200).all() and sheet[..., 1:].max() == 0


@pytest.mark.parametrize(("classes", "side"), [(2, 8), (10, 32), (5, 128), (100, 32)])
def test_a_sheet_takes_about_what_it_may(classes, side):
    """Noise, which no file makes smaller: other images take less."""
    budget = 400_000
    sample = images(20, side=side)
    shown, columns = choose_size(sample, classes, budget)
    assert shown <= side and (shown, columns) in [(min(most, side), count) for most, count in (*SIDES, SMALLEST)]
    everything = sample[torch.arange(classes * columns) % len(sample)]
    assert len(draw_sheet(everything, columns, shown)) <= 1.05 * budget
    if (shown, columns) != (min(96, side), 8):  # more would not have fitted
        larger = draw_sheet(sample[torch.arange(classes * 8) % len(sample)], 8, min(96, side))
        assert len(larger) > budget


def test_too_many_rows_get_the_smallest():
    assert choose_size(images(4, side=32), 10_000, 1000) == SMALLEST
