"""Operators of ONNX's backend tests with a batch axis before the image or without one; and files that lie.

`test_score_onnx_operators.py` puts a Reshape before each model, so its graphs always have a batch of 1. Here each model
is counted as the file has it, where the first axis is not a batch's, and once more with an axis for the batch. The
files that lie here are made of whole operators; `test_score_onnx_damaged.py` damages bytes and opens other files.
"""

import functools
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import onnx_model

import netpress
from netpress.errors import Failure, UserError
from netpress.scoring.onnx import OnnxGraph

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")

from onnx import helper, numpy_helper  # noqa: E402

pytestmark = pytest.mark.slow

EACH = {
    **dict.fromkeys(["Add", "Sub"], (0, 1)),
    **dict.fromkeys(["Mul", "Div", "Relu", "Equal", "Greater", "Less", "And", "Or", "Max", "Min", "Where"], (1, 0)),
    **dict.fromkeys(["Abs", "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh"], (1, 0)),
    **dict.fromkeys(["Asinh", "Neg", "Sign", "Floor", "Ceil", "Round", "Tanh", "Erf", "Not", "GreaterOrEqual"], (1, 0)),
    **dict.fromkeys(["Sigmoid", "Elu", "Softplus"], (2, 1)),
    **dict.fromkeys(["Transpose", "Reshape", "Identity", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Tile"], (0, 0)),
    **dict.fromkeys(["Concat", "Split", "Pad", "Cast", "Dropout", "DepthToSpace"], (0, 0)),
    "LeakyRelu": (2, 0),
    "PRelu": (2, 0),
    "HardSwish": (4, 1),
}
"""Multiplications and additions for each value of the result, by the rules' table and text (docs/scoring.md)."""
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul")
VALUES_DIFFER = ("Resize", "Upsample", "AveragePool", "Dropout", "DynamicQuantizeLinear", *QUANTIZED)
"""Where which values are taken does not matter to the cost, the reader takes torch's; quantizers round nothing."""


@functools.cache
def _cases() -> list[Any]:
    """Models of one node each, with inputs and the outputs that ONNX says they have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case import node as nodes

        whole = nodes.function_testcase_helper
        nodes.function_testcase_helper = lambda *args, **kwargs: ([], 1)  # not once more as functions
        try:
            return list(nodes.collect_testcases(""))
        finally:
            nodes.function_testcase_helper = whole


def _of_one_input(case: Any, batch: bool) -> tuple[Any, Any, list[Any]] | None:
    """The model with all inputs but the first stored in it. `batch`: with an axis for the batch before the first."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs, outputs = case.data_sets[0]
    if not inputs or not all(isinstance(value, np.ndarray | np.generic) for value in (*inputs, *outputs)):
        return model, None, outputs
    stored = [numpy_helper.from_array(np.asarray(x), i.name) for i, x in zip(model.graph.input, inputs, strict=False)]
    model.graph.initializer.extend(stored[1:])
    del model.graph.input[1:]
    image = np.asarray(inputs[0])
    if batch:
        if image.ndim < 1 or len(model.graph.node) != 1 or not any(EACH.get(model.graph.node[0].op_type, ())):
            return None
        image = image[None]
        dims = model.graph.input[0].type.tensor_type.shape.dim
        sizes = [1, *(dim.dim_value for dim in dims)]
        del dims[:]
        for size in sizes:
            dims.add().dim_value = size
    return model, image, outputs


def _counted(path: Path, model: Any) -> Any:
    """The card, or None where one sentence says why not."""
    path.write_bytes(model.SerializeToString())
    try:
        return netpress.score(path)
    except (UserError, Failure) as error:
        said = str(error)
        assert said.startswith(str(path)) and "\n" not in said and len(said) < 600, said
        return None


@pytest.mark.parametrize("batch", [False, True], ids=["as they are", "one example"])
@pytest.mark.timeout(300)
def test_every_operator_is_counted_right_or_refused_in_a_sentence(batch: bool, tmp_path: Path) -> None:
    path, kinds, checked = tmp_path / "model.onnx", set(), set()
    for case in _cases():
        made = _of_one_input(case, batch)
        card = None if made is None else _counted(path, made[0])
        if card is None or made is None or made[1] is None:
            continue
        model, image, outputs = made
        kind = model.graph.node[0].op_type
        kinds.add(kind)
        if image.dtype.kind in "ui":  # torch has few operators on narrow integers
            image = image.astype(np.float32 if kind in QUANTIZED else np.int64)
        elif image.dtype.kind == "f":  # constants are read as floats of 32 bits
            image = image.astype(np.float32)
        found = OnnxGraph(path)(torch.from_numpy(image))
        for ours, theirs in zip(found, outputs, strict=False):
            assert batch or tuple(ours.shape) == theirs.shape, case.name
            if kind not in VALUES_DIFFER:
                shown = ours.numpy().astype(np.float64).reshape(theirs.shape)
                assert np.allclose(shown, theirs.astype(np.float64), atol=1e-3, rtol=1e-3, equal_nan=True), case.name
        values = sum(math.prod(output.shape) for output in outputs)
        if kind in EACH and len(model.graph.node[0].input) <= 2 and not case.name.endswith(("scalar", "one_input")):
            want = (EACH[kind][0] * values, EACH[kind][1] * values)
            assert (card.multiplications, card.additions) == want, case.name
            checked.add(kind)
        elif kind in ("Conv", "MaxPool", "GlobalAveragePool"):
            window = _window(model, image)
            want = {
                "Conv": (window * values, (window - 1) * values),
                "MaxPool": ((window - 1) * outputs[0].size, 0),
                "GlobalAveragePool": (values, (window - 1) * values),
            }[kind]
            assert (card.multiplications, card.additions) == want, case.name
            checked.add(kind)
    assert len(kinds) >= 25 and len(checked) >= 11, (sorted(kinds), sorted(checked))


def _window(model: Any, image: Any) -> int:
    node = model.graph.node[0]
    if node.op_type == "Conv":
        weight = {entry.name: entry for entry in model.graph.initializer}[node.input[1]]
        return math.prod(weight.dims[1:])
    if node.op_type == "GlobalAveragePool":
        return math.prod(image.shape[2:])
    return math.prod(next(entry.ints for entry in node.attribute if entry.name == "kernel_shape"))


def _model(nodes: list[Any], constants: dict[str, Any] | None = None, size: tuple[Any, ...] = (1, 3, 8, 8)) -> Any:
    return onnx_model(nodes, constants or {}, size)


def _node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), outputs.split(), name=f"the_{outputs}", **attributes)


CONV = np.ones((2, 3, 3, 3), np.float32)
HOSTILE: dict[str, Any] = {
    "a weight without a shape": lambda: _model([_node("Conv", "x w", "y")], {"w": np.float32(1)}),
    "a bias of another length": lambda: _model([_node("Conv", "x w b", "y")], {"w": CONV, "b": np.ones(7, np.float32)}),
    "no operand": lambda: _model([_node("Conv", "x", "y")]),
    "no operands at all": lambda: _model([_node("Add", "", "a"), _node("Relu", "x", "y")]),
    "an attribute of another type": lambda: _model([_node("Conv", "x w", "y", strides="two")], {"w": CONV}),
    "strides of 0": lambda: _model([_node("Conv", "x w", "y", strides=[0, 0])], {"w": CONV}),
    "pads of 2**60": lambda: _model([_node("Conv", "x w", "y", pads=[1 << 60] * 4)], {"w": CONV}),
    "a kernel of 2**40": lambda: _model([_node("MaxPool", "x", "y", kernel_shape=[1 << 40, 1 << 40])]),
    "an image of 2**62": lambda: _model([_node("Relu", "x", "y")], size=(1, 1 << 31, 1 << 31, 4)),
    "an axis that is not there": lambda: _model([_node("Softmax", "x", "y", axis=9)]),
    "a permutation that is none": lambda: _model([_node("Transpose", "x", "y", perm=[0, 0, 7, 1])]),
    "a shape that does not fit": lambda: _model([_node("Reshape", "x n", "y")], {"n": np.array([7, 7])}),
    "indices outside": lambda: _model([_node("Gather", "x n", "y", axis=1)], {"n": np.array([99])}),
    "a tile of 2**40": lambda: _model([_node("Tile", "x n", "y")], {"n": np.array([1, 1, 1 << 40, 1 << 40])}),
    "a range of 10**12": lambda: _model(
        [_node("Range", "a b c", "r"), _node("Add", "x r", "y")],
        {"a": np.array(0), "b": np.array(10**12), "c": np.array(1)},
    ),
    "a loop": lambda: _model(
        [_node("Loop", "n x", "y", body=_model([_node("Relu", "x", "y")]).graph)], {"n": np.array(9)}
    ),
    "a type of no image": lambda: _model([_node("Cast", "x", "y", to=999)], {}),
    "a recurrent layer of no shape": lambda: _model([_node("LSTM", "x w w", "y", hidden_size=4)], {"w": CONV}),
    "scales of another length": lambda: _model(
        [_node("DequantizeLinear", "q s", "w", axis=0), _node("Conv", "x w", "y")],
        {"q": CONV.astype(np.int8), "s": np.ones(5, np.float32)},
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.timeout(20)
def test_files_that_lie_are_refused_in_a_sentence(what: str, tmp_path: Path) -> None:
    assert _counted(tmp_path / "model.onnx", HOSTILE[what]()) is None


@pytest.mark.timeout(20)
def test_constants_made_of_constants_take_no_longer_than_they_are_many(tmp_path: Path) -> None:
    """Each is the sum of the one before with itself: 2**400 sums, were they not kept."""
    nodes = [_node("Add", f"c{k} c{k}", f"c{k + 1}") for k in range(400)]
    nodes += [_node("Mul", "c400 c400", "z"), _node("Add", "x z", "y")]
    path = tmp_path / "model.onnx"
    path.write_bytes(_model(nodes, {"c0": np.arange(1, 9, dtype=np.float32) * 1e-30}).SerializeToString())
    assert netpress.score(path).params == 8 / 2
