"""Members of a sweep in processes of their own: the same bits, workers that die, an asker that dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from netpress.errors import UserError
from netpress.files import dump_toml
from netpress.network import load
from netpress.process.console import Console
from netpress.runs.jobs import RunOptions
from netpress.runs.sweep import read_sweep, run_sweep
from netpress.runs.workers.processes import Processes

pytestmark = pytest.mark.slow

BASE = {
    "name": "trial",
    "seed": 5,
    "data": {"dataset": "digits", "train_images": 96, "image_size": 16},
    "model": {"family": "c_efficientnet", "preset": "tiny", "width_factor": 0.5},
    "stages": [
        {"kind": "train", "epochs": 2, "batch_size": 32, "optimizer": {"kind": "sgd"}},
        {"kind": "prune", "amount": 0.5, "train": {"epochs": 1, "batch_size": 32}},
    ],
}
SWEEP = {"grid": {"stages.1.amount": [0.3, 0.6]}}


def written(folder: Path, sweep: dict, **more) -> str:
    path = folder / "trial.toml"
    path.write_text(dump_toml({**BASE, **more, "sweep": sweep}), encoding="utf-8")
    return str(path)


def tensors(folder: Path):
    return {path.parent.name: load(path).module.state_dict() for path in sorted(folder.glob("*/network.netpress"))}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    sweep = read_sweep(written(folder, SWEEP))
    return sweep, run_sweep(sweep, folder / "out", RunOptions(threads=1))


def test_two_processes_give_the_bits_and_the_table_of_one(alone, tmp_path, capsys):
    sweep, before = alone
    options = RunOptions(threads=1, console=Console())
    result = run_sweep(sweep, tmp_path, options, Processes(2, options.console))
    rows = [[{**row.figures, "seconds": 0} for row in one.table.rows] for one in (before, result)]
    assert rows[0] == rows[1] and result.table.state == "2 of 2 runs finished"
    first, second = tensors(before.folder), tensors(tmp_path)
    assert first.keys() == second.keys() and len(first) == 2
    for name, values in first.items():
        assert all(torch.equal(tensor, second[name][key]) for key, tensor in values.items())
    said = capsys.readouterr().out
    assert "amount-0.6: takes 01-train from amount-0.3" in said  # trained once: the second waits for the first
    assert "amount-0.3: 01-train 6/6  epoch 2/2" in said


def test_a_worker_that_dies_is_replaced_and_what_is_wrong_is_told(alone, tmp_path):
    place = Processes(2, Console(quiet=True))
    killed = []

    def kill_one():
        while not killed:
            worker = next(iter(place._workers.values()), None)
            if worker is not None and (tmp_path / "out" / "amount-0.3" / "log.txt").exists():
                os.kill(worker.child.process.pid, signal.SIGKILL)
                killed.append(worker.child.process.pid)
            time.sleep(0.01)

    threading.Thread(target=kill_one, daemon=True).start()
    result = run_sweep(alone[0], tmp_path / "out", RunOptions(threads=1), place)
    assert killed and result.table.state == "2 of 2 runs finished"
    wild = read_sweep(written(tmp_path, {"variants": {"wild": {"data.train_images": 100_000}}}))
    with pytest.raises(UserError, match=r"wild: .*100,?000"):
        run_sweep(wild, tmp_path / "wild", RunOptions(threads=1), Processes(1, Console(quiet=True)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_one_who_asked(number, tmp_path):
    recipe = written(tmp_path, {"seeds": [1, 2]}, data={"dataset": "digits", "image_size": 16})
    command = [sys.executable, "-m", "netpress", "run", recipe, "--out", str(tmp_path / "out"), "--workers", "2"]
    command += ["--save-every", "0", "--set", "stages.0.epochs=500", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    folders = [tmp_path / "out" / f"seed-{seed}" for seed in (1, 2)]
    began = time.monotonic()
    while not all(list(folder.glob("01-train/metrics.jsonl")) for folder in folders):
        assert process.poll() is None and time.monotonic() - began < 120, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == (143 if number == signal.SIGTERM else -number), said
    while any(_is_held(folder) for folder in folders):
        assert time.monotonic() - began < 120
        time.sleep(0.05)
    again = [argument.replace("500", "1") for argument in command]
    refused = subprocess.run(again, capture_output=True, encoding="utf-8", check=False)
    assert refused.returncode == 2 and "was begun with another recipe" in refused.stderr


def _is_held(folder: Path) -> bool:
    from netpress.folders.holding import is_held

    return is_held(folder)


@pytest.mark.parametrize(
    ("recipe", "error", "wrong"),
    [("name = 3", "name: ", True), (dump_toml(BASE), "digits come with netpress", True)],
)
def test_a_worker_says_how_its_task_ended(recipe, error, wrong, tmp_path):
    options = {"data": str(tmp_path / "elsewhere"), "answers": None, "cache": None, "threads": 1}
    line = json.dumps({"name": "a", "recipe": recipe, "folder": str(tmp_path / "out"), "options": options})
    command = [sys.executable, "-m", "netpress.runs.workers.working"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    process.stdin.write(line + "\n")
    process.stdin.flush()
    told = json.loads(process.stdout.readline())
    assert error in told["error"] and told["wrong"] == wrong
    assert process.wait(60) == 2
    process.stdin.close()
    process.stdout.close()
