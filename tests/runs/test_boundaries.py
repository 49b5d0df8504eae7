"""A run killed anywhere ends with the bytes of one that never was: every pair of stages, around their boundary too."""

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netpress.files import writing as files
from netpress.folders.run import RunFolder
from netpress.folders.stage import StageFolder
from netpress.recipe.schema import check_recipe
from netpress.runs import pipeline
from netpress.runs.jobs import RunOptions
from netpress.runs.recipes import run_recipe
from netpress.stage import Context
from netpress.training.step import TrainingStep

pytestmark = pytest.mark.slow

FIT = {"epochs": 1, "batch_size": 16, "augment": {"crop": 1}, "norm_warmup": True}
STAGES: dict[str, dict[str, Any]] = {
    "train": {"kind": "train", **FIT, "keep": "best", "average": {"decay": 0.9}},
    "prune": {"kind": "prune", "amount": 0.2, "rounds": 2, "train": FIT},
    "prune further": {"kind": "prune", "amount": 0.9, "first_amount": 0.8, "rounds": 2, "train": FIT},
    "prune_to_gate": {"kind": "prune_to_gate", "gate": 0.0, "first_amount": 0.25, "step": 0.25},
    "fold": {"kind": "fold"},
    "quantize": {"kind": "quantize", "preset": "int8", "calibration_images": 16},
    "factorize": {"kind": "factorize", "keep": 0.6, "images": 16, "train": FIT},
    "factorize and regrow": {
        "kind": "factorize",
        "keep": 0.6,
        "gate": 0.0,
        "images": 16,
        "rounds": 4,
        "train": FIT,
        "train_larger": FIT,
        "regrow": {"kind": "copies", "share": 0.5, "train": FIT},
    },
    "quantize, trained": {"kind": "quantize", "preset": "int6", "calibration_images": 16, "train": FIT},
}
PAIRS = [
    (first, second)
    for first in STAGES
    for second in STAGES
    if first not in ("prune further", "quantize", "quantize, trained")
    and (first, second) not in (("fold", "fold"), ("prune", "prune"), ("prune_to_gate", "prune"))
    and not {"factorize", "factorize and regrow"} & {first, second}
]
PAIRS += [
    ("train", "factorize"),
    ("prune", "factorize and regrow"),
    ("fold", "factorize and regrow"),
    ("factorize", "factorize and regrow"),
    ("factorize and regrow", "train"),
    ("factorize and regrow", "prune"),
    ("factorize and regrow", "quantize, trained"),
    ("factorize", "prune_to_gate"),
    ("factorize", "fold"),
]
SEEDED = 2  # kills of each pair at points drawn by chance, beside those around the boundary


class Killed(BaseException):
    """Stands in for a kill."""


class Points:
    """The moments before and after whatever a run writes and each of its steps; kills at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.fatal: int | None = None
        write = files.atomic_path

        @contextlib.contextmanager
        def watched(path: Path | str) -> Iterator[Path]:
            name = "/".join(Path(path).parts[-2:])
            self.pass_by(f"before {name}")
            with write(path) as part:
                yield part
            self.pass_by(f"after {name}")

        monkeypatch.setattr(files, "atomic_path", watched)
        monkeypatch.setattr(files, "_flush", lambda path: None)  # the disk is slow, and no power is cut here
        monkeypatch.setattr(files, "_flush_folder", lambda path: None)
        for owner, name in ((Context, "log"), (StageFolder, "clear_state"), (TrainingStep, "update")):
            monkeypatch.setattr(owner, name, self.around(getattr(owner, name)))

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **keywords: Any) -> Any:
            self.pass_by(f"before {function.__name__}")
            result = function(*arguments, **keywords)
            self.pass_by(f"after {function.__name__}")
            return result

        return watched

    def pass_by(self, name: str) -> None:
        self.names.append(name)
        if self.fatal is not None and len(self.names) > self.fatal:
            raise Killed(name)


def outcome(folder: Path) -> dict[str, Any]:
    """The bytes of every network of the run, and its figures without times."""
    found: dict[str, Any] = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.netpress")
    }
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found["figures"] = [
        {key: value for key, value in line.items() if key not in ("seconds", "images_per_second")} for line in lines
    ]
    assert not list(folder.rglob("state.safetensors"))
    return found


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda kind: kind)
def test_killed_around_the_boundary_and_anywhere(first, second, tmp_path, monkeypatch):
    recipe = check_recipe(
        {
            "name": "pair",
            "seed": 3,
            "data": {"dataset": "digits", "train_images": 48, "image_size": 8},
            "model": {"family": "resnet", "blocks": [1], "width": 8},
            "stages": [STAGES[first], STAGES[second]],
        }
    )
    points = Points(monkeypatch)
    monkeypatch.setattr(pipeline, "make_report", lambda folder: RunFolder(folder).report)  # half of a run's time

    def run(name: str) -> Path:
        run_recipe(recipe, tmp_path / name, RunOptions(save_every_seconds=0.0))
        return tmp_path / name

    expected = outcome(run("whole"))
    names = points.names[:]
    stage = f"01-{STAGES[first]['kind']}"
    around = {names.index(f"{when} {stage}/{what}") for when in ("before", "after") for what in SAVED}
    generator = random.Random(f"{first} {second}")
    chance = {generator.randrange(len(names)) for _ in range(SEEDED)}
    for fatal in sorted(around | chance):
        again = generator.randrange(5 * len(names))  # once in five the run that goes on is killed too
        for limit in (fatal, again):
            points.names, points.fatal = [], limit
            with contextlib.suppress(Killed):
                run(f"killed-{fatal}")
        points.names, points.fatal = [], None
        assert outcome(run(f"killed-{fatal}")) == expected, names[fatal]


SAVED = ("network.netpress", "done.json")


def test_a_trained_stage_is_not_trained_again_when_killed_before_its_result_is_written(tmp_path, monkeypatch):
    """Hours of quantization-aware training lie in the saved state until the network is on the disk."""
    recipe = check_recipe(
        {
            "name": "late",
            "data": {"dataset": "digits", "train_images": 48, "image_size": 8},
            "model": {"family": "resnet", "blocks": [1], "width": 8},
            "stages": [STAGES["quantize, trained"]],
        }
    )
    points = Points(monkeypatch)
    run_recipe(recipe, tmp_path / "whole")
    points.fatal = points.names.index("before 01-quantize/network.netpress")
    steps = points.names.count("before update")
    points.names = []
    with pytest.raises(Killed):
        run_recipe(recipe, tmp_path / "run")
    points.names, points.fatal = [], None
    run_recipe(recipe, tmp_path / "run")
    assert steps > 0 == points.names.count("before update")
