"""Masks of a network: selected, merged, held through a training, kept by its file."""

from pathlib import Path
from typing import Any

import pytest
import torch

from netpress.compression.masks import (
    add_masks,
    densities,
    masks_from_zeros,
    merge_masks,
    select_weights,
    total_density,
)
from netpress.compression.prune import prune_once
from netpress.data import Dataset
from netpress.errors import Failure, UserError
from netpress.network import Network, copy, create, load, save
from netpress.process.console import Console
from netpress.process.world import World
from netpress.settings import parse
from netpress.stage import Context
from netpress.training import TrainSettings, run_training


@pytest.fixture
def network() -> Network:
    settings = {"widths": "tiny", "width_factor": 0.5, "classes": 4, "image_size": 8}
    return create("c_efficientnet", settings, classes=("a", "b", "c", "d"), seed=3)


def test_all_is_every_tensor_of_more_than_one_dimension(network: Network) -> None:
    assert select_weights(network).keys() == network.weights().keys()
    pointwise = select_weights(network, ["pointwise", "classifier"])
    assert pointwise["classifier.weight"] is network.module.get_submodule("classifier").weight
    assert all(weight.shape[2:] == (1, 1) for name, weight in pointwise.items() if name != "classifier.weight")
    assert select_weights(network, "blocks.0.*").keys() < select_weights(network, "conv").keys()


def test_a_pattern_that_matches_nothing_names_the_setting(network: Network) -> None:
    with pytest.raises(UserError, match=r"layers: 'block\.0': matches no layer"):
        select_weights(network, ["stem", "block.0"])


def test_merging_keeps_what_both_keep() -> None:
    first = {"a": torch.tensor([[True, False]]), "b": torch.tensor([[True]])}
    merged = merge_masks(first, {"a": torch.tensor([[False, True]]), "c": torch.tensor([[False]])})
    assert {name: mask.tolist() for name, mask in merged.items()} == {
        "a": [[False, False]],
        "b": [[True]],
        "c": [[False]],
    }


def test_adding_masks_zeroes_weights_and_is_checked(network: Network) -> None:
    weight = network.weights()["classifier.weight"]
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[0] = False
    add_masks(network, {"classifier.weight": mask})
    assert bool((weight[0] == 0).all()) and bool((weight[1:] != 0).all())
    rows = {row.name: row for row in densities(network)}
    assert rows["classifier.weight"].nonzero == weight.numel() - weight.shape[1]
    assert rows["classifier.weight"].sparsity == pytest.approx(1 / 4)
    assert total_density(list(rows.values())).nonzero == sum(row.nonzero for row in rows.values())
    with pytest.raises(Failure, match=r"a mask for classifier\.weight of shape \(1, 2\)"):
        add_masks(network, {"classifier.weight": mask[:1, :2]})
    with pytest.raises(Failure, match="no such weight"):
        add_masks(network, {"classifier.bias": torch.ones(4, dtype=torch.bool)})


def test_zeros_become_masks(network: Network) -> None:
    pruned, _ = prune_once(network, 0.5, layers="pointwise")
    found = masks_from_zeros(pruned)
    assert found.keys() == pruned.masks.keys() == select_weights(network, "pointwise").keys()
    assert all(torch.equal(found[name], mask) for name, mask in pruned.masks.items())


def test_a_file_keeps_masks_and_counts(network: Network, tmp_path: Path) -> None:
    pruned, _ = prune_once(network, 0.6)
    save(pruned, tmp_path / "pruned.netpress")
    loaded = load(tmp_path / "pruned.netpress")
    assert all(torch.equal(loaded.masks[name], mask) for name, mask in pruned.masks.items())
    assert densities(loaded) == densities(pruned)


TRAININGS: dict[str, dict[str, Any]] = {
    "sgd, momentum, decay, SRIP": {
        "optimizer": {"kind": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        "orthogonality": {"on": "all", "coefficient": 1.0},
    },
    "adam, averaged, clipped": {"optimizer": {"kind": "adam"}, "average": {"decay": 0.9}, "clip_norm": 1.0},
    "adamw, mixed, best": {"optimizer": {"kind": "adamw"}, "mix": {"kind": "cutmix"}, "keep": "best"},
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_revives_no_weight(name: str, network: Network, shades: Dataset, tmp_path: Path) -> None:
    pruned, _ = prune_once(network, 0.7)
    before = copy(pruned)
    settings = parse(TrainSettings, {"epochs": 2, "batch_size": 16, "augment": {"crop": 1}} | TRAININGS[name])
    context = Context(tmp_path, World(torch.device("cpu")), 1, Console(quiet=True), shades)
    trained = run_training(pruned, settings, context)
    for tensors in (trained.network.module.state_dict(), trained.last):
        for key, mask in before.masks.items():
            assert bool((tensors[key][~mask] == 0).all()), key
            assert bool((tensors[key][mask] != 0).all()), key
    moved = trained.network.module.state_dict()["classifier.weight"] - before.module.state_dict()["classifier.weight"]
    assert bool((moved != 0).any())
