"""A team of threads in place of processes: what is summed is summed over them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class ThreadTeam:
    """One of `size` threads, as far as norms and draws ask a `Team`."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, board: list[Tensor]) -> None:
        self.rank, self.size, self.barrier, self.board = rank, size, barrier, board

    def sum(self, values: Tensor) -> Tensor:
        self.board[self.rank] = values.clone()
        self.barrier.wait()
        total = torch.stack(self.board).sum(0)
        self.barrier.wait()
        return values.copy_(total)


def in_threads(size: int, work: Callable[[Any], Any]) -> list[Any]:
    """What `work` gives in each of `size` threads, each with its ThreadTeam; one thread's error ends all."""
    barrier, board = threading.Barrier(size, timeout=20), [torch.empty(0)] * size

    def run(rank: int) -> Any:
        try:
            return work(ThreadTeam(rank, size, barrier, board))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
        errors = [future.exception() for future in futures]
        real = [error for error in errors if error and not isinstance(error, threading.BrokenBarrierError)]
        for error in [*real, *errors]:
            if error:
                raise error
        return [future.result() for future in futures]
