"""A network of integer arithmetic as C99: two files without dependencies, floats or malloc.

    written = export_c(network, Path("build"), "tiny")
    written.arena         # bytes of memory that tiny_run needs
    written.flash         # bytes of its constants

`NAME_run` gives the logits of `netpress.program.execute` as the integers that they are, bit for bit.
"""

import re
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from netpress.errors import Failure, UserError, quote
from netpress.export.c.arena import Layout, lay_out
from netpress.export.c.constants import Constants
from netpress.export.c.parts import write_part
from netpress.export.c.plan import plan
from netpress.export.c.vectors import Vectors, choice, header_lines, write_vectors
from netpress.files import atomic_path
from netpress.network import Network
from netpress.numerics.formats import GridFormat
from netpress.numerics.layers import quantized_layers
from netpress.program import has_integer_arithmetic, lower
from netpress.program.integers import Restore

HEADERS = (
    *("assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale", "math"),
    *("setjmp", "signal", "stdarg", "stdbool", "stddef", "stdint", "stdio", "stdlib", "string", "tgmath", "time"),
    *("wchar", "wctype"),
)
"""C99's own headers. Compilers that are told to look in our folder would take ours for them."""
KERNELS = ("arithmetic", "sums", "values", "layers")
"""The portable path's parts that are the same for every network."""


@dataclass(frozen=True)
class CFiles:
    """What was written."""

    source: Path
    header: Path
    arena: int
    """Bytes of memory that one run needs, which is exact."""
    flash: int
    """Bytes of the constants: weights, masks, factors, biases, tables."""


def check_name(name: str) -> None:
    """Raise UserError for a name that C cannot have."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise UserError(
            f"--name {quote(name)}: no name in C; give letters, digits and underscores, beginning with a letter"
        )
    if name.lower() in HEADERS:
        raise UserError(f"--name {name}: {name}.h would stand in the place of C's own {name.lower()}.h; give another")


def export_c(network: Network, folder: Path, name: str, *, strip_rows: int | None = None) -> CFiles:
    """Write `name`.c and `name`.h into `folder`; `strip_rows` forces strips of so many rows, which tests do.

    Raises UserError for a network that computes in floats, a name that is none in C, and what C has no kernel for.
    """
    check_name(name)
    if not has_integer_arithmetic(network):
        raise UserError(
            "between its sums this network computes in floats, which the C has none of; "
            "netpress apply quantize NETWORK --set arithmetic=integer makes one in integers"
        )
    layout = lay_out(plan(lower(network)), strip_rows)
    formats = {layer: part.formats.weight for layer, part in quantized_layers(network.module).items()}
    integers = {layer: format for layer, format in formats.items() if isinstance(format, GridFormat)}
    patterns = {name.removesuffix(".weight"): pattern for name, pattern in network.whole_patterns().items()}
    constants = Constants(integers, patterns)
    parts = [write_part(layout, constants, number) for number in range(len(layout.parts))]
    portable = "\n\n".join([*map(_read, KERNELS), "/* The network. */", *parts, _run(name, layout)])
    vectors = write_vectors(name, layout.made.program, constants)
    text = [_head(name), _read("masks"), "/* Constants. */", *choice(name, vectors, constants.written, portable)]
    source = "\n\n".join([*text, _names(name, network), _main(name)])
    paths = folder / f"{name}.c", folder / f"{name}.h"
    write_together(folder, {paths[0]: source + "\n", paths[1]: _header(name, network, layout, vectors)})
    return CFiles(*paths, layout.arena, constants.flash)


def _read(part: str) -> str:
    """A part of the source that is the same for every network."""
    return files("netpress.export.c").joinpath(f"{part}.c").read_text(encoding="utf-8")


def write_together(folder: Path, texts: dict[Path, str]) -> None:
    """Write files into `folder`, which is made where it is missing: all of them, or none.

    Raises UserError where something else stands in the place of one; Failure where they cannot be written.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out {folder}: is a file; name a folder")
        for path in texts:
            if path.is_dir():
                raise UserError(f"{path}: is a folder, and a file of this name would be written; move it away")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"--out {folder}: cannot be written: {error.strerror}") from error
    with ExitStack() as whole:  # each takes its name once all are written
        for part, text in [(whole.enter_context(atomic_path(path)), text) for path, text in texts.items()]:
            part.write_bytes(text.encode())


def _head(name: str) -> str:
    return f'/* Written by netpress. {name}.h says how to call it. */\n#include "{name}.h"\n\n#include <string.h>'


def _names(name: str, network: Network) -> str:
    classes = ",\n    ".join(c_string(text) for text in network.classes)
    return f"const char *const {name}_class_names[{name.upper()}_CLASSES] = {{\n    {classes}}};"


def _run(name: str, layout: Layout) -> str:
    calls = "\n".join(f"    part_{number}(arena, pixels);" for number in range(len(layout.parts)))
    output = layout.made.output
    geometry = layout.made.geometries[output]
    return f"""int {name}_run(void *memory, const uint8_t *pixels, int32_t *logits) {{
    uint8_t *arena = (uint8_t *)memory;
    const int16_t *last = (const int16_t *)(arena + {layout.places[output].offset});
    int o;
    if (!memory || !pixels || !logits || (uintptr_t)memory % 4) return 1;
{calls}
    for (o = 0; o < {geometry.channels * geometry.plane}; o++) logits[o] = last[o];
    return 0;
}}"""


def _main(name: str) -> str:
    return f"""#ifdef {name.upper()}_MAIN
#include <stdio.h>

int main(void) {{
    static int32_t arena[({name.upper()}_ARENA_BYTES + 3) / 4];
    static uint8_t pixels[{name.upper()}_HEIGHT * {name.upper()}_WIDTH * {name.upper()}_CHANNELS];
    static int32_t logits[{name.upper()}_CLASSES];
    size_t read;
    while ((read = fread(pixels, 1, sizeof pixels, stdin)) == sizeof pixels) {{
        int o;
        if ({name}_run(arena, pixels, logits)) return 1;
        for (o = 0; o < {name.upper()}_CLASSES; o++) printf(o ? " %ld" : "%ld", (long)logits[o]);
        printf("\\n");
    }}
    if (read) fprintf(stderr, "the last image is cut off: %lu bytes of it\\n", (unsigned long)read);
    return read != 0;
}}
#endif"""


def _header(name: str, network: Network, layout: Layout, vectors: Vectors | None) -> str:
    upper, spec = name.upper(), network.input
    last = layout.made.program.operations[-1]
    assert isinstance(last, Restore)
    return f"""/* Written by netpress: an image classifier in 16-bit integers, C99, without floats and without malloc.

   {name}_run(arena, pixels, logits) returns 0, or 1 where a pointer is null or the arena lies at no multiple of 4.
   arena: {upper}_ARENA_BYTES bytes of memory, of any contents. pixels: 0 ... 255, [height][width][channel].
   logits: one a class; the largest is the answer. A logit stands for logit * {last.scale!r}.
   With {upper}_MAIN defined, the file is a program: raw pixels on standard input, logits on standard output. */
#ifndef {upper}_H
#define {upper}_H

#include <stddef.h>
#include <stdint.h>

{header_lines(name, layout.arena, vectors)}
#define {upper}_HEIGHT {spec.height}
#define {upper}_WIDTH {spec.width}
#define {upper}_CHANNELS {spec.channels}
#define {upper}_CLASSES {len(network.classes)}

#ifdef __cplusplus
extern "C" {{
#endif
extern const char *const {name}_class_names[{upper}_CLASSES];
int {name}_run(void *arena, const uint8_t *pixels, int32_t *logits);
#ifdef __cplusplus
}}
#endif

#endif
"""


def c_string(text: str) -> str:
    """A text as a C string in ASCII: other characters as the octal numbers of their bytes in UTF-8."""
    plain = {"\\": "\\\\", '"': '\\"', "?": "\\?"}
    data = text.encode("utf-8", "replace")
    parts = [plain.get(chr(byte), chr(byte)) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in data]
    return '"' + "".join(parts) + '"'
