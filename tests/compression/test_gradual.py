"""Gradual pruning: the share follows its curve, masks change until they are frozen, and going on changes no bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import netpress.training.loop as loop
from netpress.compression.gradual import Gradual, GradualMasks, GradualPruning
from netpress.compression.prune import prune, prune_once
from netpress.compression.prune_settings import PruneSettings
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import plan, quantize
from netpress.errors import UserError
from netpress.network import Network
from netpress.settings import SettingsError, parse
from netpress.stage import Context, Outlook

TRAIN: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 16,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "average": {"decay": 0.5},
}
GROW = {"every": 2, "end": 0.5, "frozen": 0.75}  # of 16 steps: whole from 8 on, frozen from 12 on


def settings_of(**values: Any) -> PruneSettings:
    return parse(PruneSettings, {"amount": 0.6, "gradual": GROW, "train": TRAIN} | values, "stages.1")


def flat(network: Network) -> Tensor:
    return torch.cat([weight.detach().flatten().clone() for weight in network.weights().values()])


def watch_steps(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights at the end of each step."""
    seen: list[Tensor] = []
    real = GradualMasks.after_move

    def after_move(self: GradualMasks) -> None:
        real(self)
        seen.append(flat(self.network))

    monkeypatch.setattr(GradualMasks, "after_move", after_move)
    return seen


def test_the_share_follows_the_cube() -> None:
    gradual = Gradual(begin=0.1, end=0.6, frozen=0.6)
    shares = [gradual.share(0.2, 0.8, step, 100) for step in (0, 10, 35, 60, 99)]
    assert shares == pytest.approx([0.2, 0.2, 0.8 - 0.6 / 8, 0.8, 0.8])
    assert Gradual(begin=0.3, end=0.3).share(0.0, 0.5, 30, 100) == 0.5


@pytest.mark.parametrize("hidden", ["learn", "rest"])
def test_masks_change_until_they_are_frozen(
    hidden: str, network: Network, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = flat(network)
    seen = watch_steps(monkeypatch)
    pruned = prune(network, settings_of(gradual=GROW | {"hidden": hidden}), context)
    assert torch.equal(flat(network), before)
    zeros = [int((weights == 0).sum()) for weights in seen]
    gone = int(0.6 * (len(before) - 1)) + 1
    assert zeros[:8] == sorted(zeros[:8]) and 0 == zeros[0] < zeros[2] < zeros[6] < zeros[8]
    assert zeros[8:] == [gone] * 8
    came_back = (seen[9] == 0) & (seen[11] != 0)
    assert bool(came_back.any()) or hidden == "rest"
    assert all(torch.equal(weights == 0, seen[12] == 0) for weights in seen[13:])
    last = flat(pruned)  # an average: what was removed is zero in it, too
    assert torch.equal(last == 0, seen[-1] == 0) and not torch.equal(last, seen[-1])
    assert len(before) - gone == sum(int(mask.sum()) for mask in pruned.masks.values()) == context.logged()[0]["left"]
    lines = context.part("round-1").logged()
    assert [line["pruned"] for line in lines] == pytest.approx(
        [zeros[3] / len(last), zeros[7] / len(last), 0.6, 0.6], abs=1e-3
    )


def test_a_hidden_value_that_rests_comes_back_as_it_was(network: Network) -> None:
    masks = GradualMasks(network, GradualPruning(amount=0.5, hidden="rest", every=1))
    before = flat(network)
    masks.begin_training(100)
    masks.begin_step(40)
    assert 0.4 < float((flat(network) == 0).float().mean()) < 0.5
    masks._show()
    assert torch.equal(flat(network), before)


@pytest.mark.parametrize("stop_at", [3, 8, 13])  # of 16 steps: while masks change, between epochs, once frozen
@pytest.mark.parametrize("hidden", ["learn", "rest"])
def test_going_on_gives_the_same_bits(
    hidden: str, stop_at: int, network: Network, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(gradual=GROW | {"hidden": hidden}, rounds=2, layers="conv")
    whole = prune(network, settings, context)
    again = tmp_path / "again"
    again.mkdir()
    other = Context(again, context.world, 1, context.console, context.dataset, save_every_seconds=0, name="02-prune")
    interrupt(monkeypatch, stop_at)
    with pytest.raises(KeyboardInterrupt):
        prune(network, settings, other)
    result = prune(network, settings, other)
    assert same(whole, result)
    assert other.logged() == context.logged()


def interrupt(monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    real, saves = loop._Training._save, 0

    def save(self: Any) -> None:
        nonlocal saves
        real(self)
        saves += 1
        if saves == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Training, "_save", save)


def same(one: Network, other: Network) -> bool:
    states = one.module.state_dict(), other.module.state_dict()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()) and all(
        torch.equal(mask, other.masks[name]) for name, mask in one.masks.items()
    )


def test_quantized_and_pruned_in_one_stage(network: Network, context: Context) -> None:
    first, _ = prune_once(network, 0.2)
    train = TRAIN | {"rounds": 4, "average": None}
    values = {"preset": "int4", "falling": [8, 6, 5], "prune": {"amount": 0.5, "every": 1, "pattern": [1, 2]}}
    settings = parse(QuantizeSettings, {**values, "train": train, "calibration_images": 16}, "stages.1")
    planned = plan(Outlook(first), settings)
    done = quantize(first, settings, context)
    row = next(row for row in planned.rows if row["what"] == "pruning")
    weights = flat(done)
    assert row["left"] == sum(int(mask.sum()) for mask in planned.network.masks.values())
    assert abs(row["left"] - int(0.5 * len(weights))) <= 2
    assert float((weights == 0).float().mean()) > 0.498  # to a block
    for name, mask in first.masks.items():
        assert not bool(done.module.state_dict()[name][~mask].any())
    assert [line["pruned"] for line in context.part("train").logged()] == sorted(
        line["pruned"] for line in context.part("train").logged()
    )


def test_a_network_that_is_sparser_is_refused_by_the_plan(network: Network) -> None:
    sparse, _ = prune_once(network, 0.7)
    settings = parse(QuantizeSettings, {"train": TRAIN, "prune": {"amount": 0.5}}, "stages.1")
    with pytest.raises(UserError, match="more than that; choose a larger amount"):
        plan(Outlook(sparse), settings)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"train": None}, "gradual prunes while a round trains: add train"),
        ({"soft": True}, "soft = True does not go with gradual"),
        ({"weights": "rewind"}, "weights = 'rewind' does not go with gradual"),
        ({"train": TRAIN | {"keep": "best"}}, "gradual does not go with train.keep = 'best'"),
        ({"gradual": {"end": 0.9}}, "must come in this order"),
        ({"gradual": {"frozen": 1.0}}, "frozen"),
    ],
)
def test_what_gradual_refuses(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        settings_of(**values)
