"""The runs below a folder: what each is, how far it is, what it came to and what it takes on the disk.

    for run in list_runs(Path("runs")):
        print(run.path, run.tell_state(), run.accuracy)

Nothing here imports torch, and nothing is written.
"""

import csv
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from netpress.errors import NetpressError, UserError
from netpress.files import is_folder, is_there, parse_toml, read_file, read_object, read_text
from netpress.folders.chain import ChainFolder
from netpress.folders.holding import LOCK, is_held
from netpress.folders.removal import open_folder
from netpress.folders.run import RECIPE, RunFolder
from netpress.folders.search import SearchFolder
from netpress.folders.several import SeveralFolder
from netpress.folders.sweep import SweepFolder

PARTS = {"run": "stages", "chain": "networks", "sweep": "runs", "search": "trials"}
_LARGEST_TABLE = 1 << 26  # bytes of a sweep.csv or a search's journal


@dataclass(frozen=True)
class ListedRun:
    """One run, sweep, search or chain. Figures are None where there are none yet; `accuracy` is a fraction."""

    path: Path
    kind: str
    """run, sweep, search or chain."""
    recipe: str
    """The recipe's name."""
    state: str
    """running, interrupted, failed, done, or damaged."""
    done: int
    """Of the parts, that is stages, or runs of a sweep, or networks of a chain: how many are done."""
    parts: int
    problem: str | None
    """Why it failed, or what is damaged."""
    accuracy: float | None
    score: float | None
    flash_bytes: int | None
    disk_bytes: int
    """What all files in the folder hold, whoever wrote them."""
    changed: float
    """When the youngest of its files was written, in seconds since 1970."""

    def tell_state(self) -> str:
        """The state, and how far it is: `interrupted in stage 2 of 3`, `running, 1 of 4 networks done`."""
        if self.state in ("done", "damaged"):
            return self.state
        if self.kind == "run":
            return f"{self.state} in stage {min(self.done + 1, self.parts)} of {self.parts}"
        return f"{self.state}, {self.done} of {self.parts} {PARTS[self.kind]} done"

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {"path": str(self.path), "changed": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.changed))}
        return asdict(self) | told


def list_runs(folder: Path) -> list[ListedRun]:
    """The runs in `folder` and below, the one that changed last at the end. Links are not followed.

    Of a sweep or a chain all is one entry; where `folder` is one, its members are listed. Raises UserError where there
    is no such folder.
    """
    if not is_folder(folder):
        there = "is a file" if is_there(folder) else "no such folder"
        raise UserError(f"{folder}: {there}; name a folder that holds runs, as runs/ where `netpress run` was called")
    top = open_folder(folder)
    found = [member.path for member in top.members()] if isinstance(top, SeveralFolder) else list(_find(folder))
    return sorted((_describe(path) for path in found), key=lambda run: (run.changed, run.path))


def _find(folder: Path) -> Iterator[Path]:
    """The folders with runs, none within another. What cannot be looked into is passed over."""
    for place, folders, files in os.walk(folder):
        if RECIPE in files and RunFolder(Path(place)).was_begun:
            folders.clear()
            yield Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _describe(path: Path) -> ListedRun:
    folder, top = open_folder(path), RunFolder(path)
    bytes, changed = _measure(path)
    blank = ListedRun(path, top.kind, path.name, "damaged", 0, 0, None, None, None, None, bytes, changed)
    try:
        values = parse_toml(read_text(top.recipe), str(top.recipe))
        blank = replace(blank, recipe=str(values.get("name", path.name)))
        done, parts = _count(folder, values)
        is_done = 0 < done == parts if isinstance(folder, SweepFolder | SearchFolder) else top.is_finished
        problem = None if is_done else _problem(folder)
        figures = read_object(top.score) if top.is_finished else {}
    except NetpressError as error:
        return replace(blank, problem=str(error))
    state = "done" if is_done else "interrupted" if problem is None else "failed"
    footprint = figures.get("footprint")
    return replace(
        blank,
        state="running" if is_held(path) else state,
        done=done,
        parts=parts,
        problem=problem,
        accuracy=figures.get("accuracy"),
        score=figures.get("score"),
        flash_bytes=footprint.get("flash_bytes") if isinstance(footprint, dict) else None,
    )


def _count(folder: RunFolder | SeveralFolder, values: dict[str, Any]) -> tuple[int, int]:
    """How many parts are done, and how many there are."""
    if isinstance(folder, RunFolder):
        return len(folder.finished_stages()), len(values.get("stages", ()))
    if isinstance(folder, ChainFolder):
        names = list(values.get("networks", ()))
        return sum(map(folder.is_done, names)), len(names)
    if isinstance(folder, SearchFolder):
        ended = sum(_has_ended(line) for line in _read_table(folder.journal).splitlines())
        return ended, int(values.get("search", {}).get("trials", ended))
    names = _names(SweepFolder(folder.path).csv)
    return sum(folder.member(name).is_finished for name in names), len(names)


def _has_ended(line: str) -> bool:
    """Whether a line of a search's journal says that a trial ended: also one that was stopped early or failed.

    What was refused by counting is none of the trials that were asked for.
    """
    with suppress(ValueError, AttributeError):  # a line that was being written
        return json.loads(line).get("state", "refused") != "refused"
    return False


def _read_table(path: Path) -> str:
    return read_file(path, _LARGEST_TABLE).decode("utf-8", "replace") if path.exists() else ""


def _names(table: Path) -> list[str]:
    """The members of a sweep, which its table names from the beginning on."""
    text = _read_table(table)
    return list(dict.fromkeys(row["member"] for row in csv.DictReader(text.splitlines()) if row.get("member")))


def _problem(folder: RunFolder | SeveralFolder) -> str | None:
    """Why the run failed, or the first member that did; None where none has."""
    if isinstance(folder, SeveralFolder):
        problems = ((member.path.name, _problem(member)) for member in folder.members())
        return next((f"{name}: {problem}" for name, problem in problems if problem is not None), None)
    failed = folder.failure.exists() and not folder.is_finished
    return str(read_object(folder.failure).get("message", "")) if failed else None


def _measure(path: Path) -> tuple[int, float]:
    """Bytes of all files below, and when the youngest was written; locks do not count."""
    bytes, changed = 0, 0.0
    for place, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):  # gone by now
                facts = Path(place, name).lstat()
                bytes += facts.st_size
                changed = max(changed, facts.st_mtime if name != LOCK else 0.0)
    return bytes, changed
