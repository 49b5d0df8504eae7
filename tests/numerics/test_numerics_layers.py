"""Quantized layers: integer sums equal their simulation, whatever the shape; formulas are the sources' own."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from netpress.errors import Failure
from netpress.numerics.calibration import (
    AnyCalibration,
    MinMax,
    Observer,
    Percentile,
    Sigma,
    SquaredError,
    bit_point,
    calibrate_tensor,
    grid_of_range,
)
from netpress.numerics.claims import check_claims, layer_sums
from netpress.numerics.formats import Binary, Fixed, Float16, Float32, GridFormat, Integer, Ternary, integer_range
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import QuantizedConv2d, freeze, plain_layers, quantized_like
from netpress.numerics.packing import decode_tensor, encode_tensor
from netpress.numerics.rounding import dequantize, quantize
from netpress.program import exact_layers

METHODS: list[AnyCalibration] = [MinMax(), Percentile(percent=99.0), SquaredError(), Sigma(deviations=6.0)]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _quantized(layer: nn.Module, formats: LayerFormats, inputs: Tensor) -> nn.Module:
    """The layer quantized, with grids for its own weights and these inputs."""
    new = quantized_like(layer, formats)
    with torch.no_grad():
        if new.weight_scale is not None:
            new.weight_scale.copy_(calibrate_tensor(new.weight, formats.weight, MinMax())[0])  # type: ignore[arg-type]
        if new.input_scale is not None:
            scale, zero_point = grid_of_range(*inputs.aminmax(), formats.input)  # type: ignore[arg-type]
            new.input_scale.copy_(scale)
            if zero_point is not None and new.input_zero_point is not None:
                new.input_zero_point.copy_(zero_point)
    new.freeze(MinMax())
    return new.eval()


weights = st.one_of(
    st.builds(Integer, bits=st.integers(2, 9), scale=st.sampled_from(["tensor", "channel"])),
    st.builds(Fixed, bits=st.integers(2, 9)),
    st.just(Ternary()),
    st.just(Binary(scale="channel")),
)
inputs = st.one_of(
    st.builds(Integer, bits=st.integers(2, 9), scale=st.just("tensor"), signed=st.booleans(), zero_point=st.booleans()),
    st.builds(Fixed, bits=st.integers(2, 12)),
)


@settings(deadline=None, max_examples=40)
@given(
    weight=weights,
    value=inputs,
    arithmetic=st.sampled_from(["float16", "float32"]),
    shape=st.sampled_from(["dense", "depthwise", "multiplied", "grouped", "pointwise", "even", "same", "linear"]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_integer_sums_equal_the_simulation(
    weight: GridFormat,
    value: GridFormat,
    arithmetic: str,
    shape: str,
    stride: int,
    padding: int,
    dilation: int,
    bias: bool,
    seed: int,
) -> None:
    places = {"stride": stride, "padding": padding, "dilation": dilation, "bias": bias}
    layer: nn.Module
    match shape:
        case "linear":
            layer = nn.Linear(10, 5, bias=bias)
        case "pointwise":
            layer = nn.Conv2d(6, 5, 1, stride=stride, padding=padding, bias=bias)
        case "same":
            layer = nn.Conv2d(6, 5, (3, 5), padding="same", dilation=dilation, bias=bias)
        case _:
            outputs, kernel, groups = {
                "dense": (5, 3, 1),
                "depthwise": (6, 3, 6),
                "multiplied": (12, (3, 2), 6),
                "grouped": (4, 3, 2),
                "even": (5, 2, 1),
            }[shape]
            layer = nn.Conv2d(6, outputs, kernel, groups=groups, **places)  # type: ignore[arg-type]
    generator = _generator(seed)
    for parameter in layer.parameters():
        parameter.data.normal_(generator=generator)
    x = torch.randn((3, 10) if shape == "linear" else (3, 6, 7, 8), generator=generator) + 0.5
    formats = LayerFormats(weight=weight, input=value, arithmetic=arithmetic)  # type: ignore[arg-type]
    quantized = _quantized(layer, formats, x)
    with torch.no_grad():
        simulated = quantized(x)
        sums = layer_sums(quantized)
        with exact_layers(quantized, sums):
            exact = quantized(x)
        # By hand: stored integers, padded with what stands for zero, multiplied as plain float64 values.
        integers = quantize(x, value, quantized.input_scale, quantized.input_zero_point)  # type: ignore[arg-type]
        seen = dequantize(integers, quantized.input_scale, quantized.input_zero_point).double()  # type: ignore[arg-type]
        by_hand = copy.deepcopy(layer).to(torch.float64)(seen)
    tolerance = 4e-3 if arithmetic == "float16" else 2e-6
    size = float(by_hand.abs().max()) + float(quantized.weight.detach().abs().sum()) * float(seen.abs().max()) * 0.05
    assert torch.equal(simulated, exact)  # sums below 2**24 leave no difference at all
    assert float((exact.double() - by_hand).abs().max()) <= tolerance * size
    assert exact.dtype == (torch.float16 if arithmetic == "float16" else torch.float32)
    record = sums[""]
    assert 0 < record.largest <= max(-record.lowest, record.highest)
    assert record.met_width <= record.needed_width <= record.claimed_width  # a tree never overflows
    check_claims(sums)


def test_narrow_accumulators_are_refused_by_name() -> None:
    layer = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Flatten())
    layer[0] = quantized_like(layer[0], LayerFormats(accumulators=16))
    claims = layer_sums(layer)
    assert claims["0"].claimed_width == 16
    claims["0"].highest = 2**15 - 1
    claims["0"].lowest = -(2**15)
    check_claims(claims)
    claims["0"].highest = 2**15
    with pytest.raises(Failure, match="0 claims 16 bits and needs 17"):
        check_claims(claims)


def test_the_needed_width_is_reached_by_some_input() -> None:
    layer = quantized_like(nn.Linear(5, 1, bias=False), LayerFormats(arithmetic="float32"))
    layer.weight.data = torch.tensor([[3.0, -2.0, 5.0, 1.0, -1.0]])
    sums = layer_sums(layer.eval())
    with exact_layers(layer, sums), torch.no_grad():
        layer(torch.tensor([[255.0, 0.0, 255.0, 255.0, 0.0]]))
    assert sums[""].largest == sums[""].highest == 255 * 9
    assert sums[""].lowest == -255 * 3
    assert layer.products() == 5


@given(mean=st.floats(-3, 3), deviation=st.floats(1e-3, 5), bits=st.integers(2, 16), seed=st.integers(0, 50))
def test_bit_points_are_waves_formula(mean: float, deviation: float, bits: int, seed: int) -> None:
    values = torch.randn(200, generator=_generator(seed)) * deviation + mean
    spread = float(values.double().std(correction=0))
    largest = abs(float(values.double().mean())) + 10 * spread  # wave.md section 4
    expected = bits - 1 - math.ceil(math.log2(largest + 1e-12))
    scale, _ = calibrate_tensor(values, Fixed(bits=bits), Sigma(deviations=10.0))
    assert scale == 2.0**-expected or abs(math.log2(largest) - round(math.log2(largest))) < 1e-5
    assert bit_point(torch.tensor(largest), bits) == expected or abs(math.log2(largest) % 1) < 1e-5
    rounded = quantize(values, Fixed(bits=bits), scale)
    by_hand = torch.round(torch.clamp(values * 2.0**expected, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    if scale == 2.0**-expected:
        assert torch.equal(rounded, by_hand)


def test_running_averages_of_activations() -> None:
    observer = Observer(Sigma(deviations=18.0, momentum=0.01), 2, _generator(0))
    first, second = torch.randn(50, generator=_generator(1)), 3 * torch.randn(50, generator=_generator(2)) + 1
    observer.watch(first)
    observer.watch(second)
    mean = 0.99 * first.mean() + 0.01 * second.mean()
    deviation = 0.99 * first.std(correction=0) + 0.01 * second.std(correction=0)
    scale, _ = observer.grid(Fixed(bits=12))
    assert scale == 2.0 ** (math.ceil(math.log2(float(mean.abs() + 18 * deviation))) - 11)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
@pytest.mark.parametrize(
    "format",
    [Integer(bits=6, scale="channel"), Integer(bits=6, scale="tensor", signed=False, zero_point=True), Fixed(bits=6)],
    ids=["channel", "zero point", "fixed"],
)
def test_calibrations_keep_values_near(method: AnyCalibration, format: GridFormat) -> None:
    tensor = torch.randn(4, 300, generator=_generator(3)) * torch.tensor([[0.1], [1.0], [2.0], [0.5]])
    scale, zero_point = calibrate_tensor(tensor, format, method)
    values = dequantize(quantize(tensor, format, scale, zero_point), scale, zero_point)
    assert float((values - tensor).square().mean()) < 0.03 * float(tensor.square().mean())
    assert torch.equal(decode_tensor(encode_tensor(values, format), format, values.shape), values)


def test_the_least_error_is_not_above_the_extremes() -> None:
    tensor = torch.randn(3, 400, generator=_generator(4)) ** 3
    for format in (Integer(bits=4), Ternary(scale="channel"), Integer(bits=3, zero_point=True, signed=False)):
        errors = []
        for method in (SquaredError(), MinMax()):
            low, high = tensor.amin(1), tensor.amax(1)
            grid = (
                calibrate_tensor(tensor, format, method) if method.kind == "mse" else grid_of_range(low, high, format)
            )
            errors.append((dequantize(quantize(tensor, format, *grid), *grid) - tensor).square().mean())
        assert errors[0] <= errors[1]


def test_gradients_are_those_of_lsq() -> None:
    format = Integer(bits=3, scale="tensor")
    low, high = integer_range(format)
    x = torch.tensor([-5.0, -0.6, 0.2, 0.7, 4.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    dequantize(quantize(x, format, scale), scale).sum().backward()
    inside = [x_ / 0.5 > low and x_ / 0.5 < high for x_ in x.tolist()]
    assert x.grad is not None and scale.grad is not None
    assert x.grad.tolist() == [float(i) for i in inside]
    # Equation 3: -v/s + round(v/s) inside, the range's end outside.
    by_hand = sum(
        round(v / 0.5) - v / 0.5 if i else (low if v < 0 else high) for v, i in zip(x.tolist(), inside, strict=True)
    )
    assert scale.grad.item() == pytest.approx(by_hand, abs=1e-6)


def test_binary_weights_keep_their_real_values() -> None:
    layer = quantized_like(nn.Linear(4, 2, bias=False), LayerFormats(weight=Binary(), input=Float32()))
    layer.weight.data = torch.tensor([[0.3, -0.2, 1.5, 0.0], [-2.0, 0.1, 0.1, -0.9]])
    before = layer.weight.detach().clone()
    layer.eval()(torch.ones(1, 4))
    assert torch.equal(layer.weight, before)  # evaluation leaves them
    layer.train()(torch.ones(1, 4)).sum().backward()
    assert torch.equal(layer.weight, before.clamp(-1, 1))  # training clips them
    assert layer.weight.grad is not None and torch.equal(layer.weight.grad, torch.ones(2, 4))
    layer.freeze(MinMax())
    assert layer.weight.detach().unique().tolist() == [-1.0, 0.0, 1.0]


def test_half_is_half() -> None:
    layer = nn.Conv2d(3, 4, 3)
    formats = LayerFormats(weight=Float16(), input=Float16())
    half = quantized_like(layer, formats).eval()
    half.freeze(MinMax())
    x = torch.randn(2, 3, 5, 5, generator=_generator(5))
    answer = half(x).detach()
    assert answer.dtype == torch.float16
    bias = layer.bias.detach().half()[:, None, None]  # type: ignore[union-attr]
    by_hand = torch.conv2d(x.half().double(), layer.weight.detach().half().double()).half() + bias
    assert float((answer - by_hand).abs().max()) <= 2**-10 * float(by_hand.abs().max())


def test_plain_layers_are_single_operations() -> None:
    layer = _quantized(nn.Conv2d(3, 4, 3), LayerFormats(), torch.randn(2, 3, 5, 5, generator=_generator(6)))
    x = torch.randn(2, 3, 5, 5, generator=_generator(7))
    with plain_layers(layer):
        assert torch.equal(layer(x), torch.conv2d(x, layer.weight, layer.bias))  # type: ignore[arg-type]
    assert layer(x).dtype == torch.float16


def test_freezing_changes_no_answer() -> None:
    layer = quantized_like(nn.Conv2d(3, 4, 3), LayerFormats(weight=Integer(bits=4))).eval()
    for parameter in (layer.weight_scale, layer.input_scale):
        assert parameter is not None
        parameter.data = torch.rand(parameter.shape, generator=_generator(8)) * 0.1 + 0.05
        parameter.requires_grad_(True)
    x = torch.rand(2, 3, 5, 5, generator=_generator(9))
    layer.bias.data = layer.bias.half().float()
    before = layer(x)
    freeze(layer, MinMax())
    assert torch.equal(layer(x), before)
    assert not any(p.requires_grad for p in (layer.weight_scale, layer.input_scale) if p is not None)
    parts = encode_tensor(layer.weight, layer.formats.weight, None, layer.weight_scale)
    assert set(parts) == {"values"}


def test_what_cannot_be_quantized_says_so() -> None:
    with pytest.raises(TypeError, match="BatchNorm2d cannot be quantized"):
        quantized_like(nn.BatchNorm2d(3), LayerFormats())
    with pytest.raises(ValueError, match="padding_mode 'reflect'"):
        QuantizedConv2d(1, 1, 3, padding_mode="reflect", formats=LayerFormats())
    for wrong, reason in [
        (LayerFormats(input=Integer(scale="channel")), "one scale"),
        (LayerFormats(weight=Integer(zero_point=True)), "without a zero point"),
        (LayerFormats(input=Binary()), "cannot be binary"),
        (LayerFormats(weight=Integer(bits=1)), "kind = 'binary'"),
    ]:
        with pytest.raises(ValueError, match=reason):
            quantized_like(nn.Linear(2, 2), wrong)
    observer = Observer(MinMax(), 1, _generator(0))
    with pytest.raises(Failure, match="did not run"):
        observer.grid(Fixed())
    with pytest.raises(Failure, match="not finite"):
        observer.watch(torch.tensor([1.0, float("nan")]))
    with pytest.raises(Failure, match="not finite"):
        calibrate_tensor(torch.tensor([float("inf")]), Fixed(), MinMax())
