"""Event files say what a run's folder says: each figure once, whatever was interrupted, also to TensorBoard itself."""

import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.folders.holding import find_written
from netpress.folders.run import RunFolder
from netpress.folders.stage import EVENTS, format_metrics, read_metrics
from netpress.process.console import Console
from netpress.recipe.schema import check_recipe
from netpress.runs.jobs import RunOptions
from netpress.runs.pipeline import run_network
from netpress.runs.tensorboard import EventFiles, line_points

SUMMARY = {"kind": "train", "accuracy": 0.5, "score": 0.25, "seconds": 3.0, "weights": 10, "nonzeros": 4}
RECIPE = {
    "name": "small",
    "data": {"dataset": "digits", "train_images": 96, "image_size": 8},
    "model": {"family": "c_efficientnet", "preset": "tiny", "width_factor": 0.25},
    "stages": [
        {"kind": "train", "epochs": 2, "batch_size": 32, "orthogonality": {"coefficient": 0.1}},
        {"kind": "prune", "amount": 0.5, "rounds": 2, "train": {"epochs": 1, "batch_size": 32}},
    ],
}


def test_a_missing_package_is_one_sentence(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    code, out, err = call("run", "digits", "--tensorboard")
    assert (code, out) == (2, "") and not Path("runs").exists()
    assert err.startswith('netpress: --tensorboard needs the extra: pip install "netpress[tensorboard]" (')
    assert err.count("\n") == 1


def test_a_point_stands_over_its_epoch_round_or_look():
    lines = [{"stage": "a", "round": 1, "epoch": 7, "loss": 0.5, "note": "text", "changed": True}]
    assert [(point.step, point.figures) for point in line_points(lines)] == [(7, {"round": 1.0, "loss": 0.5})]
    assert line_points([{"round": 0, "accuracy": 1}])[0].step == 0
    assert [point.step for point in line_points([{"amount": 0.1}, {"amount": 0.2}])] == [1, 2]


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """All that stands in the event files of a folder, in order."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    paths = find_written(folder, (EVENTS,), below=False)
    events = [event for path in paths for event in LegacyEventFileLoader(str(path)).Load()]
    return [(value.tag, event.step, value.simple_value) for event in events for value in event.summary.value]


def figures(lines: list[dict]) -> list[tuple[str, int, float]]:
    """What they should hold, worked out apart: numbers over the epoch, else the round, else the place of the line."""
    told = []
    for place, line in enumerate(lines, 1):
        over = "epoch" if "epoch" in line else "round" if "round" in line else ""
        told += [
            (key, line.get(over, place), value)
            for key, value in line.items()
            if key != over and type(value) in (int, float)
        ]
    return told


def agree(one: list[tuple[str, int, float]], other: list[tuple[str, int, float]]) -> bool:
    """Equal to what a float of 32 bits holds."""
    return len(one) == len(other) and all(
        a[:2] == b[:2] and (math.isclose(a[2], b[2], rel_tol=1e-6) or (math.isnan(a[2]) and math.isnan(b[2])))
        for a, b in zip(one, other, strict=True)
    )


LOSSES = st.floats(width=32)


@settings(max_examples=20, deadline=None)
@given(
    begun=st.lists(LOSSES, max_size=4),
    acts=st.lists(st.tuples(st.integers(0, 4), st.lists(LOSSES, min_size=1, max_size=3)), max_size=4),
)
def test_whatever_was_interrupted_no_point_stands_twice(tmp_path_factory, begun, acts):
    """`begun` lines come without event files; then each process goes back some lines and logs others."""
    pytest.importorskip("tensorboard")
    run = RunFolder(tmp_path_factory.mktemp("run"))
    stage = run.stage("01-train")
    stage.path.mkdir()
    metrics = stage.path / "metrics.jsonl"
    lines = [{"epoch": number, "loss": loss} for number, loss in enumerate(begun, 1)]
    for back, fresh in acts:
        metrics.write_text(format_metrics(lines))
        files = EventFiles(run, Console(quiet=True))
        files.update()
        lines = lines[: max(0, len(lines) - back)]
        for loss in fresh:
            lines.append({"epoch": len(lines) + 1, "loss": loss})
            metrics.write_text(format_metrics(lines))
            files.update()
        files.close()
        assert agree(scalars(stage.path), figures(lines))


def test_what_stages_and_the_run_came_to(tmp_path):
    pytest.importorskip("tensorboard")
    run = RunFolder(tmp_path)
    files = EventFiles(run, Console(quiet=True))
    for number, accuracy in ((1, 0.5), (2, 0.75)):
        stage = run.stage(f"0{number}-train")
        stage.path.mkdir()
        stage.mark_done(SUMMARY | {"accuracy": accuracy})
        files.update()
    run.write_score({"accuracy": 0.625, "score": 0.125, "top5": None, "footprint": {"flash_bytes": 512, "ram_at": "a"}})
    files.update()
    files.close()
    found = scalars(tmp_path)
    assert len(found) == len({place[:2] for place in found})
    assert {("stage/accuracy", 1, 0.5), ("stage/accuracy", 2, 0.75), ("stage/score", 2, 0.25)} <= set(found)
    assert {("test/accuracy", 2, 0.625), ("result/score", 2, 0.125), ("result/flash_bytes", 2, 512.0)} <= set(found)


def test_a_disk_that_takes_nothing_ends_no_run(tmp_path, monkeypatch, capsys):
    run = RunFolder(tmp_path)
    monkeypatch.setattr(RunFolder, "stages", lambda self: (_ for _ in ()).throw(OSError(28, "No space left")))
    files = EventFiles(run, Console())
    files.update()
    files.update()
    assert capsys.readouterr().err.count("cannot be written (No space left)") == 1


@pytest.mark.slow
def test_a_run_and_the_same_command_again(tmp_path):
    """First without event files, then with: those of finished stages are made too, and stay as they are."""
    pytest.importorskip("tensorboard")
    recipe, run = check_recipe(RECIPE), RunFolder(tmp_path / "run")
    run_network(recipe, run.path, RunOptions())
    assert not list(run.path.rglob(EVENTS))
    for _ in range(2):
        run_network(recipe, run.path, RunOptions(tensorboard=True))
        folders = {path.parent for path in run.path.rglob("metrics.jsonl")} - {run.path}
        names = sorted(folder.relative_to(run.path).as_posix() for folder in folders)
        assert names == ["01-train", "02-prune", "02-prune/round-1", "02-prune/round-2"]
        for folder in folders:
            lines = [
                {key: value for key, value in line.items() if key != "stage"}
                for line in read_metrics(folder / "metrics.jsonl")
            ]
            assert lines and agree(scalars(folder), figures(lines))
        tags = {tag for tag, _, _ in scalars(run.stage("01-train").path)}
        assert {"loss", "train_accuracy", "learning_rate", "images_per_second", "regularizer"} <= tags
        score = json.loads(run.score.read_text())
        assert ("result/score", 2, pytest.approx(score["score"], rel=1e-6)) in scalars(run.path)
        assert len([tag for tag, _, _ in scalars(run.path) if tag == "stage/score"]) == 2


def test_members_of_chains_and_sweeps_have_event_files_too(tmp_path):
    pytest.importorskip("tensorboard")
    assert RunOptions(tensorboard=True).for_members(tmp_path).tensorboard
