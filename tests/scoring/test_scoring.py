"""The official convention, the score card, and the counter's own cases."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from netpress.errors import UserError
from netpress.network import Network, create
from netpress.scoring import Row, ScoreCard, choose_settings, score, score_trace, verify
from netpress.scoring.vectors import counter_vector
from netpress.tracing import trace

VECTORS = Path(__file__).parents[1] / "data" / "counting_vectors.json"


def rows_of(card: ScoreCard) -> dict[str, Row]:
    return {row.name: row for row in card.rows}


# --- the organisers' counter


def test_every_case_of_the_counter_agrees() -> None:
    document = json.loads(VECTORS.read_text())
    assert (len(document["cases"]), len(document["error_cases"])) == (160, 12)
    verified = verify(VECTORS)
    assert verified.disagreements == ()
    totals = len(document["process_counts"]) + len(document["efficientnet_b0"]["totals"])
    assert verified.cases == verified.agreeing == 160 + 12 + totals


def test_disagreements_are_listed(tmp_path: Path) -> None:
    document = json.loads(VECTORS.read_text())
    document["cases"][0]["expect"]["mults"] += 1
    document["error_cases"][0]["raises"] = None
    document["efficientnet_b0"]["totals"][0]["raw"]["adds"] -= 1
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps(document))
    verified = verify(path)
    assert verified.agreeing == verified.cases - 3
    assert [line.split(":")[0] for line in verified.disagreements] == [
        "case 1 (DepthWiseConv2D)",
        "error case 1 (Conv2D)",
        "efficientnet_b0 at sparsity 0",
    ]
    assert "mults 221184 instead of 221185" in verified.disagreements[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "no list `cases`"),
        ('{"cases": [{}]}', "not of the form"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "vectors.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        verify(path)


def test_an_operation_that_the_counter_does_not_have() -> None:
    with pytest.raises(UserError, match="SeparableConv2D: the counter has no such operation"):
        counter_vector("SeparableConv2D", {}, 0, 16)


# --- norms


class Scrambled(nn.Module):
    """Norms registered in another order than they run; what folds is decided by the flow of data."""

    def __init__(self) -> None:
        super().__init__()
        self.first_norm = nn.BatchNorm2d(4)
        self.last_norm = nn.BatchNorm2d(4)
        self.seen_norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 4, 1, bias=False)
        self.first = nn.Conv2d(3, 4, 1, bias=False)
        self.seen = nn.Conv2d(4, 4, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last_norm(self.last(self.first_norm(self.first(x))))
        y = self.seen(x)
        return self.seen_norm(y) + y  # the convolution's own result is used too


def test_folding_follows_the_data() -> None:
    traced = trace(Scrambled(), (3, 5, 5))
    assert traced.folded_norms() == {"first_norm": "first", "last_norm": "last"}
    rows = rows_of(score(Scrambled(), (3, 5, 5)))
    assert rows["first_norm"].uncounted.startswith("folded into first")
    assert rows["first"].additions == rows["first"].multiplications == 3 * 4 * 25
    assert rows["first"].storage_bits == 16 * (12 + 4)
    assert (rows["seen_norm"].multiplications, rows["seen_norm"].additions) == (100, 100)
    assert rows["seen_norm"].storage_bits == 16 * 8
    assert rows["seen"].storage_bits == 16 * (16 + 4)
    kept = rows_of(score(Scrambled(), (3, 5, 5), norms="kept"))
    assert kept["first_norm"].multiplications == 100
    assert kept["first"].additions == 2 * 4 * 25


class TwoNorms(nn.Module):
    """One convolution used twice, followed by `norms` in turn."""

    def __init__(self, norms: list[nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.norms = nn.ModuleList(norms)

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[1](self.conv(self.norms[0](self.conv(x))))


def test_a_shared_convolution_folds_only_one_norm() -> None:
    norm = nn.BatchNorm2d(3)
    assert len(trace(TwoNorms([norm, norm]), (3, 4, 4)).folded_norms()) == 2
    assert trace(TwoNorms([norm, nn.BatchNorm2d(3)]), (3, 4, 4)).folded_norms() == {}


def test_a_norm_with_the_statistics_of_the_example_never_folds() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, track_running_stats=False))
    rows = rows_of(score(module, (3, 4, 4)))
    assert rows["1"].multiplications > 2 * 64
    assert rows["0"].additions == 2 * 64


# --- widths


def test_gift_of_16_bits_and_its_absence() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    gift = rows_of(score(module, (3, 4, 4)))
    assert (gift["0"].multiplication_bits, gift["0"].addition_bits) == (16, 32)
    assert gift["1"].multiplication_bits == 16
    full = rows_of(score(module, (3, 4, 4), freebie=False))
    assert (full["0"].multiplication_bits, full["0"].addition_bits, full["1"].multiplication_bits) == (32, 32, 32)
    assert full["0"].storage_bits == 2 * gift["0"].storage_bits


@pytest.mark.parametrize(("accumulator", "bits"), [("tree", (8 + 8 + 9) / 3), (16, 16), (32, 32)])
def test_assumed_widths(accumulator: str | int, bits: float) -> None:
    module = nn.Conv2d(4, 2, 1, bias=False)
    card = score(module, (4, 3, 3), weight_bits=4, activation_bits=4, accumulator=accumulator, float_bits=16)
    row = card.rows[0]
    assert row.addition_bits == pytest.approx(bits)
    scales = 2 * 9  # one multiplication an output makes sums of integers real numbers again
    assert row.multiplications == 8 * 9 + scales
    assert row.multiplications * row.multiplication_bits == 8 * 9 * 4 + scales * 16
    assert row.storage_bits == 8 * 4 + 2 * 16 + 16
    assert "weights of 4 bits" in card.assumed[0] and len(card.assumed) == 4


def test_charging_the_quantizer() -> None:
    module = nn.Conv2d(4, 2, 1, bias=False)
    options = {"weight_bits": 4, "activation_bits": 4, "float_bits": 16}
    free = score(module, (4, 3, 3), **options)
    charged = score(module, (4, 3, 3), clamp="charged", **options)
    assert charged.operations - free.operations == 3 * 36 * 16 / 32
    assert "54 operations would be charged" in free.notes[0]


def test_sums_that_could_overflow_are_noted() -> None:
    wide = score(nn.Conv2d(300, 2, 1), (300, 1, 1), weight_bits=8, activation_bits=8, accumulator=16)
    assert any("could overflow in 1 layers" in note for note in wide.notes)
    narrow = score(nn.Conv2d(300, 2, 1), (300, 1, 1), weight_bits=3, activation_bits=3, accumulator=16)
    assert not any("overflow" in note for note in narrow.notes)


def network() -> Network:
    return create("c_efficientnet", {"widths": "tiny", "classes": 10}, seed=1)


def quantized(accumulators: object = "tree") -> Network:
    """Layers that compute with integers, as the quantize stage leaves them."""
    from netpress.compression.quantization.assignment import round_others
    from netpress.network.edits.folding import FoldNorms
    from netpress.network.selection import layers_with_weights
    from netpress.numerics.calibration import MinMax
    from netpress.numerics.formats import Integer
    from netpress.numerics.layer_formats import LayerFormats
    from netpress.numerics.layers import freeze, quantized_like
    from netpress.tracing.foldable import find_foldable_norms

    made = network()
    made.edit(FoldNorms(pairs=tuple(find_foldable_norms(made.module, made.input.size))))
    formats = LayerFormats(
        weight=Integer(bits=5),
        input=Integer(bits=6, scale="tensor", signed=False, zero_point=True),
        accumulators=accumulators,
    )
    for name, layer in layers_with_weights(made.module):
        parent, _, last = name.rpartition(".")
        setattr(made.module.get_submodule(parent), last, quantized_like(layer, formats))
    for name, parameter in made.module.named_parameters():
        if name.endswith("weight_scale"):
            parameter.data.fill_(0.01)
    freeze(made.module, MinMax())
    round_others(made)
    return made


def test_widths_of_a_quantized_network_are_its_own() -> None:
    made = quantized()
    card = score(made)
    rows = rows_of(card)
    stem = rows["stem.conv"]
    weight = dict(made.module.named_parameters())["stem.conv.weight"]
    outputs = stem.output[2] * stem.output[3]
    products = int(torch.count_nonzero(weight)) * outputs
    scaled = 16 * outputs  # sums made real numbers again, in float16
    assert stem.multiplications == products + scaled
    assert stem.multiplications * stem.multiplication_bits == pytest.approx(products * 6 + scaled * 16)
    assert 11 <= stem.addition_bits <= 16
    exists = int(torch.count_nonzero(weight))
    values = min(5 * weight.numel(), 5 * exists + weight.numel())
    # Values or values with a mask; a bias and a scale a channel, the input's scale and zero point.
    assert stem.storage_bits + stem.mask_bits == values + 16 * (16 + 16 + 1) + 6
    assert rows["stem.activation"].multiplication_bits == 16
    assert not card.assumed
    assert not any(row.kind == "unused" for row in card.rows)
    assert any("would be charged" in note for note in card.notes)


def test_a_claimed_accumulator_that_would_overflow_is_refused() -> None:
    made = quantized(accumulators=9)
    with pytest.raises(UserError, match=r"stem\.conv: sums of 9 bits are claimed"):
        score(made)
    assert score(made, accumulator=32).operations > score(made, accumulator="tree").operations


def test_other_readings_stand_beside_the_strict_one() -> None:
    made = quantized()
    card, rows = score(made), rows_of(score(made))
    assert set(card.alternatives) == {"clamp = charged", "float_adds = 32", "counting = winner"}
    for choice, figure in card.alternatives.items():
        key, _, value = choice.partition(" = ")
        assert score(made, **{key: value}).score == pytest.approx(figure)
        assert f"score with {choice}: {figure:.7f}" in card.notes
    assert card.alternatives["clamp = charged"] > card.score < card.alternatives["float_adds = 32"]
    assert "clamp = free" in score(made, clamp="charged").alternatives
    winner = rows_of(score(made, counting="winner"))
    # One scale for all 16 channels of the stem; a global pool of 4x4 places counted as one of 4.
    assert rows["stem.conv"].storage_bits - winner["stem.conv"].storage_bits == 15 * 16
    assert winner["pool"].additions == 3 * winner["pool"].multiplications < rows["pool"].additions
    assert not score(network()).alternatives


def test_binary_weights_with_zeros_need_their_mask() -> None:
    layer = nn.Linear(100, 2, bias=False)
    with torch.no_grad():
        layer.weight[0, :10] = 0
    row = score(layer, (100,), weight_bits=1, activation_bits=8).rows[0]
    assert (row.storage_bits, row.mask_bits) == (190 + 16 * (2 + 1), 200)


def test_assumed_widths_take_the_place_of_a_networks_own() -> None:
    narrower = score(quantized(), weight_bits=3, activation_bits=3)
    assert (
        rows_of(narrower)["blocks.0.expand.conv"].storage_bits
        < rows_of(score(quantized()))["blocks.0.expand.conv"].storage_bits
    )
    assert narrower.operations < score(quantized()).operations


# --- storage


def test_a_mask_where_it_is_charged_and_where_it_pays() -> None:
    layer = nn.Linear(100, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)[0, :5] = 0
    charged, cheaper = (score(layer, (100,), mask=mask).rows[0] for mask in ("charged", "cheaper"))
    assert (charged.storage_bits, charged.mask_bits) == (95 * 16, 100)
    assert (cheaper.storage_bits, cheaper.mask_bits) == (100 * 16, 0)
    assert charged.multiplications == cheaper.multiplications == 95


def test_a_mask_says_which_weights_are_stored_even_where_they_are_zero() -> None:
    made = network()
    weight = made.module.classifier.weight
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[:, ::2] = False
    made.masks["classifier.weight"] = mask
    with torch.no_grad():
        weight[0] = 0
    row = rows_of(score(made))["classifier"]
    kept = int(mask.sum())
    assert row.storage_bits == 16 * (kept + 10)
    assert row.mask_bits == weight.numel()
    assert row.nonzeros == row.multiplications == kept - int(mask[0].sum())


def test_outputs_whose_weights_are_all_zero_cost_nothing() -> None:
    layer = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        layer.weight[0] = 0
    row = score(layer, (3, 4, 4)).rows[0]
    assert (row.multiplications, row.additions) == (3 * 16, 3 * 16)


# --- the card


def test_totals_are_those_of_the_rows_in_every_grouping() -> None:
    card = score(network(), accuracy=0.8)
    document = card.as_json()
    assert document["params"] == pytest.approx(sum(layer["params"] for layer in document["layers"]))
    assert document["score"] == pytest.approx(card.params / 36.5e6 + card.operations / 10.49e9)
    assert document["meets_gate"] is True
    keys = "name kind weights nonzeros storage_bits mask_bits multiplications additions multiplication_bits"
    assert set(keys.split()) <= set(document["layers"][0])
    for per in ("layer", "kind", "block"):
        grouped = card.grouped(per)
        for figure in ("params", "operations", "weights", "multiplications", "additions"):
            total = sum(getattr(row, figure) for row in grouped)
            assert total == pytest.approx(sum(getattr(row, figure) for row in card.rows))
        table = list(csv.DictReader(io.StringIO(card.as_csv(per))))
        assert [line["name"] for line in table] == [row.name for row in grouped]
    assert {row.name for row in card.grouped("block")} >= {"stem", "blocks.0", "classifier"}
    with pytest.raises(UserError, match="choose layer, kind or block"):
        card.grouped("colour")


def test_facts_and_size_come_from_the_network() -> None:
    made = network()
    made.facts |= {"accuracy": 0.81, "dataset": "cifar100"}
    card = score(made)
    assert (card.accuracy, card.meets_gate) == (0.81, True)
    assert score(made, (3, 16, 16)).operations < card.operations
    settings = choose_settings("kaist", options={"mask": "none"})
    assert score(made, settings=settings).convention == "kaist"


def test_hard_swish_costs_the_same_however_it_is_written() -> None:
    class ByHand(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * nn.functional.relu6(x + 3) / 6

    named, by_hand = score(nn.Hardswish(), (4, 4)), score(ByHand(), (4, 4))
    assert (named.multiplications, named.additions) == (by_hand.multiplications, by_hand.additions) == (64, 16)


def test_results_that_nobody_uses_are_pointed_out() -> None:
    traced = trace(create("c_efficientnet", {"widths": "v1", "released": True}).module, (3, 32, 32))
    assert len(traced.dead()) == 15
    card = score_trace(traced, choose_settings())
    assert "never used" in rows_of(card)["blocks.2.squeeze_excite.sigmoid"].note
    assert any(note.startswith("15 operations are executed") for note in card.notes)


def test_more_rules_of_the_text() -> None:
    class Shuffled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            shuffled = x.view(1, 2, 3, 4, 4).transpose(1, 2).reshape(1, 6, 4, 4)
            return nn.functional.interpolate(shuffled, scale_factor=2).softmax(1)

    rows = rows_of(score(Shuffled(), (6, 4, 4), freebie=False))
    assert rows["channel_shuffle"].multiplications == 96
    assert rows["channel_shuffle"].storage_bits + rows["channel_shuffle"].mask_bits == 6 + 36
    assert rows["nearest"].multiplications == 6 * 64
    assert (rows["softmax"].multiplications, rows["softmax"].additions) == (2 * 6 * 64, 5 * 64)


def test_explanation_names_sources() -> None:
    text = score(network(), weight_bits=4, activation_bits=4).explain()
    assert "[counter]" in text and "[RIAIR" in text and "assumed: weights of 4 bits" in text
