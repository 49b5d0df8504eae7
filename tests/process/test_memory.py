"""What is asked of a process as a whole: what a step frees stays with it, in page faults, and threads sleep early."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest

from netpress.process.waiting import wait_briefly

PROGRAM = """
import resource, sys, torch
from netpress.process.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def fill(): torch.ones(12 << 20)  # 48 MiB
for _ in range(30): fill()  # until the heap has found its shape
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep freed memory")
@pytest.mark.slow
def test_kept_memory_is_used_again() -> None:
    def faults(what: str) -> int:
        run = subprocess.run([sys.executable, "-c", PROGRAM, what], capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        return int(run.stdout)

    assert 10 * faults("keep") < faults("give back")


def test_waiting_threads_sleep_early_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "10000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    wait_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_the_command_line_asks_before_torch_is_there(run_python: Callable[[str], str]) -> None:
    code = (
        "import os, sys; sys.argv = ['netpress', '--version']\n"
        "os.environ.pop('OMP_WAIT_POLICY', None); os.environ.pop('GOMP_SPINCOUNT', None)\n"
        "from netpress.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert os.environ['GOMP_SPINCOUNT'] and 'torch' not in sys.modules\n"
    )
    run_python(code)
