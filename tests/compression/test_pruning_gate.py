"""The gate of the `prune` stage: where it stops, what it returns then, and what it refuses.

tests/runs/test_stage_boundaries.py kills it.
"""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import netpress.compression.prune as pruning_module
from netpress.compression.masks import densities, total_density
from netpress.compression.prune import PruneSettings, plan, prune, prune_once
from netpress.data import Dataset
from netpress.errors import UserError
from netpress.network import Network, copy
from netpress.process.console import Console
from netpress.process.world import World
from netpress.settings import SettingsError, parse
from netpress.stage import Context, Outlook

TRAIN: dict[str, Any] = {"epochs": 1, "batch_size": 32, "augment": {"crop": 1}}


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def context(shades: Dataset, network: Network, tmp_path: Path, said: io.StringIO) -> Context:
    world = World(torch.device("cpu"))
    return Context(tmp_path, world, 1, Console(stream=said), shades, copy(network), name="02-prune")


def settings_of(**values: Any) -> PruneSettings:
    return parse(PruneSettings, {"amount": 0.83193, "rounds": 5, "schedule": "exponential", **values}, "stages.1")


def pretend_accuracies(monkeypatch: pytest.MonkeyPatch, before: float, *trained: float) -> list[Network]:
    """Have the network begin with one accuracy and leave each round's training with the next; what was trained."""
    real, networks = pruning_module.run_training, []

    def train(network: Network, *rest: Any) -> Any:
        result = replace(real(network, *rest), selection_accuracy=trained[len(networks)])
        networks.append(result.network)
        return result

    monkeypatch.setattr(pruning_module, "run_training", train)
    monkeypatch.setattr(pruning_module, "selection_accuracy", lambda network, context: before)
    return networks


def same(one: Network, other: Network) -> bool:
    first, second = one.module.state_dict(), other.module.state_dict()
    masks = one.masks.keys() == other.masks.keys() and all(torch.equal(one.masks[n], other.masks[n]) for n in one.masks)
    return masks and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("more", [{}, {"masks_from": "last", "weights": "rewind"}], ids=["kept", "last, rewound"])
def test_it_stops_at_the_first_round_below(more, network, context, said, monkeypatch):
    # The third round is exactly at the gate; the fifth, which would be above it again, is never begun.
    trained = pretend_accuracies(monkeypatch, 0.9, 0.85, 0.88, 0.8, 0.7999)
    pruned = prune(network, settings_of(gate=0.8, train=TRAIN, **more), context)
    assert len(trained) == 4
    assert [line["accuracy_trained"] for line in context.logged()] == [0.85, 0.88, 0.8, 0.7999]
    assert same(pruned, trained[2]) and not same(pruned, trained[3])
    total = total_density(densities(pruned))
    assert total.weights - total.nonzero == 657 * (total.weights - 1) // 1000 + 1
    files = {path.relative_to(context.folder).as_posix() for path in context.folder.rglob("*.netpress")}
    names = ("network", "last") if more else ("network",)
    assert files == {f"round-{number}/{name}.netpress" for number in (1, 2, 3) for name in names}
    assert "round 4 ends at 79.99%, below the gate 80.00%: the result is that of round 3" in said.getvalue()
    again = prune(network, settings_of(gate=0.8, train=TRAIN, **more), context)
    assert len(trained) == len(context.logged()) == 4
    assert same(again, pruned)


def test_a_first_round_below_leaves_the_network_as_it_came(network, context, capsys, monkeypatch):
    sparse, _ = prune_once(network, 0.2)
    before = copy(sparse)
    trained = pretend_accuracies(monkeypatch, 0.8, 0.79)
    pruned = prune(sparse, settings_of(gate=0.8, train=TRAIN), context)
    assert same(pruned, before) and same(sparse, before) and len(trained) == 1
    assert (
        "warning: 02-prune: round 1 ends at 79.00%, below the gate 80.00%: the network stays" in capsys.readouterr().err
    )
    assert same(prune(sparse, settings_of(gate=0.8, train=TRAIN), context), before) and len(trained) == 1
    assert not list(context.folder.rglob("*.netpress"))


def test_a_gate_that_is_always_kept_changes_nothing(network, context, tmp_path):
    other = replace(context, folder=tmp_path / "other")
    other.folder.mkdir()
    free = prune(network, settings_of(train=TRAIN, rounds=2), context)
    assert same(prune(network, settings_of(train=TRAIN, rounds=2, gate=0.0), other), free)
    assert other.logged() == context.logged()


def test_a_single_pruning_without_training_keeps_its_gate_too(network, context, monkeypatch):
    figures = iter([0.9, 0.5, 0.9, 0.8])
    monkeypatch.setattr(pruning_module, "selection_accuracy", lambda network, context: next(figures))
    settings = parse(PruneSettings, {"amount": 0.5, "gate": 0.8}, "stages.1")
    assert not prune(network, settings, context).masks
    assert prune(network, settings, context.part("again")).masks


def test_a_gate_above_the_network_or_without_data(network, context, monkeypatch):
    pretend_accuracies(monkeypatch, 0.79)
    with pytest.raises(UserError, match=r"^02-prune: gate 0\.8 is above the network's accuracy as it is, 79\.00%"):
        prune(network, settings_of(gate=0.8, train=TRAIN), context)
    assert context.logged() == []
    monkeypatch.undo()
    settings = parse(PruneSettings, {"amount": 0.5, "gate": 0.8}, "stages.1")
    with pytest.raises(UserError, match=r"02-prune: this stage needs data; give --data"):
        prune(network, settings, replace(context, dataset=None))


def test_gates_that_are_no_accuracy():
    for gate in (80, -0.1):
        with pytest.raises(SettingsError, match=r"stages\.1\.gate: .* is not between 0 and 1"):
            settings_of(gate=float(gate), train=TRAIN)


def test_the_plan_names_the_gate(network):
    rows = plan(Outlook(network), settings_of(gate=0.8, train=TRAIN)).rows[:5]
    assert [row["amount"] for row in rows] == [0.3, 0.51, 0.657, 0.7599, 0.83193]
    assert [row["gate"] for row in rows] == [0.8] * 5
    assert "gate" not in plan(Outlook(network), settings_of(train=TRAIN)).rows[0]
