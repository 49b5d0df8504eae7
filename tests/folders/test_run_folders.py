"""What run folders, stage folders and sweep folders say of what lies in them, and who may write there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from netpress.errors import Failure, UserError
from netpress.folders.holding import LOCK, held
from netpress.folders.run import RunFolder
from netpress.folders.stage import StageFolder, read_metrics, round_name
from netpress.folders.sweep import SweepFolder

RECIPE = 'name = "a"\n'
SUMMARY = {"seconds": 1.5, "weights": 10, "nonzeros": 4}
SWEEP = 'name = "s"\n\n[sweep]\nseeds = [1]\n'


def write_lines(path: Path, *lines: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A train stage that is done, and a pruning whose eleventh round is."""
    run = RunFolder(tmp_path / "run")
    with run.claimed(RECIPE):
        write_lines(run.stage("01-train").path / "metrics.jsonl", {"epoch": 1})
        run.stage("01-train").network.touch()
        run.stage("01-train").mark_done(SUMMARY)
        for number in (1, 2, 10, 11):
            part = run.stage("02-prune").path / round_name(number)
            write_lines(part / "metrics.jsonl", {"round": number})
            (part / "network.netpress").touch()
    return run


def test_stages_and_rounds_are_told_in_order(run):
    (run.path / "notes").mkdir()
    (run.path / "03-letter").write_text("no folder", encoding="utf-8")
    assert [stage.name for stage in run.stages()] == ["01-train", "02-prune"]
    assert [run.label(path) for path in run.networks()] == [
        "01-train",
        *(f"02-prune/round-{number}" for number in (1, 2, 10, 11)),
    ]
    run.collect_metrics()
    assert read_metrics(run.metrics) == [{"epoch": 1}, *({"round": number} for number in (1, 2, 10, 11))]


def test_accuracies_stand_in_percent_a_row_an_epoch(run):
    """As the log that IMT Atlantique published in 2022; also of a run that goes on, and of what is no epoch no row."""
    first = {"epoch": 1, "train_accuracy": 0.26396, "selection_accuracy": 0.4442}
    write_lines(run.stage("01-train").path / "metrics.jsonl", first, {"epoch": 2, "train_accuracy": 1})
    write_lines(run.stage("02-prune").path / "metrics.jsonl", {"round": 1, "accuracy": 0.5})
    later = {"epoch": 1, "train_accuracy": 0.5, "selection_accuracy": 2 / 3}
    write_lines(run.stage("02-prune").path / round_name(1) / "metrics.jsonl", later)
    for _ in range(2):
        run.collect_metrics()
        assert run.accuracies.read_bytes() == (
            b"Train Acc.\tValid Acc.\t\n26.396000\t44.420000\t\n100.000000\tnan\t\n50.000000\t66.666667\t\n"
        )
    assert run.accuracies.name == "log.tsv"


def test_finished_stages_end_at_the_first_gap(run):
    assert [stage.name for stage in run.finished_stages()] == ["01-train"]
    run.stage("03-fold").path.mkdir()
    run.stage("03-fold").mark_done(SUMMARY)
    assert [stage.name for stage in run.finished_stages()] == ["01-train"]
    assert run.read_summaries() == [SUMMARY, SUMMARY]
    run.stage("02-prune").mark_done(SUMMARY)
    assert len(run.finished_stages()) == 3


@pytest.mark.parametrize("damage", [b"", b"\0" * 9, b"[]", b'{"kind"'])
def test_a_damaged_mark_is_no_mark(run, damage):
    stage = run.stage("01-train")
    assert stage.is_done and not StageFolder(run.path / "02-prune").is_done
    stage.done.write_bytes(damage)
    assert not stage.is_done and run.finished_stages() == []
    with pytest.raises(Failure, match=r"done\.json: damaged"):
        stage.read_summary()


def test_a_folder_is_claimed_by_one_recipe_and_one_process(run, tmp_path):
    with run.claimed(RECIPE), pytest.raises(Failure, match="another netpress"), run.claimed(RECIPE):
        pass
    with pytest.raises(UserError, match="another recipe"), run.claimed('name = "b"\n'):
        pass
    assert run.recipe.read_text(encoding="utf-8") == RECIPE
    with run.claimed('name = "b"\n', fresh=True):
        assert run.stages() == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(UserError, match="holds no run"), RunFolder(tmp_path / "mine").claimed(RECIPE):
        pass
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_an_environment_is_recorded_once(run):
    warnings: list[str] = []
    now = {"data_checksum": "x", "versions": {"torch": "1"}, "device": "cpu", "threads": 2, "machine": "m"}
    now |= {"compiled_kernels": True}
    assert run.settle_environment(now, warnings.append) == now
    again = run.settle_environment(now | {"device": "gpu", "threads": 8}, warnings.append)
    assert (again["device"], again["threads"], len(again["resumed"])) == ("cpu", 2, 1)
    assert len(warnings) == 1 and "began with device cpu, now gpu" in warnings[0]
    with pytest.raises(UserError, match="began with other data"):
        run.settle_environment(now | {"data_checksum": "y"}, warnings.append)


def test_clearing_takes_all_that_a_run_writes_and_nothing_else(run):
    figures = (run.metrics, run.accuracies, run.score, run.predictions, run.stage_figures)
    own = (run.environment, run.log, run.network, run.report, *figures)
    for path in (*own, run.path / "letter.txt", run.stage("01-train").path / "notes.txt"):
        path.touch()
    run.clear()
    left = sorted(path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file())
    assert left == [LOCK, "01-train/notes.txt", "letter.txt"]


def test_a_run_begins_with_stages_of_another(run, tmp_path):
    run.environment.write_text("{}", encoding="utf-8")
    other = RunFolder(tmp_path / "other")
    with held(other.path):
        pass
    assert other.is_empty
    other.begin_with(run.finished_stages(), run, RECIPE)
    assert not other.is_empty and not (tmp_path / ".other.draft").exists()
    assert [stage.name for stage in other.finished_stages()] == ["01-train"]
    assert other.environment.read_text(encoding="utf-8") == "{}" and not other.is_of_another(RECIPE)


def test_a_sweep_holds_runs_and_a_run_holds_no_sweep(run, tmp_path):
    place = SweepFolder(tmp_path / "sweep")
    with place.claimed(SWEEP, {"seed-1": RECIPE}):
        pass
    assert place.is_here and not SweepFolder(run.path).is_here
    with pytest.raises(UserError, match="holds a sweep"), RunFolder(place.path).claimed(RECIPE, fresh=True):
        pass
    with pytest.raises(UserError, match="holds a single run"), SweepFolder(run.path).claimed(SWEEP, {}, fresh=True):
        pass
    with place.member("seed-1").claimed('name = "b"\n'):
        place.member("seed-1").stage_figures.touch()
    with pytest.raises(UserError, match="member seed-1 was begun with another"), place.claimed(SWEEP, {"seed-1": "c"}):
        pass
    place.csv.touch()
    with place.claimed(SWEEP, {"seed-1": "c"}, fresh=True):
        assert not place.csv.exists() and not place.member("seed-1").path.exists()


def test_folders_are_read_without_torch():
    """A report is made of them: it must not wait for torch."""
    code = "import sys, netpress.folders.sweep, netpress.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_lines_that_a_power_cut_damaged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for end in (b"", b'{"epoch": 3', b"\0" * 20, b"\0\0\n\0\0\n", b"\0\0\n\0"):
        path.write_bytes(b'{"epoch": 1}\n{"epoch": 2}\n' + end)
        assert read_metrics(path) == [{"epoch": 1}, {"epoch": 2}]
    path.write_bytes(b'{"epoch": 1}\n\0\0\0\n{"epoch": 3}\n')
    with pytest.raises(Failure, match="line 2 is damaged"):
        read_metrics(path)
