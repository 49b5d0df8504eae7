"""Integer arithmetic: its programs give the integers that docs/formats.md defines, whatever a network is made of."""

import math
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import FAMILIES, QUICK, SIZE, context, family, images, logits, modules, random_network
from plain_integers import answer, rescaled, shifted, unit_length
from torch import Tensor, nn

from netpress.compression.quantization.post_training import quantize_once
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Images, normalize
from netpress.errors import UserError
from netpress.evaluation import evaluate_exactly, predict
from netpress.evaluation.accuracy import collect_answers
from netpress.evaluation.exact import exact_answers, integer_layers
from netpress.network import Architecture, InputSpec, Network, inspect_file, load, save
from netpress.numerics.fixed_point import as_factor, rescale, shift
from netpress.numerics.formats import Integer
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import quantized_layers, quantized_like
from netpress.program import execute, lower
from netpress.program.curves import CURVES, table
from netpress.program.execution import calculate
from netpress.program.integers import IntegerUnitLength
from netpress.scoring import score
from netpress.settings import parse


def check_against_definitions(network: Network, shown: Images) -> None:
    program, exact = lower(network), logits(network, shown)
    scale = program.operations[-1].scale  # type: ignore[attr-defined]
    for pixels, answered in zip(shown.images.numpy(), exact, strict=True):
        assert torch.equal(torch.from_numpy(answer(program, pixels)).float() * scale, answered)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["int8", "int4", "fixed-9-12", "binary"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_defined_integers(name: str, preset: str, tmp_path: Path) -> None:
    if preset != "int8" and name not in ("c_efficientnet", "cosine", "densenet"):
        pytest.skip("every preset on three families, one on all")
    network = quantize(family(name), parse(QuantizeSettings, {"preset": preset, **QUICK}), context(tmp_path))
    save(network, tmp_path / "q.netpress")
    loaded, shown = load(tmp_path / "q.netpress"), images(3, 9)
    check_against_definitions(loaded, shown)
    measured = evaluate_exactly(loaded, shown)
    assert measured.largest_difference < 0.2
    if preset == "int8":  # 8 images say less of the sums of one bit's weights
        assert measured.saturated == {}
    assert torch.equal(logits(network, shown), logits(loaded, shown))


@pytest.mark.slow
def test_batches_and_threads_change_no_bit(tmp_path: Path) -> None:
    network = quantize_once(family("c_efficientnet"), parse(QuantizeSettings, QUICK), context(tmp_path))
    shown = images(259, 4)
    expected, threads = logits(network, shown).numpy().tobytes(), torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for size in (1, 7, 256):  # as `evaluate --exact` collects them
                some = shown.take(torch.arange(21)) if size == 1 else shown
                with exact_answers(network, integer_layers(network)) as answer:
                    answers = collect_answers(answer, network, some, size).numpy().tobytes()
                assert len(answers) == 4 * 10 * len(some) and expected.startswith(answers)
    finally:
        torch.set_num_threads(threads)


# --- networks drawn at random


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    module=modules(),
    height=st.integers(7, 9),
    width=st.integers(7, 10),
    bits=st.integers(2, 8),
    seed=st.integers(0, 99),
)
def test_random_networks_give_the_defined_integers(
    tmp_path_factory: pytest.TempPathFactory, module: nn.Module, height: int, width: int, bits: int, seed: int
) -> None:
    size, folder = (height, width), tmp_path_factory.mktemp("random")
    made = random_network(module, size, bits, seed, folder)
    check_against_definitions(made, images(2, seed, size))


# --- the primitives


WORD = st.integers(-(2**15), 2**15 - 1)


@given(st.lists(st.tuples(WORD, WORD), min_size=1, max_size=20), st.integers(-15, 30))
def test_the_primitives_are_those_of_whole_numbers(pairs: list[tuple[int, int]], amount: int) -> None:
    x, m = (torch.tensor(values, dtype=torch.int32) for values in zip(*pairs, strict=True))
    for value, (a, b) in zip(rescale(x, m).tolist(), pairs, strict=True):
        assert value == math.floor(Fraction(a * b, 2**15) + Fraction(1, 2))
    for value, (a, _) in zip(shift(x, torch.tensor(amount)).tolist(), pairs, strict=True):
        exact = Fraction(a) / Fraction(2) ** amount
        rounded = math.floor(exact + Fraction(1, 2)) if amount > 0 else int(exact)
        assert value == max(-(2**15), min(2**15 - 1, rounded))


@given(st.floats(2.0**-31, 2.0**14), st.sampled_from([11, 15]), st.sampled_from([1, -1]))
def test_a_factor_is_the_nearest_of_so_many_bits(real: float, bits: int, sign: int) -> None:
    factor = as_factor(torch.tensor(sign * real, dtype=torch.float64), bits)
    multiplier, amount = int(factor.multiplier), int(factor.amount)
    assert 2**14 <= abs(multiplier) < 2**15 and multiplier % 2 ** (15 - bits) == 0
    stands_for = Fraction(multiplier, 2**15) / Fraction(2) ** amount
    assert abs(stands_for / Fraction(sign * real) - 1) <= Fraction(1, 2**bits)


def test_factors_beyond_the_shifts() -> None:
    factor = as_factor(torch.tensor([0.0, 2.0**-40, 2.0**20, -(2.0**20)], dtype=torch.float64))
    assert factor.multiplier.tolist() == [0, 0, 2**15 - 1, -(2**15 - 1)]
    assert factor.amount.tolist() == [0, 0, -15, -15]


@given(st.lists(WORD, min_size=1, max_size=12))
def test_unit_lengths_by_whole_roots(vector: list[int]) -> None:
    made = calculate(IntegerUnitLength("x", ("x",), "y", 1), torch.tensor([vector], dtype=torch.int32))
    assert made[0].tolist() == unit_length(np.array(vector, dtype=np.int64)).tolist()
    if any(vector):
        length = math.sqrt(sum((value / 2**15) ** 2 for value in made[0].tolist()))
        assert abs(length - 1) < 1e-3


@pytest.mark.parametrize("name", CURVES)
def test_curves_are_the_functions_to_a_few_units(name: str) -> None:
    function, fraction = CURVES[name]
    points = np.array(table(name).values)
    v = np.arange(-(2**15), 2**15)
    u = v + 2**15
    made = points[u >> 8] + (((points[(u >> 8) + 1] - points[u >> 8]) * (u & 255) + 128) >> 8)
    exact = np.array([function(value / 2**fraction) for value in v]) * 2**15
    assert np.abs(made - exact).max() < 6
    # No entry hangs on a library's last bit.
    entries = np.array([function((place - 128) * 2.0 ** (8 - fraction)) * 2**15 for place in range(257)])
    assert np.abs(np.abs(entries - np.floor(entries)) - 0.5).min() > 1e-6


def test_shifts_of_whole_arrays_agree() -> None:
    x = np.array([-32768, -3, -2, -1, 0, 1, 2, 3, 32767], dtype=np.int64)
    assert shifted(x, 1).tolist() == shift(torch.from_numpy(x), torch.tensor(1)).tolist()
    assert rescaled(x, 2**14).tolist() == shifted(x, 1).tolist()  # S(x, 1) = R(x, 2**14)


# --- what is counted, refused and kept


@pytest.mark.slow
def test_saturations_are_counted_by_name(tmp_path: Path) -> None:
    network = quantize_once(family("resnet"), parse(QuantizeSettings, QUICK), context(tmp_path))
    assert evaluate_exactly(network, images(4, 9)).saturated == {}
    layer = quantized_layers(network.module)["stem.conv"]
    assert layer.output_scale is not None
    layer.output_scale.data /= 16
    measured = evaluate_exactly(network, images(4, 9))
    assert measured.saturated is not None and measured.saturated["stem.conv"] > 0
    assert measured.as_json()["saturated"]["stem.conv"] == measured.saturated["stem.conv"]
    counts, program = Counter[str](), lower(network)
    execute(program, normalize(images(4, 9).images, network.input.mean, network.input.std), saturated=counts)
    assert counts == measured.saturated


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"leave_out": ["stem"]}, 'leave_out: stem.conv would stay in floats, and arithmetic = "integer" has none'),
        ({"preset": "half"}, 'stem.conv: arithmetic = "integer" needs weights and inputs that are integers'),
        (
            {"inputs": {"kind": "int", "bits": 16, "scale": "tensor"}},
            "stem.conv: .* takes inputs of at most 15 bits, not 16",
        ),
    ],
)
def test_floats_are_refused_by_name(values: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        quantize(family("resnet"), parse(QuantizeSettings, {**QUICK, **values}), context(tmp_path))


class Odd(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.conv, self.part, self.linear = nn.Conv2d(3, 4, 3), part, nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.part(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (nn.ELU(), 'part: arithmetic = "integer" has no operation for the activation elu; .* "float16"'),
        (nn.AvgPool2d(4, ceil_mode=True), "part: .* windows that are cut off"),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), "part: .* count padding in some places only"),
        (nn.AdaptiveAvgPool2d(4), "part: .* means of 6 x 6 values in 4 x 4 unequal windows"),
    ],
)
def test_what_has_no_integer_operation_is_refused_by_name(part: nn.Module, reason: str, tmp_path: Path) -> None:
    spec = InputSpec(3, SIZE, SIZE, (0.5,) * 3, (0.25,) * 3)
    network = Network(Odd(part).eval(), Architecture("import", {}), spec, tuple("0123456789"))
    with pytest.raises(UserError, match=reason):
        quantize_once(network, parse(QuantizeSettings, {**QUICK, "fold": False}), context(tmp_path))


@pytest.mark.slow
def test_a_quantized_network_keeps_its_integers(tmp_path: Path) -> None:
    values = {**QUICK, "arithmetic": "float16"}
    before = quantize(family("densenet"), parse(QuantizeSettings, values), context(tmp_path))
    after = quantize(before, parse(QuantizeSettings, QUICK), context(tmp_path))
    old, new = before.module.state_dict(), after.module.state_dict()
    added = set(new.keys() - old.keys())
    assert added and all(name.endswith(".output_scale") for name in added)
    assert all(torch.equal(new[name], old[name]) for name in old)
    shown = images(64, 5)
    a, b = predict(before, shown), predict(after, shown)
    assert (a - b).abs().max() < 0.05 * a.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c_efficientnet", "densenet"])
def test_the_cards_bits_are_the_files(name: str, tmp_path: Path) -> None:
    cards = {}
    for arithmetic in ("integer", "float16"):
        values = {**QUICK, "arithmetic": arithmetic}
        network = quantize(family(name), parse(QuantizeSettings, values), context(tmp_path))
        save(network, tmp_path / "q.netpress")
        card, found = score(network), inspect_file(tmp_path / "q.netpress")
        assert found["tensor_bits"] - found["alignment_bits"] == card.storage_bits + card.mask_bits
        cards[arithmetic] = card
        scales = [row for row in found["layers"] if row["name"].endswith(".output_scale")]
    layers = quantized_layers(network.module)
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in network.module.modules())
    assert not scales and norms == (0 if name == "c_efficientnet" else 4)
    # A byte for the scale of each layer and norm, and nothing else.
    more = cards["integer"].storage_bits - cards["float16"].storage_bits
    assert more == 8 * (len(layers) + norms)
    assert cards["integer"].operations < 1.02 * cards["float16"].operations


# --- training


@pytest.mark.slow
def test_training_simulates_the_arithmetic(tmp_path: Path) -> None:
    values = {**QUICK, "train": {"epochs": 1, "batch_size": 4}}
    network = quantize(family("resnet"), parse(QuantizeSettings, values), context(tmp_path))
    check_against_definitions(network, images(2, 9))


def test_in_training_outputs_lie_on_their_grid_and_saturate_without_gradient() -> None:
    formats = LayerFormats(input=Integer(bits=8, scale="tensor"), arithmetic="integer")
    layer = quantized_like(nn.Linear(4, 2, bias=True), formats).train()
    assert layer.weight_scale is not None and layer.input_scale is not None and layer.output_scale is not None
    layer.weight.data = torch.tensor([[0.5, 0.25, -0.5, 1.0], [60.0, 60.0, 60.0, 60.0]])
    layer.bias.data = torch.tensor([0.1, 0.2])
    layer.weight_scale.data.copy_(torch.tensor([2.0**-7, 0.5]))
    layer.input_scale.data.fill_(0.013671875)
    layer.output_scale.data.fill_(2.0**-9)
    x = torch.tensor([[0.7, -0.3, 0.2, 1.0], [1.7, 1.7, 1.7, 1.7]], requires_grad=True)
    made = layer(x)
    assert torch.equal(made * 2**9, (made * 2**9).round())
    # 60 * 4 * 1.7 is beyond the range: the sum saturates before the factor's mantissa multiplies it.
    mantissa = math.frexp(0.5 * 0.013671875)[0]
    assert abs(made[1, 1].item() - (64 * mantissa + 0.2)) < 0.01
    with torch.no_grad():
        assert (layer.eval()(x) - made).abs().max() <= 2.0**-9  # as it evaluates, to a unit
    layer.train()
    made[:, 1].sum().backward()
    assert x.grad is not None
    assert bool((x.grad == 0).all())
    x.grad = None
    layer(x)[:, 0].sum().backward()
    assert bool((x.grad[0] != 0).all())
