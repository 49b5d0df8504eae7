"""The paths in vectors of a C file answer as the reference does, bit for bit, on every kind of vectors."""

import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import FAMILIES, QUICK, context, family, images, logits, modules, random_network
from torch import nn
from vector_builds import FINDERS, STRICT, Build, find_build

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Images
from netpress.export.c import export_c
from netpress.network import Network
from netpress.program import lower
from netpress.settings import parse

pytestmark = pytest.mark.slow


def check(network: Network, shown: Images, folder: Path, *builds: Build) -> None:
    """The path that is built for answers as the reference: memcmp of the logits."""
    export_c(network, folder, "net")
    scale = lower(network).operations[-1].scale  # type: ignore[attr-defined]
    expected = (logits(network, shown) / scale).to(torch.int32).numpy().tobytes()
    for build in builds:
        path, answered = build.answers(folder, shown.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
        assert path == build.path
        assert answered == expected


EVERY = "grouped", "wide_resnet"
CASES = [*((name, "int8") for name in FAMILIES), ("densenet", "fixed-9-12"), ("resnet", "int4"), ("shortcut", "binary")]


@pytest.mark.parametrize(
    ("name", "preset", "build"),
    [
        (name, preset, build)
        for name, preset in CASES
        for build in FINDERS
        # Each family on the vectors that are quick to build; the others on the families that are.
        if preset != "int8"
        or name in EVERY
        or build == ("wasm128" if name in ("cosine", "efficientnet") else "neon")
        or (build in ("wasm128", "avx2 fast") and name in ("shortcut", "c_efficientnet"))
    ],
)
def test_every_family_answers_alike(name: str, preset: str, build: str, tmp_path: Path) -> None:
    found = find_build(build)
    network = quantize(family(name), parse(QuantizeSettings, {"preset": preset, **QUICK}), context(tmp_path))
    check(network, images(5, 9), tmp_path, found)


THREADS = """
#include "net.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
static uint8_t pixels[NET_HEIGHT * NET_WIDTH * NET_CHANNELS];
static uint32_t arenas[4][(NET_ARENA_BYTES + 3) / 4];
static int32_t logits[4][NET_CLASSES];
static void *call(void *place) {
    const size_t i = (size_t)((int32_t(*)[NET_CLASSES])place - logits);
    return net_run(arenas[i], pixels, logits[i]) ? place : 0;
}
int main(void) {
    pthread_t threads[4];
    int i;
    if (fread(pixels, 1, sizeof pixels, stdin) != sizeof pixels) return 1;
    for (i = 0; i < 4; i++) pthread_create(threads + i, 0, call, logits[i]);
    for (i = 0; i < 4; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        if (failed || memcmp(logits[0], logits[i], sizeof logits[0])) return 2;
    }
    return fwrite(logits[0], sizeof logits[0], 1, stdout) != 1;
}
"""


def test_first_calls_of_several_threads(tmp_path: Path) -> None:
    find_build("avx2")
    network = quantize(family("shortcut"), parse(QuantizeSettings, QUICK), context(tmp_path))
    shown = images(1, 9)
    export_c(network, tmp_path, "net")
    (tmp_path / "threads.c").write_text(THREADS, encoding="utf-8")
    flags = [*STRICT, "-O1", "-mavx2", "-pthread", "-fsanitize=thread"]
    sources = [tmp_path / "net.c", tmp_path / "threads.c"]
    subprocess.run(["cc", *flags, "-o", tmp_path / "threads", *sources], check=True)
    pixels = shown.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes()
    ran = subprocess.run([tmp_path / "threads"], input=pixels, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()
    scale = lower(network).operations[-1].scale  # type: ignore[attr-defined]
    assert ran.stdout == (logits(network, shown) / scale).to(torch.int32).numpy().tobytes()


@pytest.mark.parametrize("build", [name for name in FINDERS if name != "avx2 fast"])
@settings(max_examples=10, deadline=None)
@given(modules(), st.integers(7, 9), st.integers(7, 18), st.integers(2, 8), st.integers(0, 99))
def test_random_networks_answer_alike(
    tmp_path_factory: pytest.TempPathFactory,
    build: str,
    module: nn.Module,
    height: int,
    width: int,
    bits: int,
    seed: int,
) -> None:
    found, folder, size = find_build(build), tmp_path_factory.mktemp("c"), (height, width)
    check(random_network(module, size, bits, seed, folder), images(2, seed, size), folder, found)
