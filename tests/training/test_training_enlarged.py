"""A training on two copies of the data: every image under each, counted in the plan, and the same bits after a stop."""

from pathlib import Path
from typing import Any

import pytest
from test_training_resume import (
    Interruption,
    Points,
    assert_same,
    make_context,
    make_network,
    read_lines,
    train_in,
)

from netpress.errors import UserError
from netpress.settings import parse
from netpress.stage import Outlook
from netpress.training import TrainSettings, plan, run_training
from netpress.training.step import TrainingStep

TWO: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 16,
    "augment": {
        "copies": [
            {"jitter": {"brightness": 0.2, "contrast": 0.2}, "crop": 0},
            {"jitter": {"brightness": 0.4, "contrast": 0.4}, "resized_crop": {"scale": [0.3, 1.0]}, "crop": 0},
        ]
    },
}


def test_an_epoch_passes_over_every_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    prepare = TrainingStep.prepare
    monkeypatch.setattr(TrainingStep, "prepare", lambda *a: (shown.extend(a[1].tolist()), prepare(*a))[1])
    train_in(tmp_path, TWO)
    assert len(read_lines(tmp_path)) == 2
    assert sorted(shown[:80]) == sorted(shown[80:]) == list(range(80))  # 40 images, twice, in each of two epochs
    assert shown[:80] != shown[80:]
    assert plan(Outlook(make_network()), parse(TrainSettings, TWO)).rows[0]["passes"] == 4


def test_a_training_on_copies_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = Points(monkeypatch)
    points.begin()
    expected = train_in(tmp_path / "whole", TWO)
    count = points.passed
    assert count > 30
    for fatal in range(3, count, count // 6):
        points.begin(fatal)
        with pytest.raises(Interruption):
            train_in(tmp_path / f"{fatal}", TWO)
        points.begin()
        assert_same(train_in(tmp_path / f"{fatal}", TWO), expected)
        assert read_lines(tmp_path / f"{fatal}") == read_lines(tmp_path / "whole")


def test_what_does_not_fit_names_its_copy(tmp_path: Path) -> None:
    large = TWO | {"augment": {"copies": [{"crop": 1}, {"crop": 6}]}}
    with pytest.raises(UserError, match=r"augment\.copies\.1\.crop: 6 pixels around images of 6"):
        run_training(make_network(), parse(TrainSettings, large), make_context(tmp_path))
    missing = TWO | {"augment": {"copies": [{"crop": 1}, {"crop": 1, "policy": str(tmp_path / "none.json")}]}}
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        plan(Outlook(make_network()), parse(TrainSettings, missing))
