"""Sums of whole numbers, against torch's own integer convolutions and products, however torch is set."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset, Images
from netpress.evaluation import evaluate_exactly
from netpress.network import Architecture, InputSpec, Network
from netpress.numerics import sums
from netpress.numerics.claims import layer_sums
from netpress.numerics.formats import Fixed, Integer
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear
from netpress.numerics.sums import Window, convolution_sums, floats_sum_exactly, linear_sums
from netpress.process.console import Console
from netpress.process.world import World
from netpress.program import exact_layers
from netpress.settings import parse
from netpress.stage import Context

CPU = torch.device("cpu")


def whole(low: int, high: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def torch_set(what: str) -> Iterator[None]:
    """Torch as somebody may have set it: another library for convolutions, or narrower floats inside."""
    precision, enabled = torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled
    before = torch.backends.nnpack.set_flags(what != "neither")
    try:
        torch.backends.mkldnn.enabled = what not in ("no oneDNN", "neither")
        if what == "narrow":
            torch.set_float32_matmul_precision("medium")
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.mkldnn.enabled = enabled
        torch.backends.nnpack.set_flags(*before)


SETTINGS = pytest.mark.parametrize("what", ["as always", "no oneDNN", "neither", "narrow"])


@pytest.mark.parametrize("exact", [(torch.float32, torch.float64), (torch.float64,), ()], ids=["32", "64", "none"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "dilation", "groups"),
    [
        (3, 8, (3, 3), (1, 1), (1, 1), 1),
        (6, 4, (1, 1), (2, 1), (1, 1), 1),
        (6, 9, (3, 1), (2, 2), (1, 2), 3),
        (8, 8, (3, 2), (1, 2), (2, 1), 8),
        (4, 8, (5, 5), (2, 2), (1, 1), 4),
        (1, 2, (2, 2), (1, 1), (1, 1), 1),
    ],
)
@pytest.mark.parametrize("bits", [8, 13])
def test_convolutions_are_those_of_whole_numbers(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    bits: int,
    exact: tuple[torch.dtype, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if torch.float32 not in exact:  # a machine whose products of these types are not exact
        monkeypatch.setattr(sums, "_matrices_sum_exactly", lambda device, dtype, settings: dtype in exact)
    ends = -(2 ** (bits - 1)), 2 ** (bits - 1)
    values, weight = whole(*ends, 2, inputs, 9, 8), whole(*ends, outputs, inputs // groups, *kernel, seed=1)
    largest = ends[0] ** 2 * weight[0].numel()
    window = Window(stride, dilation=dilation, groups=groups)
    found = convolution_sums(values.float(), weight.float(), window, largest)
    expected = functional.conv2d(values, weight, None, stride, 0, dilation, groups)  # int64
    assert found.shape == expected.shape
    assert torch.equal(found.long(), expected)
    assert not (found - found.round()).any()
    if groups < inputs or groups == 1:  # float32 only where that is exact
        assert found.dtype == (torch.float32 if torch.float32 in exact and largest < 2**24 else torch.float64)
    rows = values.flatten(2).flatten(0, 1)
    assert torch.equal(linear_sums(rows.float(), rows[:5].float()).long(), rows @ rows[:5].t())
    none = convolution_sums(values[:0].float(), weight.float(), window, largest)
    assert none.shape == (0, *expected.shape[1:])


@SETTINGS
def test_matrices_are_trusted_only_where_they_are_exact(what: str) -> None:
    with torch_set(what):
        trusted = sums._matrices_sum_exactly("cpu", torch.float32, sums._settings())
        values, weight = whole(0, 4096, 130, 700), whole(-2, 3, 90, 700, seed=1)
        found = torch.zeros(130, 90).addmm_(values.float(), weight.float().t())
        assert torch.equal(found.long(), values @ weight.t()) or not trusted


@SETTINGS
def test_floats_are_trusted_only_where_they_are_exact(what: str) -> None:
    with torch_set(what):
        trusted = floats_sum_exactly(CPU)
        wrong = 0.0
        for kernel, groups in ((3, 1), (5, 1), (3, 2)):
            values, weight = whole(0, 4096, 48, 32, 12, 12), whole(-3, 4, 32, 32 // groups, kernel, kernel, seed=1)
            found = functional.conv2d(values.float(), weight.float(), None, groups=groups)
            wrong = max(wrong, float((found - functional.conv2d(values, weight, None, groups=groups)).abs().max()))
        assert not (trusted and wrong), f"sums are off by {wrong}"
        assert trusted or what != "as always"  # else every evaluation takes the slower way


@SETTINGS
@pytest.mark.parametrize("weight", [Integer(bits=8, scale="channel"), Fixed(bits=9)])
def test_layers_sum_exactly_however_torch_is_set(what: str, weight: Integer | Fixed) -> None:
    value: Integer | Fixed = Fixed(bits=12)
    if isinstance(weight, Integer):
        value = Integer(bits=8, scale="tensor", signed=False, zero_point=True)
    formats = LayerFormats(weight=weight, input=value, arithmetic="float32")
    layers: list[tuple[QuantizedLayer, torch.Tensor]] = [
        (QuantizedConv2d(48, 16, 3, padding=1, bias=False, formats=formats), whole(0, 60, 32, 48, 8, 8)),
        (QuantizedConv2d(48, 48, 3, 2, groups=48, bias=False, formats=formats), whole(0, 60, 32, 48, 8, 8)),
        (QuantizedConv2d(48, 8, 1, bias=False, formats=formats), whole(0, 60, 32, 48, 8, 8)),
        (QuantizedLinear(300, 8, bias=False, formats=formats), whole(0, 60, 32, 300)),
    ]
    for layer, x in layers:
        numbers = whole(-100, 101, *layer.weight.shape, seed=2)
        layer.weight.data = numbers.float()  # with scales of 1, the integers themselves
        if layer.input_zero_point is not None:
            layer.input_zero_point.fill_(7)
        layer.eval()
        with torch_set(what), torch.no_grad():
            found = layer(x.float())
        if isinstance(layer, QuantizedConv2d):
            expected = functional.conv2d(x, numbers, None, layer.stride, layer.padding, 1, layer.groups)
        else:
            expected = x @ numbers.t()
        assert torch.equal(found.long(), expected)


@SETTINGS
def test_networks_in_exact_integers_are_their_simulation(what: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 48, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 4))
    shape = (0.5,) * 3, (0.25,) * 3
    network = Network(module, Architecture("import", {}), InputSpec(3, 9, 9, *shape), tuple("0123"))
    images = Images(whole(0, 256, 40, 3, 9, 9).to(torch.uint8), whole(0, 4, 40))
    data = Dataset("random", images, images, images, tuple("0123"), *shape, "")
    context = Context(tmp_path, World(CPU), 3, Console(quiet=True), data, name="quantize")
    quantized = quantize(network, parse(QuantizeSettings, {"preset": "int8", "arithmetic": "float16"}), context)
    with torch_set(what):
        measured = evaluate_exactly(quantized, images)
    assert measured.largest_difference == 0 and measured.equal_answers == 1
    records = layer_sums(quantized.module)
    with exact_layers(quantized.module, records), torch.no_grad():
        usual = quantized.module(images.images.float() / 128 - 2)
        with torch_set(what):
            assert torch.equal(quantized.module(images.images.float() / 128 - 2), usual)
    assert len(records) == 3


def test_the_trial_is_made_once_and_nobody_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sums._floats_sum_exactly.cache_clear()
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        floats_sum_exactly(CPU)
    assert counter.get_total_flops() == 0
    monkeypatch.setattr(functional, "conv2d", None)  # a second trial would fail
    assert floats_sum_exactly(CPU) == floats_sum_exactly(torch.device("cpu"))
