"""A folder of arrays that runs share, such as teachers' answers: each under a key that says all that it depends on.

    folder = AnswersFolder(Path("runs/.answers"), limit=10 * 10**9)
    folder.write(key, answers)
    folder.read(key, answers.shape, answers.dtype)      the same, or None where nothing is kept under this key

Everything here can be computed again. So the folder is bounded (what was not used for longest goes first), and may be
deleted at any time, also while runs use it. Several processes may use it.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from netpress.errors import Failure, UserError
from netpress.files import atomic_write, is_folder, is_there, read_file
from netpress.folders.holding import LOCK

PLACE = ".answers"  # beside run folders
SUFFIX = ".answers"
PATIENCE = 30.0  # seconds that another process may take to write
_KEPT = re.compile(rf"[0-9a-f]{{64}}{re.escape(SUFFIX)}")
_CUT_SHORT = re.compile(rf"\.[0-9a-f]{{64}}\.part{re.escape(SUFFIX)}")  # what a killed process left: see atomic_path
_CHECKSUM = 32  # bytes


@dataclass(frozen=True)
class AnswersFolder:
    """The folder and its bound. Making the object touches nothing on disk."""

    path: Path
    limit: int
    """Bytes that all its files may have together."""

    def check(self) -> None:
        """Raise UserError where there is something else than a folder."""
        if is_there(self.path) and not is_folder(self.path):
            raise UserError(f"--answers {self.path}: is not a folder; name one, which need not be there yet")

    def file(self, key: str) -> Path:
        """Where the array of this key, 64 hexadecimal digits, lies if it is kept."""
        return self.path / f"{key}{SUFFIX}"

    def read(self, key: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
        """The array under `key`, which can be written to; None where there is none.

        Raises Failure where the file there is damaged, or is not of this key, shape and type.
        """
        path, head = self.file(key), _head(key, shape, dtype)
        if not is_there(path):
            return None
        size = len(head) + int(np.prod(shape)) * dtype.itemsize + _CHECKSUM
        try:
            data = read_file(path, size)
        except UserError as error:
            raise Failure(str(error)) from None
        body, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
        if len(data) != size or not body.startswith(head) or hashlib.sha256(body).digest() != checksum:
            raise Failure(f"{path}: damaged, or not what its name says")
        with suppress(OSError):  # it may be gone by now
            os.utime(path)  # used now
        return np.frombuffer(body, _little(dtype), offset=len(head)).reshape(shape).astype(dtype)

    def write(self, key: str, values: np.ndarray, used: Collection[str] = ()) -> bool:
        """Keep an array under `key`; whether there was room.

        Room is made by removing what was not used for longest, but nothing of the keys `used`: a training that passes
        over more than the folder holds would otherwise push out, in turn, just what it is to read next time. Raises
        Failure where it cannot be written.
        """
        body = _head(key, values.shape, values.dtype) + values.astype(_little(values.dtype)).tobytes()
        data = body + hashlib.sha256(body).digest()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / LOCK, timeout=PATIENCE):
                if not self._make_room(key, len(data), used):
                    return False
                atomic_write(self.file(key), data)
        except Timeout:
            raise Failure(f"{self.path}: another process has been writing for {PATIENCE:g} seconds") from None
        except OSError as error:
            raise Failure(f"{self.path}: cannot be written ({error.strerror or error})") from None
        return True

    def _make_room(self, key: str, size: int, used: Collection[str]) -> bool:
        """Remove files until one of `size` bytes more fits; none where that cannot be reached."""
        files = []
        for path in self.path.iterdir():
            with suppress(OSError):  # gone, or not to be removed
                if _CUT_SHORT.fullmatch(path.name):
                    path.unlink()
                elif _KEPT.fullmatch(path.name) and path != self.file(key):
                    facts = path.stat()
                    files.append((facts.st_mtime_ns, facts.st_size, path))
        mine = sum(each for _, each, path in files if path.stem in used)
        if mine + size > self.limit:
            return False
        total = sum(each for _, each, _ in files)
        for _, each, path in sorted(file for file in files if file[2].stem not in used):
            if total + size <= self.limit:
                break
            with suppress(OSError):
                path.unlink(missing_ok=True)
                total -= each
        return total + size <= self.limit


def _head(key: str, shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """What a file begins with: a line of JSON."""
    return json.dumps({"netpress": "answers", "key": key, "shape": list(shape), "dtype": dtype.name}).encode() + b"\n"


def _little(dtype: np.dtype) -> np.dtype:
    return dtype.newbyteorder("<")
