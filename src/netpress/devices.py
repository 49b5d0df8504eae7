"""Which device, how many threads, and where randomness comes from.

Randomness is never drawn from torch's global generator: everything random asks
`generator_for(seed, "what", 3, ...)`, whose stream depends on the run's seed and on
what it is for, and on nothing that happened before. So a resumed run needs no saved
generator states: step 700 of epoch 3 draws the same numbers however it was reached.
"""

import hashlib
import os
import time
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


def choose_threads() -> int:
    """The number of threads at which a small convolution net is fastest here, by a self-test of under a second.

    More threads are not always faster: on a shared machine they can wait for each other.
    """
    cores = available_cores()
    if cores == 1:
        return 1
    weight = torch.ones(144, 48, 1, 1)
    images = torch.ones(64, 48, 16, 16).contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    times = {}
    try:
        for threads in sorted({1, max(1, cores // 2), cores}):
            torch.set_num_threads(threads)
            times[threads] = min(_time_once(images, weight) for _ in range(6))
    finally:
        torch.set_num_threads(before)
    return min(times, key=lambda threads: times[threads])


def set_threads(threads: int) -> None:
    """Compute with this many threads from here on."""
    torch.set_num_threads(threads)


def _time_once(images: torch.Tensor, weight: torch.Tensor) -> float:
    start = time.perf_counter()
    for _ in range(4):
        torch.nn.functional.conv2d(images, weight)
    return time.perf_counter() - start
