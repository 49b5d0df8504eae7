"""Operators with windows, scatters, factors and states, against torch itself, its flop counter, and counts by hand."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from netpress.errors import UserError
from netpress.scoring import ScoreCard, count_multiply_adds, score
from netpress.tracing import trace

quick = settings(deadline=None, max_examples=40)
FLOATS = {"weight_bits": 32, "activation_bits": 32}


class Calls(nn.Module):
    """A forward pass of one function, with the parameter `w` if its shape is given."""

    def __init__(self, function: Callable[..., Tensor], *shape: int) -> None:
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.rand(shape) + 0.1) if shape else None

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) if self.w is None else self.function(x, self.w)


def counted(function: Callable[..., Tensor], size: tuple[int, ...], *shape: int) -> tuple[float, float]:
    card = score(Calls(function, *shape), size)
    return card.multiplications, card.additions


# --- pools


def places_read(pool: Callable[[Tensor], Tensor], size: tuple[int, ...]) -> list[int]:
    """How many places each output of a pool reads: those whose change changes it."""
    read = torch.zeros_like(pool(torch.zeros(1, 1, *size)))
    for place in itertools.product(*(range(length) for length in size)):
        x = torch.zeros(1, 1, *size)
        x[(0, 0, *place)] = 1
        read += (pool(x) != 0).float()
    return read.flatten().int().tolist()


@quick
@given(
    st.sampled_from([1, 2, 3]), st.lists(st.integers(1, 7), min_size=6, max_size=6), st.integers(1, 3), st.booleans()
)
def test_adaptive_pools_have_torchs_own_windows(places: int, sizes: list[int], channels: int, largest: bool) -> None:
    size, wanted = tuple(sizes[:places]), tuple(sizes[3 : 3 + places])
    kinds: Any = ((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), (nn.AdaptiveMaxPool1d,) * 1)
    layer = (nn.AdaptiveMaxPool2d(wanted) if places == 2 else nn.AdaptiveMaxPool3d(wanted)) if largest else None
    if largest and places == 1:
        return
    layer = layer if layer is not None else kinds[0][places - 1](wanted)
    windows = places_read(layer, size)
    card = score(layer, (channels, *size))
    comparisons = channels * sum(n - 1 for n in windows)
    if largest:
        assert (card.multiplications, card.additions) == (comparisons, 0)
    else:
        assert (card.multiplications, card.additions) == (channels * len(windows), comparisons)
    assert score(layer, (channels, *size), convention="uci").additions in (0, channels * sum(windows))


# --- transposed convolutions


@st.composite
def scatters(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    places = draw(st.sampled_from([1, 2]))
    groups = draw(st.sampled_from([1, 1, 2]))
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(places))
    stride = tuple(draw(st.integers(1, 4)) for _ in range(places))
    dilation = draw(st.integers(1, 2))
    padding = draw(st.integers(0, 1)) if min(kernel) > 1 else 0
    extra = draw(st.integers(0, max(0, min(min(stride), 2) - 1)))
    size = tuple(draw(st.integers(2, 4)) for _ in range(places))
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[places - 1]
    layer: Any = kind(
        inputs, outputs, kernel, stride, padding, extra, groups, bias=draw(st.booleans()), dilation=dilation
    )
    mask = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    with torch.no_grad():
        layer.weight.copy_((mask > draw(st.sampled_from([0.0, 0.4]))).float())
    return layer, (inputs, *size)


@quick
@given(scatters())
def test_transposed_convolutions_output_by_output(case: tuple[Any, tuple[int, ...]]) -> None:
    """Weights of 1 and images of 1: what arrives at an output is how many products meet there."""
    layer, size = case
    with torch.no_grad():
        bias, layer.bias = layer.bias, None
        met = layer(torch.ones(1, *size)).flatten().round().int().tolist()
        layer.bias = bias
    card = score(layer, size)
    assert card.multiplications == sum(met)
    assert card.additions == sum(n - 1 + (bias is not None) for n in met if n)
    with torch.device("meta"):
        shapes = type(layer)(*_arguments(layer))
    dense = score(shapes, size)
    with torch.no_grad():
        layer.weight.fill_(1)
    assert score(layer, size).operations == dense.operations


def _arguments(layer: Any) -> tuple[Any, ...]:
    return (
        *(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding),
        *(layer.output_padding, layer.groups, layer.bias is not None, layer.dilation),
    )


def test_a_stride_beyond_the_kernel_leaves_outputs_without_a_value() -> None:
    card = score(nn.ConvTranspose2d(3, 4, 1, stride=3), (3, 4, 4))
    assert (card.multiplications, card.additions) == (3 * 4 * 16, (2 + 1) * 4 * 16)  # 16 of 100 places


# --- products of matrices


@pytest.mark.parametrize(
    ("function", "size", "shape", "wanted"),
    [
        # [1, 6] @ [6, 6]: 36 products, 30 additions within sums; the added value is 6 more.
        (lambda x, w: torch.addmm(x, x, w), (6,), (6, 6), (36, 36)),
        (lambda x, w: torch.addmm(x, x, w, alpha=2), (6,), (6, 6), (42, 36)),
        (lambda x, w: torch.addmm(x, x, w, beta=3), (6,), (6, 6), (42, 36)),
        (lambda x, w: torch.addmm(x, x, w, alpha=2, beta=3), (6,), (6, 6), (48, 36)),
        (lambda x, w: torch.addmm(x, x, w, beta=0), (6,), (6, 6), (36, 30)),
        (lambda x, w: torch.addmm(w[0], x, w, beta=3), (6,), (6, 6), (36, 36)),  # a constant is multiplied beforehand
        (lambda x, w: torch.addmm(w[0], x, w), (6,), (6, 6), (36, 36)),
        (lambda x, w: torch.addmv(x[0], w, x[0]), (6,), (6, 6), (36, 36)),
        (lambda x, w: torch.baddbmm(x, x, w, alpha=0.5), (5, 6), (1, 6, 6), (210, 180)),
        (lambda x: torch.baddbmm(x, x, x), (6, 6), (), (216, 216)),
        (lambda x: torch.bmm(x, x), (6, 6), (), (216, 180)),
        (lambda x, w: torch.addr(x[0], x[0, :1], w, beta=1), (6,), (6,), (6, 6)),
        (lambda x: torch.addcmul(x, x, x), (6,), (), (6, 6)),
        (lambda x: torch.addcmul(x, x, x, value=2), (6,), (), (12, 6)),
        (lambda x: torch.addcdiv(x, x, x), (6,), (), (6, 6)),
        (lambda x: torch.lerp(x, 1 + x, 0.3), (6,), (), (6, 18)),
        (lambda x: functional.glu(x), (6,), (), (9, 3)),
        (lambda x: torch.where(x > 0, x, x + 1), (6,), (), (12, 6)),
        (lambda x: torch.einsum("bi,bj->bij", x, x), (6,), (), (36, 0)),
    ],
)
def test_products_with_what_is_added_and_factors(
    function: Any, size: tuple[int, ...], shape: tuple[int, ...], wanted: tuple[int, int]
) -> None:
    assert counted(function, size, *shape) == wanted


def test_the_products_of_a_batch_that_are_summed() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        return torch.addbmm(x[0, :, :2], x.expand(3, 5, 6), w)  # 10 sums of 3 * 6 products, and a value added to each

    module = Calls(function, 3, 6, 2)
    with torch.no_grad():
        module.w[0, :, 0] = 0  # type: ignore[index]
    card = score(module, (5, 6))
    assert (card.multiplications, card.additions) == (5 * (12 + 18), 5 * (12 + 18))


# --- layers with a state


def recurrent(kind: str, inputs: int, hidden: int, steps: int) -> tuple[int, int]:
    """Multiplications and additions by hand: products with input and state, two biases, their sum; the gates."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    products = gates * hidden * (inputs + hidden)
    sums = gates * hidden * (inputs - 1 + hidden - 1 + 2)
    sigmoid, tanh = (2, 1), (1, 0)
    match kind:
        case "LSTM":  # three sigmoids, two tanh; f * c + i * g, o * tanh(c)
            sums += 4 * hidden
            multiplications, additions = 3 * sigmoid[0] + 2 * tanh[0] + 3, 3 * sigmoid[1] + 1
        case "GRU":  # two sigmoids of sums, n + r * m in tanh, (h - n) * z + n
            sums += 2 * hidden
            multiplications, additions = 2 * sigmoid[0] + tanh[0] + 2, 2 * sigmoid[1] + 1 + 2
        case _:
            sums += hidden
            multiplications, additions = tanh
    return steps * (products + hidden * multiplications), steps * (sums + hidden * additions)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("steps", [1, 3])
def test_recurrent_layers(kind: str, steps: int) -> None:
    layer = getattr(nn, kind)(5, 4, batch_first=True)
    card = score(layer, (steps, 5))
    assert (card.multiplications, card.additions) == recurrent(kind, 5, 4, steps)
    assert card.params == sum(parameter.numel() for parameter in layer.parameters()) / 2


def test_the_language_model_of_the_third_track_in_small() -> None:
    """An embedding that is also the output's weight, an LSTM, and a projection: reads whole numbers."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(50, 6)
            self.lstm = nn.LSTM(6, 8, batch_first=True)
            self.project = nn.Linear(8, 6)
            self.out = nn.Linear(6, 50, bias=False)
            self.out.weight = self.words.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.project(self.lstm(self.words(x))[0]))

    card = score(Words(), (3,), track="wikitext103")
    lstm, additions = recurrent("LSTM", 6, 8, 3)
    assert card.multiplications == lstm + 3 * (8 * 6 + 6 * 50)
    assert card.additions == additions + 3 * (8 * 6 + 5 * 50)
    assert card.params == (50 * 6 + 4 * 8 * (6 + 8 + 2) + 8 * 6 + 6) / 2
    assert card.track.operations == 318e6


def test_more_layers_equal_torchs_flop_counter() -> None:
    module = nn.Sequential(
        nn.ConvTranspose2d(3, 4, 2, stride=3), nn.GELU(), nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 2, 3)
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 3, 5, 5))
    assert count_multiply_adds(module, (3, 5, 5)) == counter.get_total_flops() / 2


# --- complex values


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.view_as_real(torch.view_as_complex(x.reshape(1, 3, 2)) * 2),
        lambda x: torch.fft.rfft(x).abs(),
        lambda x: torch.complex(x, x).real,
        lambda x: (x * 1j).imag,
    ],
)
def test_complex_values_are_refused(function: Any) -> None:
    with pytest.raises(UserError, match=r"complex|no rule says"):
        score(Calls(function), (6,))


def test_a_complex_constant_is_as_good_as_its_parts() -> None:
    def function(x: Tensor) -> Tensor:
        turns = torch.view_as_real(torch.polar(torch.ones(3), torch.arange(3.0)))  # cos and sin of 0, 1, 2
        return x.reshape(1, 3, 2) * turns

    card: ScoreCard = score(Calls(function), (6,))
    assert (card.multiplications, card.storage_bits + card.mask_bits) == (6, 5 * 16 + 6)


def test_a_trace_knows_its_windows() -> None:
    (operation,) = trace(nn.AdaptiveAvgPool2d((1, 2)), (3, 1, 3))
    assert operation.windows == ((2, 6),) and operation.read == 12
    (operation,) = trace(nn.AdaptiveAvgPool1d(3), (1, 4)).operations[1:2]
    assert operation.windows == ((2, 3),)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.zeros(1, 6).scatter(1, torch.zeros(1, 6, dtype=torch.long), x, reduce="add"),
        lambda x: torch.zeros(1, 6).scatter_add(1, torch.zeros(1, 6, dtype=torch.long), x),
        lambda x: torch.zeros(1, 6).index_put((torch.tensor([0, 0]),), x, accumulate=True),
        lambda x: torch.zeros(1, 6).index_add(1, torch.tensor([0, 1, 2, 3, 4, 0]), x),
    ],
)
def test_values_that_are_added_where_they_are_put_are_no_moves(function: Any) -> None:
    with pytest.raises(UserError, match="no rule says what this operator costs"):
        score(Calls(function), (6,))


def test_single_values_are_reduced_to_themselves() -> None:
    assert counted(lambda x: x.sum().amax(0) + x.mean().max() + x[0, 0].sum(0), (6,)) == (1, 5 + 5 + 2)
    assert counted(lambda x: x.clamp(torch.zeros(6), torch.full((6,), 6.0)), (6,)) == (12, 0)
