"""Every way of compressing a network with group convolutions leaves what block-diagonal weights would compute."""

import copy as copying
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from grouped import GROUPED, densified, grouped_layers, grouped_network, images_for
from torch import nn

from netpress.compression.factorization.settings import FactorizeSettings
from netpress.compression.factorize import factorize
from netpress.compression.fold import FoldSettings, fold
from netpress.compression.magnitude import count_removed
from netpress.compression.prune import PruneSettings, prune, prune_once
from netpress.compression.prune_channels import PruneChannelsSettings, prune_channels
from netpress.compression.prune_to_gate import PruneToGateSettings, prune_to_gate
from netpress.data import Dataset
from netpress.errors import UserError
from netpress.models.factorized import Factorized
from netpress.network import Network, load, save
from netpress.process.console import Console
from netpress.process.world import World
from netpress.scoring import score
from netpress.settings import parse
from netpress.stage import Context

TRAIN: dict[str, Any] = {"epochs": 1, "batch_size": 32, "augment": {"crop": 1}}

NO_CHANNEL = "all but the stem in 4"


@pytest.fixture
def context(shades: Dataset, tmp_path: Path) -> Context:
    return Context(tmp_path, World(torch.device("cpu")), 1, Console(quiet=True), shades, name="02-stage")


def answers(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = module.eval()(images)
    return result


def check(network: Network, folder: Path) -> None:
    """Its file gives its answers, its dense form too, and both conventions count its convolutions as they are."""
    images = images_for(network)
    found = answers(network.module, images)
    torch.testing.assert_close(found, answers(densified(network.module), images), rtol=1e-4, atol=1e-5)
    save(network, folder / "a.netpress")
    assert torch.equal(answers(load(folder / "a.netpress").module, images), found)
    ours, theirs = ({row.name: row for row in score(network, convention=name).rows} for name in ("official", "imt"))
    for name, layer in grouped_layers(network).items():
        places = math.prod(ours[name].output[-2:])
        left = int(layer.weight.detach().count_nonzero())
        assert ours[name].multiplications >= left * places > 0, name
        window = layer.kernel_size[0] * layer.kernel_size[1] * layer.in_channels
        assert theirs[name].multiplications == window * layer.out_channels * places, name


def weights_of(network: Network) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in network.weights().items()}


@pytest.mark.parametrize("name", GROUPED)
def test_pruned_together_the_smallest_go(name: str, tmp_path: Path) -> None:
    network = grouped_network(name)
    before = weights_of(network)
    pruned, _ = prune_once(network, 0.3)
    every = torch.cat([weight.abs().flatten() for weight in before.values()])
    limit = every.sort().values[count_removed(0.3, len(every)) - 1]
    for key, weight in weights_of(pruned).items():
        assert torch.equal(weight, before[key] * (before[key].abs() > limit)), key
    check(pruned, tmp_path)
    gone = count_removed(0.3, len(every))
    parameters = sum(parameter.numel() for parameter in network.module.parameters())
    assert score(pruned, convention="imt").params == (parameters - gone) / 2


@pytest.mark.parametrize("name", GROUPED)
def test_pruned_uniformly_each_loses_its_share(name: str, tmp_path: Path) -> None:
    pruned, _ = prune_once(grouped_network(name), 0.5, "conv", "layer")
    layers = [part for part in pruned.module.modules() if isinstance(part, nn.Conv2d)]
    assert {int((layer.weight == 0).sum()) - count_removed(0.5, layer.weight.numel()) for layer in layers} == {0}
    check(pruned, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", GROUPED)
def test_pruned_softly_while_training(name: str, context: Context, tmp_path: Path) -> None:
    settings = parse(PruneSettings, {"amount": 0.6, "soft": True, "train": TRAIN}, "stages.1")
    pruned = prune(grouped_network(name), settings, context)
    weights = weights_of(pruned)
    count = sum(weight.numel() for weight in weights.values())
    assert sum(int((weight == 0).sum()) for weight in weights.values()) == count_removed(0.6, count)
    check(pruned, tmp_path)


@pytest.mark.parametrize("name", ["bottleneck2 in 4", "everywhere in 3"])
def test_pruned_to_the_gate(name: str, context: Context, tmp_path: Path) -> None:
    values = {"gate": 0.0, "step": 0.25, "first_amount": 0.25}
    pruned = prune_to_gate(grouped_network(name), parse(PruneToGateSettings, values, "stages.1"), context)
    weights = weights_of(pruned)
    count = sum(weight.numel() for weight in weights.values())
    assert sum(int((weight == 0).sum()) for weight in weights.values()) == count_removed(0.75, count)
    check(pruned, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in GROUPED if name != NO_CHANNEL])
def test_whole_channels_go_from_every_group_alike(name: str, context: Context, tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    network = grouped_network(name)
    pruned = prune_channels(network, parse(PruneChannelsSettings, {"keep": 0.8}, "stages.1"), context)
    assert sum(p.numel() for p in pruned.module.parameters()) < sum(p.numel() for p in network.module.parameters())
    before, after = grouped_layers(network), grouped_layers(pruned)
    for place, layer in after.items():
        depthwise = before[place].groups == before[place].in_channels == before[place].out_channels
        assert layer.groups == (layer.in_channels if depthwise else before[place].groups), place
        assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups), place
    check(pruned, tmp_path)


def test_where_groups_hold_every_channel_it_is_said(context: Context) -> None:
    pytest.importorskip("torch_pruning")
    settings = parse(PruneChannelsSettings, {"keep": 0.8}, "stages.1")
    with pytest.raises(UserError, match="no channel can go: stem: a grouped convolution takes them apart"):
        prune_channels(grouped_network(NO_CHANNEL), settings, context)


@pytest.mark.slow
@pytest.mark.parametrize("name", GROUPED)
def test_grouped_layers_stay_whole_beside_factors(name: str, context: Context, tmp_path: Path) -> None:
    settings = parse(FactorizeSettings, {"keep": 0.5, "images": 16, "selection": {"kind": "global"}}, "stages.1")
    network = grouped_network(name)
    result = factorize(network, settings, context)
    assert grouped_layers(result).keys() >= grouped_layers(network).keys()
    for place in grouped_layers(network):
        assert isinstance(result.module.get_submodule(place), nn.Conv2d)
    assert any(isinstance(part, Factorized) for part in result.module.modules())
    check(result, tmp_path)


@pytest.mark.parametrize("name", GROUPED)
def test_norms_fold_into_groups(name: str, context: Context, tmp_path: Path) -> None:
    network = grouped_network(name)
    original = copying.deepcopy(network.module)
    folded = fold(network, FoldSettings(), context)
    images = images_for(network)
    torch.testing.assert_close(
        answers(folded.module, images), answers(densified(original), images), rtol=1e-4, atol=1e-5
    )
    for norm in [part for part, module in original.named_modules() if part.endswith("norm2")]:
        assert not isinstance(folded.module.get_submodule(norm), nn.BatchNorm2d), norm
    check(folded, tmp_path)
