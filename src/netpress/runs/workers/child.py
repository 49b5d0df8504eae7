"""A process that runs one task, from the side of the one who starts it.

It is given its task on standard input and keeps reading there: when the one that started it is gone, however that went,
it saves its state and ends, instead of holding the folder. What it says comes on standard error, how it ended on
standard output (`netpress.runs.workers.working` is its own side). Nothing is pickled.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from netpress.errors import Failure, UserError
from netpress.runs.workers.places import Ended

LAST_LINES = 5  # of what a process said, told where it dies
GRACE = 120.0
"""Seconds to save its state in, once a process was asked to end."""


@dataclass(frozen=True)
class Ending:
    """How a process ended: its exit code, the last line of its standard output, the last ones of what it said."""

    code: int
    told: str
    said: tuple[str, ...]

    def read(self, name: str) -> Ended:
        """What that means for the task called `name`."""
        with suppress(ValueError, KeyError, TypeError):
            answer = json.loads(self.told)
            message = answer["error"]
            if message is None:
                return Ended(name)
            return Ended(name, UserError(message) if answer["wrong"] else Failure(message))
        how = f"was ended by signal {-self.code}" if self.code < 0 else f"ended with code {self.code}"
        last = f"; it last said: {' / '.join(self.said)}" if self.said and self.code >= 0 else ""
        return Ended(name, Failure(f"its process {how}{last}"), lost=True)


class Child:
    """The process of one task."""

    def __init__(self, line: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it with the task in `line`."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "netpress.runs.workers.working"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=None if environment is None else dict(environment),
            start_new_session=True,  # Ctrl-C goes to the one that started it, which asks each to end
        )
        assert self.process.stdin is not None
        with suppress(OSError):  # it died already, as whoever follows it will see
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def follow(self, hear: Callable[[str], None] = lambda line: None) -> Ending:
        """Wait for its end; `hear` is told each line that it says."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        told, said = list[str](), list[str]()
        reader = threading.Thread(target=_read, args=(self.process.stdout, told), daemon=True)
        reader.start()
        for line in self.process.stderr:
            said.append(line.rstrip("\n"))
            del said[:-LAST_LINES]
            hear(said[-1])
        reader.join()
        return Ending(self.process.wait(), told[-1] if told else "", tuple(said))

    def ask_to_end(self) -> None:
        """It saves its state first."""
        self.process.terminate()

    def end(self) -> None:
        """Ask it to end, wait, and end it where it does not; whoever follows it sees its last lines."""
        self.process.terminate()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """Let go of what an ended process was spoken with through."""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def _read(stream: IO[str], into: list[str]) -> None:
    into.extend(stream)
