"""Where a process computes, and with which others."""

from dataclasses import dataclass

import torch

from netpress.process.team import Team


@dataclass(frozen=True)
class World:
    """What works on a run: this process, which alone reads and writes its files, and those that help it.

    A stage asks the world and never looks around for itself: it computes on `device`, and a training shares its
    batches with the team.
    """

    device: torch.device
    team: Team | None = None
    """The processes that train together, led by this one; None for one alone."""

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.team.size if self.team is not None else 1
