"""From a C file to a library that this process may call, by the system's own compiler.

    compiler = find_compiler()
    build_library(compiler, Path("tiny.c"), "tiny", 2**-9, Path("tiny.so"), FLAGS)

`netpress.export.c.calling` calls it. A C file has no exports of its own; a few lines around it say what it is.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from netpress.errors import Failure, UserError, quote

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native")
"""For this processor alone."""
SHARED = ("-std=c99", "-shared", "-fPIC")
PATIENCE = 600.0  # seconds: a compiler that takes longer hangs

# What a library says of its network, whatever that is called; C's own file is included, so that its macros are seen.
AROUND = """
#if defined(_WIN32)
#define SHOWN __declspec(dllexport)
#else
#define SHOWN
#endif

#ifdef {upper}_PATH
SHOWN const char *library_path(void) {{ return {upper}_PATH; }}
#else
SHOWN const char *library_path(void) {{ return "portable"; }}
#endif

SHOWN double library_scale(void) {{ return {scale!r}; }}

SHOWN void library_sizes(int32_t *sizes) {{
    sizes[0] = {upper}_ARENA_BYTES;
    sizes[1] = {upper}_CHANNELS;
    sizes[2] = {upper}_HEIGHT;
    sizes[3] = {upper}_WIDTH;
    sizes[4] = {upper}_CLASSES;
}}

SHOWN int library_run(void *arena, const uint8_t *pixels, int32_t *logits, int32_t images) {{
    for (; images > 0; images--) {{
        const int refused = {name}_run(arena, pixels, logits);
        if (refused) return refused;
        pixels += (size_t){upper}_HEIGHT * {upper}_WIDTH * {upper}_CHANNELS;
        logits += {upper}_CLASSES;
    }}
    return 0;
}}
"""


class NoCompiler(UserError):
    """There is no C compiler, which a user may not miss."""


class BrokenCompiler(Failure):
    """What is called as the C compiler does not even compile one line."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler that takes the options of cc."""

    words: tuple[str, ...]
    """How it is called."""
    said: str
    """Its name as a user knows it: CC=..., or cc."""

    @property
    def identity(self) -> str:
        """What changes when another compiler lies behind the same name."""
        program = Path(self.words[0]).resolve()
        facts = program.stat()
        return f"{shlex.join(self.words)} {program} {facts.st_size} {facts.st_mtime_ns}"


def find_compiler() -> Compiler:
    """The compiler that $CC names, else cc, gcc or clang.

    Raises NoCompiler where there is none, UserError where $CC names none.
    """
    named = os.environ.get("CC", "").strip()
    if named:
        try:
            words = shlex.split(named)
        except ValueError as error:
            raise UserError(f"CC={quote(named)}: cannot be read ({error}); name a C compiler, or unset CC") from None
        program = shutil.which(words[0]) if words else None
        if program is None:
            raise UserError(f"CC={named}: no such program; name a C compiler, or unset CC")
        return Compiler((program, *words[1:]), f"CC={named}")
    for name in COMPILERS:
        if program := shutil.which(name):
            return Compiler((program,), name)
    raise NoCompiler("there is no C compiler; install gcc or clang, or name one in CC")


def build_library(
    compiler: Compiler, source: Path, name: str, scale: float, out: Path, flags: Sequence[str] = FLAGS
) -> None:
    """Compile the C file `source`, written as `name`, to the library `out`. scale: what a logit of 1 stands for.

    Raises Failure, with the compiler's own words, where that does not work: `BrokenCompiler` where nothing does.
    """
    text = f'#include "{source.name}"\n{AROUND.format(name=name, upper=name.upper(), scale=scale)}'
    problem = _compile(compiler, text, source.parent, out, flags)
    if problem is None:
        return
    with TemporaryDirectory() as folder:
        trivial = Path(folder) / "trivial.so"
        broken = _compile(compiler, "int trivial(void) { return 0; }\n", Path(folder), trivial, flags)
    if broken is not None:
        raise BrokenCompiler(f"{compiler.said}: does not work as a C compiler ({broken}); name another in CC")
    raise Failure(f"{compiler.said}: cannot compile {source.name} ({problem}); name another compiler in CC")


def _compile(compiler: Compiler, text: str, includes: Path, out: Path, flags: Sequence[str]) -> str | None:
    """Why the text cannot be compiled to the library `out`; None where it was."""
    with TemporaryDirectory() as folder:
        source = Path(folder) / "library.c"
        source.write_text(text, encoding="utf-8")
        files = ("-I", str(includes.resolve()), "-o", str(out.resolve()), str(source))
        problem = _run(compiler, (*SHARED, *flags, *files))
        if problem is not None and "-march=native" in flags:  # some compilers do not know this processor
            problem = _run(compiler, (*SHARED, *(flag for flag in flags if flag != "-march=native"), *files))
    return "it wrote nothing" if problem is None and not out.exists() else problem


def _run(compiler: Compiler, options: Sequence[str]) -> str | None:
    """Why it did not work; None where it did."""
    try:
        done = subprocess.run(
            [*compiler.words, *options], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return f"it takes longer than {PATIENCE:.0f} seconds"
    except OSError as error:
        return error.strerror or str(error)
    if done.returncode == 0:
        return None
    lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
    errors = [line for line in lines if "error" in line.lower()] or lines
    return errors[0].strip() if errors else f"exit code {done.returncode}"


@cache
def processor_identity() -> str:
    """What `-march=native` may depend on: the machine, and what its processor calls itself and can do."""
    parts = [platform.system(), platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    wanted: dict[str, str] = {}
    for line in lines:  # one entry a core, all alike or the first decides
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "flags", "Features", "CPU part"):
            wanted.setdefault(key.strip(), value.strip())
    return hashlib.sha256(repr([parts, wanted]).encode()).hexdigest()
