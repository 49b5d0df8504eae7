"""Stops where it does no harm: on Ctrl-C, and on SIGTERM, by which a cluster asks a process to end.

The command line listens for both. A request raises `Interrupted` at once, or at the end of a `deferred` block, where
the work has come to a safe point. A second request does not wait. A program that uses netpress as a library keeps its
signals to itself.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_GO_ON = "the same command goes on from what is saved"
_SAID = {
    signal.SIGINT: f"interrupted; {_GO_ON}",
    signal.SIGTERM: f"ended by the system (SIGTERM); {_GO_ON}",
}


class Interrupted(BaseException):
    """Somebody asked the process to stop. Not an Exception: nothing that handles failures may swallow it."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(_SAID[signal.Signals(number)])

    @property
    def exit_code(self) -> int:
        """As shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number


class Request:
    """Whether somebody has asked to stop since `deferred` began."""

    def __init__(self) -> None:
        self.number: int | None = None

    def obey(self) -> None:
        """Raise Interrupted if so."""
        if self.number is not None:
            number, self.number = self.number, None
            raise Interrupted(number)


_waiting: list[Request] = []  # the innermost `deferred` last


@contextmanager
def listening() -> Iterator[None]:
    """Turn requests to stop into Interrupted while the context lasts; outside the main thread nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _notice) for number in _SAID}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[Request]:
    """Within, a first request is only noted: obey it at the next safe point, or it is obeyed at the end."""
    request = Request()
    _waiting.append(request)
    try:
        yield request
    finally:
        _waiting.remove(request)
    request.obey()


def _notice(number: int, _: Any) -> None:
    if _waiting and _waiting[-1].number is None:
        _waiting[-1].number = number
        return
    raise Interrupted(number)
