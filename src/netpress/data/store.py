"""A folder of decoded images: each file of a data set is decoded once, and its pixels are read from here ever after.

    store = PixelStore(ImageCache(Path("runs/.images")), photos, rules)
    stored = store.fill(paths, names, console)

A data set of a folder has two files here, under a key of that folder, of how its images are read, and of what decodes
them: KEY.pixels, one image after the other, and KEY.index, which has one record for each. A record is written after its
pixels, bears its own checksum, and says of which file, of which size and times, the pixels are. So what was killed in
the middle goes on where it was; a file that is new or was changed is decoded and added; and nothing that is there is
written over, so that other processes read on. One process at a time decodes for a key; others wait for it.

All of it can be made again. The folder is bounded (what was not used for longest goes first), and may be deleted.
"""

import hashlib
import json
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from filelock import FileLock, Timeout
from PIL import features

from netpress.data.pixels import AT_ONCE, Budget, PictureFacts, PixelRules, Unreadable, read_image, strangers_files
from netpress.data.stored import BLOCK, CHECKSUMS, INDEX, PixelFile, StoredPixels
from netpress.errors import Failure, UserError
from netpress.files import cache_folder, is_folder, is_there
from netpress.process.console import Console
from netpress.process.devices import available_cores

PLACE = ".images"  # beside run folders
PIXELS, LOCK = ".pixels", ".lock"
LEAST = 256 << 20  # bytes
LIMIT = 50.0  # GB
_VERSION = 1
_POLL = 0.2  # seconds between looks at a lock that another process holds


@dataclass(frozen=True)
class ImageCache:
    """Where decoded images are kept, and how many. Making the object touches nothing on disk."""

    path: Path | None = None
    """The folder; None: below the user's cache folder."""
    limit: int = round(LIMIT * 1e9)
    """Bytes that all data sets in it may take together."""
    least: int = field(default_factory=lambda: LEAST)
    """A data set whose pixels take no more bytes than that is held in memory."""

    @property
    def folder(self) -> Path:
        return self.path or cache_folder() / "images"

    def check(self) -> None:
        """Raise UserError where there is something else than a folder."""
        if self.path is not None and is_there(self.path) and not is_folder(self.path):
            raise UserError(f"--cache {self.path}: is not a folder; name one, which need not be there yet")


def cache_near(network: str | Path | None, named: Path | None = None) -> ImageCache:
    """The cache in the folder `named`; else the one that the run of this network filled, where it is; else the user's.

    network: as a command is given it: a run's folder, a network's file, or neither; None where it came from no file.
    """
    if named is None and network is not None:
        path = Path(network)
        beside = (folder / PLACE for folder in (path.parent, path.parent.parent))
        named = next((place for place in beside if place.is_dir()), None) if path.exists() else None
    cache = ImageCache(named)
    cache.check()
    return cache


def _record(channels: int) -> np.dtype:
    """What an index says of an image; `check` is the CRC-32 of all before it."""
    return np.dtype(
        [
            ("stamp", "V16"),
            ("pixels", "<u4"),
            ("digest", "u1", 32),
            ("size", "<u4", 2),
            ("mode", "S16"),
            ("several", "u1"),
            ("sums", "<i8", (2, channels)),
            ("check", "<u4"),
        ]
    )


class PixelStore:
    """The decoded images of one folder, read by one set of rules."""

    def __init__(self, cache: ImageCache, folder: Path, rules: PixelRules) -> None:
        self.cache, self.source, self.rules = cache, folder, rules
        decoders = [PIL.__version__, *(features.version(name) for name in ("libjpeg_turbo", "jpg", "webp", "zlib"))]
        facts = [_VERSION, decoders, asdict(rules), str(folder.resolve())]
        self.key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        self.one = rules.channels, rules.size, rules.size
        self.bytes = rules.channels * rules.size**2
        self.dtype = _record(rules.channels)

    def path(self, suffix: str) -> Path:
        return self.cache.folder / f"{self.key}{suffix}"

    def fill(
        self, paths: Sequence[Path], names: Sequence[str], console: Console
    ) -> tuple[StoredPixels, list[PictureFacts | str]]:
        """The images of the files, in their order, those that are not kept decoded now; and what each file was.

        Of one that cannot be read it is said why, and its place among the images must not be looked at. Raises
        UserError where the bound is too narrow, Failure where the folder cannot be written or the disk is full.
        """
        stamps = [_stamp(path, name) for path, name in zip(paths, names, strict=True)]
        records = self._read()
        places = _places(records)
        unread: dict[int, str] = {}
        if any(stamp not in places for stamp in stamps):
            try:
                with self._held(console):
                    unread = self._add(paths, stamps, console)
            except OSError as error:
                raise Failure(
                    f"{self.cache.folder}: decoded images cannot be kept here ({error.strerror or error}); name "
                    "another folder with --cache"
                ) from None
            records = self._read()
            places = _places(records)
        for suffix in (PIXELS, INDEX):
            with suppress(OSError):  # of a folder that may only be read
                os.utime(self.path(suffix))
        if any(stamp not in places and place not in unread for place, stamp in enumerate(stamps)):
            raise Failure(
                f"{self.cache.folder}: decoded images were removed while they were written; give the command again"
            )
        if not len(records):
            records = np.zeros(1, self.dtype)  # no image can be read, and none will be looked at
        slots = np.array([places.get(stamp, 0) for stamp in stamps], np.int64)
        chosen = records[slots]
        said = [unread.get(place) or _facts(record) for place, record in enumerate(chosen)]
        file = PixelFile(self.path(PIXELS), self.bytes)
        return StoredPixels(file, self.one, slots, chosen["pixels"], chosen["digest"], chosen["sums"]), said

    def _read(self) -> np.ndarray:
        """The records of all images that are there whole; of those that are not, `check` is wrong."""
        try:
            index, size = self.path(INDEX).read_bytes(), self.path(PIXELS).stat().st_size
        except OSError:
            return np.zeros(0, self.dtype)
        count = min(len(index) // self.dtype.itemsize, size // self.bytes)
        return np.frombuffer(index, self.dtype, count)

    @contextmanager
    def _held(self, console: Console) -> Iterator[None]:
        """While no other process decodes the same images; one that does is waited for."""
        self.cache.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path(LOCK))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            console.say(f"{self.source}: another process decodes these images; waiting for it")
            while not lock.is_locked:
                with suppress(Timeout):
                    lock.acquire(blocking=False)
                    break
                time.sleep(_POLL)
        try:
            yield
        finally:
            lock.release()

    def _add(self, paths: Sequence[Path], stamps: Sequence[bytes], console: Console) -> dict[int, str]:
        """Decode what is not there, and write it at the end; by their places, why files cannot be read."""
        records = self._read()  # as another process may have left it
        places = _places(records)
        missing = [place for place, stamp in enumerate(stamps) if stamp not in places]
        if missing and not self._make_room(len(records) + len(missing), len(stamps)):
            # What is kept of files as they were takes the room. Who reads it has the files open, and may go on.
            _remove(self.path(PIXELS), self.path(INDEX))
            records, missing = records[:0], list(range(len(stamps)))
        unread: dict[int, str] = {}
        done = 0
        with (
            _open(self.path(PIXELS), len(records) * self.bytes) as pixels,
            _open(self.path(INDEX), len(records) * self.dtype.itemsize) as index,
            console.progress("decode images", len(missing)) as bar,
        ):
            asked = [(paths[place], stamps[place]) for place in missing]
            for block, said in self._decode(asked):
                read = [place for place, told in enumerate(said) if not isinstance(told, str)]
                unread |= {missing[done + place]: told for place, told in enumerate(said) if isinstance(told, str)}
                _write(pixels, (block if len(read) == len(block) else block[read]).reshape(-1).data)
                _write(index, b"".join(told for told in said if isinstance(told, bytes)))
                done += len(said)
                bar.update(done)
        if done > len(unread):
            size = self.path(PIXELS).stat().st_size / 1e9
            console.say(
                f"{self.source}: {done - len(unread):,} images decoded; {self.cache.folder} keeps them ({size:.2f} GB)"
            )
        return unread

    def _decode(self, asked: Sequence[tuple[Path, bytes]]) -> Iterator[tuple[np.ndarray, list[bytes | str]]]:
        """Blocks of pixels, uint8 [block, channels, size, size], and the record of each image or why it has none.

        Threads do it, since Pillow lets others work while it decodes; the next block is decoded while the last is
        written.
        """
        budget, cores = Budget(AT_ONCE), available_cores()

        def decode(source: tuple[Path, bytes], target: np.ndarray) -> bytes | str:
            path, stamp = source
            try:
                target[...], facts = read_image(path, self.rules, budget)
            except Unreadable as error:
                return str(error)
            return self._describe(stamp, target, facts)

        def begin(block: Sequence[tuple[Path, bytes]]) -> tuple[np.ndarray, list[Future[bytes | str]]]:
            pixels = np.empty((len(block), *self.one), np.uint8)
            return pixels, [pool.submit(decode, source, target) for source, target in zip(block, pixels, strict=True)]

        count = max(2 * cores, BLOCK // self.bytes)
        with strangers_files(), ThreadPoolExecutor(cores) as pool:
            begun: deque[tuple[np.ndarray, list[Future[bytes | str]]]] = deque()
            try:
                for start in range(0, len(asked), count):
                    begun.append(begin(asked[start : start + count]))
                    if len(begun) > 1:
                        pixels, futures = begun.popleft()
                        yield pixels, [future.result() for future in futures]
                for pixels, futures in begun:
                    yield pixels, [future.result() for future in futures]
            finally:
                pool.shutdown(cancel_futures=True)  # whoever interrupts waits for no more than is being decoded

    def _describe(self, stamp: bytes, pixels: np.ndarray, facts: PictureFacts) -> bytes:
        record = np.zeros((), self.dtype)
        record["stamp"], record["size"], record["several"] = stamp, facts.size, facts.several
        record["mode"] = facts.mode.encode()
        record["pixels"] = zlib.crc32(pixels.data)
        record["digest"] = np.frombuffer(hashlib.sha256(pixels.data).digest(), np.uint8)
        for channel, plane in enumerate(pixels):
            values = plane.reshape(-1).astype(np.float64)  # of which sums of squares are exact, and fast
            record["sums"][:, channel] = int(values.sum()), int(values @ values)
        record["check"] = _check(record.tobytes())
        return record.tobytes()

    def _make_room(self, count: int, wanted: int) -> bool:
        """Make room for `count` images here; False where only `wanted` fit, those of files as they are now.

        Raises UserError where not even these fit within the bound, or on the disk.
        """
        limit, folder = self.cache.limit, self.cache.folder
        needed = count * self.bytes
        if needed > limit:
            needed = wanted * self.bytes
        if needed > limit:
            raise UserError(
                f"{self.source}: {wanted:,} decoded images of {self.rules.size} pixels take {needed / 1e9:.3g} GB, and "
                f"{folder} may take {limit / 1e9:g}: give --cache-limit {np.ceil(needed / 1e9):g} (GB), or a smaller "
                "data.image_size"
            )
        own = self.path(PIXELS).stat().st_size if self.path(PIXELS).exists() else 0
        with FileLock(folder / f"folder{LOCK}"):
            others = sorted(_list_others(folder, self.key))
            total = sum(size for _, size, _ in others)
            for _, size, key in others:
                if total + needed <= limit:
                    break
                if _remove_unused(folder, key):
                    total -= size
        free = shutil.disk_usage(folder).free + own
        if needed > free:
            raise UserError(
                f"{folder}: decoded images of {self.source} take {needed / 1e9:.3g} GB, and {free / 1e9:.3g} are free; "
                "free some, name another folder with --cache, or give a smaller data.image_size"
            )
        return count * self.bytes <= limit


def _stamp(path: Path, name: str) -> bytes:
    """Says which file it is and when it was last written. A file whose bytes change has another time of change, even
    where somebody sets the time of writing back.
    """
    try:
        facts = path.stat()
        told = f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\0{facts.st_ctime_ns}"
    except OSError:
        told = f"{name}\0"  # whoever reads it says what is wrong
    return hashlib.blake2b(told.encode(errors="surrogateescape"), digest_size=16).digest()


def _check(record: bytes) -> int:
    return zlib.crc32(record[:-4])


def _places(records: np.ndarray) -> dict[bytes, int]:
    """Where the image of each stamp is, the last where there are several; damaged records are left out."""
    size, data = records.dtype.itemsize, records.tobytes()
    checks = records["check"].tolist()
    starts = enumerate(range(0, len(data), size))
    return {
        data[start : start + 16]: place
        for place, start in starts
        if _check(data[start : start + size]) == checks[place]
    }


def _facts(record: np.void) -> PictureFacts:
    width, height = record["size"].tolist()
    return PictureFacts((width, height), record["mode"].decode(), bool(record["several"]))


@contextmanager
def _open(path: Path, size: int) -> Iterator[BinaryIO]:
    """The file, made where it is missing, cut to `size` bytes and ready to be added to."""
    path.open("ab").close()
    with path.open("r+b", buffering=0) as file:
        file.truncate(size)
        file.seek(size)
        yield file


def _write(file: BinaryIO, values: bytes | memoryview) -> None:
    data = memoryview(values)
    while len(data):
        data = data[file.write(data) :]


def _list_others(folder: Path, key: str) -> Iterator[tuple[int, int, str]]:
    """When each other data set was last used, the bytes that it takes, and its key."""
    for path in folder.glob(f"*{PIXELS}"):
        with suppress(OSError):
            facts = path.stat()
            if path.stem != key:
                yield facts.st_mtime_ns, facts.st_size, path.stem


def _remove_unused(folder: Path, key: str) -> bool:
    """Remove a data set, unless it is being decoded; whether it went."""
    with suppress(OSError, Timeout), FileLock(folder / f"{key}{LOCK}", blocking=False):
        _remove(*(folder / f"{key}{suffix}" for suffix in (INDEX, CHECKSUMS, PIXELS)))
        return True
    return False


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
