"""What a person sees while netpress works: lines, warnings and progress.

    with console.progress("train", steps) as bar:
        bar.update(1)

On a terminal, this is a bar with figures and the time left. Elsewhere (a pipe, a file, continuous integration) it is a
line at the start, at most one every `interval` seconds, and one at the end. A console with a log writes every line to
a file too, so that a run folder keeps it.

Importing this file imports no torch; rich is imported when the first bar is drawn.
"""

import errno
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from netpress.errors import Failure, visible

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import TaskID

Figure = str | int | float


class Console:
    """Where messages go. `say` and progress go to `stream` (standard output), `warn` and `error` to standard error.

    quiet: leave out `say` and progress on the stream; the log file still gets them.
    log: a file to append every line to, each with the time of day. Its folder must exist.
    stream: give sys.stderr where standard output carries data (`--json`).
    interval: the least time between two plain progress lines, in seconds.
    """

    def __init__(
        self,
        quiet: bool = False,
        *,
        log: Path | None = None,
        stream: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.quiet = quiet
        self.log = log
        self.interval = interval
        self.clock = clock
        self._stream = stream
        self._display: Display | None = None  # rich's live display, while one is open

    @property
    def stream(self) -> TextIO:
        """Looked up at each use: standard output may be replaced after the console was made."""
        return self._stream if self._stream is not None else sys.stdout

    def with_log(self, path: Path) -> "Console":
        """A console that speaks as this one does and also writes to the file `path`."""
        return Console(self.quiet, log=path, stream=self._stream, interval=self.interval, clock=self.clock)

    def say(self, text: str = "") -> None:
        """A line for people. Raises Failure if the log file cannot be written."""
        text = visible(text)  # names of files, of layers in others' files
        self._print(text)
        self._write_log(text)

    def warn(self, text: str) -> None:
        """Something the user should know that does not stop the work."""
        text = visible(text)
        self._print_beside(f"warning: {text}", "yellow")
        self._write_log(f"warning: {text}")

    def error(self, text: str) -> None:
        """The one message with which a command ends badly. Never raises: a full disk must still be reported."""
        text = visible(text)
        self._print_beside(f"error: {text}", "red")
        with suppress(Failure):
            self._write_log(f"error: {text}")

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator["Progress"]:
        """Show the progress of `total` steps of work called `title`. May be nested."""
        if self.quiet or not self._is_terminal():
            yield Progress(self, title, total)
            return
        with self._open_display() as display:
            task = display.add_task(title, total=total, figures="")
            try:
                yield Progress(self, title, total, display, task)
            finally:
                display.remove_task(task)

    @contextmanager
    def _open_display(self) -> Iterator["Display"]:
        if self._display is not None:  # nested progress: one more line in the open display
            yield self._display
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Display

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        with Display(*columns, console=RichConsole(file=self.stream), transient=True) as display:
            self._display = display
            try:
                yield display
            finally:
                self._display = None

    def _is_terminal(self) -> bool:
        return self.stream.isatty()

    def _print(self, text: str) -> None:
        if self.quiet:
            return
        if self._display is not None:
            self._display.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            write_line(self.stream, text)

    def _print_beside(self, text: str, colour: str) -> None:
        if self._display is not None:
            self._display.console.print(text, style=colour, markup=False, highlight=False, soft_wrap=True)
        else:
            write_line(sys.stderr, text)

    def _write_log(self, text: str) -> None:
        if self.log is None:
            return
        stamp = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        try:
            with self.log.open("a", encoding="utf-8") as file:  # opened for each line: a killed run keeps them all
                file.writelines(f"{stamp}  {line}\n" for line in text.split("\n"))
        except OSError as error:
            raise Failure(
                f"{self.log}: the log cannot be written ({error.strerror}); free space and run again"
            ) from None


class PatientStream(io.TextIOBase):
    """A stream that drops what is written once nobody reads it any more, and replaces letters that it has no code for.

    `netpress list models | head -1` has done what was wanted, and a run whose terminal is gone still has its log.
    """

    def __init__(self, stream: TextIO) -> None:
        self._to = stream

    @classmethod
    def around(cls, stream: TextIO | None) -> TextIO:
        """Such a stream around `stream`, or around nothing where the process was started without one."""
        return cls(stream if stream is not None else Path(os.devnull).open("w", encoding="utf-8"))  # type: ignore[return-value]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._to, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._to, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._to.isatty()

    def fileno(self) -> int:
        return self._to.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        try:
            self._to.write(text.encode(self.encoding, "replace").decode(self.encoding))
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._to.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Let all that follows, and what is still held back, go nowhere; other errors than a lost reader are raised."""
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # Windows has the second
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._to.fileno())
        os.close(nowhere)


class Progress:
    """The progress of one piece of work, made by `Console.progress`."""

    def __init__(
        self,
        console: Console,
        title: str,
        total: int,
        display: "Display | None" = None,
        task: "TaskID | None" = None,
    ) -> None:
        self.title = title
        self.total = total
        self._console = console
        self._display = display
        self._task = task
        self._start = console.clock()
        self._first_done: int | None = None  # work found done at the first update, as in a resumed run
        self._last_line: float | None = None

    def update(self, done: int, **figures: Figure) -> None:
        """Say that `done` of `total` steps are done, with figures such as epoch="3/10", loss=1.2, accuracy=0.61.

        Cheap enough to be called at every step.
        """
        now = self._console.clock()
        if self._first_done is None:
            self._first_done, self._start = done, now
        due = self._last_line is None or now - self._last_line >= self._console.interval or done >= self.total
        if self._display is not None and self._task is not None:
            self._display.update(self._task, completed=done, figures=describe_figures(figures), refresh=due)
        if due:
            self._last_line = now
            line = self._describe(done, now, figures)
            if self._display is None:
                self._console.say(line)
            else:
                self._console._write_log(line)

    def _describe(self, done: int, now: float, figures: dict[str, Figure]) -> str:
        parts = [f"{self.title} {done}/{self.total}", describe_figures(figures)]
        worked = done - (self._first_done or 0)
        if worked > 0 and done < self.total:
            left = (now - self._start) / worked * (self.total - done)
            parts.append(f"{describe_seconds(left)} left")
        return "  ".join(part for part in parts if part)


def describe_figures(figures: dict[str, Figure]) -> str:
    """Figures as people read them: `epoch 3/10  loss 1.234  accuracy 61.3%  512 images/s`."""
    return "  ".join(_describe_figure(name, value) for name, value in figures.items())


def _describe_figure(name: str, value: Any) -> str:
    if isinstance(value, str):
        return f"{name.replace('_', ' ')} {value}"
    if name.endswith("_per_second"):
        return f"{value:,.0f} {name.removesuffix('_per_second').replace('_', ' ')}/s"
    if name.endswith("accuracy"):
        return f"{name.replace('_', ' ')} {value:.2%}"
    return f"{name.replace('_', ' ')} {value if isinstance(value, int) else format(value, '.4g')}"


def write_bytes(count: float) -> str:
    """Bytes for people: 1023 B, 260.6 KiB, 1.20 MiB (1 KiB is 1024 bytes, as a limit's K is)."""
    for size, unit, digits in ((2**30, "GiB", 2), (2**20, "MiB", 2), (1024, "KiB", 1)):
        if count >= size:
            return f"{count / size:,.{digits}f} {unit}"
    return f"{count:,.0f} B"


def describe_seconds(seconds: float) -> str:
    """A time in the two units that matter: `8 s`, `2 min 05 s`, `3 h 20 min`, `2 d 4 h`."""
    whole = round(seconds)
    if whole < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def write_line(stream: TextIO, text: str) -> None:
    """Write a line and flush it; characters that the stream's encoding lacks are replaced, not fatal."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    stream.flush()
