"""Where a run happens: versions, git commit, machine, device, threads. A run folder keeps it in environment.json."""

import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from netpress.native.library import available
from netpress.process.devices import available_cores, processor_name, set_threads

PACKAGES = ("netpress", "torch", "numpy", "pillow", "safetensors")


def describe_environment(device: torch.device, threads: int | None = None) -> dict[str, Any]:
    """Everything of the machine that a person needs to judge or repeat a run, as plain JSON."""
    return {
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "machine": f"{processor_name()}, {available_cores()} cores, {platform.system()}",
        "threads": threads or torch.get_num_threads(),
        "compiled_kernels": available(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def settle_threads(environment: dict[str, Any]) -> None:
    """Compute with the number of threads the run began with: another number may round sums differently."""
    set_threads(environment["threads"])


def _git_commit() -> str | None:
    """The commit of the source netpress runs from; None where it is installed without its repository."""
    here = Path(__file__).resolve().parent
    try:
        result = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            encoding="utf-8",
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
