"""`netpress list runs`: what each folder holds, how far it is and when it changed; read without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from netpress.errors import Failure, UserError
from netpress.folders.chain import ChainFolder
from netpress.folders.holding import held
from netpress.folders.listing import list_runs
from netpress.folders.run import RunFolder
from netpress.folders.sweep import SweepFolder

RUN = 'name = "digits"\n\n[[stages]]\nkind = "train"\n\n[[stages]]\nkind = "prune"\n'
CHAIN = 'name = "trio"\n\n[networks]\n\n[networks.large]\n\n[networks.small]\n'
SWEEP = 'name = "study"\n\n[sweep]\nseeds = [1, 2, 3]\n'
SCORE = {"accuracy": 0.9712, "score": 0.00321, "footprint": {"flash_bytes": 2048, "ram_bytes": 100}}
SUMMARY = {"seconds": 1.5, "weights": 10, "nonzeros": 4}


def begin(path: Path, done: int = 0, finished: bool = False, changed: float = 0.0) -> RunFolder:
    run = RunFolder(path)
    with run.claimed(RUN):
        for name in ("01-train", "02-prune")[:done]:
            run.stage(name).path.mkdir()
            run.stage(name).mark_done(SUMMARY)
        if finished:
            run.write_score(SCORE)
            run.network.write_bytes(b"x" * 1000)
    if changed:
        for file in path.rglob("*"):
            os.utime(file, (changed, changed))
    return run


def fail(run: RunFolder, message: str) -> None:
    with pytest.raises(Failure), run.claimed(RUN):
        raise Failure(message)


def test_states_and_order(tmp_path):
    begin(tmp_path / "c-done", 2, finished=True, changed=3000)
    begin(tmp_path / "deep/er/a-stopped", 1, changed=2000)
    fail(begin(tmp_path / "b-failed"), "the disk is full")
    os.utime(tmp_path / "b-failed/failure.json", (4000, 4000))
    for file in (tmp_path / "b-failed").glob("*"):
        os.utime(file, (4000, 4000))
    (tmp_path / "recipe.toml").write_text(RUN, encoding="utf-8")  # somebody's own: no run
    with held(begin(tmp_path / "d-runs", 2, changed=5000).path):
        found = list_runs(tmp_path)
    names = [run.path.relative_to(tmp_path).as_posix() for run in found]
    assert names == ["deep/er/a-stopped", "c-done", "b-failed", "d-runs"]
    stopped, done, failed, running = found
    assert [run.tell_state() for run in found] == [
        *("interrupted in stage 2 of 2", "done", "failed in stage 1 of 2", "running in stage 2 of 2")
    ]
    assert (stopped.recipe, stopped.kind, stopped.accuracy, stopped.problem) == ("digits", "run", None, None)
    assert (done.accuracy, done.score, done.flash_bytes, done.changed) == (0.9712, 0.00321, 2048, 3000)
    assert done.disk_bytes == sum(path.stat().st_size for path in done.path.rglob("*") if path.is_file()) > 1000
    assert failed.problem == "the disk is full" and running.state == "running"


def test_a_run_that_goes_on_has_not_failed_any_more(tmp_path):
    run = begin(tmp_path / "run")
    fail(run, "no")
    with run.claimed(RUN):
        assert not run.failure.exists()
    assert list_runs(tmp_path)[0].state == "interrupted"


def test_a_run_that_nothing_could_be_written_of(tmp_path, monkeypatch):
    """Its own error is told, not that of the note."""
    run = begin(tmp_path / "run")

    def refuse(*_: object) -> None:
        raise Failure("the disk is full")

    with pytest.raises(ZeroDivisionError), run.claimed(RUN):
        monkeypatch.setattr("netpress.folders.run.atomic_write", refuse)
        raise ZeroDivisionError


def test_sweeps_and_chains_are_one_entry_and_lists_of_their_own(tmp_path):
    sweep = SweepFolder(tmp_path / "study")
    with sweep.claimed(SWEEP, {"seed-1": RUN, "seed-2": RUN}):
        sweep.csv.write_text(
            "member,seed,state\nseed-1,1,done\nseed-1,1,done\nseed-2,2,x\nseed-3,3,x\n", encoding="utf-8"
        )
        begin(sweep.member("seed-1").path, 2, finished=True)
        fail(begin(sweep.member("seed-2").path, 1), "diverged")
    chain = ChainFolder(tmp_path / "trio")
    with chain.claimed(CHAIN, {"large": RUN, "small": RUN}):
        begin(chain.member("large").path, 2, finished=True)
    (tmp_path / "link").symlink_to(chain.path)
    found = {run.path.name: run for run in list_runs(tmp_path)}
    assert found.keys() == {"study", "trio"}
    study, trio = found["study"], found["trio"]
    assert (study.kind, study.tell_state()) == ("sweep", "failed, 1 of 3 runs done")
    assert study.problem == "seed-2: diverged"
    assert (trio.kind, trio.tell_state()) == ("chain", "interrupted, 1 of 2 networks done")
    members = {run.path.name: run.tell_state() for run in list_runs(tmp_path / "study")}
    assert members == {"seed-1": "done", "seed-2": "failed in stage 2 of 2"}
    with sweep.claimed(SWEEP, {}):
        assert {run.path.name: run.state for run in list_runs(tmp_path)}["study"] == "running"
    for name in ("seed-2", "seed-3"):
        begin(sweep.member(name).path, 0, finished=True)
    assert {run.path.name: run.tell_state() for run in list_runs(tmp_path)}["study"] == "done"


@pytest.mark.parametrize("name", ["recipe.toml", "score.json"])
def test_a_damaged_run_is_listed_with_what_is_damaged(tmp_path, name):
    run = begin(tmp_path / "run", 2, finished=True)
    (run.path / name).write_bytes(b"\0\xff")
    (found,) = list_runs(tmp_path)
    assert found.state == found.tell_state() == "damaged" and name in str(found.problem)


def test_the_command(call):
    assert call("list", "runs")[0] == 2  # there is no folder runs
    Path("runs").mkdir()
    assert call("list", "runs") == (0, "runs: holds no runs\n", "")
    begin(Path("runs/first"), 2, finished=True)
    fail(begin(Path("runs/second"), 1), "out of luck")
    code, out, err = call("list", "runs")
    lines = out.splitlines()
    assert (code, err) == (0, "") and len(lines) == 4
    for word in ("first", "digits", "done", "97.12%", "0.00321", "2.0 KiB"):
        assert word in lines[1]
    assert "failed in stage 2 of 2" in lines[2] and lines[3] == "runs/second: out of luck"
    told = json.loads(call("list", "runs", "--json")[1])
    assert [run["path"] for run in told] == ["runs/first", "runs/second"]
    assert told[0]["accuracy"] == 0.9712 and told[1]["problem"] == "out of luck" and told[1]["done"] == 1
    assert call("list", "models", "runs")[0] == 2
    code, _, err = call("list", "everything")
    assert code == 2 and "conventions, runs" in err


def test_a_run_on_a_medium_that_takes_no_lock_is_listed(tmp_path, monkeypatch):
    begin(tmp_path / "run", 2, finished=True)

    def refuse(*_: object, **more: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("netpress.folders.holding.FileLock.acquire", refuse)
    assert list_runs(tmp_path)[0].state == "done"


def test_refused_folders(tmp_path):
    (tmp_path / "file").touch()
    for name, message in (("file", "is a file"), ("none", "no such folder")):
        with pytest.raises(UserError, match=message):
            list_runs(tmp_path / name)


def test_lists_and_removals_need_no_torch():
    code = (
        "import sys, netpress.folders.listing, netpress.folders.removal, netpress.cli; "
        "assert not {'torch', 'pydantic'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
