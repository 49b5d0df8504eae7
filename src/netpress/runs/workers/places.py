"""Places where tasks run. All are used in the same way, whatever is behind them:

    place.start(task)            # as many at a time as it has slots
    for ended in place.wait():   # at least one, as soon as it ends
        print(ended.name, ended.error or "done")

What a task makes lies in its folder, which every worker and the one who asks must see under the same path.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from netpress.errors import Failure, UserError
from netpress.runs.workers.tasks import Task


@dataclass(frozen=True)
class Ended:
    """How a task ended: with its folder finished, with an error, or with its worker gone."""

    name: str
    error: Failure | UserError | None = None
    lost: bool = False
    """The worker died or its machine went: the task itself may be sound."""


class Place(Protocol):
    """Where tasks run. `close` ends those that still do, which go on another time from what they have saved."""

    @property
    def slots(self) -> int:
        """How many tasks may run at a time."""

    def start(self, task: Task) -> None:
        """Begin a task. Not more than there are slots."""

    def wait(self, seconds: float | None = None) -> list[Ended]:
        """What has ended, waiting for the first; nothing where none ends within `seconds`."""

    def cancel(self, name: str) -> None:
        """Ask a running task to stop. It then ends as others do, with an error."""

    def close(self) -> None:
        """Stop what runs, and wait until it has."""


class Here:
    """This process: a task runs to its end when it is started."""

    slots = 1

    def __init__(self, run: Callable[[Task], None] = Task.run) -> None:
        self._run = run
        self._ended: list[Ended] = []

    def start(self, task: Task) -> None:
        """Run it. Raises UserError at once; a Failure is what `wait` gives."""
        try:
            self._run(task)
        except Failure as failure:
            self._ended.append(Ended(task.name, failure))
        else:
            self._ended.append(Ended(task.name))

    def wait(self, seconds: float | None = None) -> list[Ended]:
        """Everything that was started since."""
        ended, self._ended = self._ended, []
        return ended

    def cancel(self, name: str) -> None:
        """Nothing runs any more when this could be called."""

    def close(self) -> None:
        """Likewise."""
