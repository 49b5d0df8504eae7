"""Removing a run, a sweep or a chain: what netpress wrote there goes, whatever else lies there stays and is named.

    found = find_contents(Path("runs/first"))
    found.bytes, found.others        what removing it would free, and what would stay
    remove(found)

Nothing outside the folder is touched: links are not followed, and a folder that is one is refused. The recipe goes last
of all files. So the folder of a removal that was interrupted still is a run's, and can be removed again.
"""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from netpress.errors import Failure, UserError
from netpress.files import is_folder, is_there
from netpress.folders.chain import ChainFolder
from netpress.folders.holding import LOCK, held, is_empty, remove_empty
from netpress.folders.run import RECIPE, RunFolder
from netpress.folders.search import SearchFolder
from netpress.folders.several import DRAFT, SeveralFolder
from netpress.folders.sweep import SweepFolder


@dataclass(frozen=True)
class Contents:
    """What lies in the folder of a run, a sweep or a chain."""

    folder: RunFolder | SeveralFolder
    written: tuple[Path, ...]
    """Files that netpress wrote, in the order in which they are removed; locks are not among them."""
    others: tuple[Path, ...]
    """Files, links, and folders with nothing in them, that somebody else put there."""

    @property
    def bytes(self) -> int:
        """What the written files hold."""
        return sum(path.lstat().st_size for path in self.written)


def open_folder(path: Path) -> RunFolder | SeveralFolder:
    """The folder as what it is by its recipe."""
    several = next((kind(path) for kind in (SweepFolder, SearchFolder, ChainFolder) if kind(path).is_here), None)
    return several or RunFolder(path)


def find_contents(path: Path) -> Contents:
    """What lies in the folder `path`. Raises UserError where no run, sweep or chain was begun there."""
    if path.is_symlink():
        raise UserError(f"{path}: is a link; name the folder that it leads to, which is {path.resolve()}")
    if not is_folder(path):
        raise UserError(f"{path}: is a file, not a run's folder" if is_there(path) else f"{path}: no such folder")
    folder, begun = open_folder(path), RunFolder(path).was_begun
    if not begun and not (path / LOCK).is_file():
        raise UserError(f"{path}: holds no run, so nothing is removed; `netpress list runs {path}` shows those below")
    # A lock alone: a removal that was interrupted when all files were gone. Whatever file is there is somebody else's.
    written = tuple(folder.written()) if begun else ()
    ours = set(written)
    return Contents(folder, written, tuple(other for other in _walk(path) if other not in ours))


def remove(found: Contents) -> tuple[Path, ...]:
    """Remove what netpress wrote, and folders that are empty then; what stays, which somebody else put there.

    Raises Failure, before anything is removed, where another process is at work in the folder, in a member's, or in the
    sweep or chain that it belongs to; and where a file cannot be removed.
    """
    path = found.folder.path
    with ExitStack() as locks:
        for place in (*_above(path), *_with_members(found.folder)):
            locks.enter_context(held(place, option="", instead=", or stop it, before you remove it"))
        found = find_contents(path)
        for file in found.written:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise Failure(f"{file}: cannot be removed ({error.strerror}); nothing after it was") from None
    _remove_folders(path)
    return tuple(other for other in found.others if other.is_symlink() or other.exists())


def _remove_folders(path: Path) -> None:
    """Remove the lock, and the folders that netpress made as far as nothing is in them: stages', members', this one."""
    for place in RunFolder(path).below():
        remove_empty(place)
    for entry in sorted(path.iterdir()):
        is_member = (entry / LOCK).is_file() and not (entry / RECIPE).exists()
        if entry.is_dir() and not entry.is_symlink() and (is_member or DRAFT.fullmatch(entry.name)):
            _remove_folders(entry)
    (path / LOCK).unlink(missing_ok=True)
    if is_empty(path):
        with suppress(OSError):  # somebody has just put something there
            path.rmdir()


def _above(path: Path) -> Iterator[Path]:
    """The sweeps and chains that the folder is a member of."""
    for parent in path.resolve().parents[:2]:
        if not isinstance(open_folder(parent), SeveralFolder):
            return
        yield parent


def _with_members(folder: RunFolder | SeveralFolder) -> Iterator[Path]:
    """The folder and those of its members, theirs too."""
    yield folder.path
    for member in folder.members() if isinstance(folder, SeveralFolder) else ():
        yield from _with_members(member)


def _walk(path: Path) -> Iterator[Path]:
    """Everything in a folder and below that is no lock and no folder with something in it. Links are not followed."""
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            yield from (list(_walk(entry)) or ([entry] if not any(entry.iterdir()) else []))
        elif entry.name != LOCK:
            yield entry
