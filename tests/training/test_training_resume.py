"""A training interrupted anywhere and started again gives the same bits as one that never was."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netpress.data import Dataset, Images
from netpress.network import Architecture, InputSpec, Network
from netpress.process.console import Console
from netpress.process.world import World
from netpress.settings import parse
from netpress.stage import Context
from netpress.training import TrainSettings, loop, run_training
from netpress.training.keeping import KeptWeights
from netpress.training.losses.adaptive import AdaptiveLoss
from netpress.training.optimizers import Optimizer
from netpress.training.position import EpochFigures
from netpress.training.step import TrainingStep

pytestmark = pytest.mark.slow

TIMES = {"seconds", "images_per_second"}

EVERYTHING: dict[str, Any] = {
    "epochs": 4,
    "rounds": 2,
    "batch_size": 16,
    "sizes": [3, 4, 6],
    "schedule": {"kind": "cosine", "per": "step", "warmup": 0.5},
    "loss": {"kind": "adaptive_label_smoothing"},
    "orthogonality": {"coefficient": 0.1},
    "augment": {"crop": 1, "flip": True, "cutout": 2},
    "mix": {"kind": "cutmix"},
    "average": {"decay": 0.9},
    "clip_norm": 1.0,
    "keep": "best",
}
PLAIN: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 24,
    "optimizer": {"kind": "adamw"},
    "mix": {"kind": "mixup", "probability": 0.5},
    "evaluate_every": 2,
}


def make_dataset(count: int = 40) -> Dataset:
    """Four classes of noisy 6x6 images that differ in colour."""
    generator = torch.Generator().manual_seed(7)

    def draw(count: int) -> Images:
        labels = torch.arange(count) % 4
        colours = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [160, 160, 160]])
        noise = torch.randint(-50, 50, (count, 3, 6, 6), generator=generator)
        return Images((colours[labels][:, :, None, None] + noise).clamp(0, 255).byte(), labels)

    return Dataset("colours", draw(count), draw(20), draw(20), tuple("abcd"), (0.5,) * 3, (0.25,) * 3, "none")


def make_network(masked: bool = True) -> Network:
    """A net with a norm, a dropout, a 1x1 convolution, and half of that convolution's weights masked."""
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.Conv2d(8, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(8, 4),
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=generator)
            elif parameter is not module[1].weight:
                parameter.zero_()
    masks = {"3.weight": torch.rand(8, 8, 1, 1, generator=generator) > 0.5} if masked else {}
    spec = InputSpec(3, 6, 6, (0.5,) * 3, (0.25,) * 3)
    return Network(module, Architecture("none", {}), spec, tuple("abcd"), masks=masks)


def make_context(folder: Path, save_every_seconds: float = 0.0) -> Context:
    folder.mkdir(parents=True, exist_ok=True)
    return Context(
        folder,
        World(torch.device("cpu")),
        11,
        Console(quiet=True),
        make_dataset(),
        None,
        save_every_seconds,
        "01-train",
    )


def train_in(folder: Path, values: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Train, or go on training, in `folder`: kept tensors, last tensors, accuracy."""
    trained = run_training(make_network(), parse(TrainSettings, values), make_context(folder))
    return trained.network.module.state_dict(), trained.last, trained.selection_accuracy


def read_lines(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def assert_same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    for one, other in zip(found[:2], expected[:2], strict=True):
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert found[2] == expected[2]


class Interruption(Exception):
    """Stands in for a kill, at a chosen one of the points that `Points` watches."""


class Points:
    """Counts the moments before and after everything that a training does or writes, and interrupts at one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed, self.fatal = 0, -1
        for owner, name in (
            (TrainingStep, "prepare"),
            (TrainingStep, "update"),
            (AdaptiveLoss, "begin_epoch"),
            (EpochFigures, "begin_epoch"),
            (Optimizer, "begin_round"),
            (KeptWeights, "finish"),
            (Context, "log"),
            (Context, "save_state"),
            (loop, "evaluate_module"),
        ):
            monkeypatch.setattr(owner, name, self._watch(getattr(owner, name)))

    def _watch(self, function):
        def watched(*arguments, **keywords):
            self._pass()
            result = function(*arguments, **keywords)
            self._pass()
            return result

        return watched

    def _pass(self) -> None:
        self.passed += 1
        if self.passed == self.fatal:
            raise Interruption

    def begin(self, fatal: int = -1) -> None:
        self.passed, self.fatal = 0, fatal


@pytest.mark.parametrize("values", [EVERYTHING, PLAIN], ids=["everything", "plain"])
def test_an_interruption_at_any_point_changes_no_bit(tmp_path, monkeypatch, values):
    points = Points(monkeypatch)
    points.begin()
    expected = train_in(tmp_path / "whole", values)
    lines = read_lines(tmp_path / "whole")
    assert len(lines) == values["epochs"]
    count = points.passed
    assert count > 30
    for fatal in range(1, count + 1, 5 if values is EVERYTHING else 3):
        folder = tmp_path / f"{fatal}"
        points.begin(fatal)
        with pytest.raises(Interruption):
            train_in(folder, values)
        points.begin()
        assert_same(train_in(folder, values), expected)
        assert read_lines(folder) == lines


def test_many_interruptions_in_a_row(tmp_path, monkeypatch):
    points = Points(monkeypatch)
    points.begin()
    expected = train_in(tmp_path / "whole", EVERYTHING)
    for attempt in range(100):
        points.begin(12 + attempt % 5)
        try:
            found = train_in(tmp_path / "cut", EVERYTHING)
            break
        except Interruption:
            continue
    assert attempt > 5
    assert_same(found, expected)
    assert read_lines(tmp_path / "cut") == read_lines(tmp_path / "whole")


def test_a_finished_training_returns_its_result_again(tmp_path, monkeypatch):
    expected = train_in(tmp_path, EVERYTHING)
    lines = read_lines(tmp_path)
    monkeypatch.setattr(TrainingStep, "take", lambda *_: pytest.fail("a finished training took a step"))
    assert_same(train_in(tmp_path, EVERYTHING), expected)
    assert read_lines(tmp_path) == lines


def test_the_callers_random_stream_and_the_layout_in_memory_change_nothing(tmp_path):
    expected = train_in(tmp_path / "one", EVERYTHING)
    network = make_network()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    network.module.to(memory_format=torch.channels_last)
    odd = torch.empty(3 * 8 * 9 + 1)[1:].view(8, 3, 3, 3)  # not aligned, as a tensor read from a file may be
    network.module[0].weight.data = odd.copy_(network.module[0].weight.data)
    trained = run_training(network, parse(TrainSettings, EVERYTHING), make_context(tmp_path / "two"))
    assert torch.equal(torch.get_rng_state(), before)
    assert_same((trained.network.module.state_dict(), trained.last, trained.selection_accuracy), expected)


def test_parts_of_a_stage_draw_their_own_randomness(tmp_path):
    context = make_context(tmp_path)
    settings = parse(TrainSettings, PLAIN)
    losses = []
    for name in ("round-1", "round-2"):
        part = context.part(name)
        run_training(make_network(), settings, part)
        losses.append(part.logged()[0]["loss"])
    assert losses[0] != losses[1]


def test_other_settings_do_not_go_on_from_a_state(tmp_path):
    train_in(tmp_path, PLAIN)
    with pytest.raises(Exception, match="other settings"):
        train_in(tmp_path, PLAIN | {"batch_size": 8})


def test_sigkill(tmp_path):
    """A real kill of a real process, while it writes its state as often as it can."""
    values = EVERYTHING | {"epochs": 14}
    command = [
        sys.executable,
        "-c",
        "import sys, json, pathlib, test_training_resume as tests; "
        "tests.train_in(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]))",
        str(tmp_path / "killed"),
        json.dumps(values),
    ]
    here = Path(__file__).parent
    process = subprocess.Popen(
        command,
        cwd=here,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])},
    )
    metrics = tmp_path / "killed" / "metrics.jsonl"
    give_up = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(read_lines(tmp_path / "killed")) < 14
    found = train_in(tmp_path / "killed", values)
    assert_same(found, train_in(tmp_path / "whole", values))
    assert read_lines(tmp_path / "killed") == read_lines(tmp_path / "whole")


def test_a_state_is_written_at_the_stated_interval(tmp_path, monkeypatch):
    saves = []
    save = Context.save_state
    monkeypatch.setattr(Context, "save_state", lambda *a: (saves.append(a[2]["parts"]["position"]["step"]), save(*a)))
    settings = parse(TrainSettings, PLAIN | {"batch_size": 8})
    run_training(make_network(), settings, replace(make_context(tmp_path), save_every_seconds=1e9))
    assert saves == [0, 0]  # after each epoch
    saves.clear()
    run_training(make_network(), settings, make_context(tmp_path / "often"))
    assert saves == [1, 2, 3, 4, 0, 1, 2, 3, 4, 0]
