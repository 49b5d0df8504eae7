"""The prune stages: counts of the released networks, rounds, what they start from, and going on."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import netpress.compression.prune as pruning_module
import netpress.compression.prune_to_gate as gate_module
from netpress.compression.masks import densities, total_density
from netpress.compression.prune import PruneSettings, plan, prune, prune_once
from netpress.compression.prune_to_gate import PruneToGateSettings, prune_to_gate
from netpress.data import Dataset
from netpress.errors import Failure, UserError
from netpress.models.registry import parse_model
from netpress.network import Network, copy, create, load
from netpress.process.console import Console
from netpress.process.world import World
from netpress.settings import SettingsError, parse
from netpress.stage import Context, Outlook

pytestmark = pytest.mark.slow

TRAIN: dict[str, Any] = {"epochs": 1, "batch_size": 16, "augment": {"crop": 1}}
CLASSES = ("a", "b", "c", "d")


@pytest.fixture
def network() -> Network:
    settings = {"widths": "tiny", "width_factor": 0.5, "classes": 4, "image_size": 8}
    return create("c_efficientnet", settings, classes=CLASSES, seed=3)


@pytest.fixture
def context(shades: Dataset, network: Network, tmp_path: Path) -> Context:
    return Context(tmp_path, World(torch.device("cpu")), 1, Console(quiet=True), shades, copy(network), name="02-prune")


def settings_of(**values: Any) -> PruneSettings:
    return parse(PruneSettings, values, "stages.1")


def same(one: Network, other: Network) -> bool:
    first, second = one.module.state_dict(), other.module.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def starts_of_rounds(monkeypatch: pytest.MonkeyPatch) -> list[Network]:
    """Copies of the networks that the rounds' trainings are given from here on."""
    starts: list[Network] = []
    real = pruning_module.run_training

    def remember(network: Network, *rest: Any, **more: Any) -> Any:
        starts.append(copy(network))
        return real(network, *rest, **more)

    monkeypatch.setattr(pruning_module, "run_training", remember)
    return starts


def test_v1_has_the_released_count_after_each_round() -> None:
    choice = parse_model("c_efficientnet:released-v1")
    network = create("c_efficientnet", choice.settings.model_dump(mode="json"), seed=1)
    rows = [
        row for row in plan(Outlook(network), settings_of(amount=0.6, rounds=4, train=TRAIN)).rows if "amount" in row
    ]
    assert [row["amount"] for row in rows] == [0.15, 0.3, 0.45, 0.6]
    assert all(row["weights"] == 450_456 and row["epochs"] == 1 for row in rows)
    assert [row["left"] for row in rows] == [450_456 - math.floor(a * 450_455 / 100) - 1 for a in (15, 30, 45, 60)]
    pruned, choice = prune_once(network, 0.6)
    total = total_density(densities(pruned))
    assert (total.nonzero, total.weights) == (180_182, 450_456)
    # Never trained, its classifier (standard deviation .01) is all below the threshold: one weight stays.
    assert "classifier.weight" in choice.rescued
    assert int(pruned.masks["classifier.weight"].sum()) == 1


def test_rounds_leave_what_the_plan_says(network: Network, context: Context) -> None:
    settings = settings_of(amount=0.6, rounds=3, first_amount=0.3, train=TRAIN)
    planned = [row["left"] for row in plan(Outlook(network), settings).rows if "amount" in row]
    before = copy(network)
    pruned = prune(network, settings, context)
    assert same(network, before)
    lines = context.logged()
    assert [line["left"] for line in lines] == planned
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert all({"accuracy_before", "accuracy_pruned", "accuracy_trained"} <= line.keys() for line in lines)
    total = total_density(densities(pruned))
    assert (total.nonzero, total.weights) == (planned[-1], lines[-1]["weights"])
    for name, mask in pruned.masks.items():
        first = load(context.folder / "round-1" / "network.netpress").masks[name]
        assert not bool((mask & ~first).any())
    assert not list(context.folder.rglob("state.safetensors"))


def test_one_shot_needs_no_data(network: Network, context: Context, tmp_path: Path) -> None:
    bare = Context(tmp_path, World(torch.device("cpu")), 1, Console(quiet=True))
    pruned = prune(network, settings_of(amount=0.5, scope="layer", layers=["depthwise", "classifier"]), bare)
    assert pruned.masks.keys() == {n for n in network.weights() if "depthwise" in n or "classifier" in n}
    for name, mask in pruned.masks.items():
        assert int(mask.sum()) == mask.numel() - (mask.numel() - 1) // 2 - 1, name
    (line,) = bare.logged()
    left, weights = (sum(getattr(row, key) for row in densities(pruned)) for key in ("nonzero", "weights"))
    assert line["amount"] == 0.5 and "accuracy_pruned" not in line
    assert weights - left == line["weights"] - line["left"]


def test_kept_weights_go_on(network: Network, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = starts_of_rounds(monkeypatch)
    prune(network, settings_of(amount=0.6, rounds=2, train=TRAIN), context)
    after_first = load(context.folder / "round-1" / "network.netpress").module.state_dict()
    second = starts[1].module.state_dict()
    for name, tensor in after_first.items():
        mask = starts[1].masks.get(name)
        assert torch.equal(second[name], tensor if mask is None else tensor * mask)


def test_rewinding_restores_the_first_weights(
    network: Network, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = starts_of_rounds(monkeypatch)
    assert context.initial is not None
    first = context.initial.module.state_dict()
    trained, _ = prune_once(network, 0)
    with torch.no_grad():
        for weight in trained.weights().values():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    prune(trained, settings_of(amount=0.6, rounds=2, weights="rewind", train=TRAIN), context)
    by_trained, _ = prune_once(trained, 0.3)
    for start in starts:
        for name, tensor in start.module.state_dict().items():
            mask = start.masks.get(name)
            assert torch.equal(tensor, first[name] if mask is None else first[name] * mask)
    assert all(torch.equal(starts[0].masks[name], mask) for name, mask in by_trained.masks.items())
    assert all(bool((starts[1].masks[name] <= mask).all()) for name, mask in starts[0].masks.items())


def test_reinitializing_draws_new_weights_each_round(
    network: Network, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = starts_of_rounds(monkeypatch)
    prune(network, settings_of(amount=0.6, rounds=2, weights="reinitialize", train=TRAIN), context)
    stems = [start.module.state_dict()["stem.conv.weight"] for start in [network, *starts]]
    both = starts[1].masks["stem.conv.weight"]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert bool((stems[i][both] != stems[j][both]).all())
    assert bool((stems[2][~both] == 0).all())


def test_rewinding_needs_where_to(network: Network, context: Context) -> None:
    settings = settings_of(amount=0.6, weights="rewind", train=TRAIN)
    nowhere = Context(context.folder, context.world, 1, context.console, context.dataset, name="02-prune")
    with pytest.raises(UserError, match="rewind"):
        prune(network, settings, nowhere)
    network.architecture.edits.append({"kind": "fold_norms", "pairs": []})
    with pytest.raises(UserError, match="changed the network's structure"):
        prune(network, settings, context)


def test_masks_from_the_last_weights(network: Network, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = starts_of_rounds(monkeypatch)
    train = TRAIN | {"average": {"decay": 0.99, "warmup": False}}  # so that kept and last weights differ
    prune(network, settings_of(amount=0.6, rounds=2, masks_from="last", train=train), context)
    kept = load(context.folder / "round-1" / "network.netpress")
    last = load(context.folder / "round-1" / "last.netpress")
    assert not same(kept, last)
    from_last, _ = prune_once(last, 0.6)
    from_kept, _ = prune_once(kept, 0.6)
    assert all(torch.equal(starts[1].masks[name], mask) for name, mask in from_last.masks.items())
    assert not all(torch.equal(from_kept.masks[name], mask) for name, mask in from_last.masks.items())
    weight = "classifier.weight"
    assert torch.equal(
        starts[1].module.state_dict()[weight], kept.module.state_dict()[weight] * from_last.masks[weight]
    )


@pytest.mark.parametrize(("weights", "stop_in"), [("keep", 1), ("keep", 2), ("rewind", 2), ("reinitialize", 3)])
def test_an_interrupted_pruning_goes_on_to_the_same_bits(
    weights: str, stop_in: int, network: Network, context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = settings_of(amount=0.6, rounds=3, weights=weights, train=TRAIN)
    whole = prune(network, settings, context)
    lines = context.logged()

    again = tmp_path / "again"
    again.mkdir()
    other = Context(again, context.world, 1, context.console, context.dataset, context.initial, name="02-prune")
    real, calls = pruning_module.run_training, 0

    def interrupt(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        trained = real(*arguments, **more)
        if calls == stop_in:
            raise KeyboardInterrupt  # the round's training is done, its network not yet written
        return trained

    monkeypatch.setattr(pruning_module, "run_training", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prune(network, settings, other)
    assert len(other.logged()) == stop_in - 1
    result = prune(network, settings, other)
    assert calls == 3 + 1  # the finished rounds were not redone
    assert same(result, whole)
    assert other.logged() == lines
    assert same(prune(network, settings, other), whole)
    assert calls == 3 + 1


def test_a_network_that_is_sparser_already(network: Network, context: Context) -> None:
    sparse, _ = prune_once(network, 0.7)
    with pytest.raises(UserError, match=r"zero already.*first_amount"):
        prune(sparse, settings_of(amount=0.8, rounds=2, train=TRAIN), context)
    further = prune(sparse, settings_of(amount=0.8), context)
    assert all(bool((mask <= sparse.masks[name]).all()) for name, mask in further.masks.items())


def test_a_layer_is_never_emptied(network: Network, context: Context) -> None:
    with torch.no_grad():
        network.weights()["stem.conv.weight"].mul_(1e-6)
    pruned = prune(network, settings_of(amount=0.6), context)
    assert int(pruned.masks["stem.conv.weight"].sum()) == 1
    line = context.logged()[0]
    assert line["left"] == sum(int(mask.sum()) for mask in pruned.masks.values())
    assert line["left"] == line["weights"] - math.floor(6 * (line["weights"] - 1) / 10) - 1


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"amount": 1.4}, r"stages\.1\.amount: 1\.4 is not between 0 and 1"),
        ({"amount": 1.0}, r"stages\.1\.amount: 1 leaves no weights"),
        ({"amount": 0.5, "first_amount": 0.6, "rounds": 2, "train": TRAIN}, "first_amount 0.6 is above amount 0.5"),
        ({"amount": 0.5, "first_amount": 0.2}, "first_amount needs more than one round"),
        ({"amount": 0.5, "rounds": 4}, "rounds = 4 needs a training a round"),
        ({"amount": 0.5, "weights": "rewind"}, "weights = 'rewind' needs a training a round"),
        ({"amount": 0.5, "weights": "again"}, "'again' is not one of"),
        ({"amount": 0.5, "train": TRAIN | {"epoch": 3}}, r"stages\.1\.train\.epoch: no such setting"),
    ],
)
def test_impossible_settings(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        settings_of(**values)


def test_amount_zero_takes_nothing(network: Network, context: Context) -> None:
    pruned = prune(network, settings_of(amount=0.0), context)
    assert same(pruned, network)
    assert all(bool(mask.all()) for mask in pruned.masks.values())


def test_the_plan_says_what_is_estimated(network: Network) -> None:
    rows = plan(Outlook(network), settings_of(amount=0.6, rounds=2, layers="pointwise", train=TRAIN)).rows
    rounds, tensors = rows[:2], rows[2:]
    assert all(row["estimated"] for row in tensors)
    assert [sum(row["left"][index] for row in tensors) for index in range(2)] == [row["left"] for row in rounds]
    exact = plan(Outlook(network), settings_of(amount=0.6, scope="layer")).rows
    assert not any("estimated" in row for row in exact)
    with pytest.raises(UserError, match="layers"):
        plan(Outlook(network), settings_of(amount=0.6, layers="nowhere.*"))


def gate_settings(**values: Any) -> PruneToGateSettings:
    return parse(PruneToGateSettings, values, "stages.1")


def pretend_accuracy(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make accuracy fall from .9 with the sparsity; the sparsities that were looked at."""
    seen: list[float] = []

    def accuracy(network: Network, context: Context) -> float:
        seen.append(total_density(densities(network)).sparsity)
        return 0.9 - seen[-1] / 2

    monkeypatch.setattr(gate_module, "selection_accuracy", accuracy)
    return seen


def test_the_sweep_takes_the_last_amount_above_the_gate(
    network: Network, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = pretend_accuracy(monkeypatch)
    settings = gate_settings(gate=0.7, step=0.06)
    pruned = prune_to_gate(network, settings, context)  # .9 - a / 2 >= .7 up to a = .4
    assert total_density(densities(pruned)).sparsity == pytest.approx(0.36, abs=1e-3)
    assert [line["amount"] for line in context.logged()] == [0.0, 0.06, 0.12, 0.18, 0.24, 0.3, 0.36, 0.42]
    looks = len(seen)
    assert same(prune_to_gate(network, settings, context), pruned)
    assert len(seen) == looks  # what the metrics know is not measured again
    sparse, _ = prune_once(network, 0.5)
    with pytest.raises(UserError, match=r"gate 0\.7 is above the network's accuracy"):
        prune_to_gate(sparse, settings, context.part("sparse"))


def test_the_sweep_ends_where_layers_would_be_emptied(
    network: Network, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_accuracy(monkeypatch)
    pruned = prune_to_gate(network, gate_settings(gate=0.0, step=0.003, first_amount=0.98), context)
    assert all(bool(mask.any()) for mask in pruned.masks.values())
    row = gate_module.plan(Outlook(network), gate_settings(gate=0.5, step=0.25)).rows[0]
    assert row["evaluations"] == 3


def test_a_sweep_on_real_images(network: Network, context: Context) -> None:
    pruned = prune_to_gate(network, gate_settings(gate=0.0, step=0.3, layers="pointwise", scope="layer"), context)
    assert [line["amount"] for line in context.logged()] == [0.0, 0.3, 0.6, 0.9]
    assert all(0 <= line["accuracy"] <= 1 for line in context.logged())
    assert total_density(densities(pruned, "pointwise")).sparsity == pytest.approx(0.9, abs=0.02)


def test_weights_that_are_not_finite(network: Network, context: Context) -> None:
    with torch.no_grad():
        network.weights()["classifier.weight"][0, 0] = math.nan
    with pytest.raises(Failure, match="not finite"):
        prune(network, settings_of(amount=0.5), context)
