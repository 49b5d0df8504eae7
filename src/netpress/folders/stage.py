"""A stage's folder: what a stage leaves, what it keeps while it is under way, and how both are read.

    02-prune/metrics.jsonl            figures, a line each
             state.safetensors        where to go on after an interruption; gone once the stage is done
             round-1/metrics.jsonl    a part of the stage keeps its own
                     network.netpress
             network.netpress         the stage's result
             done.json                the mark that the stage is done, with what it came to
             events.out.tfevents...   the figures for TensorBoard, where that was asked for

Reading needs no torch: a report is written without it.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.errors import Failure
from netpress.files import atomic_write, read_object

METRICS = "metrics.jsonl"
STATE = "state.safetensors"
NETWORK = "network.netpress"
LAST = "last.netpress"
"""The network of a round after its last step, where the round keeps another one as its result."""
DONE = "done.json"
DELETED = "deleted.json"
"""What a round of factorizing deleted, and where: regrowth asks for it."""
EVENTS = "events.out.tfevents.*.netpress"
"""What event files for TensorBoard are called here; those of other programs do not end so."""
STAGE_FILES = (METRICS, STATE, DONE, NETWORK, LAST, DELETED, EVENTS)
"""What stages write, in their folders and those of their parts: names, or patterns of names."""


@dataclass(frozen=True)
class StageFolder:
    """The folder of one stage of a run."""

    path: Path

    @property
    def name(self) -> str:
        """As 01-train: the stage's place in the run and its kind."""
        return self.path.name

    @property
    def done(self) -> Path:
        return self.path / DONE

    @property
    def network(self) -> Path:
        return self.path / NETWORK

    @property
    def is_done(self) -> bool:
        """Whether the mark is there, whole. A damaged one does not count: the stage is run again and makes it anew."""
        try:
            return isinstance(json.loads(self.done.read_bytes()), dict)
        except (OSError, ValueError, RecursionError):
            return False

    def mark_done(self, summary: dict[str, Any]) -> None:
        """Say that the stage is done, and what it came to: plain JSON with seconds, weights and nonzeros."""
        atomic_write(self.done, json.dumps(summary, indent=1))

    def read_summary(self) -> dict[str, Any]:
        """What the stage came to. Raises Failure where the mark is damaged."""
        return read_object(self.done, seconds=float, weights=int, nonzeros=int)

    def clear_state(self) -> None:
        """Forget the saved state, that of parts too, once the stage's result is safe."""
        for path in self.path.rglob(STATE):
            path.unlink(missing_ok=True)

    def networks(self) -> list[Path]:
        """The networks that the stage left, in order: one a round, the last of which is the stage's; else its one."""
        rounds = self.path.glob(f"{round_name('*')}/{NETWORK}")
        return sorted(rounds, key=_in_order_of_time) or [self.network]

    def read_metrics(self) -> list[dict[str, Any]]:
        """The metrics of the stage and of its parts (rounds), in order of time."""
        files = sorted(self.path.rglob(METRICS), key=_in_order_of_time)
        return [line for file in files for line in read_metrics(file)]


def round_name(number: int | str) -> str:
    """The name of a pruning's round, from 1, and of its folder."""
    return f"round-{number}"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics.jsonl; [] where there is none.

    What an interruption or a power cut leaves at the end (half a line, zero bytes) is left out. Raises Failure where
    a line before others is damaged.
    """
    if not path.exists():
        return []
    entries = [_parse(line) for line in path.read_bytes().split(b"\n")[:-1]]  # the rest was cut short
    while entries and entries[-1] is None:
        entries.pop()
    lines = [line for line in entries if line is not None]
    if len(lines) < len(entries):
        number = entries.index(None) + 1
        raise Failure(f"{path}: line {number} is damaged; remove that line (its figures are lost) and start again")
    return lines


def format_metrics(lines: list[dict[str, Any]]) -> str:
    """The text of a metrics.jsonl with these lines."""
    return "".join(json.dumps(line) + "\n" for line in lines)


def format_accuracies(lines: list[dict[str, Any]]) -> str:
    """The text of a log.tsv: accuracy on the training and on the selection images, in percent, a row an epoch.

    The form is that of the log of IMT Atlantique's trainings: two headings and six decimals, a tab after each value.
    An epoch after which nothing was measured has `nan`, so that every row reads as two numbers. Lines of anything
    else than an epoch have no row.
    """
    epochs = (line for line in lines if "epoch" in line)
    rows = ((line.get("train_accuracy"), line.get("selection_accuracy")) for line in epochs)
    return "Train Acc.\tValid Acc.\t\n" + "".join(f"{_in_percent(one)}\t{_in_percent(two)}\t\n" for one, two in rows)


def _in_percent(fraction: Any) -> str:
    return f"{math.nan if fraction is None else fraction * 100:.6f}"


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _in_order_of_time(path: Path) -> list[tuple[int, int | str]]:
    """Sort key in which round-10 follows round-9."""
    words = path.as_posix().replace("-", "/").split("/")
    return [(0, int(word)) if word.isdigit() else (1, word) for word in words]
