"""torch.onnx.export: a module and its ONNX export cost the same, however the exporter folds its constants."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import save_onnx
from torch import Tensor, nn
from torch.nn import functional

import netpress
from netpress.errors import UserError
from netpress.scoring.onnx import OnnxGraph

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")

from onnx import TensorProto, helper  # noqa: E402

SIZE = (4, 6, 6)


class Made(nn.Module):
    """A convolution, and what a test does with its result and with stored tensors."""

    def __init__(self, do: Callable[["Made", Tensor], Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)

        def kept(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator))

        self.conv = nn.Conv2d(4, 8, 1)
        self.do, self.u, self.v, self.m = do, kept(8, 2), kept(2, 8), kept(8, 8)
        self.scale, self.gamma = kept(8, 1, 1), kept(8)
        self.norm, self.prelu = nn.LayerNorm(8), nn.PReLU(8)
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.do(self, self.conv(x))


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _codes(x: Tensor) -> Tensor:
    places = torch.arange(36, dtype=torch.float32)[:, None] * torch.exp(-torch.arange(8, dtype=torch.float32))
    return _tokens(x) + torch.sin(places)


DOINGS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "weights of weights": lambda net, x: _tokens(x) @ (net.u @ net.v),
    "a weight that is normalized": lambda net, x: functional.linear(_tokens(x), functional.normalize(net.m)),
    "a weight that is turned": lambda net, x: _tokens(x) @ net.m.t(),
    "one weight twice": lambda net, x: _tokens(x) @ net.m @ net.m.t(),
    "parts of a weight": lambda net, x: _tokens(x) @ net.m[:, :4] + _tokens(x) @ net.m[:, 4:],
    "weights joined": lambda net, x: _tokens(x) @ torch.cat([net.m, net.v.t()], 1),
    "position codes": lambda net, x: _codes(x),
    "addcmul": lambda net, x: torch.addcmul(x, net.scale, x),
    "scaled layer": lambda net, x: (
        x + (net.gamma * functional.gelu(net.norm(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
    ),
    "glu": lambda net, x: functional.glu(x, 1),
    "where": lambda net, x: torch.where(x > 0, x, net.scale * x),
    "prelu": lambda net, x: net.prelu(x),
    "shuffle of parts": lambda net, x: torch.stack(x.chunk(2, 1), 2).flatten(1, 2),
    "no shuffle": lambda net, x: torch.cat(x.chunk(2, 1), 1),
    "chosen channels": lambda net, x: x[:, [0, 3, 5]],
    "nearest": lambda net, x: functional.interpolate(x, scale_factor=2),
}


def _exported(net: nn.Module, size: tuple[int, ...], path: Path, folded: bool = True) -> Path:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it speaks of what it cannot calculate
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = (torch.randn(1, *size),)
            torch.onnx.export(net, image, str(path), opset_version=17, dynamo=False, do_constant_folding=folded)
    finally:
        logger.setLevel(level)
    return path


def _costs(card: Any) -> tuple[float, ...]:
    return card.params, card.mask_bits, card.multiplications, card.additions, card.operations


@pytest.mark.parametrize("folded", [True, False], ids=["calculated by the exporter", "left to the reader"])
@pytest.mark.parametrize("what", DOINGS)
def test_an_export_costs_what_its_module_costs(what: str, folded: bool, tmp_path: Path) -> None:
    net = Made(DOINGS[what]).eval()
    path = _exported(net, SIZE, tmp_path / "net.onnx", folded)
    image = torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert torch.allclose(OnnxGraph(path)(image)[0], net(image), atol=1e-5)
    assert _costs(netpress.score(path)) == _costs(netpress.score(net, SIZE))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both", [False, True], ids=["forwards", "both ways"])
def test_recurrent_layers(kind: type[nn.LSTM], both: bool, tmp_path: Path) -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = kind(6, 4, batch_first=True, bidirectional=both)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[0]

    net = Sequence().eval()
    path = _exported(net, (5, 6), tmp_path / "net.onnx")
    x = torch.randn(1, 5, 6)
    with torch.inference_mode():
        assert torch.allclose(OnnxGraph(path)(x)[0], net(x), atol=1e-5)
    card = netpress.score(path)
    assert _costs(card) == _costs(netpress.score(net, (5, 6)))
    # By hand: gates of 4 from 6 inputs and 4 states with two biases each; 5 steps of dense products.
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    ways = 2 if both else 1
    assert card.params == ways * gates * 4 * (6 + 4 + 2) / 2
    products = sum(row.multiplications for row in card.rows if row.kind == "linear")
    assert products == ways * 5 * gates * 4 * (6 + 4)


def _save(path: Path, nodes: list[Any], constants: dict[str, Any], size: tuple[Any, ...] = (1, 3, 6, 6)) -> Path:
    return save_onnx(path, nodes, constants, size)


def _node(kind: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> Any:
    return helper.make_node(
        kind, inputs.split(), outputs.split(), name=f"the_{outputs[0]}", domain=domain, **attributes
    )


def _integers(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).integers(-100, 100, shape, dtype=np.int8)


SCALES = {
    **{name: np.float32(0.02) for name in ("sx", "sa", "sb")},
    **{name: np.uint8(3) for name in ("zx", "za", "zb")},
    "ws": np.full(4, 0.1, np.float32),
    "wz": np.zeros(4, np.int8),
    "w": _integers(4, 3, 3, 3),
    "b": np.arange(4, dtype=np.int32),
    "m": _integers(4, 5),
    "ms": np.float32(0.1),
    "mz": np.int8(0),
}


def test_operators_on_integers_cost_what_they_stand_for(tmp_path: Path) -> None:
    """The same network in ONNX Runtime's two formats: integers behind DequantizeLinear, and operators on integers."""
    short = [
        _node("QuantizeLinear", "x sx zx", "q"),
        _node("QLinearConv", "q sx zx w ws wz sa za b", "c", pads=[1, 1, 1, 1]),
        _node("QLinearAdd", "c sa za c sa za sb zb", "d", "com.microsoft"),
        _node("QLinearGlobalAveragePool", "d sb zb sa za", "g", "com.microsoft"),
        _node("Flatten", "g", "f"),
        _node("QLinearMatMul", "f sa za m ms mz sb zb", "p"),
        _node("DequantizeLinear", "p sb zb", "y"),
    ]
    long = [
        _node("QuantizeLinear", "x sx zx", "q"),
        _node("DequantizeLinear", "q sx zx", "dq"),
        _node("DequantizeLinear", "w ws wz", "dw", axis=0),
        _node("DequantizeLinear", "b bs", "db", axis=0),
        _node("Conv", "dq dw db", "c", pads=[1, 1, 1, 1]),
        _node("QuantizeLinear", "c sa za", "qc"),
        _node("DequantizeLinear", "qc sa za", "dc"),
        _node("Add", "dc dc", "a"),
        _node("QuantizeLinear", "a sb zb", "qa"),
        _node("DequantizeLinear", "qa sb zb", "da"),
        _node("GlobalAveragePool", "da", "g"),
        _node("QuantizeLinear", "g sa za", "qg"),
        _node("DequantizeLinear", "qg sa za", "dg"),
        _node("Flatten", "dg", "f"),
        _node("DequantizeLinear", "m ms mz", "dm"),
        _node("MatMul", "f dm", "p"),
        _node("QuantizeLinear", "p sb zb", "qp"),
        _node("DequantizeLinear", "qp sb zb", "y"),
    ]
    found = [
        netpress.score(_save(tmp_path / "short.onnx", short, SCALES)),
        netpress.score(_save(tmp_path / "long.onnx", long, SCALES | {"bs": np.full(4, 0.002, np.float32)})),
    ]
    assert _costs(found[0]) == _costs(found[1])
    weights = np.count_nonzero(SCALES["w"]) * 36 + np.count_nonzero(SCALES["m"])
    outside = 4 * 36 + 5 + 4  # a scale for each sum, a division for each mean
    assert found[0].multiplications == weights + outside


def test_integers_on_a_scale_of_the_moment(tmp_path: Path) -> None:
    """By hand: 8-bit products in a tree, then what the graph itself calculates."""
    nodes = [
        _node("DynamicQuantizeLinear", "x", "q s z"),
        _node("ConvInteger", "q w z", "i"),
        _node("Cast", "i", "f", to=TensorProto.FLOAT),
        _node("Mul", "f s", "y"),
    ]
    card = netpress.score(_save(tmp_path / "n.onnx", nodes, SCALES))
    rows = {row.kind: row for row in card.rows}
    assert rows["conv"].multiplications == np.count_nonzero(SCALES["w"]) * 16
    assert rows["conv"].multiplication_bits == 8
    assert card.params == 108 * 8 / 32
    assert rows["mul"].multiplications == 4 * 16


@pytest.mark.parametrize("name", ["UPPER.ONNX", "open.onnx"])
def test_an_open_size_is_assumed_and_said(name: str, tmp_path: Path) -> None:
    path = _save(tmp_path / name, [_node("Relu", "x", "y")], {}, ("n", 3, -1, "w"))
    card = netpress.score(path)
    assert card.operations == 3 * 32 * 32 / 2
    assert any("3x32x32: the file leaves its size open, and --input-size" in text for text in card.assumed)
    assert netpress.score(path, input_size=(3, 8, 4)).operations == 3 * 8 * 4 / 2
    assert netpress.score(path, track="imagenet").operations == 3 * 224 * 224 / 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net.pt", "a file of torch.save"),
        ("net.PTH", "load it in Python into its module and give that to netpress.score"),
        ("net.t7", "Lua Torch"),
        ("net.tflite", "tf2onnx --tflite"),
        ("net.h5", "tf2onnx --keras"),
        ("net.pb", "tf2onnx --graphdef"),
    ],
)
def test_files_of_other_tools_are_told_for_what_they_are(name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x08\x07")
    for give in (netpress.load, lambda path: netpress.score(Path(path))):
        with pytest.raises(UserError, match=message):
            give(path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        netpress.load(path)


def test_a_size_that_the_file_contradicts_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "n.onnx", [_node("Relu", "x", "y")], {}, ("n", 3, "h", 8))
    with pytest.raises(UserError, match=r"its input x is 3x\?x8, so it cannot take 3x8x9"):
        netpress.score(path, input_size=(3, 8, 9))
