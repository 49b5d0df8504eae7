"""Brevitas and QONNX, which know nothing of netpress, come to the same integers, weight bits and multiply-adds.

Both are test-only, in the extra `dev`. Brevitas (BSD-3-Clause) has the quantizers that papers train with; QONNX
(Apache-2.0) counts the cost of quantized ONNX graphs.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset, Images
from netpress.network import Network, create
from netpress.numerics.formats import Binary, Fixed, Integer, Ternary
from netpress.numerics.layers import quantized_layers
from netpress.numerics.rounding import dequantize
from netpress.numerics.rounding import quantize as round_to_integers
from netpress.process.console import Console
from netpress.process.world import World
from netpress.scoring import trace_network
from netpress.settings import parse
from netpress.stage import Context

FOREIGN = ("brevitas", "qonnx", "clize", "sigtools")
pytestmark = [pytest.mark.slow, *(pytest.mark.filterwarnings(f"ignore:::{package}") for package in FOREIGN)]


@pytest.fixture(scope="module")
def brevitas() -> Any:
    return pytest.importorskip("brevitas.core.quant", reason="brevitas is not installed; it is in the extra dev")


def _values(seed: int) -> Tensor:
    """Weights of some size, with values beyond any range, exact ties and zeros."""
    values = torch.randn(24, 12, 3, 3, generator=torch.Generator().manual_seed(seed))
    values[0, 0] *= 30
    values[1, 0] = torch.arange(-4.5, 4.5).reshape(3, 3) * 0.0625
    values[2, 0] = 0.0
    return values


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 12, 16])
@pytest.mark.parametrize(("signed", "zero"), [(True, 0), (False, 6), (False, 0)])
def test_integers_are_those_of_brevitas(bits: int, signed: bool, zero: int, brevitas: Any) -> None:
    quantizer = brevitas.IntQuant(narrow_range=False, signed=signed, input_view_impl=torch.nn.Identity())
    values, scale, zero_point = _values(bits), torch.tensor(0.0625), torch.tensor(float(zero))
    own = Integer(bits=bits, scale="tensor", signed=signed, zero_point=bool(zero))
    integers = round_to_integers(values, own, scale, zero_point if zero else None)
    assert torch.equal(integers, quantizer.to_int(scale, zero_point, torch.tensor(float(bits)), values))
    theirs = quantizer(scale, zero_point, torch.tensor(float(bits)), values)
    assert torch.equal(dequantize(integers, scale, zero_point if zero else None), theirs)
    assert len(integers.unique()) > min(2 ** (bits - 1), 40) / 2


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_layers_of_brevitas_store_the_same_integers(bits: int, brevitas: Any) -> None:
    """Their layers with their own scales, one a channel or a power of two a tensor."""
    from brevitas.nn import QuantConv2d
    from brevitas.quant import Int8WeightPerChannelFloat, Int8WeightPerTensorFixedPoint

    for quantizer, own in (
        (Int8WeightPerChannelFloat, Integer(bits=bits, scale="channel")),
        (Int8WeightPerTensorFixedPoint, Fixed(bits=bits)),
    ):
        layer = QuantConv2d(12, 24, 3, weight_quant=quantizer, weight_bit_width=bits)
        with torch.no_grad():
            layer.weight.copy_(_values(bits))
        theirs = layer.quant_weight()
        scale = theirs.scale.detach().reshape(-1) if theirs.scale.numel() > 1 else theirs.scale.detach().reshape(())
        integers = round_to_integers(layer.weight.detach(), own, scale)
        assert torch.equal(integers, theirs.int().float())
        assert torch.equal(dequantize(integers, scale), theirs.value.detach())


def test_signs_are_those_of_brevitas(brevitas: Any) -> None:
    from brevitas.core.scaling import ConstScaling

    values = _values(1)
    values = values[values != 0]  # here a masked weight stays 0, there it is +1
    scale = torch.tensor(0.5)
    theirs = brevitas.BinaryQuant(ConstScaling(0.5))(values)[0]
    own = Binary(scale="tensor")
    assert torch.equal(dequantize(round_to_integers(values, own, scale), scale), theirs)
    ternary = brevitas.TernaryQuant(ConstScaling(0.5), threshold=0.5)(values)[0]  # 0 up to half a step
    kept = values.abs() != 0.25
    made = round_to_integers(values, Ternary(), scale)
    assert torch.equal(dequantize(made, scale)[kept], ternary[kept])


def _quantized(folder: Path, values: dict[str, Any]) -> Network:
    generator = torch.Generator().manual_seed(3)
    parts = [
        Images(torch.randint(0, 256, (16, 3, 16, 16), generator=generator, dtype=torch.uint8), torch.zeros(16).long())
        for _ in range(3)
    ]
    data = Dataset("random", *parts, tuple("0123456789"), (0.5,) * 3, (0.2,) * 3, "")
    values = {"arithmetic": "float32", "calibration_images": 16, **values}
    family: tuple[str, dict[str, Any]] = ("c_efficientnet", {"widths": "tiny"})
    if "preset" not in values or values["preset"] != "int4":  # qonnx takes its time with many nodes
        family = ("resnet", {"blocks": [1, 1], "width": 8})
    network = create(family[0], {"classes": 10, "image_size": 16, **family[1]}, seed=2)
    context = Context(folder, World(torch.device("cpu")), 3, Console(quiet=True), data)
    return quantize(network, parse(QuantizeSettings, values), context)


@pytest.mark.parametrize(
    "values",
    [
        {"preset": "int4"},
        {"weights": {"kind": "int", "bits": 3}, "inputs": {"kind": "fixed", "bits": 11}},
        {"preset": "fixed-9-12"},
        {"weights": {"kind": "ternary", "scale": "channel"}},
    ],
    ids=["int4", "int3-fixed11", "fixed-9-12", "ternary"],
)
def test_weight_bits_and_multiply_adds_are_those_of_qonnx(values: dict[str, Any], tmp_path: Path) -> None:
    """Of the file that `export qonnx` writes."""
    pytest.importorskip("qonnx", reason="qonnx is not installed; it is in the extra dev")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.inference_cost import inference_cost

    from netpress.export.qonnx import export_qonnx

    network = _quantized(tmp_path, values)
    export_qonnx(network, tmp_path / "net.onnx")
    traced = trace_network(network)
    products = [operation for operation in traced if operation.kind in ("conv", "linear")]
    layers = quantized_layers(network.module)
    for discount in (True, False):
        model = ModelWrapper(str(tmp_path / "net.onnx"))
        theirs = inference_cost(model, discount_sparsity=discount)["total_cost"]
        own = sum(op.products if discount else op.multiply_adds for op in products)
        assert theirs["total_macs"] == own
        stored = {op.module: traced.stored[op.weight or ""] for op in products}
        found = sum(
            _width(layers[name].formats.weight) * (tensor.nonzeros if discount else tensor.count)
            for name, tensor in stored.items()
        )
        assert theirs["total_mem_w_bits"] == found


def _width(format: Any) -> int:
    """Bits of a weight in QONNX, which has no mask: signs and zeros take two."""
    return 2 if isinstance(format, Ternary) else int(format.bits)


def test_neither_brings_torchvision() -> None:
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "import brevitas.nn, brevitas.quant, qonnx.util.inference_cost\n"
        "assert 'torchvision' not in sys.modules"
    )
    pytest.importorskip("qonnx", reason="qonnx is not installed; it is in the extra dev")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=280)
