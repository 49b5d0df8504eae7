"""Where a process computes, and which of how many processes it is."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class World:
    """The processes that work on one run together: usually this one alone.

    A stage asks the world and never looks around for itself: it computes on `device`, and what is written, the
    process of rank 0 writes.
    """

    device: torch.device
    rank: int = 0
    """Which of the processes this is, from 0."""
    size: int = 1
    """How many processes there are."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank}: a world of {self.size} has ranks 0 to {self.size - 1}")
