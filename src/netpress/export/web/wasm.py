"""C to WebAssembly with SIMD, by clang or zig, without a C library.

module = compile_module(network)
module.code           # of the .wasm file
module.memory         # bytes that it takes while it runs
"""

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from netpress.errors import Failure
from netpress.export.c import CFiles, export_c
from netpress.network import Network

INSTALL = (
    "a compiler for WebAssembly is needed: install clang with its linker wasm-ld (Debian and Ubuntu: apt install clang "
    "lld; macOS: brew install llvm lld), or zig (pip install ziglang)"
)
FLAGS = (
    "-std=gnu99",
    "-O2",
    "-msimd128",
    "-mbulk-memory",
    "-nostdlib",
    "-ffreestanding",
    "-Wl,--no-entry",
    "-Wl,--strip-all",
)
OWN = ("module.c", "string.h")
_VERSIONS = ("", *(f"-{version}" for version in range(22, 13, -1)))  # as Debian names them
_PLACES = ("/opt/homebrew/opt/llvm/bin/clang", "/usr/local/opt/llvm/bin/clang")  # Apple's own has no WebAssembly
_SECONDS = 600
MEMORIES = 5
PAGE = 65536  # bytes


@dataclass(frozen=True)
class Module:
    """A network in WebAssembly: it exports `memory`, `pixels()`, `logits()` (where they lie) and `run()`."""

    code: bytes
    files: CFiles
    """What the C was; the files themselves are gone."""
    compiler: str
    """What compiled it, as it is called."""

    @property
    def memory(self) -> int:
        """Bytes that it takes: constants, the arena and unpacked weights. It asks for no more while it runs."""
        return read_memory(self.code)


def compile_module(network: Network) -> Module:
    """The network as a WebAssembly module. Raises what `export_c` raises, and Failure where no compiler can do it."""
    compilers = find_compilers()
    if not compilers:
        raise Failure(INSTALL)
    with TemporaryDirectory() as work:
        folder = Path(work)
        written = export_c(network, folder, "net")
        for name in OWN:
            (folder / name).write_bytes(files("netpress.export.web").joinpath(name).read_bytes())
        out, said = folder / "net.wasm", ""
        for compiler in compilers:
            command = [*compiler, *FLAGS, "-isystem", work, "-o", str(out), str(written.source), str(folder / OWN[0])]
            problem = _compile(command)
            if problem is None and out.is_file():
                return Module(out.read_bytes(), written, _name(compiler))
            said = said or f"{_name(compiler)}: {problem}"
    raise Failure(f"the C did not become WebAssembly ({said}); {INSTALL}")


def read_memory(code: bytes) -> int:
    """The memory that a module begins with, in bytes: its section 5 (WebAssembly core specification, 5.5.8)."""
    place = 8  # behind the magic number and the version
    while place < len(code):
        section, (length, place) = code[place], _number(code, place + 1)
        if section == MEMORIES:
            _, place = _number(code, place)  # how many: one
            pages, _ = _number(code, place + 1)  # behind whether it has a limit
            return pages * PAGE
        place += length
    raise ValueError("a module without memory")


def _number(code: bytes, place: int) -> tuple[int, int]:
    """An unsigned number of 7 bits a byte, and where it ends."""
    value = shift = 0
    while True:
        value |= (code[place] & 127) << shift
        shift, place = shift + 7, place + 1
        if code[place - 1] < 128:
            return value, place


def find_compilers() -> list[list[str]]:
    """The compilers at hand that may know WebAssembly, the first to be tried first, as the beginnings of commands."""
    names = [*(f"clang{version}" for version in _VERSIONS), *_PLACES]
    found = [[path, "--target=wasm32"] for path in map(shutil.which, names) if path]
    zig = shutil.which("zig")
    if zig:
        found.append([zig, "cc", "-target", "wasm32-freestanding"])
    if importlib.util.find_spec("ziglang"):
        found.append([sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-freestanding"])
    return found


def _name(compiler: list[str]) -> str:
    return "zig" if "cc" in compiler else Path(compiler[0]).name


def _compile(command: list[str]) -> str | None:
    """Run a compiler; gives what it complains of first, if it failed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}, {error}"[:200]
    if done.returncode == 0:
        return None
    lines = done.stderr.splitlines()
    lines = [line for line in lines if "error" in line] or lines or ["it said nothing"]
    return " ".join(lines[0].split())[:200]
