"""Event files for TensorBoard, made of what a run's folder holds: `netpress run RECIPE --tensorboard`.

    tensorboard --logdir runs

shows each stage, and each round of one, under the name of its folder: the figures of its metrics.jsonl over the epochs.
The run's own folder has what each stage came to, over the number of the stage, and at the end the test figures.

Event files say nothing that metrics.jsonl, done.json and score.json do not say. So they are made from these: what came
since is added. Where a file does not begin as the figures do, as after an interruption, or where there is
none yet, it is made anew, so that no point stands twice.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netpress.errors import UserError
from netpress.folders.holding import find_written
from netpress.folders.run import RunFolder
from netpress.folders.stage import EVENTS, METRICS, read_metrics
from netpress.process.console import Console

_SUFFIX = EVENTS.rpartition("*")[2]
_OVER = ("epoch", "round")
"""Which figure of a line is the step of the others; the number of the line, where it has neither."""


def require_tensorboard() -> None:
    """Raise UserError where the package is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(f'--tensorboard needs the extra: pip install "netpress[tensorboard]" ({error})') from None


@dataclass(frozen=True)
class Point:
    """Figures by name at one step."""

    step: int
    figures: dict[str, float]


@contextmanager
def followed(run: RunFolder, wanted: bool, console: Console) -> Iterator[Callable[[], None]]:
    """Gives what brings the run's event files up to what its folder holds; it does nothing where nobody wants any."""
    if not wanted:
        yield lambda: None
        return
    files = EventFiles(run, console)
    try:
        yield files.update
    finally:
        files.close()


class EventFiles:
    """The event files of one run. `update` brings them up to what its folder holds."""

    def __init__(self, run: RunFolder, console: Console) -> None:
        self.run, self.console = run, console
        self.files: dict[Path, _EventFile] = {}
        self.failed = False

    def update(self) -> None:
        """Write what has come since. Where that fails, say so once: a training needs none of this."""
        if self.failed:
            return
        try:
            for stage in self.run.stages():
                for metrics in sorted(stage.path.rglob(METRICS)):
                    self._write(metrics.parent, line_points(read_metrics(metrics)))
            self._write(self.run.path, result_points(self.run))
        except OSError as error:
            self.failed = True
            self.console.warn(f"{self.run.path}: event files for TensorBoard cannot be written ({error.strerror})")

    def _write(self, folder: Path, points: list[Point]) -> None:
        file = self.files.setdefault(folder, _EventFile(folder))
        if file.bring_up_to(points):
            for other in self.files.values():  # each has a thread of its own: few are open at a time
                if other is not file:
                    other.close()

    def close(self) -> None:
        for file in self.files.values():
            file.close()


@dataclass
class _EventFile:
    """What is written in one folder. TensorBoard reads several files there as one, in the order of their names."""

    folder: Path
    written: list[str] = field(default_factory=list)
    is_begun: bool = False
    writer: Any = None

    def bring_up_to(self, points: list[Point]) -> bool:
        """Whether there was anything to write."""
        told = [json.dumps([point.step, point.figures]) for point in points]  # as text, NaN equals NaN
        anew = not self.is_begun or told[: len(self.written)] != self.written
        if anew:
            self.close()
            for path in find_written(self.folder, (EVENTS,), below=False):
                path.unlink(missing_ok=True)
            self.written, self.is_begun = [], True
        fresh = points[len(self.written) :]
        if fresh and self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # A TensorBoard that is already looking forgets what it has read of the file that was here.
            purge = fresh[0].step if anew else None
            self.writer = SummaryWriter(str(self.folder), filename_suffix=_SUFFIX, purge_step=purge)
        for point in fresh:
            for name, figure in point.figures.items():
                self.writer.add_scalar(name, figure, point.step)
        if fresh:
            self.writer.flush()
        self.written = told
        return bool(fresh)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def line_points(lines: list[dict[str, Any]]) -> list[Point]:
    """A point for each line of a metrics.jsonl."""
    points = []
    for number, line in enumerate(lines, 1):
        over = next((key for key in _OVER if isinstance(line.get(key), int)), None)
        figures = {name: value for name, value in _numbers(line).items() if name != over}
        points.append(Point(number if over is None else line[over], figures))
    return points


def result_points(run: RunFolder) -> list[Point]:
    """A point for each stage that is done, and one for the test figures, over the number of the stage."""
    done = run.read_summaries()
    points = [
        Point(number, {f"stage/{name}": value for name, value in _numbers(summary).items()})
        for number, summary in enumerate(done, 1)
    ]
    if run.is_finished:
        score = run.read_score()
        figures = _numbers({name: score.get(name) for name in ("accuracy", "top5", "loss")})
        counts = _numbers({name: score.get(name) for name in ("score", "params", "operations")})
        counts |= _numbers(score.get("footprint") or {})
        tests = {f"test/{name}": value for name, value in figures.items()}
        points.append(Point(len(done), tests | {f"result/{name}": value for name, value in counts.items()}))
    return points


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
