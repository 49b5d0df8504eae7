"""Runs share their teachers' answers: where these lie, and that a network file has the same bytes with and without."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import netpress
from netpress.cli import main
from netpress.errors import UserError
from netpress.files import dump_toml
from netpress.network import create, save
from netpress.runs.jobs import RunOptions
from netpress.runs.sweep import read_sweep, run_sweep
from netpress.training import MeanTeacher

pytestmark = pytest.mark.slow

IMAGES = 96
SIZE = {"width": 4, "classes": 10, "image_size": 16}


def _recipe(folder: Path, rate: float = 0.1, epochs: int = 2, **more: Any) -> dict[str, Any]:
    teacher = folder / "teacher.netpress"
    if not teacher.exists():
        save(create("resnet", SIZE, seed=3), teacher)
    train = {
        "batch_size": 32,
        "mix": {"kind": "cutmix"},
        "optimizer": {"kind": "sgd", "learning_rate": rate},
        "distillation": {"teachers": [str(teacher)], "keep_answers": True},
    }
    return {
        "name": "taught",
        "data": {"dataset": "digits", "train_images": IMAGES, "image_size": 16},
        "model": {"family": "resnet", "width": 4},
        "stages": [
            {"kind": "train", "epochs": epochs, **train},
            {"kind": "quantize", "train": {"epochs": 1, "batch_size": 32, "distillation": {"keep_answers": True}}},
        ],
        **more,
    }


def _run(recipe: dict[str, Any], out: Path, **options: Any) -> bytes:
    netpress.run(recipe, out=out, **options)
    return (out / "network.netpress").read_bytes()


def test_another_student_pays_nothing_and_its_file_has_the_same_bytes(tmp_path, monkeypatch):
    first, second = _recipe(tmp_path), _recipe(tmp_path, rate=0.03)
    expected = _run(second, tmp_path / "alone" / "second")
    place = tmp_path / "runs" / ".answers"
    _run(first, tmp_path / "runs" / "first")
    kept = {path.name for path in place.glob("*.answers")}
    assert len(kept) == 3 + 2  # epochs, and how good the teachers are, the network before quantization among them
    asked: list[int] = []
    ask = MeanTeacher._ask
    monkeypatch.setattr(MeanTeacher, "_ask", lambda *words: (asked.append(1), ask(*words))[1])
    assert _run(second, tmp_path / "runs" / "second") == expected
    stage = len(asked)
    assert stage > 0  # the second student's own network teaches it after quantization: nobody has asked that one
    assert _run(second, tmp_path / "runs" / "third") == expected
    assert len(asked) == stage
    shutil.rmtree(place)
    assert _run(second, tmp_path / "runs" / "fourth") == expected
    assert len(asked) > stage


def test_killed_in_an_epoch_with_answers_and_without(tmp_path):
    recipe = _recipe(tmp_path, epochs=5)
    expected = _run(recipe, tmp_path / "alone" / "run", threads=1)
    file = tmp_path / "taught.toml"
    file.write_text(dump_toml(recipe))
    whole = {path.name: path.read_bytes() for path in (tmp_path / "alone" / ".answers").glob("*.answers")}
    for name in ("computed", "read"):
        out = tmp_path / "runs" / name
        words = ["run", file, "--out", out, "--save-every", 0, "--threads", 1]
        process = subprocess.Popen([sys.executable, "-m", "netpress", *map(str, words)], stdout=subprocess.DEVNULL)
        metrics, give_up = out / "01-train" / "metrics.jsonl", time.monotonic() + 60
        while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "network.netpress").exists()
        assert _run(recipe, out, threads=1, save_every=0) == expected
        kept = {path.name: path.read_bytes() for path in (tmp_path / "runs" / ".answers").glob("*.answers")}
        assert kept.items() <= whole.items()
        assert len(kept) >= len(whole) - 1


def test_members_of_a_sweep_share_with_runs_beside_it(tmp_path):
    recipe = _recipe(tmp_path, epochs=1)
    recipe["stages"] = recipe["stages"][:1]
    _run(recipe, tmp_path / "runs" / "one")
    place = tmp_path / "runs" / ".answers"
    kept = {path.name for path in place.glob("*.answers")}
    grid = {"stages.0.optimizer.learning_rate": [0.02, 0.05]}
    run_sweep(read_sweep({**recipe, "sweep": {"grid": grid}}), tmp_path / "runs" / "swept")
    assert {path.name for path in place.glob("*.answers")} == kept
    assert list((tmp_path / "runs").rglob(".answers")) == [place]


def test_networks_of_a_chain_share_with_another_chain(tmp_path, monkeypatch):
    recipe = _recipe(tmp_path, epochs=1)
    train = recipe["stages"][0] | {"distillation": {"teachers": ["large"], "keep_answers": True}}
    large = {"model": recipe["model"], "stages": [{"kind": "train", "epochs": 1, "batch_size": 32}]}

    def chain(rate: float) -> dict[str, Any]:
        small = {
            "model": {"family": "resnet", "width": 2},
            "stages": [train | {"optimizer": {"kind": "sgd", "learning_rate": rate}}],
        }
        return {
            "name": "chain",
            "data": recipe["data"],
            "networks": {"large": large, "small": small},
            "result": "small",
        }

    expected = _run(chain(0.05), tmp_path / "alone" / "chain")
    _run(chain(0.1), tmp_path / "runs" / "first")
    assert len(list((tmp_path / "runs" / ".answers").glob("*.answers"))) == 2  # the accuracy, and an epoch
    monkeypatch.setattr(MeanTeacher, "_ask", lambda *words: pytest.fail("the teacher was asked again"))
    assert _run(chain(0.05), tmp_path / "runs" / "second") == expected
    assert list((tmp_path / "runs").rglob(".answers")) == [tmp_path / "runs" / ".answers"]


def test_the_command_names_another_place_and_another_bound(tmp_path, call):
    recipe = _recipe(tmp_path, epochs=1)
    recipe["stages"] = recipe["stages"][:1]
    (tmp_path / "taught.toml").write_text(dump_toml(recipe))
    for words in (["--answers-limit", 0], []):
        code, out, err = call("run", "taught.toml", "--out", "deep/run", "--fresh", "--answers", "kept", *words)
        assert code == 0, err
        assert "kept in kept" in out
        assert ("0 GB do not hold all answers" in err) == bool(words)
        assert bool(list(Path("kept").glob("*.answers"))) != bool(words)
    assert not Path("deep/.answers").exists()
    words = ["--set", "epochs=1", "--set", "distillation.teachers=['teacher.netpress']"]
    words += ["--set", "distillation.keep_answers=true", "--out", "trained.netpress"]
    code, out, err = call("apply", "train", "deep/run", *words)
    assert code == 0, err
    assert list(Path(".answers").glob("*.answers"))
    code, _, err = call("run", "taught.toml", "--out", "other", "--answers", "taught.toml")
    assert code == 2
    assert "--answers taught.toml: is not a folder" in err


def test_where_answers_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunOptions().answers_beside(Path("runs/digits")).path == tmp_path / "runs" / ".answers"
    assert RunOptions().answers_beside(Path("digits")).path == tmp_path / ".answers"
    with pytest.raises(UserError, match="--answers-limit inf: is no size"):
        RunOptions(answers_limit=float("inf")).answers_beside(Path("digits"))
    with pytest.raises(UserError, match="--cache-limit nan: is no size"):
        RunOptions(cache_limit=float("nan")).images_beside(Path("digits"))
    assert RunOptions(answers=Path("x"), answers_limit=0.5).answers_beside(Path("digits")).limit == 5 * 10**8
    Path("file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        RunOptions(answers=Path("file")).answers_beside(Path("digits"))


def test_teachers_are_asked_before_the_run(tmp_path, monkeypatch, capsys):
    recipe = _recipe(tmp_path)
    del recipe["stages"][1]["train"]["distillation"]
    file = tmp_path / "taught.toml"
    file.write_text(dump_toml(recipe), encoding="utf-8")
    expected = _run(recipe, tmp_path / "alone" / "run")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["netpress", "answers", str(file), *words])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()  # type: ignore[return-value]

    out = tmp_path / "runs" / "run"
    code, said, _ = call("--out", str(out))
    assert code == 0 and said.endswith(f"answers     2 epochs asked for; kept in {out.parent / '.answers'}\n")
    assert not out.exists()
    assert call("--out", str(out))[1].startswith("answers     0 epochs asked for")
    ask = MeanTeacher._ask
    batches: list[int] = []
    monkeypatch.setattr(MeanTeacher, "_ask", lambda *words: (batches.append(len(words[2])), ask(*words))[1])
    assert _run(recipe, out) == expected
    assert 32 not in batches  # as many as a batch of the training has: only how good the teacher is was asked
    code, _, error = call("--out", str(out), "--threads", "64")
    assert code == 2 and "reads no answers of others" in error
    code, _, error = call("--set", "stages.0.distillation.keep_answers=false")
    assert code == 2 and "has named teachers and keep_answers = true" in error
    file.write_text(dump_toml({**recipe, "sweep": {"seeds": [1, 2]}}), encoding="utf-8")
    code, _, error = call()
    assert code == 2 and "netpress answers asks for one alone" in error
