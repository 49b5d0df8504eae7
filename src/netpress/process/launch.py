"""Whether this process was started together with others, as `torchrun` starts them. Imports no torch."""

import os


def rank_and_size() -> tuple[int, int]:
    """Which of the processes that were started together this is, from 0, and how many there are; (0, 1) for one alone.

    torchrun says so in RANK and WORLD_SIZE. Where MASTER_ADDR is missing nobody can be met, and a process is alone.
    """
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1
    return (rank, size) if 0 <= rank < size and "MASTER_ADDR" in os.environ else (0, 1)
