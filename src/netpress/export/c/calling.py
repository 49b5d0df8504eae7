"""A network's C kernels, compiled for this machine and called from Python.

    kernels = load_kernels(network)
    kernels(pixels)            # uint8 [batch, channels, height, width] -> int32 [batch, classes]
    kernels.path               # "avx2"

The library is compiled once for each network and machine and kept in the user's cache folder, which may be deleted at
any time. Before one is kept, its answers to a few images are compared with the reference, bit for bit.
"""

import ctypes
import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netpress import __version__
from netpress.data import normalize
from netpress.errors import Failure
from netpress.export.c import CFiles, export_c
from netpress.export.c.building import FLAGS, Compiler, build_library, find_compiler, processor_identity
from netpress.files import cache_folder, private_folder, require_private
from netpress.network import Network
from netpress.network.fingerprint import fingerprint
from netpress.process.devices import generator_for
from netpress.program import execute, lower
from netpress.program.integers import Restore

NAME = "net"  # of every network in a library
KEPT = 64  # libraries; those used longest ago make room
STALE = 3600.0  # seconds: what a killed process left in the cache may go
CHECKED = 8  # images
BATCH = 64  # of the reference
ALIGNED = 64  # bytes: a cache line, and the widest vector
_SOURCES = ("netpress.export.c", "netpress.program", "netpress.numerics")  # what writes the C
_BUILDING = threading.Lock()


class Kernels:
    """A compiled network. Threads may call one at once; the lock of Python is free while it calculates."""

    def __init__(self, library: Path) -> None:
        """Load the library. Raises OSError where it does not load, AttributeError where it is none of netpress."""
        self._library = ctypes.CDLL(str(library))
        sizes = np.zeros(5, np.int32)
        self._library.library_sizes(ctypes.c_void_p(sizes.ctypes.data))
        self.arena_bytes, *shape, self.classes = sizes.tolist()
        self.shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])
        """Of an image: channels, height, width."""
        self._library.library_scale.restype = ctypes.c_double
        self.scale = float(self._library.library_scale())
        """What a logit of 1 stands for."""
        self._library.library_path.restype = ctypes.c_char_p
        self.path: str = self._library.library_path().decode("ascii", "replace")
        """Which instructions it was written for: "portable", "avx2", ..."""
        self._run = self._library.library_run
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32]
        self._arenas = threading.local()
        self._pool: ThreadPoolExecutor | None = None
        self._workers = 0

    def __call__(self, pixels: Tensor, threads: int | None = None) -> Tensor:
        """The logits, int32 [batch, classes], of uint8 [batch, channels, height, width].

        threads: how many share the batch, by default as many as torch has. Raises ValueError for other images.
        """
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != self.shape:
            raise ValueError(f"{pixels.dtype} {tuple(pixels.shape)}: the kernels take uint8 [batch, {self.shape}]")
        images = pixels.cpu().permute(0, 2, 3, 1).contiguous().numpy()  # [batch, height, width, channels]
        logits = np.empty((len(images), self.classes), np.int32)
        count = min(threads or torch.get_num_threads(), len(images))
        if count <= 1:
            self._answer(images, logits)
        else:
            ends = [len(images) * part // count for part in range(count + 1)]
            parts = [slice(*pair) for pair in itertools.pairwise(ends)]
            list(self._threads(count).map(lambda part: self._answer(images[part], logits[part]), parts))
        return torch.from_numpy(logits)

    def real_logits(self, pixels: Tensor, threads: int | None = None) -> Tensor:
        """The logits as the reference has them: float32, each multiplied by `scale`, a power of two."""
        return self(pixels, threads).float() * self.scale

    def _answer(self, images: np.ndarray, logits: np.ndarray) -> None:
        refused = self._run(self._arena(), images.ctypes.data, logits.ctypes.data, len(images))
        if refused:
            raise Failure(f"the C kernels refused their memory (code {refused})")

    def _arena(self) -> int:
        """The address of this thread's memory."""
        if not hasattr(self._arenas, "memory"):
            self._arenas.memory = np.empty(self.arena_bytes + ALIGNED, np.uint8)
            self._arenas.address = -(-self._arenas.memory.ctypes.data // ALIGNED) * ALIGNED
        address: int = self._arenas.address
        return address

    def _threads(self, count: int) -> ThreadPoolExecutor:
        if self._pool is None or self._workers < count:
            if self._pool is not None:
                self._pool.shutdown()
            self._pool, self._workers = ThreadPoolExecutor(count), count
        return self._pool


def load_kernels(
    network: Network, flags: Sequence[str] = FLAGS, building: Callable[[Compiler], Any] = lambda compiler: None
) -> Kernels:
    """The kernels of a network of integer arithmetic, from the cache or compiled now.

    flags: for the compiler. building: called before something is compiled, which takes seconds. Raises UserError for
    other networks, for what C has no kernel for, and where there is no compiler (`NoCompiler`); Failure where the
    compiler fails, where no folder of the user's own can be had, and where the answers are not those of the reference.
    """
    compiler = find_compiler()
    folder = private_folder(cache_folder() / "kernels")
    with _BUILDING:  # tracing a network, which building does, is for one thread at a time
        return _load_or_build(network, compiler, flags, folder, building)


def _load_or_build(
    network: Network, compiler: Compiler, flags: Sequence[str], folder: Path, building: Callable[[Compiler], Any]
) -> Kernels:
    key = _key(network, compiler, flags)
    if (kept := _load(folder, key)) is not None:
        return kept
    building(compiler)
    try:
        with TemporaryDirectory(prefix=".building-", dir=folder, ignore_cleanup_errors=True) as work:
            built = Path(work) / "net.so"
            kernels = build_checked(network, export_c(network, Path(work), NAME), NAME, built, compiler, flags)
            built.chmod(0o700)
            with built.open("rb+") as file:
                os.fsync(file.fileno())
            built.replace(folder / f"{key}-{_checksum(built)}.so")
    except OSError as error:
        raise Failure(f"{folder}: {error.strerror or error}; name another folder in XDG_CACHE_HOME") from None
    _make_room(folder)
    return kernels


def _load(folder: Path, key: str) -> Kernels | None:
    """The library that was kept, unless it is damaged: half of one would end the process.

    Raises Failure where others may write it.
    """
    for path in folder.glob(f"{key}-*.so"):
        with suppress(OSError, AttributeError):  # OSError: another process removed it
            require_private(path)
            if path.stem == f"{key}-{_checksum(path)}":
                kernels = Kernels(path)
                os.utime(path)
                return kernels
            path.unlink()
    return None


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def build_checked(
    network: Network, written: CFiles, name: str, out: Path, compiler: Compiler, flags: Sequence[str] = FLAGS
) -> Kernels:
    """Compile what `export_c` wrote to the library `out`, load it, and compare its answers to a few images.

    Raises Failure where the compiler fails, or where the answers are not the reference's, bit for bit.
    """
    last = lower(network).operations[-1]
    assert isinstance(last, Restore)
    build_library(compiler, written.source, name, last.scale, out, flags)
    try:
        kernels = Kernels(out)
    except (OSError, AttributeError) as error:
        raise Failure(f"{compiler.said}: what it compiled does not load ({error})") from None
    different = count_differences(kernels, network, check_images(network))
    if different:
        raise Failure(
            f"{written.source.name}, compiled by {compiler.said} {' '.join(flags)}: {different} of {CHECKED} answers "
            "are not those of the reference; please report this, with the compiler's version"
        )
    return kernels


def check_images(network: Network, count: int = CHECKED) -> Tensor:
    """Images to compare answers on, the same at each call: uint8 [count, channels, height, width].

    Noise, black and white among it, of another brightness and contrast each, as fine as pixels or coarser.
    """
    generator = generator_for(0, "kernels")
    channels, height, width = network.input.size
    shown = torch.empty(count, channels, height, width, dtype=torch.uint8)
    for index in range(count):
        low, high = torch.randint(0, 256, (2,), generator=generator).sort().values.tolist()
        low, high = ((0, 0), (255, 255), (0, 255))[index] if index < 3 else (low, high)
        coarse = 1 << index % 4
        noise = torch.randint(low, high + 1, (channels, -(-height // coarse), -(-width // coarse)), generator=generator)
        shown[index] = noise.repeat_interleave(coarse, 1).repeat_interleave(coarse, 2)[:, :height, :width]
    return shown


def count_differences(kernels: Kernels, network: Network, pixels: Tensor) -> int:
    """For how many images any logit is not the reference's, bit for bit."""
    device = next((tensor.device for tensor in network.module.parameters()), torch.device("cpu"))
    program, different = lower(network), 0
    with torch.inference_mode():
        for batch in pixels.split(BATCH):
            expected = execute(program, normalize(batch.to(device), network.input.mean, network.input.std))
            different += int((kernels.real_logits(batch) != expected.cpu()).any(1).sum())
    return different


def _key(network: Network, compiler: Compiler, flags: Sequence[str]) -> str:
    """What decides a library's bytes."""
    facts = [fingerprint(network), asdict(network.input), __version__, _sources()]
    facts += [compiler.identity, list(flags), processor_identity()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _sources() -> str:
    """A checksum of the code that writes C, so that work on it is seen."""
    digest = hashlib.sha256()
    for package in _SOURCES:
        for entry in sorted(files(package).iterdir(), key=lambda entry: entry.name):
            if entry.name.endswith((".py", ".c", ".h")):
                digest.update(entry.name.encode() + entry.read_bytes())
    return digest.hexdigest()


def _make_room(folder: Path) -> None:
    """Remove the libraries used longest ago, and what killed processes left."""
    found = []
    for path in folder.iterdir():
        with suppress(OSError):  # another process was faster
            found.append((path.stat().st_mtime, path))
    libraries = sorted((entry for entry in found if entry[1].suffix == ".so"), reverse=True)
    left = [path for age, path in found if path.name.startswith(".building-") and age < time.time() - STALE]
    for path in [*(path for _, path in libraries[KEPT:]), *left]:
        with suppress(OSError):
            if path.is_dir():
                for file in path.iterdir():
                    file.unlink()
                path.rmdir()
            else:
                path.unlink()
