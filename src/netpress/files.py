"""Files: written whole or not at all, checked, fetched, unpacked.

Nothing here leaves a half-written file under its final name: data goes to a hidden
`.NAME.part` beside it, is flushed to the disk, and then takes the name in one step.
One writer at a time for a path; a `.part` left by a killed process is overwritten by
the next writer of that path.
"""

import errno
import hashlib
import http.client
import json
import math
import os
import re
import shutil
import stat
import tarfile
import tempfile
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from netpress.errors import Failure, UserError

BEGIN_ANEW = "restore it from a copy, or give --fresh to begin the run anew"
CHUNK = 1 << 20  # bytes
DOWNLOAD_TIMEOUT = 30  # seconds without an answer
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
    the disk is full or the place cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _flush(part)
        part.replace(path)
    except BaseException as error:
        _remove(part)
        if _is_disk_full(error):
            raise Failure(
                f"{path}: the disk is full, or a quota is; nothing there was changed. Free some space and start again"
            ) from error
        if isinstance(error, OSError) and error.filename in (str(part), str(path.parent), None):
            raise Failure(f"{path}: cannot be written ({error.strerror or error})") from error
        raise
    _flush_folder(path.parent)


def read_text(path: Path | str) -> str:
    """The whole text of a UTF-8 file. Raises UserError where there is none, Failure where it cannot be read."""
    try:
        return Path(path).read_bytes().decode().replace("\r\n", "\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise Failure(f"{path}: no text in UTF-8 (byte {error.start}); restore it from a copy") from None
    except OSError as error:
        raise Failure(f"{path}: cannot be read ({error.strerror or error})") from None


def read_object(path: Path | str, **fields: type) -> dict[str, Any]:
    """The JSON object that netpress wrote to a file, with at least these fields, each of its type.

    Raises Failure, which says what to do, where the file is damaged.
    """
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path}: damaged ({error}); {BEGIN_ANEW}") from None
    if not isinstance(value, dict):
        raise Failure(f"{path}: damaged: it holds no JSON object; {BEGIN_ANEW}")
    for name, kind in fields.items():
        if not isinstance(value.get(name), (int, float) if kind is float else kind):
            raise Failure(f"{path}: damaged: it does not say {name}; {BEGIN_ANEW}")
    return value


def require_file(path: Path | str, what: str = "", limit: int | None = None) -> int:
    """The size in bytes of the regular file at `path`: to be asked before anything opens a path that somebody wrote.

    A device or a pipe would never end, or never begin. `what` stands before the path in messages. Raises UserError
    for what is not there, cannot be looked at, is no regular file, or is larger than `limit` bytes.
    """
    named = f"{what} {path}" if what else str(path)
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        raise UserError(f"{named}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UserError(f"{named}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{named}: is a folder, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{named}: is no regular file (a device, a pipe or a socket), so it is not read")
    if limit is not None and found.st_size > limit:
        raise UserError(f"{named}: has {found.st_size:,} bytes, more than the {limit:,} that such a file may have")
    return found.st_size


def is_folder(path: Path | str) -> bool:
    """Whether `path`, any text that somebody wrote, is that of a folder; False for what no system could have."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # a name that is too long, a zero byte
        return False


def is_there(path: Path | str) -> bool:
    """Whether there is anything at `path`, any text that somebody wrote."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def read_file(path: Path | str, limit: int, what: str = "") -> bytes:
    """The bytes of the regular file at `path`, at most `limit`, and never more than its size. Raises UserError."""
    size = require_file(path, what, limit)
    try:
        with Path(path).open("rb") as file:
            return file.read(size)
    except OSError as error:
        named = f"{what} {path}" if what else str(path)
        raise UserError(f"{named}: cannot be read ({error.strerror or error})") from None


def parse_toml(data: bytes | str, source: str) -> dict[str, Any]:
    """The tables of a TOML text in UTF-8, with or without a byte order mark.

    Raises UserError, which begins with `source`, for what is no TOML, in another encoding, nested deeper than
    Python's stack allows, or has a number of thousands of digits.
    """
    try:
        return tomllib.loads(data if isinstance(data, str) else data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not valid TOML: not in UTF-8 ({error.reason} at byte {error.start})") from None
    except RecursionError:
        raise UserError(f"{source}: not valid TOML: its lists or tables lie too deep within each other") from None
    except ValueError as error:
        raise UserError(f"{source}: not valid TOML: {error}") from None


def parse_toml_value(text: str) -> Any:
    """A single value as TOML writes it; what is no TOML is a text, so quotes may be left out.

    Raises UserError for a number of thousands of digits and for lists nested deeper than Python's stack allows.
    """
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except (RecursionError, ValueError):  # ValueError: more digits than Python converts
        raise UserError(f"{text[:40]}...: a number of too many digits, or lists too deep within each other") from None
    return values["value"] if len(values) == 1 else text  # with a line break in it, it may set more than one


def parse_json(data: bytes | str, source: str) -> Any:
    """The value of a JSON text in UTF-8. Raises UserError as `parse_toml` does."""
    try:
        return json.loads(data if isinstance(data, str) else data.decode("utf-8-sig"))
    except RecursionError:
        raise UserError(f"{source}: not a JSON file (its lists or tables lie too deep within each other)") from None
    except ValueError as error:
        raise UserError(f"{source}: not a JSON file ({error})") from None


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises OSError if it cannot be read."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, path: Path | str, sha256: str, progress: Callable[[int, int], None] | None = None) -> None:
    """Fetch `url` into `path`, which appears only when every byte is there and the checksum is right.

    `progress` is called with (bytes so far, bytes in all or 0 if unknown). Raises Failure
    when the place cannot be reached, the transfer breaks off, or the checksum is another.
    """
    path = Path(path)
    with atomic_path(path) as part:
        digest, done, total = hashlib.sha256(), 0, 0
        try:
            with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as answer:
                total = int(answer.headers.get("Content-Length") or 0)
                with part.open("wb") as file:
                    while chunk := answer.read(CHUNK):
                        file.write(chunk)
                        digest.update(chunk)
                        done += len(chunk)
                        if progress:
                            progress(done, total)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise Failure(
                f"{url}: download failed after {done:,} bytes ({reason}); nothing was kept. "
                "Try again, or fetch it by other means and name its folder with --data"
            ) from error
        if total and done < total:
            raise Failure(f"{url}: broke off after {done:,} of {total:,} bytes; nothing was kept. Try again")
        if digest.hexdigest() != sha256:
            raise Failure(
                f"{url}: what came is damaged or was changed (its SHA-256 is {digest.hexdigest()}, "
                f"not {sha256}); nothing was kept"
            )


def unpack_tar(archive: Path | str, folder: Path | str) -> None:
    """Unpack a tar archive (any compression) into `folder`: all of it, or nothing.

    Only plain files and folders are taken. Raises Failure, before anything appears in
    `folder`, for a damaged archive, a link or device, a path that would leave the folder,
    and a name that is already there.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder))
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                _unpack_member(tar, member, stage, archive)
            while tar.fileobj is not None and tar.fileobj.read(CHUNK):
                pass  # to the end, where the compression's own checksum stands
        _move_in(stage, folder, archive)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if _is_disk_full(error):
            raise Failure(f"{folder}: the disk is full; {archive.name} was not unpacked") from error
        raise Failure(f"{archive}: cannot be unpacked ({error}): damaged, or no tar archive") from error
    except (MemoryError, ArithmeticError, LookupError) as error:  # what decompressors raise on damaged bytes
        raise Failure(f"{archive}: cannot be unpacked ({error!r}): damaged") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, stage: Path, archive: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in member.name:
        raise Failure(f"{archive}: refused, since its member {member.name!r} would leave the folder")
    if member.issym() or member.islnk():
        raise Failure(f"{archive}: refused, since its member {member.name!r} is a link (to {member.linkname!r})")
    target = stage.joinpath(*name.parts)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    source = tar.extractfile(member) if member.isfile() else None
    if source is None:
        raise Failure(f"{archive}: refused, since its member {member.name!r} is neither a file nor a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)
    if target.stat().st_size != member.size:
        raise Failure(f"{archive}: cut off inside {member.name!r}")


def _move_in(stage: Path, folder: Path, archive: Path) -> None:
    entries = sorted(stage.iterdir())
    for entry in entries:
        if (folder / entry.name).exists():
            raise Failure(f"{folder / entry.name}: is already there; remove it before unpacking {archive.name} again")
    for entry in entries:
        entry.replace(folder / entry.name)


def _is_disk_full(error: BaseException) -> bool:
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


def dump_toml(values: Mapping[str, Any]) -> str:
    """`values` as TOML text that tomllib reads back equal.

    Takes str, bool, int, float, nested mappings and sequences (tuples come back as
    lists). A key whose value is None is left out, as TOML has no null. Raises TypeError
    for None inside a sequence and for other types.
    """
    lines: list[str] = []
    _dump_table(values, (), lines)
    return "\n".join(lines).strip() + "\n" if lines else ""


def _dump_table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    # Plain values come first: after a [header] they would belong to that table.
    items = [(key, value) for key, value in table.items() if value is not None]
    nested = [(key, value) for key, value in items if isinstance(value, Mapping) or _is_table_list(value)]
    plain = [(key, value) for key, value in items if not (isinstance(value, Mapping) or _is_table_list(value))]
    for key, value in plain:
        lines.append(f"{_dump_key(key)} = {_dump_value(value)}")
    for key, value in nested:
        name = ".".join(_dump_key(part) for part in (*path, key))
        if isinstance(value, Mapping):
            lines.extend(["", f"[{name}]"])
            _dump_table(value, (*path, key), lines)
        else:
            for entry in value:
                lines.extend(["", f"[[{name}]]"])
                _dump_table(entry, (*path, key), lines)


def _is_table_list(value: Any) -> bool:
    return _is_list(value) and len(value) > 0 and all(isinstance(entry, Mapping) for entry in value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _dump_key(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{key!r} is not a text and cannot be a key in TOML")
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _dump_text(key)


def _dump_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _dump_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else str(float(value))
    if isinstance(value, str):
        return _dump_text(str(value))
    if isinstance(value, Mapping):
        pairs = (f"{_dump_key(key)} = {_dump_value(entry)}" for key, entry in value.items() if entry is not None)
        return "{" + ", ".join(pairs) + "}"
    if _is_list(value):
        return "[" + ", ".join(_dump_value(entry) for entry in value) + "]"
    raise TypeError(f"{value!r} ({type(value).__name__}) has no place in TOML")


OTHER_TOOLS = {
    ".onnx": "an ONNX file: `netpress score` counts it, other commands take networks of netpress",
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt"),
        "a file of torch.save, which may run code when it is read; load it in Python into its module and give that to "
        "netpress.score, or write it as ONNX with torch.onnx.export",
    ),
    ".pt2": "a program of torch.export; load it in Python with torch.export.load and give that to netpress.score",
    ".t7": "a file of Lua Torch, which nothing of today reads safely; write the network as ONNX",
    ".tflite": "a TensorFlow Lite file; write the network as ONNX, with tf2onnx --tflite",
    **dict.fromkeys((".h5", ".hdf5", ".keras"), "a Keras file; write the network as ONNX, with tf2onnx --keras"),
    ".pb": "a TensorFlow graph; write the network as ONNX, with tf2onnx --graphdef",
}
"""What files of other tools are, by their suffix, and what to do with them."""


def refuse_other_tools(path: Path) -> None:
    """Raise UserError if `path`, by its name, is a file of another tool, or is not there."""
    known = OTHER_TOOLS.get(path.suffix.lower())
    if known is not None:
        raise UserError(f"{path}: {known}" if is_there(path) else f"{path}: no such file")
