"""A Ray cluster of two nodes on this machine: tasks spread, one node is killed, nothing is lost or counted twice."""

import json
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from netpress.errors import UserError
from netpress.files import dump_toml
from netpress.process.console import Console
from netpress.runs.jobs import RunOptions
from netpress.runs.sweep import read_sweep, run_sweep
from netpress.runs.workers.choosing import choose_place

BASE = {
    "name": "trial",
    "seed": 5,
    "data": {"dataset": "digits", "train_images": 96, "image_size": 16},
    "model": {"family": "c_efficientnet", "preset": "tiny", "width_factor": 0.5},
    "stages": [{"kind": "train", "epochs": 2, "batch_size": 32, "optimizer": {"kind": "sgd"}}],
}
QUIET = Console(quiet=True)


@pytest.fixture
def nodes(monkeypatch):
    """Two raylets with a processor each; the second one."""
    pytest.importorskip("ray", reason="ray is not installed; it is in the extra cluster")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield cluster, cluster.add_node(num_cpus=1)
    finally:
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, of files that it leaves open
def test_a_node_that_is_killed_costs_nothing_but_time(nodes, tmp_path, capsys):
    cluster, second = nodes
    path = tmp_path / "trial.toml"
    path.write_text(dump_toml({**BASE, "sweep": {"seeds": [1, 2, 3, 4]}}), encoding="utf-8")
    sweep = read_sweep(str(path), ["stages.0.epochs=12"])
    began: list[float] = []

    def kill_the_second():
        while sum((tmp_path / "out" / f"seed-{seed}" / "log.txt").exists() for seed in (1, 2)) < 2:
            time.sleep(0.02)  # until both nodes are at work
        cluster.remove_node(second, allow_graceful=False)
        began.append(time.monotonic())

    threading.Thread(target=kill_the_second, daemon=True).start()
    options = RunOptions(threads=1, save_every_seconds=0, console=Console())
    result = run_sweep(sweep, tmp_path / "out", options, choose_place(None, cluster.address, options.console))
    assert began and result.table.state == "4 of 4 runs finished"
    assert len({row.member for row in result.table.rows}) == len(result.table.rows) == 4
    said = capsys.readouterr()
    assert "was lost" in said.err and "it is begun again where it was" in said.err
    figures = {row.member: row.figures["loss"] for row in result.table.rows}
    alone = run_sweep(sweep, tmp_path / "alone", RunOptions(threads=1))
    assert figures == {row.member: row.figures["loss"] for row in alone.table.rows}
    for seed in (1, 2, 3, 4):
        lines = (tmp_path / "out" / f"seed-{seed}" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 13))


def test_what_is_not_there_is_one_sentence(monkeypatch):
    with pytest.raises(UserError, match="give one"):
        choose_place(2, "auto", QUIET)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'pip install "netpress\[cluster\]"'):
        choose_place(None, "auto", QUIET)


def test_a_task_runs_in_a_process_of_its_own_and_tells_how_it_ended(tmp_path: Path):
    """What Ray calls on the machine that it has chosen."""
    from netpress.runs.workers.child import Child, Ending
    from netpress.runs.workers.cluster import work

    code, told, said = work(json.dumps({"name": "a", "recipe": "name = 3", "folder": str(tmp_path), "options": {}}))
    assert code in (1, 2) and isinstance(said, tuple)
    assert Ending(code, told, said).read("a").error is not None
    child = Child("{")
    child.process.send_signal(signal.SIGKILL)
    ended = child.follow().read("a")
    child.close()
    assert ended.lost and "signal 9" in str(ended.error)
