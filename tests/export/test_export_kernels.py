"""The kernels of single numbers, in portable C and in every kind of vectors: R saturates, loads come before stores."""

from dataclasses import replace
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from vector_builds import FINDERS, find_build

from netpress.export.c.vectors import KERNELS, Vectors, header_lines

EDGES = (-32768, -32767, -16385, -16384, -1, 0, 1, 2, 16383, 16384, 32766, 32767)
COUNT = len(EDGES) ** 2

# The kernels behind a function like a network's, whose "image" is pairs of numbers: R of each pair, saturated.
SOURCE = """
#include "net.h"
#include <string.h>
#ifdef __GNUC__
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
{masks}
#if NET_VECTORS
#define VECTORS NET_VECTORS
{vectors}
static void rescale_all(int16_t *x, const int16_t *y) {{
    int p;
    for (p = 0; p < NET_CLASSES; p += V_WIDE) v_store(x + p, v_rescale_any(v_load(x + p), v_load(y + p)));
}}
/* The first of `at`, read before something else is stored there: clang 14 mixed them up for wasm32. */
V_ALONE void exchange(int16_t *at, const int16_t *other, int16_t *out) {{
    const V first = v_all(at);
    v_store(at, v_load(other));
    v_store(out, first);
}}
static int exchanges(void) {{
    int16_t at[V_WIDE], other[V_WIDE], out[V_WIDE];
    int p;
    for (p = 0; p < V_WIDE; p++) at[p] = (int16_t)(p + 5), other[p] = 3;
    exchange(at, other, out);
    for (p = 0; p < V_WIDE; p++)
        if (at[p] != 3 || out[p] != 5) return 0;
    return 1;
}}
#else
{portable}
static void rescale_all(int16_t *x, const int16_t *y) {{ multiply_row(x, NET_CLASSES, y); }}
static int exchanges(void) {{ return 1; }}
#endif
int net_run(void *memory, const uint8_t *pixels, int32_t *logits) {{
    static int16_t pairs[2][NET_CLASSES + 32];
    int p;
    if (!memory || (uintptr_t)memory % 4) return 1;
    if (!exchanges()) return 2;
    memcpy(pairs[0], pixels, 2 * NET_CLASSES);
    memcpy(pairs[1], pixels + 2 * NET_CLASSES, 2 * NET_CLASSES);
    rescale_all(pairs[0], pairs[1]);
    for (p = 0; p < NET_CLASSES; p++) logits[p] = pairs[0][p];
    return 0;
}}
"""
HEADER = """
#include <stddef.h>
#include <stdint.h>
{paths}
#define NET_HEIGHT 1
#define NET_WIDTH {count}
#define NET_CHANNELS 4
#define NET_CLASSES {count}
int net_run(void *memory, const uint8_t *pixels, int32_t *logits);
"""


def text(*names: str) -> str:
    return "\n".join(files("netpress.export.c").joinpath(name).read_text(encoding="utf-8") for name in names)


@pytest.mark.parametrize("name", [*FINDERS, "portable"])
def test_products_saturate_and_loads_precede_stores(name: str, tmp_path: Path) -> None:
    build = find_build("avx2" if name == "portable" else name)
    if name == "portable":
        build = replace(build, path="portable", options=(*build.options, "-DNET_PORTABLE"))
    portable = text("arithmetic.c", "sums.c", "values.c")
    source = SOURCE.format(masks=text("masks.c"), vectors=text(*KERNELS), portable=portable)
    header = HEADER.format(paths=header_lines("net", 4, Vectors("", 4)), count=COUNT)
    (tmp_path / "net.c").write_text(source, encoding="utf-8")
    (tmp_path / "net.h").write_text(header, encoding="utf-8")
    pairs = np.array(list(product(EDGES, EDGES)), dtype="<i2").T
    path, answered = build.answers(tmp_path, pairs.tobytes())
    wide = pairs.astype(np.int64)
    expected = ((wide[0] * wide[1] + 2**14) >> 15).clip(-(2**15), 2**15 - 1)
    assert path == build.path
    assert expected[0] == 32767  # of -32768 and -32768, which is 2**15 before it saturates
    assert np.array_equal(np.frombuffer(answered, "<i4"), expected)
