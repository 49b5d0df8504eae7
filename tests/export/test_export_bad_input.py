"""What users may hand to `export`: names, places and files that are no good. One sentence, nothing left behind."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from integer_networks import QUICK, context, family

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.errors import Failure, UserError
from netpress.export.c import HEADERS, export_c, write_together
from netpress.network import Network, save
from netpress.settings import parse

pytest.importorskip("onnx", reason="the extra onnx is not installed")
Call = Callable[..., tuple[int, str, str]]
COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler called cc")
KINDS = ("c", "onnx", "qonnx")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder = tmp_path_factory.mktemp("quantized")
    return quantize(family("resnet"), parse(QuantizeSettings, QUICK), context(folder))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["int", "main", "memcpy", "NULL", "stdout", "window", "sums"])
def test_words_of_c_make_names_that_compile(name: str, network: Network, tmp_path: Path) -> None:
    """Everything is called NAME_something, so that int_run is a name though int is a word."""
    written = export_c(network, tmp_path, name)
    upper = name.upper()
    caller = (
        f'#include "{name}.h"\n#include <stdio.h>\n#include <string.h>\nint main(void) {{\n'
        f"    static int32_t arena[({upper}_ARENA_BYTES + 3) / 4], logits[{upper}_CLASSES];\n"
        f"    static uint8_t pixels[{upper}_HEIGHT * {upper}_WIDTH * {upper}_CHANNELS];\n"
        f"    return {name}_run(arena, pixels, logits) || !strlen({name}_class_names[0]);\n}}\n"
    )
    (tmp_path / "caller.c").write_text(caller, encoding="utf-8")
    options = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}"]
    program = tmp_path / "program"
    subprocess.run([str(COMPILER), *options, "-o", program, written.source, tmp_path / "caller.c"], check=True)
    assert subprocess.run([program]).returncode == 0


@pytest.mark.parametrize("name", ["string", "stdint", "Math"])
def test_headers_of_c_are_no_names(name: str, network: Network, tmp_path: Path) -> None:
    assert name.lower() in HEADERS
    with pytest.raises(UserError, match=rf"--name {name}: {name}.h would stand in the place of C's own"):
        export_c(network, tmp_path, name)
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_any_class_name_comes_back_from_c(network: Network, tmp_path: Path) -> None:
    names = (
        "a\"b'c",
        "back\\slash\\",
        "??=??/",
        "two\nlines\r\t",
        "Käse 1",
        "日本7",
        "%s*/",
        "/*//",
        "\x7f\x01" + "2",
        "?" * 9,
    )
    before = network.classes
    network.classes = names
    try:
        written = export_c(network, tmp_path, "net")
    finally:
        network.classes = before
    assert written.source.read_bytes().isascii()
    caller = (
        '#include "net.h"\n#include <stdio.h>\n#include <string.h>\nint main(void) {\n    int i;\n'
        "    for (i = 0; i < NET_CLASSES; i++) {\n"
        "        fwrite(net_class_names[i], 1, strlen(net_class_names[i]) + 1, stdout);\n    }\n    return 0;\n}\n"
    )
    (tmp_path / "caller.c").write_text(caller, encoding="utf-8")
    options = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-trigraphs"]
    program = tmp_path / "program"
    subprocess.run([str(COMPILER), *options, "-o", program, written.source, tmp_path / "caller.c"], check=True)
    said = subprocess.run([program], capture_output=True, check=True).stdout
    assert said.decode("utf-8").split("\0")[:-1] == list(names)


# --- places


@pytest.mark.slow
def test_places_that_nothing_can_be_written_to(call: Call, network: Network, tmp_path: Path) -> None:
    save(network, tmp_path / "2 nets.netpress")
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    (tmp_path / "built/net_2_nets.h").mkdir(parents=True)
    (tmp_path / "taken.onnx").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for words, code, reason in (
        (("c", "--out", "file"), 2, "--out file: is a file; name a folder"),
        (("c", "--out", "file/sub"), 1, "--out file/sub: cannot be written"),
        (("c", "--out", "built"), 2, "net_2_nets.h: is a folder"),
        (("onnx", "--no-check", "--out", "taken.onnx"), 1, "taken.onnx: cannot be written"),
        (("qonnx", "--no-check", "--out", "taken.onnx"), 1, "taken.onnx: cannot be written"),
        (("qonnx", "--no-check", "--out", "file/x.onnx"), 1, "file/x.onnx: cannot be written (file is no folder)"),
        (("qonnx", "--no-check", "--out", "made"), 2, "call the file made.onnx"),
    ):
        found, _, error = call("export", words[0], "2 nets.netpress", *words[1:])
        assert found == code and reason in error and error.count("\n") == 1, error
    assert sorted(tmp_path.rglob("*")) == before
    assert call("export", "c", "2 nets.netpress", "--out", "new/deep")[0] == 0
    assert call("export", "qonnx", "2 nets.netpress", "--no-check", "--out", "new/deep/q.onnx")[0] == 0
    names = sorted(path.name for path in (tmp_path / "new/deep").iterdir())
    assert names == ["net_2_nets.c", "net_2_nets.h", "q.onnx"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_only_be_read(network: Network, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(Failure, match="cannot be written"):
            export_c(network, tmp_path, "net")
    finally:
        tmp_path.chmod(0o755)
    assert not list(tmp_path.iterdir())


def test_files_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("old", encoding="utf-8")
    with pytest.raises(Failure, match="cannot be written"):
        write_together(tmp_path, {tmp_path / "a.c": "new", tmp_path / ("b" * 300): "new"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.c"]
    assert (tmp_path / "a.c").read_text(encoding="utf-8") == "old"
    write_together(tmp_path, {tmp_path / "a.c": "new", tmp_path / "b.h": "too"})
    assert [path.read_text(encoding="utf-8") for path in sorted(tmp_path.iterdir())] == ["new", "too"]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_networks_are_one_sentence(kind: str, call: Call, network: Network, tmp_path: Path) -> None:
    save(network, tmp_path / "whole.netpress")
    data = (tmp_path / "whole.netpress").read_bytes()
    (tmp_path / "cut.netpress").write_bytes(data[: len(data) // 2])
    (tmp_path / "bent.netpress").write_bytes(data[:-50] + bytes([data[-50] ^ 255]) + data[-49:])
    (tmp_path / "text.netpress").write_text("no network", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    for name, code in (("cut", 1), ("bent", 1), ("text", 1), ("absent", 2)):
        found, said, error = call("export", kind, f"{name}.netpress", "--out", "out.onnx")
        assert (found, said) == (code, "") and name in error and error.count("\n") == 1, error
    assert sorted(tmp_path.iterdir()) == before
