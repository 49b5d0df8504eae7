"""Commands that were given to several processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netpress.cli.company import refuse_company, refuse_company_for
from netpress.errors import UserError
from netpress.process.launch import rank_and_size

RECIPE = """
name = "small"
[data]
dataset = "digits"
train_images = 200
[model]
family = "wide_resnet"
depth = 10
width = 1
[[stages]]
kind = "train"
epochs = 6
batch_size = 50
"""


@pytest.fixture
def two(monkeypatch):
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(key, value)


def test_a_process_is_alone_unless_it_can_meet_others(monkeypatch, two):
    assert rank_and_size() == (0, 2)
    monkeypatch.setenv("RANK", "2")
    assert rank_and_size() == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_ADDR")
    assert rank_and_size() == (0, 1)


def test_what_is_for_one_process_is_refused(two):
    with pytest.raises(UserError, match="netpress plan: is for one process, and torchrun started 2"):
        refuse_company("plan")
    refuse_company("run")
    with pytest.raises(UserError, match=r"is several runs, .* with --workers 2 or --cluster"):
        refuse_company_for("the [sweep] of many")


def start(size: int, *words: object) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(size)}
    command = [sys.executable, "-m", "netpress", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    environments = [os.environ | place | {"RANK": str(rank)} for rank in range(size)]
    return [subprocess.Popen(command, env=environment, **pipes) for environment in environments]


def end(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    said = [process.communicate(timeout=60) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


@pytest.mark.slow
def test_a_run_of_two_is_killed_and_goes_on_with_one_and_with_two(tmp_path: Path):
    recipe, out = tmp_path / "small.toml", tmp_path / "run"
    recipe.write_text(RECIPE, encoding="utf-8")
    words = ("run", recipe, "--out", out, "--device", "cpu", "--save-every", "0")
    metrics = out / "01-train" / "metrics.jsonl"

    def lines() -> int:
        return len(metrics.read_text(encoding="utf-8").splitlines()) if metrics.exists() else 0

    def wait_for(count: int, process: subprocess.Popen[str]) -> None:
        while lines() < count and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None

    leader, helper = start(2, *words)
    wait_for(1, leader)
    helper.send_signal(signal.SIGKILL)
    (code, _, err), _ = end([leader, helper])
    assert code == 1
    assert "one of the 2 processes is gone" in err and "Traceback" not in err
    alone = start(1, *words)
    wait_for(max(2, lines() + 1), alone[0])
    alone[0].send_signal(signal.SIGINT)
    assert end(alone)[0][0] == 130
    begun = lines()
    (code, out_text, err), quiet = end(start(2, *words))
    assert (code, quiet) == (0, (0, "", "")), err
    assert "accuracy" in out_text and "began with processes 2" not in err
    logged = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    assert [line["epoch"] for line in logged] == [1, 2, 3, 4, 5, 6] and 2 <= begun < 6
