"""Files that `netpress score` is given: an open image size, capital letters, and files of other tools."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import netpress
from netpress.cli import app
from netpress.errors import UserError

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Size = tuple[Any, ...]


def _save(path: Path, size: Size | None, fixed: tuple[int, ...] = ()) -> Path:
    """A convolution of 2 x 27 weights over an image of `size`, whose lengths may be names or -1."""
    weight = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, size)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    if fixed:  # what was worked out for one size only
        shape = numpy_helper.from_array(np.array(fixed), "shape")
        nodes = [
            helper.make_node("Reshape", ["x", "shape"], ["z"], "reshape"),
            helper.make_node("Conv", ["z", "w"], ["y"]),
        ]
    graph = helper.make_graph(nodes, "g", [entry], [result], [weight, *([shape] if fixed else [])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


OPEN: list[Size | None] = [("n", 3, "h", "w"), (-1, 3, -1, -1), (0, 3, 0, 0), ("n", "c", "h", "w"), None]


@pytest.mark.parametrize("size", OPEN, ids=str)
def test_the_size_that_a_file_leaves_open_is_an_option(size: Size | None, tmp_path: Path) -> None:
    path = _save(tmp_path / "m.onnx", size)
    done = CliRunner().invoke(app, ["score", str(path), "--input-size", "3,10,12"])
    assert done.exit_code == 0, done.output
    card = netpress.score(path, input_size=(3, 10, 12))
    assert card.multiplications == 2 * 27 * 8 * 10
    assert f"{card.operations:,.0f} of 32 bits" in done.output


def test_without_the_option_the_track_says_the_size_and_so_does_the_card(tmp_path: Path) -> None:
    path = _save(tmp_path / "m.onnx", ("n", 3, "h", "w"))
    small, large = netpress.score(path), netpress.score(path, track="imagenet")
    assert (small.multiplications, large.multiplications) == (2 * 27 * 30 * 30, 2 * 27 * 222 * 222)
    assert "an image of 3x32x32: the file leaves its size open, and --input-size says another" in small.assumed
    assert netpress.score(path, input_size=(3, 32, 32)).assumed == ()


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    path = _save(tmp_path / "m.onnx", ("n", 3, 8, 8))
    for size, message in (
        ((3, 9, 8), "its input x is 3x8x8, so it cannot take 3x9x8"),
        ((3, 8), "its input x is 3x8x8, so it cannot take 3x8"),
    ):
        with pytest.raises(UserError, match=message):
            netpress.score(path, input_size=size)
    fixed = _save(tmp_path / "f.onnx", ("n", 3, "h", "w"), fixed=(1, 3, 9, 9))
    with pytest.raises(UserError, match=r"give the image's with --input-size .*; 3x32x32 was tried: .*reshape"):
        netpress.score(fixed)
    assert netpress.score(fixed, input_size=(3, 9, 9)).multiplications == 2 * 27 * 49


@pytest.mark.parametrize(
    "text", ["3", "3,-1,4", "three", "3,,4", "3,100000,100000", "9" * 5000, "3,1e3,4", "", "0,4,4"]
)
def test_sizes_that_are_none(text: str, tmp_path: Path) -> None:
    path = _save(tmp_path / "m.onnx", ("n", 3, "h", "w"))
    done = CliRunner().invoke(app, ["score", str(path), "--input-size", text])
    assert done.exit_code != 0 and isinstance(done.exception, UserError) and len(str(done.exception)) < 500


def test_sizes_of_a_model_by_name() -> None:
    done = CliRunner().invoke(app, ["score", "resnet:width=4", "--input-size", "3x16x16"])
    assert done.exit_code == 0, done.output


def test_names_in_capitals(tmp_path: Path) -> None:
    path = _save(tmp_path / "M.ONNX", (1, 3, 8, 8))
    done = CliRunner().invoke(app, ["score", str(path)])
    assert done.exit_code == 0 and "accuracy" not in done.output


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.pt", "a file of torch.save, which may run code when it is read"),
        ("m.PTH", "a file of torch.save"),
        ("m.t7", "a file of Lua Torch"),
        ("m.tflite", "a TensorFlow Lite file; write the network as ONNX"),
        ("m.h5", "a Keras file; write the network as ONNX"),
        ("m.pb", "a TensorFlow graph; write the network as ONNX"),
    ],
)
def test_files_of_other_tools_are_told_for_what_they_are(name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(UserError, match=f"{name}: no such file"):
        netpress.load(path)
    path.write_bytes(b"\x80\x02anything")
    for give in (netpress.load, netpress.score):
        with pytest.raises(UserError, match=f"{name}: {message}") as caught:
            give(path)
        assert "\n" not in str(caught.value)
    for command in ("score", "evaluate"):
        done = CliRunner().invoke(app, [command, str(path)])
        assert isinstance(done.exception, UserError) and message in str(done.exception)
