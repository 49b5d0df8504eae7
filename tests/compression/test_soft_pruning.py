"""Soft pruning: zeroed weights come back, the count at the end is exact, and going on changes no bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import netpress.training.loop as loop
from netpress.compression.gate import selection_accuracy
from netpress.compression.prune import PruneSettings, prune, prune_once
from netpress.compression.soft_pruning import SoftPruning
from netpress.network import Network, load
from netpress.settings import SettingsError, parse
from netpress.stage import Context

TRAIN: dict[str, Any] = {"epochs": 3, "batch_size": 16, "optimizer": {"kind": "sgd", "learning_rate": 0.1}}


def settings_of(**values: Any) -> PruneSettings:
    return parse(PruneSettings, {"amount": 0.6, "soft": True, "train": TRAIN} | values, "stages.1")


def flat(network: Network) -> Tensor:
    """All weights that may be pruned, one after another."""
    return torch.cat([weight.detach().flatten().clone() for weight in network.weights().values()])


def remember_epochs(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights right after each zeroing."""
    zeroed: list[Tensor] = []
    real = SoftPruning.begin_epoch

    def begin_epoch(self: SoftPruning) -> None:
        real(self)
        zeroed.append(flat(self.network))

    monkeypatch.setattr(SoftPruning, "begin_epoch", begin_epoch)
    return zeroed


def test_zeroed_weights_may_come_back(network: Network, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    before = flat(network)
    zeroed = remember_epochs(monkeypatch)
    pruned = prune(network, settings_of(rounds=2, first_amount=0.3), context)
    assert torch.equal(flat(network), before)
    count = len(before)
    gone = [int(0.3 * (count - 1)) + 1, int(0.6 * (count - 1)) + 1]
    assert [int((weights == 0).sum()) for weights in zeroed] == [gone[0]] * 3 + [gone[1]] * 3
    smallest = before.abs().sort().values[gone[0] - 1]
    assert torch.equal(zeroed[0] == 0, before.abs() <= smallest)
    # Zero when the first epoch began, not zero when the second did.
    assert bool(((zeroed[0] == 0) & (zeroed[1] != 0)).any())
    assert bool(((zeroed[0] != 0) & (zeroed[1] == 0)).any())
    last = flat(pruned)
    assert int((last == 0).sum()) == gone[1] == count - sum(int(mask.sum()) for mask in pruned.masks.values())
    # What a round removed at its end stays removed.
    first = context.folder / "round-1" / "network.netpress"
    removed = flat(load(first)) == 0
    assert int(removed.sum()) == gone[0]
    assert all(bool((weights[removed] == 0).all()) for weights in [*zeroed[3:], last])
    assert [line["left"] for line in context.logged()] == [count - gone[0], count - gone[1]]


def test_the_accuracy_is_that_of_what_is_left(network: Network, context: Context) -> None:
    pruned = prune(network, settings_of(amount=0.9), context)
    assert context.logged()[0]["accuracy_trained"] == selection_accuracy(pruned, context)


@pytest.mark.parametrize("stop_at", [2, 4, 6, 12])  # of 4 steps an epoch: in the middle, and between epochs
def test_going_on_in_the_middle_gives_the_same_bits(
    stop_at: int, network: Network, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prune(network, settings_of(), context)
    again = tmp_path / "again"
    again.mkdir()
    other = Context(again, context.world, 1, context.console, context.dataset, save_every_seconds=0, name="02-prune")
    real, saves = loop._Training._save, 0

    def save(self: Any) -> None:
        nonlocal saves
        real(self)
        saves += 1
        if saves == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Training, "_save", save)
    with pytest.raises(KeyboardInterrupt):
        prune(network, settings_of(), other)
    result = prune(network, settings_of(), other)
    assert saves == 12  # every step once
    assert all(torch.equal(mask, result.masks[name]) for name, mask in whole.masks.items())
    states = whole.module.state_dict(), result.module.state_dict()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert other.logged() == context.logged()


def test_one_tensor_alone(network: Network, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    zeroed = remember_epochs(monkeypatch)
    pruned = prune(network, settings_of(layers="stem.conv", scope="layer"), context)
    assert list(pruned.masks) == ["stem.conv.weight"]
    mask = prune_once(network, 0.6, "stem.conv", "layer")[0].masks["stem.conv.weight"]
    assert [int((weights == 0).sum()) for weights in zeroed] == [int((~mask).sum())] * 3


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"train": None}, "soft = True needs a training a round"),
        ({"weights": "rewind"}, "weights = 'rewind' does not go with soft"),
        ({"weights": "reinitialize"}, "weights = 'reinitialize' does not go with soft"),
        ({"masks_from": "last"}, "masks_from = 'last' does not go with soft"),
        ({"train": TRAIN | {"keep": "best"}}, "soft does not go with train.keep = 'best'"),
        ({"train": TRAIN | {"early_stopping": {"patience": 2}}}, "train.early_stopping"),
    ],
)
def test_what_soft_refuses(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        settings_of(**values)
