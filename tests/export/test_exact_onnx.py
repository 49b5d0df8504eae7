"""`export onnx --exact`: ONNX Runtime gives the integers of the reference, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import FAMILIES, QUICK, context, family, images, logits, modules, random_network
from torch import nn

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Images
from netpress.errors import Failure, UserError
from netpress.export.onnx import check_onnx, export_exactly
from netpress.network import Network, save
from netpress.numerics.layers import quantized_layers
from netpress.scoring import score
from netpress.settings import parse

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
Call = Callable[..., tuple[int, str, str]]


def _quantized(name: str, folder: Path, **values: Any) -> Network:
    return quantize(family(name), parse(QuantizeSettings, {**QUICK, **values}), context(folder))


def _check(network: Network, shown: Images, folder: Path) -> None:
    export_exactly(network, folder / "net.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(str(folder / "net.onnx"), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": shown.images.numpy()})
    assert found.tobytes() == logits(network, shown).numpy().tobytes()


@pytest.mark.parametrize("preset", ["int8", "fixed-9-12", "binary"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "cosine"])
def test_every_family_gives_its_integers(name: str, preset: str, tmp_path: Path) -> None:
    """fixed-9-12 has inputs and weights of more than 8 bits, which are multiplied in parts."""
    _check(_quantized(name, tmp_path, preset=preset), images(5, 9), tmp_path)


def test_wide_signed_integers_are_multiplied_in_parts(tmp_path: Path) -> None:
    inputs = {"kind": "int", "bits": 15, "scale": "tensor", "signed": True}
    network = _quantized("resnet", tmp_path, weights={"kind": "int", "bits": 12, "scale": "channel"}, inputs=inputs)
    _check(network, images(5, 9), tmp_path)


@settings(max_examples=12, deadline=None)
@given(modules(), st.integers(7, 9), st.integers(7, 10), st.integers(2, 10), st.integers(0, 99))
def test_random_networks_give_their_integers(
    tmp_path_factory: pytest.TempPathFactory, module: nn.Module, height: int, width: int, bits: int, seed: int
) -> None:
    size, folder = (height, width), tmp_path_factory.mktemp("exact")
    _check(random_network(module, size, bits, seed, folder), images(2, seed, size), folder)


def test_one_other_integer_is_found(tmp_path: Path) -> None:
    network = _quantized("resnet", tmp_path)
    export_exactly(network, tmp_path / "net.onnx")
    assert check_onnx(network, tmp_path / "net.onnx", exact=True).largest_difference == 0
    layer = quantized_layers(network.module)["classifier"]
    layer.bias.data[3] += 4 * layer.output_scale  # type: ignore[operator]
    with pytest.raises(Failure, match="ONNX Runtime gives other integers for 64 of 64 images"):
        check_onnx(network, tmp_path / "net.onnx", exact=True)


def test_what_has_no_such_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--exact is for networks of integer arithmetic"):
        export_exactly(_quantized("resnet", tmp_path, arithmetic="float16"), tmp_path / "net.onnx")
    with pytest.raises(UserError, match="normalize: --exact has no ONNX nodes for a IntegerUnitLength"):
        export_exactly(_quantized("cosine", tmp_path), tmp_path / "net.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_such_a_file_is_refused_or_counted_by_its_own_operators(tmp_path: Path) -> None:
    """Its float64 numbers are wider than anything that the rules count."""
    export_exactly(_quantized("resnet", tmp_path), tmp_path / "net.onnx")
    with pytest.raises(UserError, match="float64"):
        score(tmp_path / "net.onnx")


def test_the_command_compares_every_bit(call: Call, tmp_path: Path) -> None:
    save(_quantized("resnet", tmp_path), tmp_path / "q.netpress")
    code, said, _ = call("export", "onnx", "q.netpress", "--exact", "--out", "q.onnx")
    assert code == 0 and "100.00% of the answers to 64 random images; logits 0.00% off" in said
    code, _, error = call("export", "onnx", "q.netpress", "--exact", "--out", "q.onnx", "--tolerance", 0.1)
    assert code == 2 and "--exact takes pixels and compares every bit: leave out --tolerance" in error
    code, _, error = call("export", "onnx", "q.netpress", "--exact", "--out", "q.onnx", "--input", "normalized")
    assert code == 2 and "leave out --input" in error
