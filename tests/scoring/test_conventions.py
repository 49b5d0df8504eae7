"""Every figure that the teams and organisers published about counting, from the networks themselves."""

import csv
import functools
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from netpress.errors import UserError
from netpress.models.registry import parse_model
from netpress.scoring import Row, ScoreCard, choose_settings, conventions, score, score_trace
from netpress.settings import SettingsError
from netpress.tracing import Trace, trace


@functools.cache
def traced(name: str) -> Trace:
    """The trace of a model's shapes."""
    choice = parse_model(name)
    with torch.device("meta"):
        module = choice.family.build(choice.settings)
    side = choice.settings.image_size
    return trace(module, (3, side, side))


def card(name: str, convention: str, **options: object) -> ScoreCard:
    return score_trace(traced(name), choose_settings(convention, options=options))


# --- kaist


@pytest.mark.parametrize(
    ("name", "mask", "params", "operations", "expected"),
    [
        ("c_efficientnet:released-v1", "charged", 243_245.75, 58_627_132, 0.0122531),
        ("c_efficientnet:released-v1", "none", 229_169, 58_627_132, 0.0118675),
        ("c_efficientnet:released-v2", "charged", 254_213.5, 61_706_044, 0.0128471),
        ("c_efficientnet:released-v2", "none", 239_489, 61_706_044, 0.0124437),
    ],
)
def test_kaist_dense(name: str, mask: str, params: float, operations: float, expected: float) -> None:
    counted = card(name, "kaist", mask=mask)
    assert counted.params == params
    assert counted.operations == operations
    assert counted.score == pytest.approx(expected, abs=5e-8)


def test_kaist_sums_exactly_when_asked() -> None:
    exact = card("c_efficientnet:released-v1", "kaist", totals="exact")
    assert exact.operations == 58_627_134
    assert exact.operations == sum(row.operations for row in exact.rows)


RELEASED = os.environ.get("NETPRESS_RELEASED")
needs_release = pytest.mark.skipif(RELEASED is None, reason="NETPRESS_RELEASED names no folder with KAIST's .t7 files")


@functools.cache
def released() -> tuple[nn.Module, Trace]:
    from netpress.imports.kaist import import_kaist
    from netpress.scoring import trace_network

    network = import_kaist(Path(RELEASED or "") / "micronet_v1_pr_60.t7")
    return network.module, trace_network(network)


@needs_release
def test_the_released_network_by_kaists_count_and_by_the_official_one() -> None:
    theirs = score_trace(released()[1], choose_settings("kaist"))
    assert theirs.params == 108_108.75
    assert theirs.operations == 26_052_115
    assert theirs.score == pytest.approx(0.0054454, abs=5e-8)
    complete = score_trace(released()[1], choose_settings("kaist", options={"complete": True}))
    assert complete.score == pytest.approx(0.0054598, abs=5e-8)
    official = score_trace(released()[1], choose_settings())
    assert official.score == pytest.approx(0.0054598, abs=1e-7)
    # What is left between the two: an average has an addition less than values (1,068 channels are averaged),
    # and a class has exactly as many additions as its own non-zeros say, not as the layer's mean.
    pooled = sum(op.outputs for op in released()[1] if op.kind == "pool")
    assert pooled == 1068
    assert complete.operations - official.operations == pytest.approx(pooled + 100 * (1 - 10_001 / 10_600), abs=1e-6)


def layer_table() -> list[dict[str, str]]:
    path = Path(__file__).parents[1] / "data" / "kaist_v1_layers.csv"
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@needs_release
def test_every_row_of_the_released_network_by_kaists_count() -> None:
    """Their table has one line a module, also for norms and dropout, in another order inside a block."""
    parts = {
        "conv1": "expand.conv",
        "act1.relu": "expand.activation",
        "conv2": "depthwise.conv",
        "act2.relu": "depthwise.activation",
        "conv3": "project.conv",
        "avg_se": "squeeze_excite.pool",
        "fc1": "squeeze_excite.reduce",
        "act_se.relu": "squeeze_excite.activation",
        "fc2": "squeeze_excite.expand",
        "sigmoid": "squeeze_excite.sigmoid",
        "shortcut.0": "shortcut.conv",
    }
    whole = {"conv1": "stem.conv", "stem_act.relu": "stem.activation", "avg": "pool", "linear": "classifier"}
    rows = {row.name: row for row in score_trace(released()[1], choose_settings("kaist")).rows}
    compared, dead = 0, released()[1].dead()
    for line in layer_table():
        if line["type"] in ("BatchNorm2d", "Dropout"):
            assert float(line["MO_freebie"]) == float(line["params_counted"]) == 0
            continue
        name = line["layer"]
        if name.startswith("layers."):
            _, index, part = name.split(".", 2)
            row = rows.pop(f"blocks.{index}.{parts[part]}")
        else:
            row = rows.pop(whole[name])
        compared += 1
        assert row.weights == int(line["weights"]), name
        assert row.nonzeros == int(line["nonzero"]), name
        assert row.storage_bits == float(line["params_counted"]) * 16, name
        assert row.mask_bits == float(line["bitmask_bits"]), name
        assert row.multiplications == float(line["mults"]), name
        assert row.additions == pytest.approx(float(line["adds"]), abs=0.5), name  # printed as whole numbers
        assert row.operations == pytest.approx(float(line["MO_freebie"]), abs=0.05), name
        assert bool(line["note"]) == (row.name in dead), name
    assert compared == 168
    assert all(row.operations == row.params == 0 and row.uncounted for row in rows.values())


# --- uci

UCI = [
    ("ex", 2_793_064, 2_773_064, 251_891_224, 382_885_052, 512_835_116, 0.0747612, 0.1254103),
    ("exx", 2_418_650, 2_398_650, 232_355_234, 353_361_693, 473_373_028, 0.0668178, 0.1113905),
    ("b0", 4_285_556, 4_265_556, 381_281_916, 577_959_706, 773_392_004, 0.1138025, 0.1911391),
    ("b3", 11_027_240, 11_007_240, 970_466_992, 1_468_123_452, 1_963_156_116, 0.2910127, 0.4892616),
]


@pytest.mark.parametrize(("name", "parameters", "trainable", "flops", "half", "one", "half_score", "one_score"), UCI)
def test_uci(
    name: str,
    parameters: int,
    trainable: int,
    flops: int,
    half: float,
    one: float,
    half_score: float,
    one_score: float,
) -> None:
    counted = card(f"efficientnet:{name}", "uci")
    assert counted.extra == {"parameters": parameters, "trainable": trainable, "flops": flops}
    assert counted.params == parameters / 2
    assert counted.operations == half
    assert counted.score == pytest.approx(half_score, abs=5.1e-8)
    full = card(f"efficientnet:{name}", "uci", multiply="one")
    assert (full.params, full.operations) == (parameters, one)
    assert full.score == pytest.approx(one_score, abs=5.1e-8)


@pytest.mark.parametrize(("name", "parameters"), [("ex", 2_670_564), ("b0", 4_137_456), ("b3", 10_853_540)])
def test_uci_with_a_linear_head(name: str, parameters: int) -> None:
    assert card(f"efficientnet:{name},head=linear", "uci").extra["parameters"] == parameters


# --- imt

IMT = [
    ("cifar", 1_000_618, 192_701_558, 192_701_552, 0.230957, 0.089549, 0.320506),
    ("small", 569_566, 109_461_590, 109_461_592, 0.131192, 0.050973, 0.182164),
    ("tiny", 259_114, 49_598_006, 49_598_008, 0.059444, 0.023189, 0.082633),
    ("nano", 119_146, 22_675_830, 22_675_830, 0.027177, 0.010663, 0.037840),
]


@pytest.mark.parametrize(("name", "real", "exact", "printed", "operations", "params", "total"), IMT)
def test_imt(name: str, real: int, exact: int, printed: int, operations: float, params: float, total: float) -> None:
    counted = card(f"densenet:{name}", "imt")
    assert (counted.params, counted.operations) == (real / 2, exact)
    assert card(f"densenet:{name}", "imt", totals="float32").operations == printed
    assert counted.operations_score == pytest.approx(operations, abs=5e-7)
    assert counted.params_score == pytest.approx(params, abs=5e-7)
    assert counted.score == pytest.approx(total, abs=6e-7)


def test_imt_reference_is_its_own_count_of_resnet18() -> None:
    counted = card("resnet:18,classes=10", "imt")
    assert (counted.params, counted.operations) == (5_586_981, 834_362_870)
    rounded = card("resnet:18,classes=10", "imt", totals="float32")
    assert rounded.operations == rounded.track.operations == 834_362_880
    assert rounded.score == 2.0


def test_imt_final_figure_and_the_honest_one() -> None:
    claimed = card("densenet:nano", "imt", claimed_sparsity=0.197)
    assert int(claimed.params) == 47_837
    assert claimed.score == pytest.approx(0.035740, abs=5e-7)
    module = parse_model("densenet:nano").build(torch.Generator().manual_seed(0))
    prune_globally(module, 0.197)
    honest = score(module, convention="imt")
    assert honest.params == 48_866.5
    assert honest.score == pytest.approx(0.035924, abs=5e-7)


def prune_globally(module: nn.Module, amount: float) -> None:
    """Set the smallest weights of all convolutions and linear layers to zero."""
    weights = [part.weight for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    threshold = sizes.kthvalue(round(amount * sizes.numel())).values
    with torch.no_grad():
        for weight in weights:
            weight[weight.abs() <= threshold] = 0


def test_imt_ignores_groups_in_operations() -> None:
    grouped = card("densenet:nano,groups=4,grouped=bottleneck2", "imt")
    assert (grouped.params, grouped.operations) == (47_045, 22_675_830)


def test_imt_counts_modules_when_asked() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.AvgPool2d(4))
    without = score(module, (3, 8, 8), convention="imt").operations
    assert score(module, (3, 8, 8), convention="imt", modules=True).operations == without + 4 * 64 + 4 * 16


@pytest.mark.parametrize(
    ("name", "options", "lines"),
    [
        ("nano", {"claimed_sparsity": 0.197}, ("22675830.0", "47837.0", "0.0271", "0.0086", "0.0357")),
        ("cifar", {}, ("192701552.0", "500309.0", "0.2309", "0.0895", "0.3205")),
        ("nano", {}, ("22675830.0", "59573.0", "0.0271", "0.0107", "0.0378")),
    ],
)
def test_imt_prints_as_their_slides_do(name: str, options: dict[str, float], lines: tuple[str, ...]) -> None:
    """Of the last their slide has the parameters and the final score alone."""
    flops, params, of_flops, of_params, final = lines
    assert card(f"densenet:{name}", "imt", **options).printed == (
        f"Flops: {flops}, Params: {params}",
        f"Score flops: {of_flops} Score Params: {of_params}",
        f"Final score: {final}",
    )


def quantized_for_imt() -> tuple[Trace, dict[str, Any]]:
    """3 x 4 x 4 values, conv 1x1 to 2 with 2 zeros, norm, linear to 5: 8-bit weights, 4-bit inputs; binary, float16."""
    conv, linear = nn.Conv2d(3, 2, 1, bias=False), nn.Linear(32, 5)
    conv.weight.data.fill_(1).view(-1)[:2] = 0
    module = nn.Sequential(conv, nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), linear).eval()
    formats = {
        "0.weight": {"kind": "int", "bits": 8},
        "0.input": {"kind": "int", "bits": 4, "scale": "tensor"},
        "0": {"kind": "int", "bits": 4, "scale": "tensor"},  # what it gives; the norm's own numbers are wider
        "4.weight": {"kind": "binary"},
        "4.input": {"kind": "float16"},
        "4.bias": {"kind": "float32"},
        "*": {"kind": "float16"},
    }
    return trace(module, (3, 4, 4)), formats


def test_imt_counts_number_formats_by_its_rules_or_ignores_them() -> None:
    traced, formats = quantized_for_imt()

    def count(**options: Any) -> tuple[float, float]:
        counted = score_trace(traced, choose_settings("imt", None, options), formats)
        return counted.params, counted.operations

    # Products and additions: 32 outputs of 3; 5 of 32, whose bias their counter forgets. The norm: 3 x 32.
    params = (4 * 8 + 2 * 2 * 16 + 160 * 1 + 5 * 32) / 32
    operations = (32 * (3 + 2) * 8 + 3 * 32 * 16 + 5 * (32 + 31) * 16) / 32
    assert count() == (params, operations)
    wide = (32 * (3 * 8 + 2 * 32) + 3 * 32 * 32 + 5 * (32 * 16 + 31 * 32)) / 32
    assert count(additions="32") == (params, wide)
    plain = ((4 + 4 + 160 + 5) / 2, 32 * (3 / 2 + 2) + 3 * 32 + 5 * (32 / 2 + 31))
    assert count(formats="ignored") == plain == count(formats="ignored", additions="32")
    assert count(claimed_sparsity=0.5)[0] == (6 * 8 + 2 * 2 * 16 + 160 + 5 * 32) / 64
    counted = score_trace(traced, choose_settings("imt"), formats)
    track = counted.track
    assert counted.alternatives == {
        "additions = 32": params / track.params + wide / track.operations,
        "formats = ignored": plain[0] / track.params + plain[1] / track.operations,
    }
    without = score_trace(traced, choose_settings("imt"))
    assert (without.params, without.operations) == plain and not without.alternatives
    words = (counted.explain(), without.explain())
    assert ["n/32 of a value" in text for text in words] == [True, False]
    assert ["as half a value" in text for text in words] == [False, True]


# --- official


def test_the_baseline_of_the_challenge() -> None:
    counted = card("wide_resnet:28-10", "official", weight_bits=32, activation_bits=32, norms="forward")
    assert counted.params == 36_527_892
    assert round(counted.operations / 1e6) == 10_490
    assert (round(counted.multiplications / 1e6), round(counted.additions / 1e6)) == (5_246, 5_244)


NOTEBOOK_ADDITIONS = 1_050_560
"""The notebook adds residuals of the expanded width: so many additions too many."""


@pytest.mark.parametrize(
    ("sparsity", "megabytes", "multiplications", "additions"),
    [
        (None, 10.535080, 203.311594, 395.601308),
        (0.1, 10.142366, 184.020856, 357.019833),
        (0.5, 5.953412, 106.857906, 202.693932),
        (0.9, 1.764458, 29.694956, 48.368031),
    ],
)
def test_efficientnet_b0_of_the_official_notebook(
    sparsity: float | None, megabytes: float, multiplications: float, additions: float
) -> None:
    counted = card("efficientnet:b0-224", "official", track="imagenet", sparsity=sparsity)
    assert counted.params * 4 / 1e6 == pytest.approx(megabytes, abs=5e-7)
    assert counted.multiplications / 2e6 == pytest.approx(multiplications, abs=5e-7)
    assert (counted.additions + NOTEBOOK_ADDITIONS) / 1e6 == pytest.approx(additions, abs=5e-7)


# --- all


def test_each_convention_says_what_it_is_and_by_which_rules() -> None:
    assert list(conventions()) == ["official", "kaist", "wave", "uci", "imt"]
    for name, description in conventions().items():
        counted = card("c_efficientnet:tiny", name)
        assert description and "\n" not in description
        assert len(counted.rules) >= 5 and all(rule.text and rule.source for rule in counted.rules)
        assert counted.explain().count("\n- ") >= len(counted.rules) - 1
        assert counted.params > 0 and counted.operations > 0
        assert all(row.uncounted or row.params or row.operations or not row.output for row in counted.rows)


def test_no_convention_is_silent_about_an_operation() -> None:
    for name in conventions():
        named = {row.name for row in card("efficientnet:ex", name).rows}
        assert {operation.name for operation in traced("efficientnet:ex")} <= named


def test_options_of_other_conventions_are_refused() -> None:
    module = nn.Conv2d(3, 4, 1)
    with pytest.raises(SettingsError, match="multiply is no option of the convention official"):
        score(module, multiply="one")
    with pytest.raises(UserError, match="choose one of official, kaist"):
        score(module, convention="ours")
    with pytest.raises(SettingsError, match="20 is not a width"):
        score(module, weight_bits=20)
    with pytest.raises(SettingsError, match="which weights exist must be stored"):
        score(module, mask="none")


def rows_of(counted: ScoreCard) -> dict[str, Row]:
    return {row.name: row for row in counted.rows}


def test_a_data_set_without_a_track_borrows_one_and_says_so() -> None:
    counted = score(nn.Conv2d(3, 4, 1), dataset="digits", accuracy=0.97)
    assert counted.track.name == "cifar100" and counted.meets_gate is None and counted.as_json()["gate"] is None
    assert score(nn.Conv2d(3, 4, 1), dataset="digits", convention="imt", accuracy=0.97).meets_gate is None
    assert score(nn.Conv2d(3, 4, 1), dataset="cifar100", accuracy=0.8).meets_gate is True
    assert score(nn.Conv2d(3, 4, 1), dataset="digits", track="cifar100", accuracy=0.7).meets_gate is False  # asked for
    assert any("digits has no track" in note for note in counted.notes)
    assert not any("no track" in note for note in score(nn.Conv2d(3, 4, 1), dataset="cifar100").notes)
    assert score(nn.Conv2d(3, 4, 1), convention="imt", accuracy=0.8999).meets_gate is False
    with pytest.raises(SettingsError, match="track"):
        score(nn.Conv2d(3, 4, 1), track="mnist")


def test_scoring_the_largest_network_takes_under_5_seconds() -> None:
    module = parse_model("pyramidnet:272").build(torch.Generator().manual_seed(0))
    start = time.process_time()
    counted = score(module)
    assert time.process_time() - start < 5
    assert sum(row.weights for row in counted.rows) == 26_288_692 - 2 * 105_432 - 100  # all but norms and a bias
