"""Holding a folder: other processes stay out, and clearing removes nothing but what netpress wrote.

with held(Path("runs/digits")):   # another netpress that asks for the same folder fails at once
    ...
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from netpress.errors import Failure, UserError

LOCK = ".netpress.lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make `folder` if it is not there, and keep other processes out of it until the context or the process ends.

    Raises UserError if it cannot be a folder or be written to, Failure if another process holds it.
    """
    place = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place.open("ab").close()
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be used as a folder ({error.strerror})") from None
    lock = FileLock(place)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise Failure(
            f"{folder}: another netpress is at work in this folder; wait for it or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def refuse_other_contents(folder: Path, mark: str, what: str) -> None:
    """Raise UserError where `folder` holds something, but not the file `mark`: it is somebody's, and holds no `what`.

    To be asked before a lock is laid in it.
    """
    if not is_empty(folder) and not (folder / mark).exists():
        raise UserError(f"--out {folder}: is not empty and holds no {what}; choose another folder")


def is_empty(folder: Path) -> bool:
    """Whether there is no such folder, or nothing in it but a lock."""
    return not folder.is_dir() or all(entry.name == LOCK for entry in folder.iterdir())


def remove_written(folder: Path, names: Collection[str]) -> None:
    """Remove the files called `names` in `folder` and below, with what an interrupted writing of them left.

    Folders that are empty then go too, `folder` itself among them; whatever else lies there stays. Links are not
    followed.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            remove_written(entry, names)
        elif entry.name in names or _written_as(entry.name) in names:
            entry.unlink()
    if is_empty(folder):
        with suppress(OSError):  # somebody has just put something there, or holds the lock
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def _written_as(part: str) -> str:
    """The name that `netpress.files.atomic_path` would have given to its temporary file `part`."""
    stem, mark, suffix = part.removeprefix(".").rpartition(".part")
    return f"{stem}{suffix}" if mark and part.startswith(".") else part
