"""Progressive resizing: smaller images at first, the network's own at the end."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from test_training_resume import make_context, make_network
from torch import nn

from netpress.data import shrink
from netpress.errors import UserError
from netpress.network import Architecture, InputSpec, Network
from netpress.settings import SettingsError, parse
from netpress.training import TrainSettings, run_training
from netpress.training.checks import check_training
from netpress.training.position import Position
from netpress.training.step import TrainingStep


def _settings(**values) -> TrainSettings:
    return parse(TrainSettings, {"epochs": 2, "batch_size": 8, "augment": {"crop": 0, "flip": False}} | values)


def _sizes(settings: TrainSettings, steps: int) -> list[int | None]:
    """The size of each step of a training."""
    position, seen = Position(settings, steps), []
    while not position.is_over:
        for position.step in range(steps):
            seen.append(position.size)
        position.end_epoch(position.is_last_epoch)
    return seen


def test_each_size_has_an_equal_share_of_the_steps_and_they_come_in_order():
    seen = _sizes(_settings(epochs=4, sizes=[16, 24, 32]), 9)
    assert seen == [16] * 12 + [24] * 12 + [32] * 12
    assert Counter(_sizes(_settings(epochs=1, sizes=[16, 32, 32]), 10)) == {16: 4, 32: 6}


def test_every_round_begins_small_again():
    assert _sizes(_settings(epochs=3, rounds=2, sizes=[16, 32]), 2) == [16, 16, 32, 32, 16, 32]
    assert set(_sizes(_settings(), 3)) == {None}


def test_images_are_reduced_as_pillow_reduces_them():
    pixels = torch.randint(0, 256, (2, 3, 24, 36), generator=torch.Generator().manual_seed(1))
    reduced = shrink(pixels.float(), 8)
    assert reduced.shape == (2, 3, 8, 12)
    for image, small in zip(pixels, reduced, strict=True):
        for channel, found in zip(image, small, strict=True):
            picture = Image.fromarray(channel.numpy().astype(np.float32))
            expected = np.asarray(picture.resize((12, 8), Image.Resampling.BILINEAR))
            np.testing.assert_allclose(found.numpy(), expected, atol=0.01)


@pytest.mark.parametrize("size", [None, 24, 30])
def test_images_are_never_enlarged(size):
    pixels = torch.rand(1, 3, 24, 36)
    assert shrink(pixels, size) is pixels


def test_a_training_shows_these_sizes_and_is_measured_at_its_own(tmp_path, monkeypatch):
    sides, prepare = [], TrainingStep.prepare

    def watched(self, *arguments):
        pixels, mixed = prepare(self, *arguments)
        sides.append(pixels.shape[-1])
        return pixels, mixed

    monkeypatch.setattr(TrainingStep, "prepare", watched)
    context = make_context(tmp_path)
    trained = run_training(make_network(), _settings(sizes=[3, 6]), context)
    steps = -(-len(context.data.train) // 8)
    assert sides == [3] * steps + [6] * steps
    assert trained.network.input.size == (3, 6, 6)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"sizes: 7 pixels; the network's own images have 6"):
        check_training(make_network(), _settings(sizes=[7]))
    with pytest.raises(SettingsError, match="sizes"):
        _settings(sizes=[0])
    spec = InputSpec(3, 6, 6, (0.5,) * 3, (0.25,) * 3)
    flat = Network(nn.Sequential(nn.Flatten(), nn.Linear(108, 4)), Architecture("none", {}), spec, tuple("abcd"))
    with pytest.raises(UserError, match=r"sizes: the network cannot take images of 4 pixels \(.*shapes"):
        check_training(flat, _settings(sizes=[4, 6]))
    rows = Network(nn.Flatten(), Architecture("none", {}), spec, tuple("abcd"))
    with pytest.raises(UserError, match=r"makes \[1, 48\], not one row of logits"):
        check_training(rows, _settings(sizes=[4]))
