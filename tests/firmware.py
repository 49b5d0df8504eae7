"""Firmware that tests build and run, and the figures that it is held to."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

COMPILER = "arm-none-eabi-gcc"
EMULATOR = "qemu-system-arm"
MEASURED_WITH = "12.2.1"
"""The version of the compiler that gave INSTRUCTIONS."""
INSTRUCTIONS = {"small": 188_520, "kaist-int": 71_369_960}
"""Instructions an image on a Cortex-M4 (mps2-an386, the Makefile's options), of tests/export/small.netpress and of
networks/kaist-int. Counted, no time."""

_MISSING = [tool for tool in ("make", COMPILER, EMULATOR) if shutil.which(tool) is None]
needs_tools = pytest.mark.skipif(bool(_MISSING), reason=f"firmware cannot be built and run without {_MISSING}")


@dataclass(frozen=True)
class Ran:
    """What firmware said."""

    code: int
    logits: str
    """Its standard output."""
    said: str

    def figure(self, name: str) -> int:
        """The number behind a word, of the last image."""
        return int(re.findall(rf"^{name} +(\d+)", self.said, re.MULTILINE)[-1])


def build(folder: Path, *options: str) -> dict[str, int]:
    """Build it; gives the ELF file's bytes: text, data, bss."""
    done = subprocess.run(["make", "-s", "-C", folder, *options], capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    size = subprocess.run(["make", "-s", "-C", folder, "size"], capture_output=True, text=True, encoding="utf-8")
    names, numbers = (line.split() for line in size.stdout.splitlines())
    return {name: int(number) for name, number in zip(names[:3], numbers[:3], strict=True)}


def run(folder: Path, *options: str, target: str = "run") -> Ran:
    """Run it in QEMU."""
    done = subprocess.run(["make", "-s", "-C", folder, target, *options], capture_output=True)
    return Ran(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))


def check_instructions(name: str, found: int) -> None:
    """Hold the count of `name` within 1% of what was measured, where the compiler is the same."""
    version = subprocess.run([COMPILER, "-dumpfullversion"], capture_output=True, text=True, encoding="utf-8").stdout
    if version.strip() != MEASURED_WITH:
        pytest.skip(f"instructions were counted with {COMPILER} {MEASURED_WITH}, and this is {version.strip()}")
    assert abs(found / INSTRUCTIONS[name] - 1) < 0.01, f"{name}: {found:,} instructions an image"
