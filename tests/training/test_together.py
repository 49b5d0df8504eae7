"""Trainings by two processes: what one process gives, up to rounding."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "together_program.py"


def start_two(*words: str) -> list[subprocess.Popen[str]]:
    """`python WORDS` in two processes that know of each other as torchrun's do; the leader is the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env=os.environ | place | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def found():
    leader, helper = start_two(str(PROGRAM))
    out, err = leader.communicate(timeout=100)
    said = helper.communicate(timeout=20)
    assert (leader.returncode, helper.returncode) == (0, 0), err + said[1]
    assert said == ("", "")
    return json.loads(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gates", "dense", "wide", "shaken", "taught", "kept"])
def test_two_processes_train_as_one_does(found, name):
    one, two = found[name]["one"], found[name]["two"]
    for figure in ("loss", "right", "selection", "statistics"):
        assert two[figure] == pytest.approx(one[figure], rel=2e-5), figure


@pytest.mark.slow
def test_two_processes_give_the_same_bits_again_and_read_answers_that_were_kept(found):
    assert found["kept"]["again"] == found["kept"]["two"]
