"""ONNX files answer as the networks they came from."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from netpress.cli import main
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset, Images
from netpress.errors import Failure, UserError
from netpress.evaluation import predict
from netpress.export.onnx import check_onnx, export_onnx, first_divergence
from netpress.network import Network, create, save
from netpress.network.edits.directions import FoldDirections
from netpress.network.edits.factorizing import Factorize
from netpress.numerics.layers import quantized_layers
from netpress.process.console import Console
from netpress.process.world import World
from netpress.scoring import score
from netpress.settings import parse
from netpress.stage import Context

pytestmark = pytest.mark.slow

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")


def _images(count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return Images(images, torch.randint(0, 10, (count,), generator=generator))


def _network() -> Network:
    return create("c_efficientnet", {"widths": "tiny", "classes": 10, "image_size": 16}, seed=2)


def _quantized(folder: Path, network: Network | None = None, **settings: object) -> Network:
    names = tuple(str(index) for index in range(10))
    data = Dataset("random", _images(16, 1), _images(8, 2), _images(8, 3), names, (0.5,) * 3, (0.2,) * 3, "")
    context = Context(folder, World(torch.device("cpu")), 3, Console(quiet=True), data)
    return quantize(network or _network(), parse(QuantizeSettings, {"calibration_images": 16, **settings}), context)


def _label(network: Network, images: Images) -> Images:
    """The images with the network's own answers as labels: its accuracy is then 1."""
    return Images(images.images, predict(network, images).argmax(1))


def test_a_float_network_answers_the_same(tmp_path: Path) -> None:
    network = _network()
    network.module.eval()
    images = _label(network, _images(10, 4))
    export_onnx(network, tmp_path / "float.onnx")
    check = check_onnx(network, tmp_path / "float.onnx", images, batch_size=4)  # another batch than the example's
    assert check.accuracy == check.onnx_accuracy == check.agreement == 1
    assert check.largest_difference < 1e-4 and check.count == 10
    assert check.seconds > 0 and check.onnx_seconds > 0
    assert logging.getLogger("torch.onnx").level == logging.NOTSET


def _with_cosine_head() -> Network:
    settings = {"width": 0.1, "depth": 0.1, "cosine_features": 16, "classes": 10, "image_size": 16}
    network = create("efficientnet", settings, seed=2)
    generator = torch.Generator().manual_seed(6)
    for name, parameter in network.module.named_parameters():
        if parameter.dim() == 1:  # else hardly anything arrives at the head
            low = 1.0 if name.endswith("norm.weight") else -0.5
            parameter.data.uniform_(low, low + 1, generator=generator)
    network.module.classifier.cosine.weight.data.mul_(torch.arange(1.0, 11.0)[:, None])  # type: ignore[union-attr]
    return network


@pytest.mark.parametrize("kind", ["float", "folded", "int8", "half"])
def test_a_cosine_head_answers_the_same(kind: str, tmp_path: Path) -> None:
    network = _with_cosine_head()
    if kind == "folded":
        network.edit(FoldDirections(layers=("classifier.cosine",)))
    elif kind != "float":
        network = _quantized(tmp_path, network=network, preset=kind)
    export_onnx(network, tmp_path / "cosine.onnx")
    check = check_onnx(network, tmp_path / "cosine.onnx", far=0.05)  # cosines themselves, of random images
    assert check.error < (1e-5 if kind in ("float", "folded") else 0.02)
    if kind != "half":  # ONNX Runtime computes in float32 there, and what is counted is what is in the file
        counted, own = score(tmp_path / "cosine.onnx"), score(network)
        rows = [row for row in counted.rows if row.kind == "length"]
        assert len(rows) == 1 and rows[0].multiplications == 17  # the features' length; the directions' is a constant
    if kind in ("float", "folded"):
        assert (counted.params, counted.operations) == (own.params, own.operations)


def test_a_quantized_network_in_factors_answers_the_same(tmp_path: Path) -> None:
    network = _with_cosine_head()
    network.edit(Factorize.of({"classifier.embed": (16,)}))
    generator = torch.Generator().manual_seed(1)
    for factor in network.module.get_submodule("classifier.embed").children():
        factor.weight.data.normal_(0, 0.1, generator=generator)  # type: ignore[union-attr, operator]
    export_onnx(_quantized(tmp_path, network=network), tmp_path / "factors.onnx")
    check_onnx(_quantized(tmp_path, network=network), tmp_path / "factors.onnx", far=0.05)


@pytest.mark.parametrize(
    "settings",
    [{}, {"weights": {"kind": "int", "bits": 3}, "inputs": {"kind": "fixed", "bits": 6}}],
    ids=["int8", "int3-fixed6"],
)
def test_a_quantized_network_becomes_qdq_with_8_bit_weights(settings: dict[str, object], tmp_path: Path) -> None:
    import onnx

    network = _quantized(tmp_path, arithmetic="float32", **settings)
    path = tmp_path / "q.onnx"
    export_onnx(network, path)
    check = check_onnx(network, path, _label(network, _images(24, 5)), agreement=0.8)
    assert check.onnx_accuracy == check.agreement
    graph = onnx.load(str(path)).graph
    stored = [
        tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.UINT8 and len(tensor.dims) > 1
    ]
    assert len(stored) == len(quantized_layers(network.module))
    floats = [t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1]
    assert floats == ["pixels.scale", "pixels.shift"]  # the normalization in front
    kinds = [node.op_type for node in graph.node]
    shared = len(stored) - kinds.count("QuantizeLinear")  # layers that read the same tensor on the same grid
    assert 0 <= shared <= 2


def test_a_file_says_what_it_is_and_nothing_of_the_machine(tmp_path: Path) -> None:
    import onnx

    network = _network()
    network.facts["dataset"] = "digits"
    export_onnx(network, tmp_path / "float.onnx")
    export_onnx(_quantized(tmp_path, arithmetic="float32"), tmp_path / "int8.onnx")
    for name in ("float.onnx", "int8.onnx"):
        written = (tmp_path / name).read_bytes()
        for path in (sys.prefix, str(Path.cwd()), str(Path.home()), str(Path(__file__).parents[2]), "site-packages"):
            assert path == "/" or path.encode() not in written
        assert b".py" not in written and b"stack_trace" not in written
        model = onnx.load(str(tmp_path / name))
        onnx.checker.check_model(model, full_check=True)
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        assert [entry.name for entry in model.graph.input] == ["images"]
        assert [entry.name for entry in model.graph.output] == ["logits"]
        said = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(said["classes"]) == list(network.classes)
        assert json.loads(said["mean"]) == [0.5] * 3 and json.loads(said["std"]) == list(network.input.std)
        assert json.loads(said["source"])["family"] == "c_efficientnet"
        assert ("dataset" in said) == (name == "float.onnx")
    sizes = [(tmp_path / name).stat().st_size for name in ("int8.onnx", "float.onnx")]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("name", ["net.tflite", "net", "net.onnx.zip"])
def test_only_onnx_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ONNX is what is written; call the file net"):
        export_onnx(_network(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_diverging_file_is_refused_with_its_layer(tmp_path: Path) -> None:
    network = _network()
    network.module.eval()
    export_onnx(network, tmp_path / "float.onnx")
    images = _label(network, _images(16, 6))
    other = create("c_efficientnet", {"widths": "tiny", "classes": 10, "image_size": 16}, seed=9)
    other.module.eval()
    with pytest.raises(Failure, match=r"ONNX Runtime agrees on .*; no single layer is off"):
        check_onnx(other, tmp_path / "float.onnx", images)
    assert first_divergence(network, torch.randn(2, 3, 16, 16), far=-1) == "stem.conv"


def test_wide_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stem.conv: weights of 9 bits; ONNX export takes .* up to 8"):
        export_onnx(_quantized(tmp_path, preset="fixed-9-12"), tmp_path / "no.onnx")
    assert not (tmp_path / "no.onnx").exists()


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["netpress", "export", "onnx", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()  # type: ignore[return-value]

    return run


def test_the_command_writes_compares_and_says(call: Any, tmp_path: Path) -> None:
    network = create("resnet", {"blocks": [1], "width": 4, "image_size": 16}, seed=2)
    network.facts["dataset"] = "digits"
    save(network, tmp_path / "net.netpress")
    out = tmp_path / "net.onnx"
    code, said, _ = call(tmp_path / "net.netpress", "--out", out)
    assert code == 0 and "in ONNX Runtime" in said and "of the answers to 300 test images" in said
    assert f"{out.stat().st_size:,} bytes in ONNX, {(tmp_path / 'net.netpress').stat().st_size:,}" in said
    network.facts.clear()  # trained on nobody knows what: compared on random images
    save(network, tmp_path / "net.netpress")
    code, said, _ = call(tmp_path / "net.netpress", "--out", out, "--json")
    found = json.loads(said)
    assert code == 0 and found["accuracy"] is None and found["error"] < 1e-4 and found["count"] == 64
    code, _, error = call(tmp_path / "net.netpress", "--out", out, "--data", tmp_path)
    assert code == 2 and "has no train/ and test/" in error
    code, _, error = call(tmp_path / "net.netpress", "--out", out, "--tolerance", 0)
    assert code == 1 and "off on random images, above 0.00%; the first layer beyond 0 is stem" in error


def test_without_the_extra_one_line_says_what_to_install(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, error = call("c_efficientnet:tiny", "--out", tmp_path / "net.onnx", "--no-check")
    assert code == 2 and 'ONNX needs the extra: pip install "netpress[onnx]"' in error
