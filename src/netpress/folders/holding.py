"""Holding a folder: other processes stay out, and clearing removes nothing but what netpress wrote.

with held(Path("runs/digits")):   # another netpress that asks for the same folder fails at once
    ...
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from filelock import FileLock, Timeout

from netpress.errors import Failure, UserError

LOCK = ".netpress.lock"
PATIENCE = 0.2  # seconds: who only asks whether a folder is held, holds it for an instant


@contextmanager
def held(folder: Path, option: str = "--out ", instead: str = " or choose another --out") -> Iterator[None]:
    """Make `folder` if it is not there, and keep other processes out of it until the context or the process ends.

    `option` and `instead` are words of the messages. Raises UserError if it cannot be a folder or be written to,
    Failure if another process holds it.
    """
    place = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place.open("ab").close()
    except OSError as error:
        raise UserError(f"{option}{folder}: cannot be used as a folder ({error.strerror})") from None
    lock = FileLock(place)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise Failure(f"{folder}: another netpress is at work in this folder; wait for it{instead}") from None
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process is at work in `folder`; False where that cannot be found out, as of one that is read-only."""
    place = folder / LOCK
    if not place.is_file():
        return False
    lock = FileLock(place)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


def refuse_other_contents(folder: Path, mark: str, what: str) -> None:
    """Raise UserError where `folder` holds something, but not the file `mark`: it is somebody's, and holds no `what`.

    To be asked before a lock is laid in it.
    """
    if not is_empty(folder) and not (folder / mark).exists():
        raise UserError(f"--out {folder}: is not empty and holds no {what}; choose another folder")


def is_empty(folder: Path) -> bool:
    """Whether there is no such folder, or nothing in it but a lock."""
    return not folder.is_dir() or all(entry.name == LOCK for entry in folder.iterdir())


def find_written(folder: Path, names: Collection[str], below: bool = True) -> Iterator[Path]:
    """The files called `names` (or so as these patterns say) in `folder`, and in those `below`.

    What an interrupted writing of them left is among them. Links are not followed: one that is called so is itself
    such a file.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            if below:
                yield from find_written(entry, names)
        elif any(fnmatchcase(name, pattern) for name in (entry.name, _written_as(entry.name)) for pattern in names):
            yield entry


def remove_written(folder: Path, names: Collection[str]) -> None:
    """Remove what `find_written` finds. Folders that are empty then go too, `folder` itself among them."""
    for path in find_written(folder, names):
        path.unlink(missing_ok=True)
    remove_empty(folder)


def remove_empty(folder: Path) -> None:
    """Remove `folder` and folders below, as far as nothing is in them but a lock. Links are not followed."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in folder.iterdir():
        remove_empty(entry)
    if is_empty(folder):
        with suppress(OSError):  # somebody has just put something there, or holds the lock
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def _written_as(part: str) -> str:
    """The name that `netpress.files.atomic_path` would have given to its temporary file `part`."""
    stem, mark, suffix = part.removeprefix(".").rpartition(".part")
    return f"{stem}{suffix}" if mark and part.startswith(".") else part
