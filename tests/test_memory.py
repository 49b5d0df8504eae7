"""What a step frees stays with the process: measured where it counts, in page faults, in a process of its own."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from netpress.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def fill(): torch.ones(12 << 20)  # 48 MiB
for _ in range(30): fill()  # until the heap has found its shape
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep freed memory")
def test_kept_memory_is_used_again() -> None:
    def faults(what: str) -> int:
        run = subprocess.run([sys.executable, "-c", PROGRAM, what], capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        return int(run.stdout)

    assert 10 * faults("keep") < faults("give back")
