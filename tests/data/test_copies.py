"""Copies of the data: each image goes through the transforms of its own copy, and settings say so once."""

import tomllib
from typing import Any

import pytest
import torch
from test_policies import real_images

from netpress.data import AugmentSettings, augment
from netpress.recipe.schema import check_recipe
from netpress.settings import SettingsError, parse

PLAIN = {"crop": 0, "flip": False}
TWO: list[dict[str, Any]] = [
    {"jitter": {"brightness": 0.2, "contrast": 0.2}, "crop": 0},
    {"jitter": {"brightness": 0.4}, "resized_crop": {"scale": [0.3, 1], "ratio": [0.8, 1.2]}, "crop": 0},
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_image_goes_through_its_own_copy() -> None:
    black, same, small = PLAIN | {"cutout": 100, "cutout_fill": 0}, PLAIN, PLAIN | {"cutout": 1, "cutout_fill": 9}
    settings = parse(AugmentSettings, {"copies": [black, same, small]})
    assert settings.passes == 3
    images = torch.full((30, 3, 8, 8), 200, dtype=torch.uint8)
    copy = torch.randint(3, (30,), generator=seeded(5))
    changed = augment(images, settings, seeded(), copy)
    assert bool((images == 200).all())
    filled = (changed != 200).flatten(1).sum(1)
    assert bool((changed[copy == 0].flatten(1) == 0).sum(1).ge(3 * 16).all())
    assert bool((filled[copy == 1] == 0).all())
    assert bool((filled[copy == 2] == 3).all())
    assert bool((changed[copy == 2].flatten(1) == 9).sum(1).eq(3).all())


def test_a_copy_is_changed_as_its_table_alone_would() -> None:
    settings = parse(AugmentSettings, {"copies": TWO})
    images = real_images(40)
    for number, table in enumerate(TWO):
        copy = torch.full((40,), number)
        alone = augment(images, parse(AugmentSettings, table), seeded(3))
        assert torch.equal(augment(images, settings, seeded(3), copy), alone)
    copy = torch.arange(40) % 2
    assert torch.equal(augment(images, settings, seeded(1), copy), augment(images, settings, seeded(1), copy))
    with pytest.raises(ValueError, match="which copy"):
        augment(images, settings, seeded())


def test_transforms_run_in_the_order_of_the_settings() -> None:
    """Jitter before the stretch, the stretch before the crop's border, which so keeps its value."""
    images = torch.full((64, 3, 8, 8), 100, dtype=torch.uint8)
    settings = parse(
        AugmentSettings, {"jitter": {"brightness": 0.5}, "resized_crop": {}, "crop": 3, "fill": 7, "flip": False}
    )
    changed = augment(images, settings, seeded())
    inner = changed[:, :, 3:5, 3:5]
    assert bool((inner == inner[:, :1, :1, :1]).all())  # a plain image stays plain
    assert len(inner[:, 0, 0, 0].unique()) > 20 and bool(((changed == inner[:, :, :1, :1]) | (changed == 7)).all())
    assert bool((changed == 7).any())


def test_a_recipe_keeps_its_copies_when_it_is_written_and_read_again() -> None:
    values: dict[str, Any] = {
        "name": "two",
        "model": {"family": "pyramidnet"},
        "stages": [{"kind": "train", "epochs": 1, "augment": {"copies": TWO}}],
    }
    recipe = check_recipe(values)
    read = check_recipe(tomllib.loads(recipe.text))
    assert read == recipe and read.text == recipe.text
    again = read.stages[0].augment  # type: ignore[attr-defined]
    assert again.model_dump().keys() == {"copies"}
    assert [part.crop for part in again.parts.values()] == [0, 0]
    assert list(again.parts) == ["copies.0.", "copies.1."]
    assert again.copies[1].resized_crop.ratio == (0.8, 1.2)


def test_settings_without_copies_are_written_as_before() -> None:
    """A training compares them with those in its saved state, which may be an older version's."""
    assert list(AugmentSettings().model_dump(mode="json")) == [
        *("policy", "combine", "rand_operations", "rand_level", "crop", "fill", "flip", "cutout", "cutout_fill")
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"copies": TWO, "flip": True, "crop": 0},
            "augment: copies: each has settings of its own; put crop, flip into the copies",
        ),
        (
            {"copies": TWO, "policy": ["trivial", "rand"], "combine": "copies"},
            "augment: copies: each has settings of its own; put combine, policy into the copies",
        ),
        ({"copies": TWO[:1]}, "augment: copies: 2 to 100 tables, not 1"),
        ({"copies": []}, "augment: copies: 2 to 100 tables, not 0"),
        ({"copies": [*TWO, {"copies": TWO}]}, "augment: copies.2: holds copies itself; list them all in one place"),
        (
            {"copies": [{"policy": ["rand", "trivial"], "combine": "copies"}, {}]},
            "augment: copies.0: holds copies itself; list them all in one place",
        ),
        ({"copies": [{}, {"crop": -1}]}, "augment.copies.1.crop: -1 is not between 0 and 1024"),
        ({"copies": [{}, {"zoom": 1}]}, "augment.copies.1.zoom: no such setting"),
    ],
)
def test_wrong_copies_are_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse(AugmentSettings, values, "augment")
    assert error.value.problems == [message]
