"""Broken and hostile ONNX files: each is one sentence, soon, and opens nothing but itself and data beside it."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import onnx_model

from netpress import scoring
from netpress.errors import Failure, UserError

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")

from onnx import TensorProto, external_data_helper, helper  # noqa: E402

SOON = 5.0  # seconds, for files that take milliseconds


def _model(nodes: list[Any] | None = None, size: tuple[Any, ...] = ("N", 3, 8, 8), **constants: Any) -> Any:
    """A convolution, unless other nodes are given."""
    constants = constants or {"w": np.full((4, 3, 3, 3), 0.5, np.float32)}
    return onnx_model(nodes or [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")], constants, size)


def _node(kind: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], name=f"the_{kind}", **attributes)


def _refused(path: Path) -> str:
    started = time.monotonic()
    with pytest.raises((UserError, Failure)) as caught:
        scoring.score(path)
    assert time.monotonic() - started < SOON
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 400
    return message


def test_a_file_that_is_cut_off_anywhere(tmp_path: Path) -> None:
    whole, path = _model().SerializeToString(), tmp_path / "m.onnx"
    refused = 0
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            scoring.score(path)  # what follows the graph may be missing
        except (UserError, Failure) as error:
            refused += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error)
    assert refused > len(whole) // 7 - 12


def test_a_file_with_bytes_changed_anywhere(tmp_path: Path) -> None:
    weights = {"w": np.ones((2, 3, 3, 3), np.float32), "b": np.ones(2, np.float32), "n": np.array([1, -1])}
    nodes = [_node("Conv", "x w b", "a"), _node("Relu", "a", "r"), _node("Reshape", "r n")]
    whole, path = _model(nodes, **weights).SerializeToString(), tmp_path / "m.onnx"
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        changed = bytearray(whole)
        for place in generator.integers(0, len(whole), 3):
            changed[place] = generator.integers(256)
        path.write_bytes(changed)
        try:
            scoring.score(path)
        except (UserError, Failure) as error:
            refused += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error)
    assert refused > 100


def _cycle() -> Any:
    return _model([_node("Add", "x b", "a"), _node("Relu", "a", "b"), _node("Relu", "b")])


def _huge_weight() -> Any:
    model = _model()
    model.graph.initializer[0].dims[:] = [1 << 40, 3, 3, 3]
    return model


def _no_type() -> Any:
    model = _model()
    model.graph.input[0].type.tensor_type.elem_type = 999
    model.graph.initializer[0].data_type = 998
    return model


def _nameless_attribute() -> Any:
    model = _model()
    entry = model.graph.node[0].attribute.add()
    entry.name = "strides"
    return model


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "cycle": (_cycle, "Add uses b, which no node before it makes"),
    "missing initializer": (lambda: _model([_node("Conv", "x v")]), "Conv uses v, which no node before it makes"),
    "no result": (lambda: _model([_node("Relu", "x", "z")]), "none of its results depends on the image"),
    "wrong shapes": (lambda: _model(w=np.ones((4, 5, 3, 3), np.float32)), r"\(Conv\): it cannot be calculated"),
    "kernel beyond image": (lambda: _model(size=(1, 3, 2, 2)), r"\(Conv\): it cannot be calculated"),
    "huge weight": (_huge_weight, "the values of w do not fill its shape"),
    "huge image": (lambda: _model(size=(1, 3, 1 << 40, 1 << 40)), "more than are counted"),
    "image beyond numbers": (lambda: _model(size=(1, 1 << 62, 1 << 62)), "more than are counted"),
    "negative kernel": (lambda: _model([_node("MaxPool", "x", kernel_shape=[-3, 3])]), "cannot be calculated|negative"),
    "no kernel": (lambda: _model([_node("MaxPool", "x")]), "cannot be calculated"),
    "step of nothing": (lambda: _model([_node("MaxPool", "x", kernel_shape=[3, 3], strides=[0, 0])]), "calculated"),
    "unknown type": (_no_type, "w"),
    "attribute without value": (_nameless_attribute, "strides of Conv has no value"),
    "endless range": (
        lambda: _model([_node("Range", "a b c", "r"), _node("Add", "x r")], a=0.0, b=1e30, c=1.0),
        "a constant of .* elements",
    ),
    "range of steps of nothing": (
        lambda: _model([_node("Range", "a b c", "r"), _node("Add", "x r")], a=0.0, b=9.0, c=0.0),
        "steps of 0",
    ),
    "endless random numbers": (
        lambda: _model([_node("RandomNormal", "", "r", shape=[1 << 30, 64]), _node("Add", "x r")]),
        "a constant of 68,719,476,736 elements",
    ),
    "image blown up": (
        lambda: _model([_node("Tile", "x n")], n=np.array([1, 1, 1 << 20, 1 << 20])),
        "it makes .* at most",
    ),
    "endless sequence": (
        lambda: _model(
            [_node("Transpose", "x", "t", perm=[1, 0, 2]), _node("LSTM", "t w r", hidden_size=2)],
            (1, 1 << 20, 4),
            w=np.ones((1, 8, 4), np.float32),
            r=np.ones((1, 8, 2), np.float32),
        ),
        "1,048,576 steps",
    ),
    "a name without end": (lambda: _model([_node("Conv", "x " + "v\n" * 100_000)]), "which no node before it makes"),
    "zeros of another shape": (
        lambda: _model([_node("Reshape", "x s")], s=np.array([7, 7])),
        r"\(Reshape\): it cannot be calculated",
    ),
    "further result used": (
        lambda: _model([helper.make_node("Dropout", ["x"], ["d", "mask"], name="drop"), _node("Not", "mask")]),
        "Not uses mask, a further result of drop, which is not read",
    ),
}


def _calls(name: str, result: str, x: str = "x") -> Any:
    return helper.make_node(name, [x], [result], domain="own")


@pytest.mark.parametrize("endless", [True, False], ids=["calls itself", "calls two that call two, and so on"])
def test_functions_that_never_end(endless: bool, tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model, functions = _model([_calls("F0", "y")]), []
    for index in range(1 if endless else 40):
        name = f"F{index if endless else index + 1}"
        body = [_calls(name, "t"), _calls(name, "y", "t")] if index < 39 else [_node("Relu", "x")]
        functions.append(helper.make_function("own", f"F{index}", ["x"], ["y"], body, opsets))
    model.functions.extend(functions)
    model.opset_import.extend(opsets[1:])
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert ("recursive" if endless else "50,000 nodes") in _refused(path)


@pytest.mark.parametrize("how", MODELS)
def test_a_model_that_makes_no_sense(how: str, tmp_path: Path) -> None:
    make, message = MODELS[how]
    path = tmp_path / "m.onnx"
    path.write_bytes(make().SerializeToString())
    found = _refused(path)
    assert re.search(message, found), found


def _outside(path: Path, location: str, **entries: str) -> None:
    """The convolution, with its weights in another file."""
    model = _model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def test_data_of_the_same_folder_is_read_as_torch_writes_it(tmp_path: Path) -> None:
    onnx.save(_model(), tmp_path / "whole.onnx")
    model = _model()
    external_data_helper.convert_model_to_external_data(model, location="m.onnx.data", size_threshold=0)
    onnx.save(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size == 4 * 108
    whole, parted = scoring.score(tmp_path / "whole.onnx"), scoring.score(tmp_path / "m.onnx")
    assert (parted.params, parted.operations) == (whole.params, whole.operations) == (54, whole.operations)
    (tmp_path / "m.onnx.data").write_bytes(b"1234")
    assert "m.onnx.data is cut off" in _refused(tmp_path / "m.onnx")
    (tmp_path / "m.onnx.data").unlink()
    assert "m.onnx.data, which is not there" in _refused(tmp_path / "m.onnx")


def test_nothing_else_is_opened(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    path, secret = tmp_path / "inside" / "m.onnx", tmp_path / "secret"
    secret.write_bytes(bytes(432))
    (tmp_path / "inside" / "link").symlink_to(secret)
    for location in ("../secret", str(secret), "link", "/dev/zero", "..", ".", "", "a/../../secret"):
        _outside(path, location)
        assert "which is not opened" in _refused(path)
    for entries in ({"offset": "-4"}, {"offset": "x"}, {"length": "9" * 30}, {"offset": "9" * 12}):
        (tmp_path / "inside" / "data").write_bytes(bytes(432))
        _outside(path, "data", **entries)
        assert "damaged" in _refused(path) or "cut off" in _refused(path)
