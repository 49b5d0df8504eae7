"""Files from elsewhere: downloads whose checksum must be right, and archives that are unpacked whole or not at all."""

import hashlib
import http.client
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from netpress.errors import Failure
from netpress.files.writing import atomic_path, is_disk_full

CHUNK = 1 << 20  # bytes
DOWNLOAD_TIMEOUT = 30  # seconds without an answer


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
        if is_disk_full(error):
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
