"""Quantized layers in training by compiled passes against the layers themselves, for each variant of the kernels."""

import ctypes
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from netpress.native import rounding
from netpress.native.library import available, library
from netpress.native.rounding import round_backward, round_values
from netpress.numerics.formats import Fixed, Integer, Ternary, integer_range
from netpress.numerics.grid import round_scale
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import QuantizedLayer, quantized_like
from netpress.numerics.rounding import quantize
from netpress.training.accelerated import accelerate

pytestmark = pytest.mark.skipif(not available(), reason="netpress was installed without a compiler")


@pytest.fixture(params=[4, 8, 16], autouse=True)
def lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    loaded: ctypes.CDLL = rounding._kernels()[0]
    if request.param > loaded.netpress_lanes():
        pytest.skip(f"this processor has no vectors of {request.param} floats")
    monkeypatch.setattr(rounding, "_kernels", lambda: (library(), request.param))
    yield request.param


@settings(deadline=None)
@given(
    bits=st.integers(1, 16),
    signed=st.booleans(),
    zero=st.integers(0, 9),
    mantissa=st.integers(1, 2047),
    exponent=st.integers(-24, 3),
    count=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_rounding_is_torchs_to_the_bit(
    bits: int, signed: bool, zero: int, mantissa: int, exponent: int, count: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    format = Integer(bits=bits, scale="tensor", signed=signed, zero_point=True)
    low, high = integer_range(format)
    scale = torch.tensor(mantissa * 2.0**exponent)
    # Half of the values lie on ties or near the ends of the range, where a last bit decides.
    x = torch.randn(count, generator=generator) * (high - low) * scale
    ties = (torch.randint(low - zero - 2, high - zero + 3, (count,), generator=generator) + 0.5) * scale
    x = torch.where(torch.rand(count, generator=generator) < 0.5, ties, x).requires_grad_()
    learned = scale.clone().requires_grad_()
    whole = quantize(x, format, learned, torch.tensor(float(zero))) - zero
    given_gradient = torch.randn(count, generator=generator)
    whole.backward(given_gradient)

    ends = (float(scale), low - zero, high - zero)
    values = x.detach()
    assert torch.equal(round_values(values, *ends), whole)
    gradient, total = round_backward(given_gradient, values, *ends, with_sum=True)
    assert x.grad is not None and learned.grad is not None and total is not None
    assert torch.equal(gradient, x.grad)
    size = float((x.grad * values).abs().sum() / scale)
    assert abs(-total / float(scale) - float(learned.grad)) <= 1e-5 * size


def test_nan_does_not_become_a_number() -> None:
    found = round_values(torch.tensor([float("nan"), 3.2, 1e30, -1e30] * 5), 0.5, -8, 7).view(5, 4)
    assert found[:, 0].isnan().all()
    assert (found[:, 1:] == torch.tensor([6.0, 7.0, -8.0])).all()


def test_what_no_quotient_holds_goes_to_the_end_of_the_range() -> None:
    x = torch.tensor([1e32, -1e32, float("inf"), -float("inf"), 1.0] * 7)
    rounded = round_values(x, 2.0**-24, -128, 127)
    assert rounded.tolist() == [127, -128, 127, -128, 127] * 7


def test_any_number_of_threads_gives_the_same_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, 1 << 20, generator=generator)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(round_backward(gradient, x, 0.25, -8, 7, with_sum=True))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found, results[0][0]) and total == results[0][1] for found, total in results)


@st.composite
def layers(draw: st.DrawFn) -> tuple[QuantizedLayer, Tensor]:
    """A quantized layer with scales that learn or do not, and what enters it."""
    torch.manual_seed(draw(st.integers(0, 99)))
    spread, bits = draw(st.sampled_from(["tensor", "channel"])), draw(st.integers(2, 9))
    weight = draw(st.sampled_from([Fixed(bits=bits), Integer(bits=bits, scale=spread), Ternary(scale=spread)]))
    signed, zero = draw(st.booleans()), draw(st.booleans())
    value = draw(
        st.sampled_from([Fixed(bits=bits), Integer(bits=bits, scale="tensor", signed=signed, zero_point=zero)])
    )
    bias = draw(st.booleans())
    if draw(st.booleans()):
        groups = draw(st.sampled_from([1, 4]))
        layer: nn.Conv2d | nn.Linear = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups, bias=bias)
        x = torch.randn(3, 4, 5, 6)
        if draw(st.booleans()):
            x = x.to(memory_format=torch.channels_last)
    else:
        layer, x = nn.Linear(4, 8, bias=bias), torch.randn(5, 4)
    arithmetic = draw(st.sampled_from(["float16", "float32", "integer"]))
    quantized = quantized_like(layer, LayerFormats(weight=weight, input=value, arithmetic=arithmetic))
    if quantized.output_scale is not None:
        quantized.output_scale.data.fill_(draw(st.sampled_from([2.0**-15, 2.0**-9])))  # the first one saturates
    assert quantized.weight_scale is not None and quantized.input_scale is not None
    high = max(1, integer_range(weight)[1])
    quantized.weight_scale.data.copy_(torch.rand(quantized.weight_scale.shape) * 0.5 / high + 0.1 / high)
    quantized.input_scale.data.copy_(round_scale(torch.rand(()) * 2 / integer_range(value)[1] + 0.01))
    if quantized.input_zero_point is not None:
        quantized.input_zero_point.fill_(draw(st.integers(0, 3)))
    quantized.weight_scale.requires_grad_(draw(st.booleans()))
    quantized.input_scale.requires_grad_(draw(st.booleans()))
    return quantized.train(), x


@settings(deadline=None)
@given(layers())
def test_a_layer_computes_and_learns_as_it_does_alone(case: tuple[QuantizedLayer, Tensor]) -> None:
    layer, x = case
    alone = _learn(layer, x)
    with accelerate(layer):
        fast = _learn(layer, x)
    assert fast.keys() == alone.keys()
    for name, expected in alone.items():
        size = float(expected.abs().max()) + 1e-2
        if name.endswith("_scale"):  # a sum of what the values and their rounding pull, which nearly cancels
            size += float(alone["pull"]) / float(layer.get_parameter(name).detach().min())
        torch.testing.assert_close(fast[name], expected, atol=1e-5 * size, rtol=0, msg=name)


def _learn(layer: QuantizedLayer, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    given = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y.backward(given)
    assert x.grad is not None
    gradients = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"result": y.detach(), "input": x.grad, "pull": (given * y).abs().sum().detach(), **gradients}


def test_the_fast_way_is_taken_and_left_in_evaluation() -> None:
    layer = quantized_like(nn.Conv2d(3, 4, 3), LayerFormats(arithmetic="float16"))
    x = torch.randn(2, 3, 6, 6)
    expected = layer.eval()(x)
    with accelerate(layer):
        assert torch.equal(layer(x), expected)
        layer.train()
        saved = layer(x).grad_fn.next_functions  # type: ignore[union-attr]
    assert any("_ScaledWeight" in str(function) for function, _ in saved)
