"""Images that come again, and teachers that are asked before the training."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_answers import KEPT, _Case, _same, asked
from test_training_resume import make_dataset
from torch import nn

from netpress.network import Network, create, save
from netpress.settings import SettingsError, parse
from netpress.training import TrainSettings
from netpress.training.ahead import ask_ahead
from netpress.training.batching import epoch_batches
from netpress.training.position import Position

__all__ = ["asked"]  # a fixture


def test_images_that_come_again_are_asked_about_once(tmp_path, asked):
    case = _Case(tmp_path)
    again = {**KEPT, "epochs": 5, "rounds": 2, "repeat_after": 2}
    weights = case.train(again)
    assert len(case.names) == 2 + 1  # and the accuracy
    assert "3 epochs read, 2 asked" in case.heard
    assert not _same(weights, case.train({**again, "repeat_after": None}))
    once = _Case(tmp_path / "once")
    once.train({**KEPT, "repeat_after": 1})
    assert len(once.names) == 1 + 1
    context = once.context(tmp_path / "batches", True, None)
    settings = parse(TrainSettings, again)
    position, seen = Position(settings, 5), []
    while not position.is_over:
        seen.append([batch.tolist() for batch in epoch_batches(settings, context, position.drawn)])
        position.end_epoch(position.is_last_epoch)
    assert seen[0] == seen[2] == seen[4] and seen[1] == seen[3] and seen[0] != seen[1]


def test_images_whose_sizes_change_do_not_come_again():
    with pytest.raises(SettingsError, match="repeat_after: images whose sizes change"):
        parse(TrainSettings, {"repeat_after": 2, "sizes": [16, 32]})


def test_teachers_asked_ahead_leave_the_training_its_bits(tmp_path, asked):
    spec = {"width": 4, "classes": 4, "image_size": 8}
    names = [str(tmp_path / f"{seed}.netpress") for seed in (1, 2)]
    for seed, name in enumerate(names):
        save(create("resnet", spec, classes=tuple("abcd"), seed=seed), Path(name))
    data = make_dataset()
    parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    large = {name: replace(part, images=nn.functional.pad(part.images, (1, 1, 1, 1))) for name, part in parts.items()}
    wide = replace(data, **large)
    values = {**KEPT, "distillation": {**KEPT["distillation"], "teachers": names}}

    def student() -> Network:
        return create("resnet", spec, classes=tuple("abcd"), mean=(0.5,) * 3, seed=9)

    expected = _Case(tmp_path / "plain").train(values, student=student(), dataset=wide, kept=False)
    case = _Case(tmp_path / "ahead")
    context = case.context(tmp_path / "ahead" / "asked", True, wide)
    assert ask_ahead(student(), parse(TrainSettings, values), context) == 3
    assert len(case.names) == 3 * 2
    assert ask_ahead(student(), parse(TrainSettings, values), context) == 0
    asked.clear()
    assert _same(case.train(values, student=student(), dataset=wide), expected)
    assert sum(asked) == 2 * len(wide.validation)  # only how good they are
    assert "6 epochs read, 0 asked" in case.heard
