"""The paths in vectors of a C file answer as the reference does, bit for bit, on every kind of vectors."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import FAMILIES, QUICK, context, family, images, logits, modules, random_network
from torch import nn
from vector_builds import FINDERS, Build, find_build

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Images
from netpress.export.c import export_c
from netpress.network import Network
from netpress.program import lower
from netpress.settings import parse

pytestmark = pytest.mark.slow
NATIVE = ["avx2", "ssse3"]


def check(network: Network, shown: Images, folder: Path, *builds: Build) -> None:
    """The path that is built for answers as the reference: memcmp of the logits."""
    export_c(network, folder, "net")
    scale = lower(network).operations[-1].scale  # type: ignore[attr-defined]
    expected = (logits(network, shown) / scale).to(torch.int32).numpy().tobytes()
    for build in builds:
        path, answered = build.answers(folder, shown.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
        assert path == build.path
        assert answered == expected


@pytest.mark.parametrize("build", FINDERS)
@pytest.mark.parametrize(
    ("name", "preset"),
    [*((name, "int8") for name in FAMILIES), ("densenet", "fixed-9-12"), ("resnet", "int4"), ("shortcut", "binary")],
)
def test_every_family_answers_alike(name: str, preset: str, build: str, tmp_path: Path) -> None:
    found = find_build(build)
    network = quantize(family(name), parse(QuantizeSettings, {"preset": preset, **QUICK}), context(tmp_path))
    check(network, images(5, 9), tmp_path, found)


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
