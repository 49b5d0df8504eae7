"""Counting against brute force: every product of small random layers is listed one by one."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from netpress.models.registry import FAMILIES, parse_model
from netpress.scoring import count_multiply_adds, score
from netpress.tracing import Operation, trace

pytestmark = pytest.mark.slow

quick = settings(deadline=None, max_examples=40)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, tuple[int, int, int]]:
    """A convolution with some weights 0, and an input of any shape that it can take."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs = groups * draw(st.integers(1, 3))
    outputs = groups * draw(st.integers(1, 3))
    if draw(st.booleans()):  # depthwise
        groups = outputs = inputs
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 1)))
    dilation = draw(st.integers(1, 2))
    height, width = draw(st.integers(5, 8)), draw(st.integers(5, 9))
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    mask = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    with torch.no_grad():
        layer.weight.copy_((mask > draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))).float() * (mask + 0.1))
    return layer, (inputs, height, width)


def products_by_hand(layer: nn.Conv2d, shape: tuple[int, int, int]) -> tuple[list[int], int]:
    """For each output how many non-zero weights it meets, padding included; and the dense number of all."""
    _, height, width = shape
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    met, dense = [], 0
    for channel in range(layer.out_channels):
        rows = range(0, height + 2 * int(ph) - dh * (kh - 1), sh)
        columns = range(0, width + 2 * int(pw) - dw * (kw - 1), sw)
        for _ in itertools.product(rows, columns):
            count = 0
            for part, y, x in itertools.product(range(layer.in_channels // layer.groups), range(kh), range(kw)):
                dense += 1
                count += layer.weight[channel, part, y, x].item() != 0
            met.append(count)
    return met, dense


@quick
@given(convolutions())
def test_convolutions(case: tuple[nn.Conv2d, tuple[int, int, int]]) -> None:
    layer, shape = case
    met, dense = products_by_hand(layer, shape)
    (operation,) = trace(layer, shape)
    assert sorted(n for n, outputs in operation.terms for _ in range(outputs)) == sorted(met)
    assert operation.multiply_adds == dense
    assert operation.output == tuple(layer(torch.zeros(1, *shape)).shape)
    row = score(layer, shape, weight_bits=32, activation_bits=32).rows[0]
    bias = layer.bias is not None
    assert row.multiplications == sum(met)
    assert row.additions == sum(n - 1 + bias for n in met if n)
    kept = sum(weight != 0 for weight in layer.weight.detach().flatten().tolist())
    total = layer.weight.numel()
    assert row.mask_bits == (total if kept < total else 0)
    assert row.storage_bits == 32 * (kept + (layer.out_channels if bias else 0))
    cheaper = score(layer, shape, weight_bits=4, activation_bits=4, mask="cheaper").rows[0]
    scales = 16 * (layer.out_channels + 1)  # of weights and input
    vectors = 32 * layer.out_channels if bias else 0
    assert cheaper.storage_bits + cheaper.mask_bits == min(4 * total, 4 * kept + total) + scales + vectors


@quick
@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99), st.integers(1, 8), st.integers(1, 8)
)
def test_adder_trees(inputs: int, outputs: int, positions: int, seed: int, weight_bits: int, value_bits: int) -> None:
    """Additions of an exact tree, made by really pairing values up."""
    layer = nn.Linear(inputs * 5, outputs, bias=False)
    mask = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(seed)) > 0.4
    with torch.no_grad():
        layer.weight.copy_(mask.float())
    cost = 0.0
    for row in mask.sum(1).tolist():
        widths = [(1 if weight_bits == 1 else weight_bits) + value_bits] * row
        while len(widths) > 1:
            paired = [max(widths[i], widths[i + 1]) + 1 for i in range(0, len(widths) - 1, 2)]
            cost += positions * sum(max(widths[i], widths[i + 1]) for i in range(0, len(widths) - 1, 2))
            widest = max(paired)  # every value of the next level is as wide as that level
            widths = [widest] * (len(paired) + len(widths) % 2)
    counted = score(layer, (positions, inputs * 5), weight_bits=weight_bits, activation_bits=value_bits)
    rows = {row.kind: row for row in counted.rows}
    row = rows["linear"]
    assert row.additions * row.addition_bits == pytest.approx(cost)


class Shared(nn.Module):
    """One convolution used several times, one never."""

    def __init__(self, uses: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.never = nn.Conv2d(2, 7, 1)
        self.uses = uses

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.uses):
            x = self.conv(x)
        return x


@quick
@given(st.integers(1, 4), st.integers(3, 6))
def test_shared_modules_are_stored_once_and_counted_each_time(uses: int, side: int) -> None:
    once = score(Shared(1), (2, side, side))
    many = score(Shared(uses), (2, side, side))
    assert many.params == once.params == (2 * 18 + 2 * 2 - 2) * 16 / 32
    assert many.operations == uses * once.operations
    assert [row.name for row in many.rows if row.uncounted] == ["never.weight", "never.bias"]
    assert len({row.name for row in many.rows}) == len(many.rows)


@quick
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(5, 9), st.booleans())
def test_pools(channels: int, kernel: int, stride: int, side: int, largest: bool) -> None:
    layer = (nn.MaxPool2d if largest else nn.AvgPool2d)(kernel, stride)
    row = score(layer, (channels, side, side), weight_bits=32, activation_bits=32).rows[0]
    outputs = layer(torch.zeros(1, channels, side, side)).numel()
    window = kernel * kernel
    expected = ((window - 1) * outputs, 0) if largest else (outputs, (window - 1) * outputs)
    assert (row.multiplications, row.additions) == expected


def all_presets() -> list[str]:
    return [f"{name}:{preset}" for name, family in FAMILIES.all().items() for preset in family.presets]


@pytest.mark.parametrize("name", all_presets())
def test_multiply_adds_equal_torchs_own_counter(name: str) -> None:
    """An independent count: torch's flop counter, which charges a multiply-add as 2."""
    choice = parse_model(name)
    with torch.device("meta"):
        module = choice.family.build(choice.settings).eval()
    size = (choice.settings.channels, choice.settings.image_size, choice.settings.image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.empty(1, *size, device="meta"))
    assert count_multiply_adds(module, size) == counter.get_total_flops() / 2


def test_transposed_convolutions_and_matrix_products_equal_torchs_counter() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(x).flatten(2).transpose(1, 2)
            return self.attention(y, y, y, need_weights=False)[0]

    module = Net().eval()
    torch.backends.mha.set_fastpath_enabled(False)  # fused kernels are unknown to torch's counter
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            module(torch.zeros(1, 4, 5, 5))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert count_multiply_adds(module, (4, 5, 5)) == counter.get_total_flops() / 2


def test_an_operation_knows_its_multiply_adds() -> None:
    (operation,) = trace(nn.Linear(5, 3), (5,))
    assert isinstance(operation, Operation)
    assert (operation.window, operation.outputs, operation.multiply_adds) == (5, 3, 15)
