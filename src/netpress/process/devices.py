"""Devices, threads, and streams of random numbers.

    generator = generator_for(seed, "augment", epoch)

gives the same numbers for the same seed and purpose, whatever was drawn before. So an interrupted run saves no state of
a generator: step 700 of epoch 3 draws the same numbers, however it was reached. Nothing draws from torch's global
generator.
"""

import hashlib
import os
import platform
from pathlib import Path
from typing import Literal

import torch

from netpress.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda"]


def choose_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` takes CUDA where it works. Raises UserError if it is not there."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {name}: choose cpu, cuda or auto")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine or this build of torch has no CUDA device; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def seed_for(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from the run's seed and a purpose such as ("train", 2, "epoch", 17)."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator_for(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose; equal arguments give equal streams."""
    return torch.Generator(device=device).manual_seed(seed_for(seed, *purpose))


def available_cores() -> int:
    """Cores this process may use (its affinity, not the machine's total)."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS, Windows
        return max(1, os.cpu_count() or 1)


def processor_name() -> str:
    """What the processor calls itself, as far as the system says it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def set_threads(threads: int) -> None:
    """Compute with this many threads from here on.

    The default is torch's own (the cores of this process, or OMP_NUM_THREADS). It is not chosen by a self-test:
    sums over another number of threads round otherwise, so a noisy choice would make equal runs differ.
    """
    torch.set_num_threads(threads)
