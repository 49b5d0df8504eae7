"""QONNX files: every number at the network's own width, executed by qonnx as the network, and counted alike."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from integer_networks import FAMILIES, QUICK, context, family, images
from torch import nn

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.errors import Failure, UserError
from netpress.export.qonnx import check_qonnx, export_qonnx, some_images, zero_points
from netpress.network import Network, save
from netpress.numerics.formats import Binary, Integer
from netpress.numerics.layers import quantized_layers
from netpress.scoring import score
from netpress.settings import parse

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(f"ignore:::{package}") for package in ("qonnx", "clize", "sigtools")),
]
onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
needs_qonnx = pytest.mark.skipif(
    importlib.util.find_spec("qonnx") is None, reason="qonnx is not installed; it is in the extra dev"
)
Call = Callable[..., tuple[int, str, str]]
PLAIN = {**QUICK, "arithmetic": "float32"}
NO_ZERO = {"kind": "int", "bits": 5, "scale": "tensor", "signed": True}


def _quantized(name: str, folder: Path, **values: Any) -> Network:
    return quantize(family(name), parse(QuantizeSettings, {**QUICK, **values}), context(folder))


@needs_qonnx
@pytest.mark.parametrize("name", ["c_efficientnet", "cosine", "densenet", "pyramidnet", "resnet"])
def test_in_float32_it_answers_as_the_network(name: str, tmp_path: Path) -> None:
    """Rounding is all that could differ, and the same floats round alike."""
    network = _quantized(name, tmp_path, **PLAIN, preset="int4")
    export_qonnx(network, tmp_path / "q.onnx")
    check = check_qonnx(network, tmp_path / "q.onnx", images(6, 9))
    assert check.error < 1e-3 and check.agreement == check.count / 6 == 1


@needs_qonnx
@pytest.mark.parametrize("preset", ["int8", "fixed-9-12", "binary"])
@pytest.mark.parametrize("name", ["c_efficientnet", "densenet", "resnet"])
def test_in_integers_it_answers_nearly_so(name: str, preset: str, tmp_path: Path) -> None:
    network = _quantized(name, tmp_path, preset=preset)
    export_qonnx(network, tmp_path / "q.onnx")
    assert check_qonnx(network, tmp_path / "q.onnx", images(6, 9)).error < 0.03


def test_each_layer_reads_its_numbers_through_quantizers(tmp_path: Path) -> None:
    network = _quantized("resnet", tmp_path, **PLAIN, weights={"kind": "binary", "scale": "channel"}, inputs=NO_ZERO)
    export_qonnx(network, tmp_path / "q.onnx")
    model = onnx.load(tmp_path / "q.onnx")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made_by = {node.output[0]: node for node in model.graph.node}
    products = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul")]
    order = [node.output[0] for node in model.graph.node]
    layers = quantized_layers(network.module)
    assert len(products) == len(layers)
    for node, (name, layer) in zip(products, layers.items(), strict=True):
        value, weight = made_by[node.input[0]], made_by[node.input[1]]
        assert (value.op_type, weight.op_type) == ("Quant", "BipolarQuant")
        assert value.domain == weight.domain == "qonnx.custom_op.general"
        assert constants[value.input[3]] == 5 and constants[value.input[2]] == 0
        assert {entry.name: onnx.helper.get_attribute_value(entry) for entry in value.attribute} == {
            "signed": 1,
            "narrow": 0,
            "rounding_mode": b"ROUND",
        }
        assert order.index(weight.output[0]) == order.index(node.output[0]) - 1 or node.op_type == "MatMul"
        assert weight.input[0] == f"{name}.weight"
        stored = torch.from_numpy(constants[weight.input[0]].copy())
        assert torch.equal(stored if stored.dim() == 4 else stored.t(), layer.weight)
        assert constants[weight.input[1]].size == len(layer.weight)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 13, "qonnx.custom_op.general": 1}
    (source,), (result,) = model.graph.input, model.graph.output
    shapes = [[dim.dim_value for dim in end.type.tensor_type.shape.dim] for end in (source, result)]
    assert (source.name, result.name, shapes) == ("images", "logits", [[1, 3, 8, 8], [1, 10]])
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["classes"]) == list(network.classes) and "float32 [1, 3, 8, 8]" in said["input"]


@needs_qonnx
def test_what_fpga_users_do_with_it_keeps_its_answers(tmp_path: Path) -> None:
    """qonnx's own cleaning, matrices in place of Gemm, biases beside convolutions, and channels last."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.transformation.extract_conv_bias import ExtractBiasFromConv
    from qonnx.transformation.gemm_to_matmul import GemmToMatMul
    from qonnx.util.cleanup import cleanup_model

    network = _quantized("resnet", tmp_path, **PLAIN, inputs=NO_ZERO)
    assert zero_points(network) == 0
    export_qonnx(network, tmp_path / "q.onnx")
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network.module.eval()(x)
    model = cleanup_model(ModelWrapper(str(tmp_path / "q.onnx")))
    changed = {"clean": model}
    changed["matrices"] = model.transform(ExtractBiasFromConv()).transform(GemmToMatMul())
    changed["channels last"] = model.transform(ConvertToChannelsLastAndClean(make_input_channels_last=False))
    for name, one in changed.items():
        (source,), (result,) = one.graph.input, one.graph.output
        found = execute_onnx(one, {source.name: x.numpy()})[result.name]
        assert torch.allclose(torch.from_numpy(found.copy()), expected, atol=1e-4), name


@needs_qonnx
def test_a_file_that_differs_is_refused_with_its_layer(tmp_path: Path) -> None:
    network = _quantized("resnet", tmp_path, **PLAIN)
    export_qonnx(network, tmp_path / "q.onnx")
    model = onnx.load(tmp_path / "q.onnx")
    names = list(quantized_layers(network.module))[1:2]
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == f"{names[0]}.bias"]
    array = onnx.numpy_helper.to_array(bias)
    bias.CopyFrom(onnx.numpy_helper.from_array(array + 50, bias.name))
    onnx.save(model, tmp_path / "q.onnx")
    layer = bias.name.removesuffix(".bias")
    with pytest.raises(Failure, match=rf"executed by qonnx, .* off, above 25.00%; the first layer .* is {layer}"):
        check_qonnx(network, tmp_path / "q.onnx", images(4, 9))


# --- counted


@pytest.mark.parametrize("preset", ["int8", "int4", "binary"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_file_costs_what_the_network_costs(name: str, preset: str, tmp_path: Path) -> None:
    network = _quantized(name, tmp_path, **PLAIN, preset=preset)
    export_qonnx(network, tmp_path / "q.onnx")
    file, own = score(tmp_path / "q.onnx"), score(network)
    assert (file.operations, file.mask_bits) == (own.operations, own.mask_bits)
    # Scales and biases take 32 bits in a file of floats, and 16 in the network's; zero points as many as their inputs.
    layers = quantized_layers(network.module).values()
    halves = sum(layer.weight_scale.numel() + len(layer.weight) for layer in layers if layer.weight_scale is not None)
    norms = sum(4 * part.num_features for part in network.module.modules() if isinstance(part, nn.BatchNorm2d))
    assert 0 < file.storage_bits - own.storage_bits <= 16 * (halves + norms + 2 * len(layers))


def _one_layer(path: Path, bits: float, **attributes: Any) -> Path:
    from onnx import helper, numpy_helper

    names: dict[str, Any] = {
        "w": torch.ones(4, 3, 1, 1).numpy(),
        "s": torch.tensor(0.3).numpy(),
        "z": torch.tensor(0.0).numpy(),
    }
    names["b"] = torch.tensor(bits).numpy()
    options = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND", "domain": "qonnx.custom_op.general"} | attributes
    nodes = [
        helper.make_node("Quant", ["w", "s", "z", "b"], ["q"], "quant", **options),
        helper.make_node("Conv", ["images", "q"], ["logits"], "conv"),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("images", [1, 3, 8, 8]), ("logits", [1, 4, 8, 8]))
    ]
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(array, name) for name, array in names.items()]
    )
    onnx.save(helper.make_model(graph), path)
    return path


@pytest.mark.parametrize(("bits", "stored"), [(3, 3 * 12 + 32), (16, 16 * 12 + 32), (24, 16 * 12)])
def test_a_weights_width_is_what_its_quantizer_says(bits: float, stored: int, tmp_path: Path) -> None:
    """What is wider than 16 bits counts as a float, which the rules store in 16."""
    assert score(_one_layer(tmp_path / "q.onnx", bits)).storage_bits == stored


@pytest.mark.parametrize(
    ("bits", "attributes", "reason"),
    [
        (2.5, {}, "quant .*its bits must be one whole number"),
        (4, {"rounding_mode": "SOMEHOW"}, "its rounding mode SOMEHOW is not known"),
        (4, {"domain": "qonnx.custom_op.other"}, r"qonnx.custom_op.other.Quant\): no rule says"),
    ],
)
def test_quantizers_that_are_not_understood_are_refused(
    bits: float, attributes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        score(_one_layer(tmp_path / "q.onnx", bits, **attributes))


# --- what is refused, and the command


def test_what_qonnx_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no layer of this network is quantized"):
        export_qonnx(family("resnet"), tmp_path / "q.onnx")
    with pytest.raises(UserError, match=r"call the file q.onnx"):
        export_qonnx(family("resnet"), tmp_path / "q.qonnx")
    network = _quantized("resnet", tmp_path, **PLAIN, inputs={**NO_ZERO, "bits": 1})
    with pytest.raises(UserError, match=r"stem.conv: inputs of 1 signed bit .* use signed = false"):
        export_qonnx(network, tmp_path / "q.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_pruned_signs_are_three_values(tmp_path: Path) -> None:
    network = _quantized("resnet", tmp_path, **PLAIN, weights={"kind": "binary", "scale": "tensor"})
    layer = quantized_layers(network.module)["stem.conv"]
    assert isinstance(layer.formats.weight, Binary) and isinstance(layer.formats.input, Integer)
    layer.weight.data[0, 0] = 0
    export_qonnx(network, tmp_path / "q.onnx")
    kinds = {node.output[0]: node for node in onnx.load(tmp_path / "q.onnx").graph.node}
    quantizer = kinds["stem.conv.weight.quantized"]
    assert quantizer.op_type == "Quant"
    assert {entry.name: entry.i for entry in quantizer.attribute if entry.name == "narrow"} == {"narrow": 1}


def test_images_are_taken_from_all_classes() -> None:
    shown = images(100, 1)
    shown.labels.copy_(torch.arange(100) // 10)
    assert some_images(shown, 10).labels.unique().tolist() == list(range(10))
    assert len(some_images(shown, 400)) == 100


@needs_qonnx
def test_the_command_writes_executes_and_says(call: Call, tmp_path: Path) -> None:
    network = _quantized("resnet", tmp_path)
    save(network, tmp_path / "q.netpress")
    code, said, _ = call("export", "qonnx", "q.netpress", "--out", "q.onnx")
    assert code == 0 and "of the answers to 64 random images" in said and "FINN and hls4ml read none" in said
    found = json.loads(call("export", "qonnx", "q.netpress", "--out", "q.onnx", "--no-check", "--json")[1])
    assert found == {"file": "q.onnx", "zero_points": zero_points(network), "check": None}
    code, _, error = call("export", "qonnx", "q.netpress", "--out", "q.onnx", "--no-check", "--images", 3)
    assert code == 2 and "--no-check compares nothing: leave out --images" in error
    code, _, error = call("export", "qonnx", "q.netpress", "--out", "q.onnx", "--images", 3)
    assert code == 2 and "there are none to take them from" in error
    code, _, error = call("export", "qonnx", "q.netpress", "--out", "q.onnx", "--tolerance", 0)
    assert code == 1 and "above 0.00%; the first layer beyond 0 is stem.conv" in error


def test_without_qonnx_it_is_written_and_said(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(_quantized("resnet", tmp_path), tmp_path / "q.netpress")
    monkeypatch.setattr("netpress.export.qonnx.has_executor", lambda: False)
    code, said, _ = call("export", "qonnx", "q.netpress", "--out", "q.onnx")
    assert code == 0 and "not checked: the package qonnx" in said and 'not installed: pip install "qonnx' in said
    assert (tmp_path / "q.onnx").exists()
    code, _, error = call("export", "qonnx", "q.netpress", "--out", "q.onnx", "--images", 3)
    assert code == 2 and "--images: comparing needs the package qonnx" in error
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, error = call("export", "qonnx", "q.netpress", "--out", "other.onnx")
    assert code == 2 and 'pip install "netpress[onnx]"' in error
