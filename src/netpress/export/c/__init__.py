"""A network of integer arithmetic as C99: two files without dependencies, floats or malloc.

    written = export_c(network, Path("build"), "tiny")
    written.arena         # bytes of memory that tiny_run needs
    written.flash         # bytes of its constants

`NAME_run` gives the logits of `netpress.program.execute` as the integers that they are, bit for bit.
"""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from netpress.errors import Failure, UserError, quote
from netpress.export.c.arena import Layout, lay_out
from netpress.export.c.constants import Constants
from netpress.export.c.parts import write_part
from netpress.export.c.plan import plan
from netpress.files import atomic_write
from netpress.network import Network
from netpress.numerics.formats import GridFormat
from netpress.numerics.layers import quantized_layers
from netpress.program import has_integer_arithmetic, lower
from netpress.program.integers import Restore

KERNELS = ("arithmetic", "sums", "values")
"""The parts of the source that are the same for every network."""


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
    constants = Constants(integers)
    parts = [write_part(layout, constants, number) for number in range(len(layout.parts))]
    folder_of_kernels = files("netpress.export.c")
    kernels = [folder_of_kernels.joinpath(f"{name}.c").read_text(encoding="utf-8") for name in KERNELS]
    text = [_head(name), *kernels, "/* Constants. */", *constants.written, "/* The network. */", *parts]
    source = "\n\n".join([*text, _names(name, network), _run(name, layout)])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"--out {folder}: cannot be made: {error.strerror}") from error
    paths = folder / f"{name}.c", folder / f"{name}.h"
    atomic_write(paths[0], source + "\n")
    atomic_write(paths[1], _header(name, network, layout))
    return CFiles(*paths, layout.arena, constants.flash)


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
}}

#ifdef {name.upper()}_MAIN
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


def _header(name: str, network: Network, layout: Layout) -> str:
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

#define {upper}_ARENA_BYTES {layout.arena}
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
