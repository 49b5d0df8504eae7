"""`netpress export c` compiles what it wrote and compares it with the reference; `netpress time` measures every way."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from integer_networks import family, images, logits
from PIL import Image

import netpress
from netpress.data import normalize
from netpress.errors import Failure, UserError
from netpress.export import latency
from netpress.export.c import export_c
from netpress.export.c.checking import check_c
from netpress.network import Network, copy, save
from netpress.numerics.layers import plain_layers

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler called cc")

Call = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("cache")


@needs_compiler
@pytest.mark.slow
def test_what_was_written_is_compared(network: Network, tmp_path: Path) -> None:
    shown = images(9, 7)
    right = int((logits(network, shown).argmax(1) == shown.labels).sum())
    written = export_c(network, tmp_path, "tiny")
    found = check_c(network, written, "tiny", shown)
    assert (found.compared, found.images, found.accuracy) == (9, 9, right / 9)
    compiled = f"checked     compiled by cc -O3 -march=native ({found.path}): "
    assert found.lines()[0] == f"{compiled}the reference's logits, bit for bit, of 9 test images"
    other = copy(network)
    for parameter in other.module.parameters():
        if parameter.dim() > 1:
            parameter.data.neg_()
    with pytest.raises(Failure, match=r"tiny\.c, compiled by cc .*: \d of 8 answers are not those of the reference"):
        check_c(other, written, "tiny")
    written.source.write_text("no C", encoding="utf-8")
    with pytest.raises(Failure, match=r"cannot compile tiny\.c"):
        check_c(network, written, "tiny")


@needs_compiler
@pytest.mark.slow
def test_the_command_checks_what_it_wrote(
    network: Network, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(network, tmp_path / "net.netpress")
    for name in "0123456789":
        for part in ("train", "test"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for index in range(3 if part == "train" else 1):
                image = Image.new("RGB", (8, 8), (25 * int(name), 80 * index, len(part)))
                image.save(tmp_path / "photos" / part / name / f"{index}.png")
    with_data = ("export", "c", "net.netpress", "--out", "c", "--data", "photos")
    code, out, err = call(*with_data)
    assert code == 0, err
    lines = out.splitlines()[-2:]
    assert code == 0 and "the reference's logits, bit for bit, of 10 test images" in lines[0]
    exactly = json.loads(call("evaluate", "net.netpress", "--data", "photos", "--exact", "--json")[1])
    assert lines[1] == f"accuracy    {exactly['accuracy']:.2%} of 10 test images, in C"
    assert json.loads(call(*with_data, "--json")[1])["check"]["compared"] == 10
    code, _, err = call(*with_data, "--no-check")
    assert code == 2 and "--no-check compares nothing: leave out --data" in err
    code, out, _ = call("export", "c", "net.netpress", "--out", "c", "--no-check")
    assert code == 0 and "checked" not in out
    monkeypatch.setenv("CC", "false")
    code, out, _ = call("export", "c", "net.netpress", "--out", "c")
    assert code == 0 and out.splitlines()[-1].startswith("checked     not: CC=false: does not work as a C compiler")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, _ = call("export", "c", "net.netpress", "--out", "c")
    assert (code, out.splitlines()[-1]) == (
        0,
        "checked     not: there is no C compiler; install gcc or clang, or name one in CC",
    )


# --- netpress time


@needs_compiler
@pytest.mark.slow
def test_every_way_is_measured(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # exporting takes long; below it is not left out
    before = torch.get_num_threads()
    measured = netpress.time(network, threads=(1, 2), batch=3, seconds=0.05)
    assert torch.get_num_threads() == before and not network.module.training
    ways = {"torch, float32", "torch, simulated integers", "torch, exact integers", "C, portable"}
    for threads in (1, 2):
        rows = [row for row in measured.rows if row.threads == threads]
        assert ways <= {row.path for row in rows} and len(rows) == len({row.path for row in rows})
        assert [row.median for row in rows] == sorted(row.median for row in rows)
    for row in measured.rows:
        assert 0 < row.least <= row.low <= row.median <= row.high and row.calls >= latency.ROUNDS and row.ready > 0
    assert [path for path, _ in measured.left_out] == ["ONNX Runtime, float32", "ONNX Runtime, QDQ int8"]
    assert 'pip install "netpress[onnx]"' in measured.left_out[0][1]
    assert json.loads(json.dumps(measured.as_json()))["rows"][0]["path"] == measured.rows[0].path


def test_ways_take_turns() -> None:
    called: list[str] = []

    def way(name: str) -> latency._Contender:
        return latency._Contender(name, lambda pixels: called.append(name), 0.0, [])

    rows = latency._measure([way("a"), way("b")], torch.zeros(4, 3, 8, 8), 0.02, 1)
    turns = [name for name, before in zip(called, ["", *called], strict=False) if name != before]
    assert turns == ["a", "b"] * latency.ROUNDS
    assert sum(row.calls for row in rows) == len(called) - 2 * latency.ROUNDS  # the first of each turn is not timed


def test_seconds_are_those_of_an_image() -> None:
    contender = latency._Contender("a", lambda pixels: None, 1.5, [0.4, 0.8, 1.2, 4.0, 2.0])
    row = latency._summarize(contender, 2, 4)
    assert (row.median, row.least, row.calls, row.ready, row.threads) == (0.3, 0.1, 5, 1.5, 2)
    assert row.low == pytest.approx(0.15) and row.high == pytest.approx(0.75)


def test_floats_are_the_networks_own_layers(network: Network) -> None:
    shown = normalize(images(2, 3).images, network.input.mean, network.input.std)
    with torch.inference_mode(), plain_layers(network.module):
        expected = network.module(shown)
    with torch.inference_mode():
        assert torch.equal(latency._in_floats(network).module(shown), expected)


@pytest.mark.slow
@needs_compiler
def test_the_command_measures_onnx_runtime_too(network: Network, call: Call, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    save(network, tmp_path / "net.netpress")
    found = json.loads(call("time", "net.netpress", "--seconds", 0.2, "--json")[1])
    paths = {row["path"] for row in found["rows"]}
    assert {"ONNX Runtime, float32", "ONNX Runtime, QDQ int8", "torch, exact integers", "C, portable"} <= paths
    assert found["left_out"] == [] and found["processor"] and found["cores"] >= 1
    save(family("resnet"), tmp_path / "float.netpress")
    code, out, err = call("time", "float.netpress", "--seconds", 0.2, "--threads", "1,2")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if line.strip().startswith(("1 ", "2 "))]
    assert sorted((row[0], row[1]) for row in rows) == [("1", "ONNX"), ("1", "torch,"), ("2", "ONNX"), ("2", "torch,")]
    assert "left out    torch, exact integers: no layer of this network computes with integers" in out
    assert "left out    C: between its sums this network computes in floats" in out
    assert "processor   " in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--threads", "one"), "--threads one: write whole numbers, as in 1,2"),
        (("--threads", "0"), "--threads 0: must be 1 to 1,024 each"),
        (("--seconds", "0"), "--seconds 0.0: must be above 0"),
        (("--batch", "5000"), "--batch 5000: must be 1 to 4,096 images"),
    ],
)
def test_what_cannot_be_measured(call: Call, words: tuple[str, ...], said: str) -> None:
    code, out, err = call("time", "resnet:width=2,blocks=[1],classes=3,image_size=8", *words)
    assert (code, out) == (2, "") and said in err


def test_a_network_is_measured_only_with_whole_numbers(network: Network) -> None:
    with pytest.raises(UserError, match="--threads : must be"):
        netpress.time(network, threads=())
