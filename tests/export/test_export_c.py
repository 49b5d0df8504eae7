"""C files: they compile without a warning, keep within their arena, and answer as the reference does, bit for bit."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import FAMILIES, QUICK, context, family, images, logits, modules, random_network
from torch import nn
from vector_builds import HARNESS, SANITIZED, STRICT

from netpress.compression.prune import prune_once
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Images
from netpress.errors import UserError
from netpress.export.c import c_string, export_c
from netpress.network import Network, create, save
from netpress.program import lower
from netpress.settings import parse

COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler called cc")
Call = Callable[..., tuple[int, str, str]]


def raw(shown: Images) -> bytes:
    """Pixels as [height][width][channel]."""
    return shown.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes()


def compile_c(files: list[Path], out: Path, *options: str) -> Path:
    done = subprocess.run([str(COMPILER), *STRICT, *options, "-o", out, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def check_c(network: Network, shown: Images, folder: Path, *builds: list[str], strip_rows: int | None = None) -> None:
    """The C answers as the reference: memcmp of the logits, for each way of building it."""
    written = export_c(network, folder, "net", strip_rows=strip_rows)
    (folder / "harness.c").write_text(HARNESS, encoding="utf-8")
    scale = lower(network).operations[-1].scale  # type: ignore[attr-defined]
    expected = (logits(network, shown) / scale).to(torch.int32).numpy().tobytes()
    for build in builds:
        program = compile_c([written.source, folder / "harness.c"], folder / "net", *build, "-DNET_PORTABLE")
        ran = subprocess.run([program], input=raw(shown), capture_output=True)
        assert (ran.returncode, ran.stderr) == (0, b"portable")
        assert ran.stdout == expected


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "preset"),
    [*((name, "int8") for name in FAMILIES), ("densenet", "fixed-9-12"), ("resnet", "int4"), ("shortcut", "binary")],
)
def test_every_family_answers_alike(name: str, preset: str, tmp_path: Path) -> None:
    network = quantize(family(name), parse(QuantizeSettings, {"preset": preset, **QUICK}), context(tmp_path))
    check_c(network, images(5, 9), tmp_path, ["-O0"], ["-O3"], SANITIZED)
    for rows in (1, 3):
        check_c(network, images(5, 9), tmp_path, SANITIZED, strip_rows=rows)


@needs_compiler
@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    modules(),
    st.integers(7, 9),
    st.integers(7, 10),
    st.integers(2, 8),
    st.integers(0, 99),
    st.sampled_from([None, 1, 2, 3, 5]),
)
def test_random_networks_answer_alike(
    tmp_path_factory: pytest.TempPathFactory,
    module: nn.Module,
    height: int,
    width: int,
    bits: int,
    seed: int,
    strip_rows: int | None,
) -> None:
    size, folder = (height, width), tmp_path_factory.mktemp("c")
    network = random_network(module, size, bits, seed, folder)
    check_c(network, images(2, seed, size), folder, SANITIZED, strip_rows=strip_rows)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pattern", "preset"),
    [
        ("resnet", (1, 4), "int8"),
        ("resnet", (3, 2), "int4"),
        ("grouped", (4, 1), "int8"),
        ("c_efficientnet", (2, 2), "int6"),
        ("shortcut", (1, 3), "binary"),
    ],
)
def test_masks_by_block_answer_alike(name: str, pattern: tuple[int, int], preset: str, tmp_path: Path) -> None:
    pruned, _ = prune_once(family(name), 0.6, pattern=pattern)
    values = {"preset": preset, "weight_calibration": {"kind": "minmax"}, "fold": False, **QUICK}
    network = quantize(pruned, parse(QuantizeSettings, values), context(tmp_path))
    patterns = network.whole_patterns()
    assert patterns
    check_c(network, images(3, 9), tmp_path, ["-O2"], SANITIZED)
    by_block, network.patterns = export_c(network, tmp_path, "net").flash, {}
    # Single weights would have a mask of a bit each, or none; what is zero inside a block would not be stored.
    assert by_block < export_c(network, tmp_path, "net").flash


# --- the command


@needs_compiler
@pytest.mark.slow
def test_from_a_network_to_a_program(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("a", 'say "cheese"?', "Käse\\", *"defghij")
    network = quantize(family("resnet"), parse(QuantizeSettings, QUICK), context(tmp_path))
    network.classes = names
    save(network, tmp_path / "my-net.netpress")
    code, said, _ = call("export", "c", "my-net.netpress", "--out", "built")
    assert code == 0 and "my_net.c" in said
    found = json.loads(call("export", "c", "my-net.netpress", "--out", "built", "--json")[1])
    header = Path("built/my_net.h").read_text(encoding="utf-8")
    assert f"#define MY_NET_ARENA_BYTES {found['arena']}\n" in header
    program = compile_c([Path("built/my_net.c")], tmp_path / "program", "-O2", "-DMY_NET_MAIN")
    shown = images(3, 4)
    answered = subprocess.run([program], input=raw(shown), capture_output=True, text=False)
    rows = torch.tensor([[int(x) for x in line.split()] for line in answered.stdout.decode().splitlines()])
    scale = lower(network).operations[-1].scale  # type: ignore[attr-defined]
    assert answered.returncode == 0 and torch.equal(rows.float() * scale, logits(network, shown))
    cut = subprocess.run([program], input=raw(shown)[:-1], capture_output=True)
    assert cut.returncode == 1 and b"the last image is cut off" in cut.stderr and cut.stdout.count(b"\n") == 2
    harness = '#include "my_net.h"\n#include <stdio.h>\nint main(void) { int i; for (i = 0; i < 3; i++) '
    (tmp_path / "names.c").write_text(f"{harness}puts(my_net_class_names[i]); return 0; }}\n", encoding="utf-8")
    built = compile_c([Path("built/my_net.c"), Path("names.c")], tmp_path / "names", "-Ibuilt")
    assert subprocess.run([built], capture_output=True).stdout.decode("utf-8").splitlines() == list(names[:3])


@pytest.mark.parametrize("name", ["2fast", "a-b", "", "é", "a b", "a;b"])
def test_names_that_c_cannot_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no name in C; give letters, digits and underscores"):
        export_c(create("resnet", {"width": 2, "blocks": [1], "classes": 3}), tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_networks_of_floats_are_refused(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(create("resnet", {"width": 2, "blocks": [1], "classes": 3}), tmp_path / "net.netpress")
    code, _, error = call("export", "c", "net.netpress", "--out", "built")
    assert code == 2 and "computes in floats" in error and "--set arithmetic=integer" in error
    assert not Path("built").exists()


def test_texts_in_c() -> None:
    assert c_string('a"b\\c??=') == '"a\\"b\\\\c\\?\\?="'
    assert c_string("ä1\n") == '"\\303\\2441\\012"'
