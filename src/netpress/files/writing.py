"""Files are written whole or not at all.

    with atomic_path("weights.bin") as part:
        part.write_bytes(...)

writes to a hidden `.weights.part.bin` in the same folder, flushes it to the disk, and renames it in one step. A crash
leaves the old file, or none. One process at a time may write a path; what a killed process left as `.part` is
overwritten by the next.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from netpress.errors import Failure, UserError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def atomic_write(path: Path | str, data: bytes | str) -> None:
    """Write `data` as the whole content of `path` (text as UTF-8), keeping the old content if anything fails.

    Raises Failure when the disk is full or the place cannot be written.
    """
    with atomic_path(path) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path in the same folder, with the same suffix, that replaces `path` when the block succeeds.

    The block must create the file. Its folder is made where it is missing. If the block
    raises, the temporary file is removed and `path` is as it was. Raises Failure when
    the disk is full or the place cannot be written; UserError where something stands there
    that is no file, as a device: renaming would take its place.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: is a device or a pipe, which a file would take the place of; name a file")
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _flush(part)
        part.replace(path)
    except BaseException as error:
        _remove(part)
        if is_disk_full(error):
            raise Failure(
                f"{path}: the disk is full, or a quota is; nothing there was changed. Free some space and start again"
            ) from error
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise Failure(f"{path}: cannot be written ({path.parent} is no folder)") from error
        if isinstance(error, OSError) and error.filename in (str(part), str(path.parent), None):
            raise Failure(f"{path}: cannot be written ({error.strerror or error})") from error
        raise
    _flush_folder(path.parent)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of the system, or of a library, says that the disk is full or a quota is used up."""
    # Libraries written in Rust (safetensors) wrap the system's error in text.
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    return any(f"os error {number})" in str(error) for number in _DISK_FULL)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    # So that the new name itself survives a power cut; some systems cannot open a folder.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    with suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
