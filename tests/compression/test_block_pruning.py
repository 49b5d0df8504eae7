"""Pruning in blocks: which go, how many weights these are, and what becomes of the blocks afterwards."""

import importlib.util
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from netpress.compression.channels.groups import find_groups
from netpress.compression.channels.removal import narrow_network
from netpress.compression.fold import with_folds
from netpress.compression.magnitude import TooFew, choose_masks, count_left, count_removed
from netpress.compression.masks import select_patterns
from netpress.compression.prune import PruneSettings, plan, prune, prune_once
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.compression.soft_pruning import SoftPruning
from netpress.data import Dataset, Images
from netpress.errors import UserError
from netpress.network import Network, create, inspect_file, load, save
from netpress.network.edits.factorizing import Factorize
from netpress.numerics.block_masks import Pattern, is_whole, mask_bits, takes_blocks
from netpress.process.console import Console
from netpress.process.world import World
from netpress.scoring import score
from netpress.settings import SettingsError, parse
from netpress.stage import Context, Outlook
from netpress.tracing.foldable import find_foldable_norms

Weights = dict[str, Tensor]
Call = Callable[..., tuple[int, str, str]]
PATTERNS = st.sampled_from([(1, 4), (4, 1), (2, 2), (1, 3)])
SHAPES = st.lists(st.sampled_from([(4, 1, 3, 3), (1, 6), (3, 5, 1, 1), (8, 4, 3, 3), (10, 7)]), min_size=1, max_size=4)
AMOUNTS = st.integers(0, 99).map(lambda hundredths: hundredths / 100)


def draw(shapes: list[tuple[int, ...]], seed: int, levels: int) -> Weights:
    """Random weights of a few magnitudes, so that many blocks are equal."""
    generator = torch.Generator().manual_seed(seed)
    return {
        str(place): torch.randint(1, levels + 1, shape, generator=generator).float()
        * (torch.randint(0, 2, shape, generator=generator) * 2 - 1)
        for place, shape in enumerate(shapes)
    }


def blocks_of(weights: Weights, patterns: dict[str, Pattern]) -> list[tuple[float, list[tuple[str, Any]]]]:
    """Every block of all tensors in order: its mean magnitude, and its weights as (tensor, place)."""
    found: dict[tuple[Any, ...], list[tuple[str, Any]]] = {}
    for order, (name, weight) in enumerate(weights.items()):
        first, second = patterns.get(name, (1, 1))
        for place in itertools.product(*map(range, weight.shape)):
            key = (order, place[0] // first, place[1] // second, *place[2:])
            found.setdefault(key, []).append((name, place))
    means = {
        key: sum(abs(float(weights[name][place])) for name, place in places) / len(places)
        for key, places in found.items()
    }
    return [(means[key], found[key]) for key in sorted(found)]


def gone(masks: Weights) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


def patterns_for(weights: Weights, pattern: Pattern) -> dict[str, Pattern]:
    return {name: pattern for name, weight in weights.items() if takes_blocks(weight.shape, pattern)}


@given(SHAPES, PATTERNS, st.integers(0, 999), AMOUNTS)
def test_the_smallest_blocks_go_as_long_as_the_count_allows(
    shapes: list[tuple[int, ...]], pattern: Pattern, seed: int, amount: float
) -> None:
    weights = draw(shapes, seed, levels=5)
    patterns = patterns_for(weights, pattern)
    budget = count_removed(amount, sum(weight.numel() for weight in weights.values()))
    expected = {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weights.items()}
    spent = 0
    for _, places in sorted(blocks_of(weights, patterns), key=lambda block: block[0]):
        if spent + len(places) > budget:
            break
        spent += len(places)
        for name, place in places:
            expected[name][place] = False
    try:
        choice = choose_masks(weights, {}, amount, "global", patterns)
    except TooFew:
        assert any(not bool(mask.any()) for mask in expected.values())
        return
    if all(bool(mask.any()) for mask in expected.values()):
        assert all(torch.equal(mask, expected[name]) for name, mask in choice.masks.items())
    else:
        assert choice.rescued and all(bool(mask.any()) for mask in choice.masks.values())
    assert budget - pattern[0] * pattern[1] < gone(choice.masks) <= budget
    assert all(is_whole(choice.masks[name], own) for name, own in patterns.items())


@settings(max_examples=40)
@given(SHAPES, PATTERNS, st.integers(0, 999), st.sampled_from(["global", "layer"]), st.booleans())
def test_rounds_revive_nothing_and_the_plan_counts_them(
    shapes: list[tuple[int, ...]], pattern: Pattern, seed: int, scope: Any, real: bool
) -> None:
    weights = draw(shapes, seed, levels=9)
    patterns, amounts = patterns_for(weights, pattern), [0.2, 0.5, 0.6]
    seen = weights if real else {name: weight.to("meta") for name, weight in weights.items()}
    masks: Weights = {}
    try:
        planned = count_left(seen, {}, amounts, scope, patterns)
    except TooFew:
        return
    for place, amount in enumerate(amounts):
        before, masks = masks, choose_masks(seen, masks, amount, scope, patterns).masks
        assert all(not bool((masks[name] & ~mask).any()) for name, mask in before.items())
        assert {name: int(mask.sum()) for name, mask in masks.items()} == {
            name: counts[place] for name, counts in planned.items()
        }
        assert all(is_whole(masks[name], own) for name, own in patterns.items())


def test_by_layer_each_gives_its_share() -> None:
    weights = draw([(8, 10), (6, 4, 3, 3)], 1, levels=99)
    masks = choose_masks(weights, {}, 0.5, "layer", patterns_for(weights, (1, 4))).masks
    for name, mask in masks.items():
        wanted = count_removed(0.5, weights[name].numel())
        assert wanted - 4 < int((~mask).sum()) <= wanted


def test_a_narrow_block_does_not_go_for_being_narrow() -> None:
    weights = {"w": torch.tensor([[1.0, 1, 1, 1, 3]])}  # sums 4 and 3, means 1 and 3
    mask = choose_masks(weights, {}, 0.9, "global", {"w": (1, 4)}).masks["w"]
    assert mask.tolist() == [[False, False, False, False, True]]


def small(seed: int = 3) -> Network:
    return create("resnet", {"blocks": [1], "width": 10, "classes": 4, "image_size": 8}, seed=seed)


def test_weights_removed_before_leave_holes_that_cost_the_pattern(tmp_path: Path) -> None:
    first, _ = prune_once(small(), 0.3)
    second, choice = prune_once(first, 0.5, pattern=(1, 4))
    total = sum(mask.numel() for mask in second.masks.values())
    wanted = count_removed(0.5, total)
    assert wanted - 4 < gone(second.masks) <= wanted
    assert all(not bool((mask & ~first.masks[name]).any()) for name, mask in second.masks.items())
    assert choice.patterns and not second.whole_patterns()
    save(second, tmp_path / "a.netpress")
    assert inspect_file(tmp_path / "a.netpress")["mask_bits"] == total == score(second).mask_bits


def test_holes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = prune_once(small(), 0.3)
    context = Context(tmp_path, World(torch.device("cpu")), 1, Console(), name="02-prune")
    prune(first, parse(PruneSettings, {"amount": 0.5, "pattern": [1, 4]}), context)
    told = "".join(capsys.readouterr())
    assert "one bit a weight" in told and "in blocks of 1x4" in told


def test_depthwise_kernels_go_weight_by_weight() -> None:
    network = create("c_efficientnet", {"widths": "tiny", "width_factor": 0.5, "classes": 4, "image_size": 8}, seed=1)
    patterns = select_patterns(network, "all", (1, 4))
    depthwise = {f"{n}.weight" for n, m in network.module.named_modules() if getattr(m, "groups", 1) > 1}
    assert depthwise and not depthwise & patterns.keys() and "stem.conv.weight" not in patterns  # 3 inputs
    pruned, _ = prune_once(network, 0.5, pattern=(1, 4))
    assert pruned.whole_patterns() == patterns
    assert any(not is_whole(pruned.masks[name][:, :, 0, 0].view(1, -1), (1, 4)) for name in depthwise)


def test_a_transposed_convolution_has_its_inputs_first() -> None:
    network = small()
    network.module.up = nn.ConvTranspose2d(8, 3, 2)  # type: ignore[assignment]
    assert select_patterns(network, "all", (1, 4))["up.weight"] == (4, 1)
    assert select_patterns(network, "all", (4, 1)).get("up.weight") is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pattern": [1, 1]}, "leave the pattern out"),
        ({"pattern": [0, 4]}, "pattern"),
        ({"pattern": [1]}, "pattern"),
        ({"pattern": [1, 4, 1]}, "pattern"),
        ({"pattern": [1, 4.5]}, "pattern"),
        ({"pattern": "1x4"}, "pattern"),
        ({"pattern": [8, 8]}, "16 is the most"),
    ],
)
def test_nonsense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse(PruneSettings, {"amount": 0.5, **values})


def test_a_pattern_that_no_weight_takes_is_refused() -> None:
    with pytest.raises(UserError, match="narrower"):
        prune_once(small(), 0.5, layers="stem", pattern=(1, 16))
    with pytest.raises(UserError, match="narrower"):
        plan(Outlook(small()), parse(PruneSettings, {"amount": 0.5, "layers": "stem", "pattern": [1, 16]}))


def test_the_plan_says_which_are_blocks_and_leaves_masks_of_them() -> None:
    network = create("resnet", {"blocks": [1], "width": 10, "classes": 4, "image_size": 8}, shapes=True)
    planned = plan(Outlook(network), parse(PruneSettings, {"amount": 0.6, "pattern": [1, 4]}))
    rows = {row["what"]: row for row in planned.rows}
    assert rows["stem.conv.weight"]["in"] == "single weights"
    assert rows["classifier.weight"]["in"] == "blocks of 1x4"
    real, _ = prune_once(small(), 0.6, pattern=(1, 4))
    assert planned.network.whole_patterns() == real.whole_patterns()
    assert score(planned.network).mask_bits == score(real).mask_bits


def test_soft_pruning_zeroes_blocks() -> None:
    network = small()
    SoftPruning(network, 0.5, "all", "global", (1, 4)).begin_epoch()
    for name, pattern in select_patterns(network, "all", (1, 4)).items():
        weight = network.weights()[name]
        assert int((weight == 0).sum()) > 0 and is_whole(weight != 0, pattern)


# --- what becomes of blocks

EDITS = ["fold", "factorize", "weights", "blocks"]
if importlib.util.find_spec("torch_pruning"):
    EDITS.append("narrow")


def context_in(folder: Path) -> Context:
    def images(count: int) -> Images:
        pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        return Images(pixels, torch.arange(count) % 4)

    data = Dataset("random", images(8), images(4), images(4), tuple("abcd"), (0.5,) * 3, (0.25,) * 3, "")
    return Context(folder, World(torch.device("cpu")), 3, Console(quiet=True), data, name="quantize")


def narrowed(network: Network, draws: Any) -> Network:
    """The network without some of its channels; of each group, one unit stays at least."""
    groups = [group for group in find_groups(network) if not group.name.startswith("classifier")]
    narrow_network(network, groups, [one.units[: draws.draw(st.integers(0, len(one.units) - 1))] for one in groups])
    return network


def edited(network: Network, edit: str, draws: Any, folder: Path) -> Network:
    if edit == "fold":
        return with_folds(network, find_foldable_norms(network.module, network.input.size))
    if edit == "narrow":
        return narrowed(network, draws)
    if edit == "factorize":
        network.edit(Factorize.of({"classifier": (min(2, network.module.get_submodule("classifier").in_features),)}))
        return network
    if edit in ("weights", "blocks"):
        try:
            return prune_once(network, 0.95, pattern=(2, 2) if edit == "blocks" else None)[0]
        except (
            TooFew,
            UserError,
        ):  # narrowed to where no block fits, or so far that 5% is not a weight for each tensor
            reject()
    weights = {"kind": "ternary"} if edit == "ternary" else {"kind": "int", "bits": 4, "scale": "channel"}
    minmax = {"calibration": {"kind": "minmax"}, "weight_calibration": {"kind": "minmax"}, "calibration_images": 4}
    values = {"preset": "int8", "weights": weights, "fold": False, **minmax}
    return quantize(network, parse(QuantizeSettings, values), context_in(folder))


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.data(), PATTERNS, st.sampled_from([0.0, 0.3, 0.7]))
def test_edits_keep_the_blocks_or_drop_them_and_the_file_is_what_is_counted(
    draws: st.DataObject, pattern: Pattern, amount: float
) -> None:
    network, _ = prune_once(small(), amount, pattern=pattern)
    edits = draws.draw(st.lists(st.sampled_from(EDITS), max_size=3, unique=True))
    edits += draws.draw(st.sampled_from([[], ["int4"], ["ternary"]]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for edit in edits:
            network = edited(network, edit, draws, folder)
            check(network, folder / "a.netpress", exact=edit in ("int4", "ternary"))


def check(network: Network, path: Path, exact: bool) -> None:
    """The file gives the masks back, and has one bit a block exactly where blocks are whole."""
    patterns = network.whole_patterns()
    assert all(is_whole(network.masks[name], own) for name, own in patterns.items())
    save(network, path)
    again, found = load(path), inspect_file(path)
    assert again.patterns == patterns and again.masks.keys() == network.masks.keys()
    assert all(torch.equal(again.masks[name], mask) for name, mask in network.masks.items())
    bits = sum(mask_bits(mask.shape, patterns.get(name)) for name, mask in network.masks.items())
    assert found["mask_bits"] == bits
    counted = [score(one) for one in (network, again)]
    assert counted[0].params == counted[1].params
    if exact:
        assert found["tensor_bits"] - found["alignment_bits"] == counted[0].storage_bits + counted[0].mask_bits
        assert found["mask_bits"] == counted[0].mask_bits


@pytest.mark.slow
def test_whole_blocks_survive_quantization_and_their_zeros_are_stored(tmp_path: Path) -> None:
    pruned, _ = prune_once(small(), 0.6, pattern=(1, 4))
    made = edited(pruned, "int4", None, tmp_path)
    patterns = made.whole_patterns()
    assert patterns
    weights = made.weights()
    assert any(int((weights[name] == 0).sum()) > int((~made.masks[name]).sum()) for name in patterns)
    check(made, tmp_path / "a.netpress", exact=True)
    loose = edited(prune_once(small(), 0.6)[0], "int4", None, tmp_path)
    assert score(made).mask_bits < 0.5 * score(loose).mask_bits


@pytest.mark.slow
def test_a_recipe_asks_for_blocks_and_inspect_tells_them(call: Call, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        'name = "r"\n[model]\nfamily = "resnet"\nblocks = [1]\nwidth = 8\n'
        '[[stages]]\nkind = "prune"\namount = 0.5\npattern = [1, 4]\n',
        encoding="utf-8",
    )
    code, out, err = call("run", "r.toml")
    assert code == 0, out + err
    found = json.loads(call("inspect", "runs/r", "--json")[1])
    rows = {row["name"]: row for row in found["layers"]}
    assert rows["classifier.weight"]["mask"] == "blocks of 1x4"
    assert rows["stem.conv.weight"]["mask"] == "single weights"
    code, out, err = call("run", "r.toml", "--fresh", "--set", "stages.0.pattern=[1,1]")
    assert code == 2 and "stages.0.prune.pattern" in out + err
