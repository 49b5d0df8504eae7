"""Group convolutions at every place leave as ONNX with the same answers, in floats and in 8 bits."""

from pathlib import Path

import pytest
import torch
from grouped import grouped_layers, grouped_network

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset, Images
from netpress.evaluation import predict
from netpress.export.onnx import check_onnx, export_onnx
from netpress.network import Network
from netpress.process.console import Console
from netpress.process.world import World
from netpress.scoring import score
from netpress.settings import parse
from netpress.stage import Context

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")


def noise(network: Network, count: int) -> Images:
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (count, *network.input.size), generator=generator, dtype=torch.uint8)
    return Images(images, torch.zeros(count, dtype=torch.int64))


SOME = ["stem, a group a channel", "bottleneck1 in 2", "bottleneck2 in 4", "transition in 4"]
MANY = ["bottleneck2, a group a channel", "all but the stem in 4", "everywhere in 3"]
CASES = [*((name, "float") for name in [*SOME, *MANY]), *((name, "int8") for name in MANY)]
"""An export takes about two seconds."""


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_groups_leave_as_onnx(name: str, preset: str, shades: Dataset, tmp_path: Path) -> None:
    network = grouped_network(name)
    groups = sorted(layer.groups for layer in grouped_layers(network).values())
    if preset == "int8":
        context = Context(tmp_path, World(torch.device("cpu")), 3, Console(quiet=True), shades, name="quantize")
        settings = {"calibration_images": 16, "arithmetic": "float32", "calibration": {"kind": "minmax"}}
        network = quantize(network, parse(QuantizeSettings, settings), context)
    images = noise(network, 16)
    labelled = Images(images.images, predict(network, images).argmax(1))
    export_onnx(network, tmp_path / "a.onnx")
    check = check_onnx(network, tmp_path / "a.onnx", labelled, agreement=0.99)
    assert check.agreement == check.onnx_accuracy == 1
    assert check.largest_difference < (1e-4 if preset == "float" else 0.05)
    nodes = [node for node in onnx.load(str(tmp_path / "a.onnx")).graph.node if node.op_type == "Conv"]
    written = [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "group"]
    assert sorted(count for count in written if count > 1) == groups
    if preset == "float":
        assert score(tmp_path / "a.onnx").score == score(network).score
