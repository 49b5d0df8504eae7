"""Resized crop: every image against Pillow, and what is drawn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_policies import real_images
from torch import Tensor

from netpress.data import AugmentSettings, augment
from netpress.data.resized_crop import ResizedCropSettings, crop_resized, draw_boxes, resize_boxes
from netpress.settings import SettingsError, parse

UCI = ResizedCropSettings(scale=(0.3, 1.0), ratio=(0.8, 1.2))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_pillow(image: Tensor, box: tuple[int, ...], cut_first: bool = True) -> Tensor:
    """Pillow's resize of a part: cut out first, or with its pixels' neighbours outside."""
    left, top, width, height = box
    edges = (left, top, left + width, top + height)
    whole = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    if cut_first:
        changed = whole.crop(edges).resize(whole.size, Image.Resampling.BILINEAR)
    else:
        changed = whole.resize(whole.size, Image.Resampling.BILINEAR, box=edges)
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)


def test_every_image_equals_pillow() -> None:
    images = real_images(600)
    before = images.clone()
    boxes = draw_boxes(len(images), 32, 32, UCI, seeded(4))
    changed = crop_resized(images, UCI, seeded(4))
    assert torch.equal(images, before)
    expected = [with_pillow(image, tuple(box)) for image, box in zip(images, boxes.tolist(), strict=True)]
    assert torch.equal(changed, torch.stack(expected))


def test_pillows_box_differs_at_the_edge_alone() -> None:
    """With `box`, Pillow also looks at the neighbours outside the part: at most half a pixel of it at each edge."""
    images = real_images(200)
    boxes = draw_boxes(len(images), 32, 32, UCI, seeded(4))
    changed = resize_boxes(images, boxes)
    found = 0
    for image, box, ours in zip(images, boxes.tolist(), changed, strict=True):
        differs = (ours != with_pillow(image, tuple(box), cut_first=False)).any(0)
        edges = [math.ceil(16 / length) for length in box[2:]]  # columns and rows that lie within half an old pixel
        assert not differs[edges[1] : 32 - edges[1], edges[0] : 32 - edges[0]].any()
        found += bool(differs.any())
    assert found > 100


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_part_of_any_image_equals_pillow(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    wide, high = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    box = (data.draw(st.integers(0, width - wide)), data.draw(st.integers(0, height - high)), wide, high)
    image = torch.randint(256, (1, 3, height, width), dtype=torch.uint8, generator=seeded(wide))
    assert torch.equal(resize_boxes(image, torch.tensor([box]))[0], with_pillow(image[0], box))


def test_parts_have_the_areas_and_ratios_asked_for() -> None:
    left, top, width, height = draw_boxes(20000, 200, 200, UCI, seeded()).double().unbind(1)
    assert bool(((left >= 0) & (top >= 0) & (left + width <= 200) & (top + height <= 200)).all())
    share, ratio = width * height / 40000, (width / height).log()
    assert float(share.min()) > 0.29 and float(share.max()) <= 1
    # No ratio is refused below a share of 1 / 1.25, where its longer side fits. Shares are even there, ratios on a
    # logarithmic scale.
    small = share < 0.75
    assert np.abs(np.histogram(share[small], bins=5, range=(0.3, 0.75))[0] / int(small.sum()) - 0.2).max() < 0.015
    low, high = math.log(0.8), math.log(1.2)
    assert np.abs(np.histogram(ratio[small], bins=5, range=(low, high))[0] / int(small.sum()) - 0.2).max() < 0.015
    room = 200 - width[small]
    place = left[small][room > 40] / room[room > 40]
    assert float(place.min()) == 0 and float(place.max()) == 1
    assert float(place.mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("size", "ratio", "box"),
    [
        ((10, 40), (0.5, 1.0), (15, 0, 10, 10)),  # wider than any ratio allows: its middle
        ((40, 10), (0.5, 1.0), (0, 10, 10, 20)),
        ((10, 40), (4.5, 5.0), (0, 0, 40, 9)),
    ],
)
def test_where_nothing_fits_the_centre_is_taken(
    size: tuple[int, int], ratio: tuple[float, float], box: tuple[int, ...]
) -> None:
    everything = ResizedCropSettings(scale=(1.0, 1.0), ratio=ratio)
    boxes = draw_boxes(30, *size, everything, seeded())
    assert torch.equal(boxes, torch.tensor(box).expand(30, 4))


def test_equal_seeds_give_equal_images_and_others_do_not() -> None:
    images = real_images(50)
    chosen = AugmentSettings(resized_crop=UCI, crop=0, flip=False)
    assert torch.equal(augment(images, chosen, seeded(1)), crop_resized(images, UCI, seeded(1)))
    assert not torch.equal(augment(images, chosen, seeded(1)), augment(images, chosen, seeded(2)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": [0.5, 0.3]}, r"augment\.resized_crop: scale: 0\.5 is above 0\.3"),
        ({"ratio": [1.5, 0.5]}, r"augment\.resized_crop: ratio: 1\.5 is above 0\.5"),
        ({"scale": [0, 1]}, r"augment\.resized_crop\.scale\.0: 0\.0 is not above 0"),
        ({"scale": [0.5, 1.1]}, r"augment\.resized_crop\.scale\.1: 1\.1 is not at most 1"),
        ({"ratio": [0.5]}, r"augment\.resized_crop\.ratio"),
    ],
)
def test_wrong_crops_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse(AugmentSettings, {"resized_crop": values}, "augment")
