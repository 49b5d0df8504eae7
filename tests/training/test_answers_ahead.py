"""Images that come again, and teachers that are asked before the training."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_answers import KEPT, _Case, _same, asked
from test_training_resume import make_dataset, make_network
from torch import nn

from netpress.errors import Failure
from netpress.folders.answers import AnswersFolder
from netpress.network import Network, create, save
from netpress.settings import SettingsError, parse
from netpress.training import MeanTeacher, TrainSettings
from netpress.training.ahead import ask_ahead
from netpress.training.answers import KeptAnswers
from netpress.training.batching import epoch_batches, epoch_images
from netpress.training.position import Position
from netpress.training.step import StepRandomness
from netpress.training.train import _new_epochs

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


def test_noise_in_the_network_does_not_come_again_with_the_images(tmp_path):
    seeds: list[tuple[int, ...]] = []

    class Noticed(StepRandomness):
        def seed_global(self) -> None:
            images = self.generator("augment").initial_seed(), self.generator("mix").initial_seed()
            seeds.append((*images, self.module_seed, self.generator("srip").initial_seed()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("netpress.training.loop.StepRandomness", Noticed)
        _Case(tmp_path).train({**KEPT, "epochs": 2, "batch_size": 40, "repeat_after": 1})
    first, second = seeds
    assert first[:2] == second[:2] and first[2] != second[2] and first[3] != second[3]


def test_interrupted_in_an_epoch_that_comes_again_the_next_ones_are_kept(tmp_path, asked):
    case = _Case(tmp_path)
    settings = parse(TrainSettings, {**KEPT, "repeat_after": 1, "batch_size": 10})
    context = case.context(tmp_path / "run", True, None)
    position = Position(settings, 4)
    teacher = MeanTeacher([case.options["teacher"]], make_network().input)
    kept = KeptAnswers(teacher, make_network(), settings, context, position, 40, "float32")
    position.step = 1  # where it went on
    images, counts = context.data.train.images.float(), []
    for _ in range(3):
        while position.step < 4:
            teacher(images[10 * position.step : 10 * position.step + 10])
            position.step += 1
        position.end_epoch(round_is_over=False)
        counts.append(len(asked))
    assert counts == [3, 7, 7] and len(case.names) == 1 and kept.read == 0


def test_images_are_counted_as_the_batches_have_them(tmp_path):
    for size in (1, 3, 12, 13, 39, 40, 41):
        settings, context = (
            parse(TrainSettings, {**KEPT, "batch_size": size}),
            _Case(tmp_path).context(tmp_path, False, None),
        )
        batches = epoch_batches(settings, context, (0, 0))
        assert sum(map(len, batches)) == epoch_images(settings, context)


def test_a_plan_counts_what_comes_again_once():
    settings = parse(TrainSettings, {"epochs": 50, "rounds": 5, "repeat_after": 12})
    assert [_new_epochs(settings, index) for index in range(5)] == [10, 2, 0, 0, 0]


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
    small = replace(context, answers=AnswersFolder(tmp_path / "small", 3 * 500))
    assert ask_ahead(student(), parse(TrainSettings, values), small) == 1  # then there is no room
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match="cannot be written"):
        ask_ahead(
            student(), parse(TrainSettings, values), replace(context, answers=AnswersFolder(tmp_path / "file", 10**6))
        )
    asked.clear()
    assert _same(case.train(values, student=student(), dataset=wide), expected)
    assert sum(asked) == 2 * len(wide.validation)  # only how good they are
    assert "6 epochs read, 0 asked" in case.heard
