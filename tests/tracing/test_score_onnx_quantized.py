"""ONNX Runtime's quantizer: files in each of its formats cost what their integers are."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import save_onnx

from netpress import scoring
from netpress.errors import UserError
from netpress.scoring.onnx import OnnxGraph

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from onnx import helper, numpy_helper  # noqa: E402
from onnxruntime import InferenceSession  # noqa: E402
from onnxruntime.quantization import (  # noqa: E402
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

IMAGE = np.random.default_rng(1).standard_normal((1, 3, 8, 8), dtype=np.float32)


class _Images(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = [{"x": IMAGE}]

    def get_next(self) -> Any:
        return self.left.pop() if self.left else None


def _save(path: Path, nodes: list[Any], constants: dict[str, Any], size: tuple[Any, ...] = (1, 3, 8, 8)) -> Path:
    return save_onnx(path, nodes, constants, size)


def _random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _network(path: Path) -> Path:
    """A residual block, two branches joined, a gate, and a classifier."""
    constants = {"w": _random(8, 3, 3, 3), "b": _random(8, seed=1), "v": _random(8, 8, 1, 1, seed=2)}
    constants |= {"m": _random(16, 5, seed=3), "c": _random(5, seed=4)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "v"], ["t"], "second"),
        helper.make_node("Add", ["r", "t"], ["s"], "residual"),
        helper.make_node("Sigmoid", ["s"], ["g"], "sigmoid"),
        helper.make_node("Mul", ["s", "g"], ["u"], "gate"),
        helper.make_node("Concat", ["u", "r"], ["j"], "join", axis=1),
        helper.make_node("GlobalAveragePool", ["j"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "m", "c"], ["y"], "classifier"),
    ]
    return _save(path, nodes, constants)


def _quantized(path: Path, form: Any, **options: Any) -> Path:
    made = path.with_name(f"{form}.onnx")
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"activation_type": QuantType.QUInt8} | options
            quantize_static(path, made, _Images(), quant_format=form, **options)
    finally:
        logging.disable(logging.NOTSET)
    return made


@pytest.mark.parametrize("per_channel", [False, True])
def test_both_formats_of_the_quantizer_cost_the_same(per_channel: bool, tmp_path: Path) -> None:
    path = _network(tmp_path / "float.onnx")
    options = {"per_channel": per_channel, "weight_type": QuantType.QInt8}
    written = _quantized(path, QuantFormat.QOperator, **options)
    kinds = {node.op_type for node in onnx.load(written).graph.node}
    assert {"QLinearConv", "QLinearAdd", "QLinearConcat", "QGemm", "QLinearGlobalAveragePool"} <= kinds
    around = scoring.score(_quantized(path, QuantFormat.QDQ, **options))
    card = scoring.score(written)
    assert card.operations == around.operations
    assert (card.multiplications, card.additions) == (around.multiplications, around.additions)
    # Each has a scale and a zero point for what it quantizes; the formats differ in how many values that are.
    weights = 8 * (8 * 27 + 64 + 80)
    for found in (card, around):
        assert weights < found.storage_bits < weights + 32 * 13 + (32 + 8) * 20 + 32 * (8 + 8 + 5)


def test_what_is_written_out_calculates_what_onnx_runtime_does(tmp_path: Path) -> None:
    """Symmetric, so that no quantizer takes the place of a ReLU: quantizers of the graph do not round and clamp."""
    options = {"weight_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}}
    path = _network(tmp_path / "float.onnx")
    written = _quantized(path, QuantFormat.QOperator, activation_type=QuantType.QInt8, **options)
    answer = InferenceSession(str(written), providers=["CPUExecutionProvider"]).run(None, {"x": IMAGE})[0]
    ours = OnnxGraph(written)(torch.from_numpy(IMAGE))[0].numpy()
    assert np.abs(ours - answer).max() < 0.05 * np.abs(answer).max()


def test_a_convolution_of_integers_by_hand(tmp_path: Path) -> None:
    """2 outputs of 12 products of 8 and 8 bits each, at 49 places: a tree, a scale, a bias."""
    weights = np.arange(1, 25, dtype=np.int8).reshape(2, 3, 2, 2)
    constants = {"w": weights, "ws": np.float32(0.1), "wz": np.int8(0), "b": np.array([1, 2], np.int32)}
    constants |= {"s": np.float32(0.02), "z": np.uint8(128), "t": np.float32(0.5), "o": np.uint8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "t", "o", "b"], ["c"], "conv"),
        helper.make_node("DequantizeLinear", ["c", "t", "o"], ["y"], "real"),
    ]
    card = scoring.score(_save(tmp_path / "q.onnx", nodes, constants))
    outputs = 2 * 7 * 7
    # 12 values in a tree: 6 additions of 16 bits, 3 of 17, 1 of 18 (one is left over), 1 of 19.
    tree = 6 * 16 + 3 * 17 + 1 * 18 + 1 * 19
    assert card.operations * 32 == pytest.approx(outputs * (12 * 8 + tree + 32 + 32))
    weights_and_scale, input_quantizer, output_quantizer = 24 * 8 + 32, 32 + 8, 32
    assert card.storage_bits == weights_and_scale + 2 * 32 + input_quantizer + output_quantizer


def test_products_quantized_as_they_run(tmp_path: Path) -> None:
    """quantize_dynamic: 8-bit products, the range of what enters them, and their scales as operations of floats."""
    nodes = [
        helper.make_node("MatMul", ["x", "m"], ["p"], "product"),
        helper.make_node("Add", ["p", "c"], ["y"], "add"),
    ]
    path = _save(tmp_path / "f.onnx", nodes, {"m": _random(64, 10), "c": _random(10)}, (1, 64))
    made = tmp_path / "d.onnx"
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(path, made, weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)
    assert {node.op_type for node in onnx.load(made).graph.node} >= {"DynamicQuantizeLinear", "MatMulInteger"}
    card = scoring.score(made)
    weights = next(
        numpy_helper.to_array(tensor) for tensor in onnx.load(made).graph.initializer if tensor.dims == [64, 10]
    )
    terms = np.count_nonzero(weights, axis=0)
    rows = {row.kind: row for row in card.grouped("kind")}
    assert rows["linear"].multiplications == terms.sum()
    assert rows["linear"].additions == (terms - 1).sum()
    assert card.multiplications >= terms.sum() + 2 * 63 + 10  # the largest and smallest of 64, a scale for each output
    assert card.params * 32 == pytest.approx(8 * 640 + 32 * 10 + 32, abs=64)


@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        ("QLinearConv", "x s z w s z", "the_QLinearConv.* it cannot be calculated"),
        ("QLinearConv", "x x z w s z s z", "its scale and zero point must be constants"),
        ("MatMulInteger", "x w z x", "the zero point of its weights must be constant"),
        ("QAttention", "x w w s s", r"com.microsoft.QAttention\): no rule says"),
    ],
)
def test_what_is_not_read_is_said(kind: str, inputs: str, message: str, tmp_path: Path) -> None:
    domain = "com.microsoft" if kind == "QAttention" else ""
    node = helper.make_node(kind, inputs.split(), ["y"], name=f"the_{kind}", domain=domain)
    constants = {"w": np.ones((8, 8), np.int8), "s": np.float32(0.1), "z": np.int8(0)}
    with pytest.raises(UserError, match=message):
        scoring.score(_save(tmp_path / "m.onnx", [node], constants))


def test_weights_behind_several_dequantizers_are_stored_once(tmp_path: Path) -> None:
    constants = {"w": np.full((3, 3, 3, 3), 3, np.int8), "s": np.float32(0.1)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["a"], "one"),
        helper.make_node("DequantizeLinear", ["w", "s"], ["b"], "two"),
        helper.make_node("Conv", ["x", "a"], ["c"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "b"], ["y"], "second", pads=[1, 1, 1, 1]),
    ]
    assert scoring.score(_save(tmp_path / "s.onnx", nodes, constants)).storage_bits == 81 * 8 + 32
