"""Keeps freed memory for the next tensor, where the C library can be told to."""

import ctypes
import sys

# mallopt's parameters, from glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory in this process; False where it cannot be told.

    glibc asks the system anew for every block above 32 MB and gives it back when it is freed. A network's
    activations are that large, and the system clears each page again: up to half of an evaluation's time and a
    tenth of a training step. The command line and every training on a CPU ask for it; nothing
    else does, as it holds for the whole process.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    kept = (mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_TOP_PAD, 64 << 20))
    return all(kept)
