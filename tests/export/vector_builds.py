"""Ways to build a C file for each kind of vectors, and to run it here: natively, emulated, or in node."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
SANITIZED = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SIMDE = Path("/usr/include/simde/x86/avx512.h")

# Each image twice, in an arena full of zeros and one full of ones, between bytes that nobody may write.
HARNESS = """
#include "net.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define GUARD 64
int main(void) {
    const size_t size = NET_ARENA_BYTES;
    uint8_t *memory = malloc(size + 2 * GUARD);
    static uint8_t pixels[NET_HEIGHT * NET_WIDTH * NET_CHANNELS];
    static int32_t logits[NET_CLASSES], again[NET_CLASSES];
    if (!memory || net_run(0, pixels, logits) != 1 || net_run(memory + 1, pixels, logits) != 1) return 2;
    fputs(NET_PATH, stderr);
    while (fread(pixels, 1, sizeof pixels, stdin) == sizeof pixels) {
        size_t i;
        memset(memory, 0xA5, size + 2 * GUARD);
        memset(memory + GUARD, 0, size);
        if (net_run(memory + GUARD, pixels, logits)) return 3;
        memset(memory + GUARD, 255, size);
        if (net_run(memory + GUARD, pixels, again)) return 3;
        for (i = 0; i < GUARD; i++)
            if (memory[i] != 0xA5 || memory[GUARD + size + i] != 0xA5) return 4;
        if (memcmp(logits, again, sizeof logits)) return 5;
        fwrite(logits, sizeof *logits, NET_CLASSES, stdout);
    }
    free(memory);
    return 0;
}
"""

# Includes SIMDe in the place of the compiler's vectors, which then stand for those that the processor lacks.
EMULATED = """
#undef __AVX512BW__
#undef __AVX512VNNI__
#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC system_header
#include <simde/x86/avx512.h>
/* What SIMDe 0.7 lacks. */
static inline __m512i net_right(__m512i a, int n) {
    int32_t v[16];
    int i;
    simde_mm512_storeu_si512(v, a);
    for (i = 0; i < 16; i++) v[i] >>= n;
    return simde_mm512_loadu_si512(v);
}
static inline simde__mmask32 net_equal(__m512i a, __m512i b) {
    int16_t v[32], w[32];
    simde__mmask32 found = 0;
    int i;
    simde_mm512_storeu_si512(v, a);
    simde_mm512_storeu_si512(w, b);
    for (i = 0; i < 32; i++) found |= (simde__mmask32)(v[i] == w[i]) << i;
    return found;
}
#undef _mm512_sra_epi32
#undef _mm512_cmpeq_epi16_mask
#define _mm512_sra_epi32(a, n) net_right(a, simde_mm_cvtsi128_si32(n))
#define _mm512_cmpeq_epi16_mask net_equal
"""

WASM = """
#include "net.h"
uint8_t arena[NET_ARENA_BYTES + 128], pixels[NET_HEIGHT * NET_WIDTH * NET_CHANNELS];
int32_t logits[NET_CLASSES];
__attribute__((export_name("pixels"))) uint8_t *pixels_at(void) { return pixels; }
__attribute__((export_name("logits"))) int32_t *logits_at(void) { return logits; }
__attribute__((export_name("arena"))) uint8_t *arena_at(void) { return arena; }
__attribute__((export_name("bytes"))) int bytes(void) { return NET_ARENA_BYTES; }
__attribute__((export_name("size"))) int size(void) { return sizeof pixels; }
__attribute__((export_name("classes"))) int classes(void) { return NET_CLASSES; }
__attribute__((export_name("path"))) const char *path(void) { return NET_PATH; }
__attribute__((export_name("run"))) int run(void) { return net_run(arena + 64, pixels, logits); }
void *memcpy(void *to, const void *from, size_t size) {
    size_t i;
    for (i = 0; i < size; i++) ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
    return to;
}
void *memset(void *to, int value, size_t size) {
    size_t i;
    for (i = 0; i < size; i++) ((volatile uint8_t *)to)[i] = (uint8_t)value;
    return to;
}
"""

NODE = """
const fs = require('fs');
const net = new WebAssembly.Instance(new WebAssembly.Module(fs.readFileSync(process.argv[2]))).exports;
const all = () => new Uint8Array(net.memory.buffer), shown = fs.readFileSync(0);
const [pixels, logits, arena] = [net.pixels(), net.logits(), net.arena()], size = net.size(), bytes = net.bytes();
let end = net.path();
while (all()[end]) end++;
fs.writeSync(2, Buffer.from(all().slice(net.path(), end)));
for (let at = 0; at < shown.length; at += size) {
    all().set(shown.subarray(at, at + size), pixels);
    const answers = [0, 255].map(fill => {
        all().fill(0xA5, arena, arena + bytes + 128).fill(fill, arena + 64, arena + 64 + bytes);
        if (net.run()) process.exit(3);
        for (let i = 0; i < 64; i++)
            if (all()[arena + i] != 0xA5 || all()[arena + 64 + bytes + i] != 0xA5) process.exit(4);
        return Buffer.from(all().slice(logits, logits + 4 * net.classes()));
    });
    if (answers[0].compare(answers[1])) process.exit(5);
    fs.writeSync(1, answers[0]);
}
"""


@dataclass(frozen=True)
class Build:
    """How to compile for a path, and what to start the program with."""

    path: str
    compiler: str
    options: tuple[str, ...]
    runner: tuple[str, ...] = ()

    def answers(self, folder: Path, pixels: bytes) -> tuple[str, bytes]:
        """The path that net.c took in `folder`, and the logits as bytes."""
        build = replace(
            self,
            options=tuple(part.format(folder=folder) for part in self.options),
            runner=tuple(part.format(folder=folder) for part in self.runner),
        )
        program = _wasm(build, folder) if self.path == "wasm128" else _native(build, folder)
        ran = subprocess.run([*build.runner, program], input=pixels, capture_output=True)
        assert ran.returncode == 0, ran.stderr.decode()
        return ran.stderr.decode(), ran.stdout


def _compile(command: list[object]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _native(build: Build, folder: Path) -> Path:
    (folder / "harness.c").write_text(HARNESS, encoding="utf-8")
    (folder / "emulated").mkdir(exist_ok=True)
    (folder / "emulated" / "immintrin.h").write_text(EMULATED, encoding="utf-8")
    program = folder / f"net-{build.path}"
    sources = [folder / "net.c", folder / "harness.c"]
    _compile([build.compiler, *STRICT, *build.options, f"-I{folder}", "-o", program, *sources])
    return program


def _wasm(build: Build, folder: Path) -> Path:
    shim = folder / "wasm"
    shim.mkdir(exist_ok=True)
    declared = "#include <stddef.h>\nvoid *memcpy(void *, const void *, size_t);\nvoid *memset(void *, int, size_t);\n"
    (shim / "string.h").write_text(declared, encoding="utf-8")
    (shim / "page.c").write_text(WASM, encoding="utf-8")
    (folder / "node.js").write_text(NODE, encoding="utf-8")
    program = folder / "net.wasm"
    linked = ["-nostdlib", "-Wl,--no-entry"]
    _compile(
        [
            build.compiler,
            *STRICT,
            *build.options,
            f"-I{shim}",
            f"-I{folder}",
            *linked,
            "-o",
            program,
            folder / "net.c",
            shim / "page.c",
        ]
    )
    return program


def _processor_has(feature: str) -> bool:
    try:
        return feature in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False


def _x86(path: str, feature: str, *options: str) -> Callable[[], Build]:
    def find() -> Build:
        if not shutil.which("cc") or not _processor_has(feature):
            pytest.skip(f"needs cc and a processor with {feature}")
        return Build(path, "cc", options)

    return find


def _vnni() -> Build:
    if shutil.which("cc") and _processor_has("avx512_vnni"):
        return Build("avx512vnni", "cc", ("-O2", "-mavx512bw", "-mavx512vnni"))
    if not shutil.which("cc") or not SIMDE.exists():
        pytest.skip("needs cc, and a processor with AVX-512 VNNI or SIMDe (Debian: libsimde-dev)")
    return Build("avx512vnni", "cc", ("-O1", "-D__AVX512BW__", "-D__AVX512VNNI__", "-I{folder}/emulated"))


def _neon() -> Build:
    compiler, emulator = (shutil.which(name) for name in ("aarch64-linux-gnu-gcc", "qemu-aarch64"))
    if not compiler or not emulator:
        pytest.skip("needs aarch64-linux-gnu-gcc and qemu-aarch64 (Debian: gcc-aarch64-linux-gnu qemu-user)")
    return Build("neon", compiler, ("-O2", "-static"), (emulator,))


def _wasm128() -> Build:
    compiler, node = shutil.which("clang"), shutil.which("node")
    if not compiler or not node or not shutil.which("wasm-ld"):
        pytest.skip("needs clang, wasm-ld and node (Debian: clang lld nodejs)")
    return Build(
        "wasm128", compiler, ("-O2", "--target=wasm32", "-msimd128", "-ffreestanding"), (node, "{folder}/node.js")
    )


FINDERS = {
    "avx2": _x86("avx2", "avx2", "-mavx2", *SANITIZED),
    "avx2 fast": _x86("avx2", "avx2", "-mavx2", "-O3"),
    "ssse3": _x86("ssse3", "ssse3", "-mssse3", *SANITIZED),
    "avx512vnni": _vnni,
    "neon": _neon,
    "wasm128": _wasm128,
}


def find_build(name: str) -> Build:
    """The build of a name in FINDERS; the test is skipped where a tool for it is missing."""
    return FINDERS[name]()
