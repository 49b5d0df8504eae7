"""Freed memory is kept: what a C library can be told, it is told."""

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource
from netpress.memory import keep_freed_memory
assert keep_freed_memory()
import numpy

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_second_large_array_costs_no_new_pages():
    printed = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True).stdout
    assert int(printed) < 1000  # of the 31,250 pages of 4 KB that 128 MB are
