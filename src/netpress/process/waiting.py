"""How long threads stay awake while they wait for each other."""

import os

# Turns of a waiting loop. OpenMP's own default, with no more threads than cores, is 30 times that.
_TURNS = "10000"


def wait_briefly() -> None:
    """Let threads that wait sleep early, in a process that has not imported torch yet; what the user has set stays.

    torch splits each of its operations over threads, and the first to finish waits for the others awake. Where another
    process has taken a core, the one that waits keeps the late one from running: a small training was 40 times
    slower, and is 4 times slower so (docs/log.md). GNU's OpenMP, that of torch's Linux builds, reads this from the
    environment when it is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _TURNS)
