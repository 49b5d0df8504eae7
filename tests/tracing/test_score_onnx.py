"""ONNX files cost what the networks cost that they hold: netpress's own exports, patterns by hand, bad files."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import save_onnx
from torch import nn

from netpress import scoring
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset, Images
from netpress.errors import Failure, UserError
from netpress.network import Network, create
from netpress.network.edits.folding import FoldNorms
from netpress.numerics.layers import quantized_layers
from netpress.process.console import Console
from netpress.process.world import World
from netpress.scoring.onnx import OnnxGraph
from netpress.settings import parse
from netpress.stage import Context
from netpress.tracing.foldable import find_foldable_norms

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from netpress.export.onnx import export_onnx  # noqa: E402

pytestmark = pytest.mark.slow


def _trained(family: str, settings: dict[str, Any], zeros: float = 0.3) -> Network:
    """A network whose norms have learned something and some of whose weights are zero."""
    network = create(family, settings, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, tensor in network.module.state_dict().items():
            if tensor.dim() == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.dim() > 1:
                network.masks[name] = torch.rand(tensor.shape, generator=generator) >= zeros
                tensor.mul_(network.masks[name])
    network.module.eval()
    return network


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("c_efficientnet", {"widths": "tiny"}),
        ("resnet", {"blocks": [1, 2], "width": 8}),
        ("densenet", {"growth": 4, "blocks": [2, 2]}),
    ],
    ids=["c_efficientnet", "resnet", "densenet"],
)
def test_an_export_costs_what_its_network_costs(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    network = _trained(family, settings)
    export_onnx(network, tmp_path / "net.onnx")
    own = scoring.score(network)
    card = scoring.score(tmp_path / "net.onnx")
    image = torch.randn(1, *network.input.size, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected = network.module(image)
        assert torch.allclose(OnnxGraph(tmp_path / "net.onnx")(image)[0], expected, rtol=1e-3, atol=1e-4)
    assert card.score == own.score
    assert (card.params, card.operations) == (own.params, own.operations)
    assert (card.mask_bits, card.multiplications, card.additions) == (
        own.mask_bits,
        own.multiplications,
        own.additions,
    )
    kinds = {row.name: row.multiplications for row in card.grouped("kind")}
    for row in own.grouped("kind"):
        if row.multiplications and row.kind != "norm":
            assert kinds[row.name] == row.multiplications
    assert scoring.score(tmp_path / "net.onnx", weight_bits=4, activation_bits=8).score == pytest.approx(
        scoring.score(_folded(network), weight_bits=4, activation_bits=8).score, rel=1e-12
    )


def _folded(network: Network) -> Network:
    folded = copy.deepcopy(network)
    folded.edit(FoldNorms(pairs=tuple(find_foldable_norms(folded.module, folded.input.size))))
    return folded


def _save(path: Path, nodes: list[Any], constants: dict[str, Any], size: tuple[Any, ...] = ("N", 3, 8, 8)) -> Path:
    return save_onnx(path, nodes, constants, size, opset=21)


def _node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], name=f"the_{kind}", **attributes)


def _random(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_patterns_cost_what_the_functions_cost(tmp_path: Path) -> None:
    """Swish and hard-swish written out, a shape worked out on the way, a bias added to a product of matrices."""
    constants = {"w": _random(4, 3, 3, 3), "three": np.float32(3), "six": np.float32(6), "zero": np.float32(0)}
    constants |= {"minus": np.array([-1]), "first": np.array(0), "axis": np.array([0])}
    constants |= {"m": _random(256, 5), "b": _random(5)}
    nodes = [
        _node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
        _node("Sigmoid", "a", "s"),
        _node("Mul", "a s", "swish"),
        _node("Add", "swish three", "shifted"),
        _node("Clip", "shifted zero six", "clipped"),
        _node("Div", "clipped six", "hard"),
        _node("Mul", "swish hard", "hardswish"),
        _node("Shape", "hardswish", "shape"),
        _node("Gather", "shape first", "batch"),
        _node("Unsqueeze", "batch axis", "batches"),
        _node("Concat", "batches minus", "wanted", axis=0),
        _node("Reshape", "hardswish wanted", "flat"),
        _node("MatMul", "flat m", "product"),
        _node("Add", "product b", "y"),
    ]

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
            self.linear = nn.Linear(256, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(nn.functional.hardswish(nn.functional.silu(self.conv(x))).flatten(1))

    card = scoring.score(_save(tmp_path / "n.onnx", nodes, constants))
    own = scoring.score(Same(), (3, 8, 8))
    assert (card.params, card.multiplications, card.additions) == (own.params, own.multiplications, own.additions)
    assert card.operations == own.operations


def test_what_is_read_answers_as_onnx_runtime_does(tmp_path: Path) -> None:
    """Every way of moving values, pools with uneven edges, and shapes worked out on the way."""
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    constants: dict[str, Any] = {"w": _random(6, 4, 3, 3), "slope": _random(6, 1, 1, seed=1), "g": np.array([2, 0, -1])}
    constants |= {"s": np.array([-1, 1]), "e": np.array([-100, 100]), "a": np.array([1, 3]), "st": np.array([-1, 2])}
    constants |= {"p": np.array([0, 0, 1, 0, 0, 0, 0, 2]), "five": np.float32(5), "one": np.array([1])}
    constants |= {"rep": np.array([1, 2, 1, 1]), "last": np.array([-1])}
    nodes = [
        _node("Slice", "x s e a st", "flipped"),  # channels backwards, every second column from the second on
        _node("Pad", "flipped p five", "padded"),
        _node("Gather", "padded g", "gathered", axis=1),
        helper.make_node("Split", ["gathered"], ["left", "right"], name="split", axis=1, num_outputs=2),
        _node("Concat", "right left left", "joined", axis=1),
        helper.make_node("Slice", ["joined", "one", "sizes_", "one"], ["four"], name="cut"),
        _node("DepthToSpace", "four", "deep", blocksize=2),
        _node("Tile", "deep rep", "two"),
        helper.make_node("Concat", ["two", "two"], ["again"], name="twice", axis=1),
        _node("Conv", "again w", "conv", auto_pad="SAME_LOWER", strides=[2, 2]),
        _node("PRelu", "conv slope", "act"),
        _node("MaxPool", "act", "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
        _node("AveragePool", "pool", "mean", kernel_shape=[2, 2], pads=[0, 1, 0, 0], count_include_pad=1),
        _node("Transpose", "mean", "turned", perm=[0, 2, 3, 1]),
        _node("ReduceMax", "turned last", "best", keepdims=0),
        _node("Unsqueeze", "best one", "y"),
    ]
    constants["sizes_"] = np.array([5])
    path = _save(tmp_path / "m.onnx", nodes, constants)
    image = _random(1, 3, 8, 8, seed=2)
    (theirs,) = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": image})
    ours = OnnxGraph(path)(torch.from_numpy(image))[0]
    assert ours.shape == theirs.shape and np.allclose(ours.numpy(), theirs, atol=1e-5)


def test_integers_cost_what_they_are(tmp_path: Path) -> None:
    """By hand: 8-bit inputs with a zero point, 4-bit weights of which some are zero, a scale a channel, a bias."""
    weights = np.clip(_random(4, 3, 3, 3, seed=1) * 3, -7, 7).round()
    alive = np.count_nonzero(weights.reshape(4, -1), axis=1)
    constants = {"s": np.float32(0.02), "z": np.uint8(7), "ws": np.full(4, 0.1, np.float32), "b": _random(4)}
    nodes = [
        _node("QuantizeLinear", "x s z", "q"),
        _node("DequantizeLinear", "q s z", "d"),
        _node("DequantizeLinear", "w ws", "dw", axis=0),
        _node("Conv", "d dw b", "a"),
        _node("Relu", "a", "y"),
    ]
    path = _save(tmp_path / "q.onnx", nodes, constants)
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, (4, 3, 3, 3), weights.astype(int).ravel()))
    onnx.save(model, path)
    card = scoring.score(path)
    places = 36
    dense = 108 * 4
    packed = alive.sum() * 4 + 108
    assert card.storage_bits == min(dense, packed) + 4 * 32 + 4 * 32 + 32 + 8
    # A product is 8 bits wide; a tree of n of 4 + 8 bits grows by one a level; then scale, bias and relu in floats.
    levels = 0.0
    for count in alive:
        width, left, total = 12, int(count), 0
        while left > 1:
            total += width * (left // 2)
            left -= left // 2
            width += 1
        levels += total
    floats = 4 * places * 3 * 32
    assert card.operations == pytest.approx((alive.sum() * places * 8 + levels * places + floats) / 32)


def test_what_is_shared_is_stored_once_and_padding_may_be_uneven(tmp_path: Path) -> None:
    constants = {"w": _random(3, 3, 3, 3)}
    nodes = [_node("Conv", "x w", "a", pads=[0, 0, 2, 2]), _node("Conv", "a w", "y", auto_pad="SAME_UPPER")]
    card = scoring.score(_save(tmp_path / "s.onnx", nodes, constants))
    assert card.params == 81 / 2
    assert card.multiplications == 2 * 64 * 81


def test_one_convention_counts_files(tmp_path: Path) -> None:
    path = _save(tmp_path / "n.onnx", [_node("Relu", "x", "y")], {})
    assert scoring.score(path).operations == 3 * 64 / 2
    with pytest.raises(UserError, match="ONNX files are counted by the official convention; kaist counts"):
        scoring.score(path, convention="kaist")


def _foreign() -> Any:
    return helper.make_node("Invent", ["x"], ["y"], name="here", domain="my.own")


@pytest.mark.parametrize(
    ("nodes", "constants", "size", "message"),
    [
        ([_node("Relu", "x", "a"), _foreign()], {}, ("N", 3, 8, 8), r"here \(my.own.Invent\): no rule says"),
        ([_node("NonZero", "x", "y")], {}, ("N", 3, 8, 8), r"the_NonZero \(NonZero\): no rule says"),
        ([_node("Relu", "x", "y")], {}, (16, 3, 8, 8), "it takes 16 images at once"),
        ([_node("Relu", "x", "y")], {}, ("N", 3, "h"), "the size of its input x is left open; give .* --input-size 3,"),
        ([_node("Relu", "x", "y")], {}, ("N", -1), "the size of its input x is left open; give .* --input-size 3,"),
        ([_node("Relu", "a", "y")], {}, ("N", 3, 8, 8), "Relu uses a, which no node before it makes"),
        (
            [_node("Conv", "x w", "y")],
            {"w": _random(2, 5, 3, 3)},
            ("N", 3, 8, 8),
            r"cannot be calculated",
        ),
        (
            [_node("ConstantOfShape", "n", "a"), _node("Add", "x a", "y")],
            {"n": np.array([1 << 40])},
            ("N", 3, 8, 8),
            r"the_ConstantOfShape \(ConstantOfShape\): a constant of 1,099,511,627,776 elements",
        ),
        (
            [_node("Tile", "a n", "b"), _node("Add", "x b", "y")],
            {"a": np.ones(1000, np.float32), "n": np.array([1 << 30])},
            ("N", 3, 8, 8),
            "a constant of 1,073,741,824,000 elements",
        ),
        (
            [_node("Expand", "n n", "y")],
            {"n": np.array([2])},
            ("N", 3, 8, 8),
            "none of its results depends on the image",
        ),
    ],
)
def test_what_cannot_be_counted_is_said(
    nodes: list[Any], constants: dict[str, Any], size: tuple[Any, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises((UserError, Failure), match=message):
        scoring.score(_save(tmp_path / "n.onnx", nodes, constants, size))


def test_files_that_lie_are_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "n.onnx", [_node("Conv", "x w", "y")], {"w": _random(300, 3, 3, 3)})
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:-300])
    with pytest.raises(Failure, match=r"cut.onnx: (not an ONNX file, or a damaged one|damaged)"):
        scoring.score(tmp_path / "cut.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(Failure, match="not an ONNX file"):
        scoring.score(tmp_path / "text.onnx")
    with pytest.raises(UserError, match="no such file"):
        scoring.score(tmp_path / "none.onnx")
    model = onnx.load(path)
    model.graph.initializer[0].dims[0] = 1 << 50
    (tmp_path / "huge.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(Failure, match="the values of w do not fill its shape"):
        scoring.score(tmp_path / "huge.onnx")
    model = onnx.load(path)
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="/etc/hostname")
    (tmp_path / "outside.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"w lies in '/etc/hostname', which is not opened"):
        scoring.score(tmp_path / "outside.onnx")


def test_names_of_any_kind_find_a_place(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="/forward/Relu"),
        helper.make_node("Relu", ["a"], ["b"], name="/forward/Relu"),
        helper.make_node("Relu", ["b"], ["c"], name="/forward"),
        helper.make_node("Relu", ["c"], ["d"], name="..//"),
        helper.make_node("Relu", ["d"], ["e"], name="training"),
        helper.make_node("Relu", ["e"], ["y"]),
    ]
    graph = OnnxGraph(_save(tmp_path / "n.onnx", nodes, {}))
    assert len({operation.name for operation in graph.trace()}) == len(nodes)


def test_an_8_bit_export_costs_what_its_network_costs_but_for_its_wider_scales(tmp_path: Path) -> None:
    """ONNX Runtime reads scales of 32 bits, and zero points of 8; the network file has scales of 16."""
    generator = torch.Generator().manual_seed(3)
    images = [
        Images(torch.randint(0, 256, (16, 3, 16, 16), generator=generator, dtype=torch.uint8), torch.zeros(16).long())
        for _ in range(3)
    ]
    data = Dataset("random", *images, tuple("0123456789"), (0.5,) * 3, (0.2,) * 3, "")
    values = {"arithmetic": "float32", "bias": {"kind": "float32"}, "calibration_images": 16}
    settings = parse(QuantizeSettings, values)
    network = _trained("c_efficientnet", {"widths": "tiny", "classes": 10, "image_size": 16}, zeros=0.5)
    network = quantize(network, settings, Context(tmp_path, World(torch.device("cpu")), 3, Console(quiet=True), data))
    export_onnx(network, tmp_path / "q.onnx")
    graph = onnx.load(tmp_path / "q.onnx").graph
    own, card = scoring.score(network), scoring.score(tmp_path / "q.onnx")
    assert card.operations == own.operations
    assert card.mask_bits == own.mask_bits > 0
    layers = quantized_layers(network.module).values()
    scales = sum(layer.weight_scale.numel() for layer in layers if layer.weight_scale is not None)
    own_bits = 16 * scales + sum(16 + 8 for _ in layers)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    used = {name for node in graph.node if node.op_type == "QuantizeLinear" for name in node.input[1:]}
    bits = 32 * scales + sum(32 if arrays[name].dtype == np.float32 else 8 * bool(arrays[name]) for name in used)
    # The zero points of unsigned weights, 128 a channel; tensors of as many channels share them.
    zeros = {node.input[2] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in arrays}
    bits += 8 * sum(arrays[name].size for name in zeros)
    assert card.storage_bits - own.storage_bits == bits - own_bits
