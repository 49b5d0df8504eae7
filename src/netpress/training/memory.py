"""Keep memory that a step frees for the next one.

A step allocates and frees the same large tensors again and again. By default the C library gives each of them back to
the system at once and asks for fresh pages the next time, which the system clears first: a tenth of a
training step on a CPU, and more on virtual machines.
"""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of settings in glibc's malloc.h
_LARGEST_KEPT = 1 << 30  # bytes; a larger tensor is still given back


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, from here on; whether that could be arranged (on Linux with glibc)."""
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    kept = library.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT) and library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    return bool(kept)
