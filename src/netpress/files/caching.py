"""Where netpress keeps what it can make or fetch again, and a folder there that nobody else may write."""

import os
import stat
from pathlib import Path

from netpress.errors import Failure

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def cache_folder() -> Path:
    """~/.cache/netpress, or below $XDG_CACHE_HOME: data sets when no --data is given, compiled kernels.

    Raises Failure where this user has no home.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path.home() / ".cache") / "netpress"
    except RuntimeError as error:
        raise Failure(f"no folder for what is kept ({error}); name one in XDG_CACHE_HOME") from None


def private_folder(path: Path) -> Path:
    """The folder at `path`, made where it is missing, without links in its path: code may be loaded from it.

    Raises Failure where it cannot be made, or where another user could write it or put another in its place.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = path.resolve(strict=True)
        require_private(path)
        for above in path.parents:
            mode = above.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise _shared(above)
    except OSError as error:
        raise Failure(f"{path}: cannot be used ({error.strerror or error}); name another in XDG_CACHE_HOME") from None
    return path


def require_private(path: Path) -> None:
    """Raise Failure unless this file or folder is the user's own, and writable by nobody else; OSError as `stat`."""
    if not hasattr(os, "getuid"):  # Windows: a user's own folder has its own rules
        return
    facts = path.lstat()
    if facts.st_uid != os.getuid() or stat.S_ISLNK(facts.st_mode) or facts.st_mode & _OTHERS:
        raise _shared(path)


def _shared(path: Path) -> Failure:
    return Failure(
        f"{path}: other users may write here, so no code is loaded from it; chmod go-w it, or name another folder in "
        "XDG_CACHE_HOME"
    )
