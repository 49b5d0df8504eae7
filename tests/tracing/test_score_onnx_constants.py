"""What an ONNX file calculates from stored values is stored by the rule for modules, however it was exported."""

import logging
import math
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

from netpress import scoring

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

from onnx import TensorProto, helper  # noqa: E402

pytestmark = pytest.mark.slow


def _stored(path: Path, nodes: list[Any], constants: dict[str, Any], size: tuple[int, ...]) -> float:
    """Values of 16 bits that the file is charged for, its mask included."""
    save_onnx(path, nodes, constants, (1, *size))
    return scoring.score(path).params * 2


def _node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


WEIGHT = np.arange(1, 25, dtype=np.float32).reshape(4, 6)


@pytest.mark.parametrize(
    "moves",
    [
        [_node("Identity", "w", "m")],
        [_node("Identity", "w", "a"), _node("Identity", "a", "m")],
        [_node("Transpose", "w", "t", perm=[1, 0]), _node("Transpose", "t", "m", perm=[1, 0])],
        [_node("Reshape", "w flat", "a"), _node("Reshape", "a shape", "m")],
        [_node("Cast", "w", "m", to=TensorProto.FLOAT)],
        [_node("Expand", "w shape", "m")],
        [_node("Tile", "w once", "m")],
        [_node("Slice", "w none all axes", "m")],
        [_node("Concat", "first last", "m", axis=0)],
        [_node("Unsqueeze", "w none_", "a"), _node("Squeeze", "a none_", "m")],
    ],
    ids=["identity", "identities", "transposes", "reshapes", "cast", "expand", "tile", "slice", "concat", "unsqueeze"],
)
def test_a_weight_in_another_place_is_stored_once(moves: list[Any], tmp_path: Path) -> None:
    """x [1, 4] by the weight, which is moved, and by the weight itself: 24 values in all."""
    constants: dict[str, Any] = {"flat": np.array([24]), "shape": np.array([4, 6]), "once": np.array([1, 1])}
    constants |= {"none": np.array([0, 0]), "all": np.array([4, 6]), "axes": np.array([0, 1]), "none_": np.array([0])}
    constants |= {"first": WEIGHT[:2], "last": WEIGHT[2:]}
    names = {name for node in moves for name in node.input}
    joined = "first" in names
    nodes = [*moves, _node("MatMul", "x m", "p"), _node("MatMul", "x m" if joined else "x w", "q")]
    nodes += [_node("Add", "p q", "y")]
    kept = {name: value for name, value in constants.items() if name in names}
    kept |= {} if joined else {"w": WEIGHT}
    assert _stored(tmp_path / "m.onnx", nodes, kept, (4,)) == 24


def test_a_gathered_row_is_part_of_the_weight(tmp_path: Path) -> None:
    nodes = [_node("Gather", "w one", "row", axis=0), _node("Add", "x row", "a"), _node("MatMul", "a v", "p")]
    nodes += [_node("Reshape", "w turned", "t"), _node("MatMul", "a t", "q"), _node("Add", "p q", "y")]
    constants = {"w": WEIGHT, "one": np.array(1), "v": np.ones((6, 4), np.float32), "turned": np.array([6, 4])}
    assert _stored(tmp_path / "m.onnx", nodes, constants, (6,)) == 48


def test_what_is_calculated_is_stored_and_its_origins_are_not(tmp_path: Path) -> None:
    """u [16, 2] times v [2, 8] is 128 values, of which none need be made; u alone is stored where x meets it too."""
    u, v = np.random.default_rng(0).standard_normal((2, 16, 8)).astype(np.float32)
    product = [_node("MatMul", "u v", "w"), _node("MatMul", "x w", "y")]
    constants = {"u": u[:, :2], "v": v[:2]}
    assert _stored(tmp_path / "m.onnx", product, constants, (16,)) == 128
    both = [*product[:1], _node("MatMul", "x w", "a"), _node("MatMul", "x u", "b"), _node("Concat", "a b", "y", axis=1)]
    assert _stored(tmp_path / "b.onnx", both, constants, (16,)) == 128 + 32


def test_constants_of_a_range_and_of_a_seed_are_stored_as_what_they_become(tmp_path: Path) -> None:
    """8 sines, one of them of 0: 8 values of a vector; 64 random weights; a single number over and over is none."""
    bounds = {"zero": np.float32(0), "eight": np.float32(8), "one": np.float32(1)}
    code = [_node("Range", "zero eight one", "r"), _node("Sin", "r", "s"), _node("Add", "x s", "y")]
    assert _stored(tmp_path / "r.onnx", code, bounds, (8,)) == 8
    drawn = [helper.make_node("RandomNormal", [], ["w"], shape=[8, 8], seed=1.0), _node("MatMul", "x w", "y")]
    assert _stored(tmp_path / "d.onnx", drawn, {}, (8,)) == 64
    full = [_node("ConstantOfShape", "n", "f"), _node("Add", "x f", "y")]
    assert _stored(tmp_path / "f.onnx", full, {"n": np.array([8])}, (8,)) == 0


def test_a_turned_or_repeated_copy_is_no_new_value(tmp_path: Path) -> None:
    nodes = [_node("MatMul", "x w", "a"), _node("MatMul", "a t", "y")]
    assert _stored(tmp_path / "t.onnx", nodes, {"w": WEIGHT, "t": WEIGHT.T.copy()}, (4,)) == 24
    repeated = np.repeat(WEIGHT[:1], 5, axis=0)
    assert _stored(tmp_path / "r.onnx", [_node("Add", "x b", "y")], {"b": repeated}, (5, 6)) == 6
    equal = np.full((5, 6), 0.25, np.float32)  # may be a parameter as it was at first
    assert _stored(tmp_path / "e.onnx", [_node("Mul", "x b", "y")], {"b": equal}, (5, 6)) == 30


# --- modules and their exports


class _Module(nn.Module):
    """A forward pass of some parts, none of whose values is 0 or like another."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


def _position_codes(_: Any, x: Tensor) -> Tensor:
    steps, width = x.shape[1:]
    angles = torch.arange(steps).float()[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
    return x + torch.cat([angles.sin(), angles.cos()], 1)


def _standardized(m: Any, x: Tensor) -> Tensor:
    axes = (1, 2, 3)
    return functional.conv2d(x, (m.w - m.w.mean(axes, keepdim=True)) / (m.w.std(axes, keepdim=True) + 1e-5))


def _next(m: Any, x: Tensor) -> Tensor:
    """A block of ConvNeXt."""
    y = m.dw(x).permute(0, 2, 3, 1)
    return torch.addcmul(x, m.gamma, m.b(functional.gelu(m.a(m.norm(y)))).permute(0, 3, 1, 2))


def _block() -> _Module:
    parts = {"dw": nn.Conv2d(8, 8, 7, padding=3, groups=8), "norm": nn.LayerNorm(8), "a": nn.Linear(8, 32)}
    return _Module(_next, **parts, b=nn.Linear(32, 8), gamma=_parameter(8, 1, 1))


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "made weights": (lambda: _Module(lambda m, x: x @ (m.u @ m.v), u=_parameter(16, 2), v=_parameter(2, 8)), (16,)),
    "normalized": (
        lambda: _Module(lambda m, x: functional.linear(x, functional.normalize(m.w)), w=_parameter(8, 16)),
        (16,),
    ),
    "standardized": (lambda: _Module(_standardized, w=_parameter(4, 3, 3, 3)), (3, 8, 8)),
    "tied": (lambda: _Module(lambda m, x: functional.linear(x, m.w) @ m.w, w=_parameter(8, 16)), (16,)),
    "parts": (
        lambda: _Module(
            lambda m, x: functional.linear(x[:, :8], m.w[:, :8]) + functional.linear(x[:, 8:], m.w[:, 8:]),
            w=_parameter(4, 16),
        ),
        (16,),
    ),
    "position codes": (lambda: _Module(_position_codes), (6, 8)),
    "expanded": (lambda: _Module(lambda m, x: x + m.b.expand(4, 8), b=_parameter(1, 8)), (4, 8)),
    "repeated": (lambda: _Module(lambda m, x: x * m.b.repeat(1, 4, 1), b=_parameter(1, 1, 8)), (4, 8)),
    "class token": (
        lambda: _Module(
            lambda m, x: torch.cat([m.c.expand(x.shape[0], -1, -1), x], 1) + m.p,
            c=_parameter(1, 1, 8),
            p=_parameter(1, 5, 8),
        ),
        (4, 8),
    ),
    "ConvNeXt": (_block, (8, 8, 8)),
    "glu": (lambda: _Module(lambda m, x: functional.glu(m.c(x), 1), c=nn.Conv2d(3, 8, 1)), (3, 8, 8)),
    "where": (lambda: _Module(lambda m, x: torch.where(x > 0, x, x * 0.1)), (3, 8, 8)),
    "group norm": (
        lambda: nn.Sequential(_Module(lambda m, x: m.n(m.c(x)), c=nn.Conv2d(3, 8, 1), n=nn.GroupNorm(2, 8))),
        (3, 4, 4),
    ),
    "LSTM": (lambda: _Module(lambda m, x: m.l(x)[0], l=nn.LSTM(8, 16, batch_first=True)), (5, 8)),
    "two LSTMs, both ways": (
        lambda: _Module(lambda m, x: m.l(x)[0], l=nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)),
        (3, 8),
    ),
    "GRU": (lambda: _Module(lambda m, x: m.l(x)[0], l=nn.GRU(8, 16, batch_first=True)), (5, 8)),
    "attention": (
        lambda: _Module(
            lambda m, x: m.l(x, x, x, need_weights=False)[0], l=nn.MultiheadAttention(8, 2, batch_first=True)
        ),
        (5, 8),
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_and_its_export_cost_the_same(name: str, tmp_path: Path) -> None:
    make, size = MODULES[name]
    module = make().eval()
    own = scoring.score(module, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that writes files as most are is called old
        torch.onnx.export(module, (torch.randn(1, *size),), str(tmp_path / "m.onnx"), opset_version=17, dynamo=False)
    card = scoring.score(tmp_path / "m.onnx")
    assert (card.params, card.operations) == (own.params, own.operations)
    assert own.operations > 0


def test_the_newer_exporter_folds_otherwise_and_costs_the_same(tmp_path: Path) -> None:
    """What it writes beside the file is read too."""
    logging.disable(logging.WARNING)
    try:
        for name in ("made weights", "tied", "position codes", "expanded", "repeated", "ConvNeXt", "LSTM"):
            make, size = MODULES[name]
            module = make().eval()
            own = scoring.score(module, size)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                path = tmp_path / f"{name}.onnx"
                torch.onnx.export(module, (torch.randn(1, *size),), str(path), dynamo=True, verbose=False)
            card = scoring.score(path)
            assert (name, card.params, card.operations) == (name, own.params, own.operations)
    finally:
        logging.disable(logging.NOTSET)


def test_an_lstm_costs_what_its_formulae_say(tmp_path: Path) -> None:
    """By hand, a step: 4 gates of products with 8 inputs and 16 states, their biases, 3 sigmoids, 2 tanhs, the cell."""
    module = _Module(lambda m, x: m.l(x)[0], l=nn.LSTM(8, 16, batch_first=True)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.randn(1, 5, 8),), str(tmp_path / "m.onnx"), opset_version=17, dynamo=False)
    card = scoring.score(tmp_path / "m.onnx")
    gates, steps = 64, 5
    products = gates * (8 + 16)
    sums = gates * (7 + 15) + 2 * gates + gates  # two biases, and both products
    cell = 3 * 16  # forget * cell, input * candidate, output * tanh
    functions = 3 * 16 * 2 + 2 * 16
    assert card.multiplications == steps * (products + cell + functions)
    assert card.additions == steps * (sums + 16 + 3 * 16)
    assert card.params == (gates * 24 + 2 * gates) / 2
