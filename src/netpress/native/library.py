"""The compiled library: found, loaded once, and asked for by everyone else in this room."""

import ctypes
import os
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

SWITCH = "NETPRESS_NATIVE"
"""Set to 0 in the environment, this variable leaves the kernels out; torch computes everything."""

VERSION = 3
"""Raised here and in module.c when what a kernel takes changes: a library built from older sources is left alone."""

_NAME = "_kernels"


def available() -> bool:
    """Whether compiled kernels are used in this process."""
    return library() is not None


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there are none, where they do not load, or where SWITCH says 0."""
    if os.environ.get(SWITCH) == "0":
        return None
    # The kernels' threads are those of torch's OpenMP, which loading torch brings into the process.
    import torch  # noqa: F401

    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(_NAME + suffix)
        if path.exists():
            return _load(path)
    return None


def _load(path: Path) -> ctypes.CDLL | None:
    try:
        loaded = ctypes.CDLL(str(path))
        return loaded if loaded.netpress_version() == VERSION else None
    except (OSError, AttributeError):  # built for another machine, torch here has another OpenMP, or from older sources
        return None
