"""The stage `prune_channels`: targets met, results that are networks like any other, killed and gone on."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from narrowable import NETWORKS
from torch import Tensor, nn

from netpress.compression.channels.groups import find_groups
from netpress.compression.channels.importance import magnitudes, rank_units
from netpress.compression.channels.removal import narrow_network
from netpress.compression.channels.selection import fewest, order_units
from netpress.compression.fold import FoldSettings, fold
from netpress.compression.prune import prune_once
from netpress.compression.prune_channels import PruneChannelsSettings, plan, prune_channels
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset
from netpress.errors import UserError
from netpress.evaluation import evaluate_exactly
from netpress.imports.kaist import import_kaist
from netpress.network import Network, copy, create, load, save
from netpress.network.edits.quantizing import Quantize
from netpress.numerics.layer_formats import LayerFormats
from netpress.process.console import Console
from netpress.process.world import World
from netpress.scoring import CONVENTIONS, choose_settings, score
from netpress.settings import SettingsError, parse
from netpress.stage import Context, Outlook

pytest.importorskip("torch_pruning")

TRAIN = {"epochs": 1, "batch_size": 16, "augment": {"crop": 0}}


def network_of(name: str) -> Network:
    family, settings = NETWORKS[name]
    return create(family, settings, classes=tuple("abcd"), seed=3)


def settings_of(**values: Any) -> PruneChannelsSettings:
    return parse(PruneChannelsSettings, values, "stages.1")


def context_in(folder: Path, dataset: Dataset | None = None, **more: Any) -> Context:
    return Context(
        folder, World(torch.device("cpu")), 1, Console(quiet=True), dataset, name="02-prune_channels", **more
    )


def parameters(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.module.parameters())


def multiply_adds(network: Network) -> dict[str, int]:
    """Of each convolution and linear layer, from the shapes that it is given and gives."""
    found: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            found[name] = output[0].numel() * layer.weight[0].numel()

        return hook

    layers = [(n, m) for n, m in network.module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count(name)) for name, layer in layers]
    with torch.no_grad():
        network.module(torch.zeros(1, *network.input.size))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_half_the_parameters_are_gone_within_one_channel(name: str, tmp_path: Path) -> None:
    network = network_of(name)
    before = parameters(network)
    pruned = prune_channels(network, settings_of(compression=0.5), context_in(tmp_path))
    assert parameters(network) == before
    groups = find_groups(network)
    worth = []
    for index, group in enumerate(groups):
        if not group.whole:
            one = copy(network)
            nothing = torch.zeros(0, dtype=torch.int64)
            narrow_network(one, groups, [torch.tensor([0]) if k == index else nothing for k in range(len(groups))])
            worth.append(before - parameters(one))
    assert before / 2 - max(worth) < parameters(pruned) <= before / 2
    (line,) = context_in(tmp_path).logged()
    assert line["parameters"] == parameters(pruned)
    assert line["compression"] == pytest.approx(1 - parameters(pruned) / before)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_result_is_a_network_like_any_other(name: str, tmp_path: Path) -> None:
    pruned = prune_channels(network_of(name), settings_of(keep=0.6), context_in(tmp_path))
    save(pruned, tmp_path / "net.netpress")
    again = load(tmp_path / "net.netpress")
    images = torch.randn(3, *pruned.input.size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(pruned.module(images), again.module(images))
    rows = {row.name: row for row in score(again).rows}
    for layer, macs in multiply_adds(again).items():
        assert rows[layer].multiplications >= macs > 0, layer  # a norm that cannot fold is in its own row
        assert rows[layer].weights >= again.module.get_submodule(layer).weight.numel(), layer
    dense = score(network_of(name))
    for convention in CONVENTIONS:
        assert 0 < score(again, convention=convention).score < score(network_of(name), convention=convention).score
    assert sum(row.multiplications for row in rows.values()) < dense.multiplications


def test_keep_leaves_that_share_of_the_channels(tmp_path: Path) -> None:
    network = network_of("resnet")
    free = [group for group in find_groups(network) if not group.whole]
    pruned = prune_channels(network, settings_of(keep=0.7, scope="layer"), context_in(tmp_path))
    left = sum(pruned.module.get_submodule(group.name).out_channels for group in free)
    total = sum(group.count for group in free)
    assert left == total * 7 // 10
    for group in free:
        assert abs(pruned.module.get_submodule(group.name).out_channels - 0.7 * group.count) < 1.5


def test_a_score_is_reached_by_the_runs_convention(tmp_path: Path) -> None:
    network = network_of("resnet")
    counting = choose_settings("kaist")
    target = 0.6 * score(network, settings=counting).score
    pruned = prune_channels(network, settings_of(score=target), context_in(tmp_path, score_settings=counting))
    assert 0.95 * target < score(pruned, settings=counting).score <= target


def test_rounds_go_to_the_target_in_equal_steps_and_train(shades: Dataset, tmp_path: Path) -> None:
    network = network_of("resnet")
    settings = settings_of(compression=0.6, rounds=3, train=TRAIN, importance="taylor", images=32)
    pruned = prune_channels(network, settings, context_in(tmp_path, shades))
    lines = context_in(tmp_path).logged()
    assert [line["round"] for line in lines] == [1, 2, 3]
    for line, goal in zip(lines, (0.2, 0.4, 0.6), strict=True):
        assert goal <= line["compression"] < goal + 0.03
        assert {"score", "accuracy_before", "accuracy_cut", "accuracy_trained"} <= line.keys()
    assert [edit["kind"] for edit in pruned.architecture.edits] == ["narrow"] * 3
    assert not list(tmp_path.rglob("state.safetensors"))


def test_layer_keep_holds_in_a_global_ranking(tmp_path: Path) -> None:
    network = network_of("resnet")
    for parameter in network.module.get_submodule("blocks.0.first").parameters():
        parameter.data *= torch.linspace(0.001, 1, len(parameter)).view(-1, *[1] * (parameter.dim() - 1))
    pruned = prune_channels(network, settings_of(keep=0.5, layer_keep=0.45), context_in(tmp_path))
    for group in find_groups(network):
        if not group.whole:
            assert pruned.module.get_submodule(group.name).out_channels >= 0.45 * group.count


def test_the_least_important_go_first(tmp_path: Path) -> None:
    network = network_of("resnet")
    with torch.no_grad():
        for group in find_groups(network):
            if group.name == "blocks.1.first.conv":
                for axis in group.axes:
                    weight = network.module.get_submodule(axis.layer).weight
                    weight.movedim(1 if axis.side == "inputs" else 0, 0)[:5] = 0
    layers = "blocks.1.first.conv"
    pruned = prune_channels(network, settings_of(keep=11 / 16, layers=layers), context_in(tmp_path))
    conv, before = (one.module.get_submodule(layers) for one in (pruned, network))
    assert torch.equal(conv.weight, before.weight[5:])


def test_masks_follow_the_weights_that_stay(shades: Dataset, tmp_path: Path) -> None:
    network = prune_once(network_of("c_efficientnet"), 0.5)[0]
    pruned = prune_channels(network, settings_of(keep=0.6, train=TRAIN), context_in(tmp_path, shades))
    assert pruned.masks.keys() == network.masks.keys()
    for name, weight in pruned.weights().items():
        assert pruned.masks[name].shape == weight.shape
        assert bool((weight.detach()[~pruned.masks[name]] == 0).all()), name
    groups = find_groups(network)
    narrowed, filled = copy(network), copy(network)
    order = order_units(groups, rank_units(network.module, groups, magnitudes(network)), "layer", 0.5)
    removed = order.first(len(order), len(groups))
    narrow_network(narrowed, groups, removed)
    for name, mask in network.masks.items():  # the masks as if they were weights
        filled.module.get_parameter(name).data.copy_(mask)
    filled.masks = {}
    narrow_network(filled, groups, removed)
    for name, mask in narrowed.masks.items():
        assert torch.equal(mask, filled.module.get_parameter(name).detach().bool()), name


def test_it_prunes_folds_quantizes_and_runs_in_integers(shades: Dataset, tmp_path: Path) -> None:
    settings = settings_of(compression=0.3, importance="taylor", train=TRAIN)
    folders = [tmp_path / name for name in ("channels", "fold", "quantize")]
    for folder in folders:
        folder.mkdir()
    pruned = prune_channels(network_of("c_efficientnet"), settings, context_in(folders[0], shades))
    sparse = prune_once(pruned, 0.3)[0]
    folded = fold(sparse, FoldSettings(), context_in(folders[1]))
    integers = QuantizeSettings(calibration_images=16, arithmetic="float16")
    quantized = quantize(folded, integers, context_in(folders[2], shades))
    save(quantized, tmp_path / "net.netpress")
    exact = evaluate_exactly(load(tmp_path / "net.netpress"), shades.test)
    assert exact.equal_answers == 1


@pytest.mark.parametrize("name", ["resnet", "c_efficientnet", "pyramidnet"])
def test_the_plan_says_what_goes_and_what_stays(name: str, tmp_path: Path) -> None:
    network, shapes = network_of(name), create(*NETWORKS[name], classes=tuple("abcd"), shapes=True)
    settings = settings_of(compression=0.4, scope="layer", rounds=2)
    planned, blind = plan(Outlook(network), settings), plan(Outlook(shapes), settings)
    assert planned.rows == blind.rows
    pruned = prune_channels(network, settings, context_in(tmp_path))
    assert planned.network.architecture == pruned.architecture
    rows = {row["what"]: row for row in planned.rows}
    assert [rows[f"round {number}"]["parameters"] for number in (1, 2)] == [
        line["parameters"] for line in context_in(tmp_path).logged()
    ]
    assert rows["classifier"]["whole"] == "they are the network's answers"
    for layer, module in pruned.module.named_modules():
        if isinstance(module, nn.Conv2d) and not (module.groups > 1):
            assert rows[layer]["left"] == module.out_channels, layer
    estimate = plan(Outlook(shapes), settings_of(keep=0.5)).rows
    assert all(row.get("estimated") or "whole" in row for row in estimate if "channels" in row)


class Kill(BaseException):
    """Stands in for a kill: nothing catches it."""


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_same_bytes(
    shades: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed, fatal = 0, -1

    def watched(function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal passed
            passed += 1
            if passed == fatal:
                raise Kill
            result = function(*arguments, **keywords)
            passed += 1
            if passed == fatal:
                raise Kill
            return result

        return call

    monkeypatch.setattr(Path, "replace", watched(Path.replace))
    monkeypatch.setattr(Context, "log", watched(Context.log))
    settings = settings_of(compression=0.3, rounds=2, importance="taylor", images=32, train=TRAIN)

    def run(folder: Path) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        result = prune_channels(network_of("resnet"), settings, context_in(folder, shades, save_every_seconds=0.0))
        save(result, folder / "result.netpress")
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.netpress")}
        return files | {"lines": context_in(folder).logged()}

    expected = run(tmp_path / "whole")
    moments, points = passed, 0
    for fatal in range(1, moments, max(1, moments // 7)):
        passed = 0
        with pytest.raises(Kill):
            run(tmp_path / str(fatal))
        passed, moment, fatal = 0, fatal, -1
        assert run(tmp_path / str(moment)) == expected, moment
        points += 1
    assert points >= 7


BAD = [
    ({"keep": 0.5, "layers": "absent"}, "'absent': matches no layer"),
    ({"keep": 0.5, "layers": "classifier"}, "no channel can go: .*they are the network's answers"),
    ({"compression": 0.999}, r"compression = 0\.999 cannot be reached by removing channels: 0\.\d+ is the most"),
    ({"keep": 0.05}, r"keep = 0\.05 cannot be reached by removing channels: \d+ channels of \d+ are the fewest"),
    ({"score": 1e-9}, r"score = 1e-09 cannot be reached .* is the least with layer_keep = 0\.1"),
    ({"score": 1.0}, r"score = 1: the network's is 0\.\d+ already; ask for less"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=lambda value: str(value)[:20])
def test_what_cannot_be_is_refused_by_plan_and_by_run(values: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        plan(Outlook(network_of("resnet")), settings_of(**values))
    with pytest.raises(UserError, match=message):
        prune_channels(network_of("resnet"), settings_of(**values), context_in(tmp_path))
    assert not list(tmp_path.rglob("*.netpress"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "one target is needed, keep, compression or score; none is given"),
        ({"keep": 0.5, "score": 0.1}, "keep and score are given"),
        ({"keep": 1.0}, r"keep: 1\.0 is not below 1"),
        ({"compression": 0.0}, r"compression: 0\.0 is not above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_of(**values)


def test_quantized_networks_and_missing_data_are_refused(tmp_path: Path) -> None:
    network = network_of("resnet")
    network.edit(Quantize.of({"classifier": LayerFormats()}))
    with pytest.raises(UserError, match="removing channels after a stage that quantizes"):
        plan(Outlook(network), settings_of(keep=0.5))
    with pytest.raises(UserError, match="this network is quantized"):
        prune_channels(network, settings_of(keep=0.5), context_in(tmp_path))
    for values in ({"importance": "taylor"}, {"train": TRAIN}):
        with pytest.raises(UserError, match="needs training images; give --data DIR"):
            prune_channels(network_of("resnet"), settings_of(keep=0.5, **values), context_in(tmp_path))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    message = r'removing channels needs Torch-Pruning: pip install "netpress\[structured\]"'
    with pytest.raises(UserError, match=message):
        plan(Outlook(network_of("resnet")), settings_of(keep=0.5))
    with pytest.raises(UserError, match=message):
        prune_channels(network_of("resnet"), settings_of(keep=0.5), context_in(tmp_path))


def test_the_command_needs_no_data_for_magnitudes(call: Any, tmp_path: Path) -> None:
    words = ("--set", "keep=0.5", "--out", "small.netpress")
    code, out, err = call("apply", "prune_channels", "c_efficientnet:tiny", *words)
    assert code == 0, err
    assert "classifier: whole, because they are the network's answers" in out + err
    assert parameters(load(tmp_path / "small.netpress")) < 0.4 * parameters(
        create("c_efficientnet", {"widths": "tiny"})
    )
    code, _, err = call("apply", "prune_channels", "c_efficientnet:tiny", "--set", "keep=0.01", "--out", "x.netpress")
    assert code == 2 and "keep = 0.01 cannot be reached" in err and not (tmp_path / "x.netpress").exists()


@pytest.mark.slow
@pytest.mark.skipif("NETPRESS_RELEASED" not in os.environ, reason="needs KAIST's released weights: NETPRESS_RELEASED")
def test_kaists_network_with_its_masks_and_dead_gates(tmp_path: Path) -> None:
    network = import_kaist(Path(os.environ["NETPRESS_RELEASED"]) / "micronet_v1_pr_60.t7")
    pruned = prune_channels(network, settings_of(score=0.004), context_in(tmp_path))
    assert 0.0039 < score(pruned).score <= 0.004
    assert pruned.masks.keys() == network.masks.keys()
    assert dataclasses.asdict(pruned.input) == dataclasses.asdict(network.input)


def test_fewest_is_the_first_that_reaches_the_goal() -> None:
    values = [9, 7, 7, 4, 1, 0]
    for goal in range(-1, 10):
        expected = next((count for count, value in enumerate(values) if value <= goal), None)
        assert fewest(values.__getitem__, goal, len(values) - 1) == expected
