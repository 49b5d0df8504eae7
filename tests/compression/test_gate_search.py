"""How `prune_to_gate` searches: the scan and the bisection find the same, and where they do not, why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import netpress.compression.prune_to_gate as gate_module
from netpress.compression.masks import densities, total_density
from netpress.compression.prune_to_gate import PruneToGateSettings, plan, prune_to_gate
from netpress.data import Dataset
from netpress.errors import UserError
from netpress.network import Network
from netpress.process.console import Console
from netpress.process.world import World
from netpress.settings import SettingsError, parse
from netpress.stage import Context, Outlook

Accuracy = Callable[[int], float]  # of the network with so many hundredths of its weights gone


@pytest.fixture
def context(shades: Dataset, tmp_path: Path) -> Context:
    return Context(tmp_path, World(torch.device("cpu")), 1, Console(quiet=True), shades, name="02-gate")


def settings_of(**values: Any) -> PruneToGateSettings:
    return parse(PruneToGateSettings, {"gate": 0.7, **values}, "stages.1")


def pretend(monkeypatch: pytest.MonkeyPatch, accuracy: Accuracy, stop_at: int | None = None) -> list[int]:
    """Give the pruned networks these accuracies; the hundredths that were looked at, killed at look `stop_at`."""
    seen: list[int] = []

    def measure(network: Network, context: Context) -> float:
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        seen.append(round(100 * total_density(densities(network)).sparsity))
        return accuracy(seen[-1])

    monkeypatch.setattr(gate_module, "selection_accuracy", measure)
    return seen


def gone(network: Network) -> int:
    return round(100 * total_density(densities(network)).sparsity)


def falls_after(last: int, *dips: int) -> Accuracy:
    return lambda amount: 0.6 if amount > last or amount in dips else 0.8


@pytest.mark.parametrize("last", [0, 1, 2, 3, 40, 63, 97])
def test_both_searches_find_the_same_where_accuracy_only_falls(
    last: int, network: Network, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned = pretend(monkeypatch, falls_after(last))
    assert gone(prune_to_gate(network, settings_of(), context.part("scan"))) == last
    assert scanned == list(range(last + 2))
    halved = pretend(monkeypatch, falls_after(last))
    pruned = prune_to_gate(network, settings_of(search="bisection"), context.part("bisection"))
    assert gone(pruned) == last
    assert len(halved) == len(set(halved)) <= 1 + 7 + 5  # the network as it came, 2 ** 7 > 99 amounts, 5 to confirm
    below = set(range(max(0, last - 5), last + 1))
    assert below | {last + 1} <= set(halved)
    row = plan(Outlook(network), settings_of(search="bisection")).rows[0]
    assert row["evaluations"] == 7 + 5


@pytest.mark.parametrize(
    ("dips", "confirm", "expected"),
    [
        ((38,), 5, 37),  # 38 fails, so 39 and 40 are not confirmed
        ((38,), 1, 40),  # 39 is enough
        ((38, 34), 5, 33),
        ((38, 31), 5, 37),  # 32 to 36 confirm 37; the scan would end at 30
        ((20, 21), 5, 40),  # a dip that no look fell on
        ((37,), 5, 36),  # one that the halving itself met
        (tuple(range(1, 40)), 5, 0),
    ],
)
def test_a_bisection_is_confirmed_below(
    dips: tuple[int, ...],
    confirm: int,
    expected: int,
    network: Network,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, falls_after(40, *dips))
    found = gone(prune_to_gate(network, settings_of(search="bisection", confirm=confirm), context.part("bisection")))
    assert found == expected
    scanned = gone(prune_to_gate(network, settings_of(), context.part("scan")))
    assert found >= scanned == min(dips) - 1


def test_steps_from_a_first_amount(network: Network, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = pretend(monkeypatch, falls_after(40))
    settings = settings_of(search="bisection", first_amount=0.15, step=0.04, confirm=2)
    assert gone(prune_to_gate(network, settings, context)) == 39
    assert {0, 31, 35, 39, 43} <= set(seen) <= {0, *range(15, 100, 4)}
    nothing = settings_of(search="bisection", first_amount=0.5)
    assert gone(prune_to_gate(network, nothing, context.part("nothing"))) == 0


@pytest.mark.parametrize(("dips", "expected"), [((), 40), ((38,), 40), ((20, 21, 40), 39), (tuple(range(1, 41)), 0)])
def test_a_sweep_takes_the_last_of_all(
    dips: tuple[int, ...], expected: int, network: Network, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = pretend(monkeypatch, falls_after(40, *dips))
    assert gone(prune_to_gate(network, settings_of(search="sweep", last_amount=0.6), context)) == expected
    assert seen == list(range(61))
    row = plan(Outlook(network), settings_of(search="sweep", last_amount=0.6)).rows[0]
    assert row["evaluations"] == 60


@pytest.mark.parametrize("search", ["scan", "bisection", "sweep"])
def test_nothing_is_looked_at_beyond_the_last_amount(
    search: str, network: Network, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = pretend(monkeypatch, falls_after(40))
    settings = settings_of(search=search, first_amount=0.2, last_amount=0.3)
    assert gone(prune_to_gate(network, settings, context)) == max(seen) == 30
    assert set(seen) <= {0, *range(20, 31)}
    with pytest.raises(SettingsError, match=r"last_amount = 0\.3 is less than first_amount, 0\.31"):
        settings_of(search=search, first_amount=0.31, last_amount=0.3)


@pytest.mark.parametrize("stop_at", [0, 1, 4, 9])
def test_a_killed_bisection_takes_no_look_twice(
    stop_at: int, network: Network, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(search="bisection")
    accuracy = falls_after(40, 38)
    whole = pretend(monkeypatch, accuracy)
    expected = prune_to_gate(network, settings, context.part("whole"))
    part = context.part("killed")
    before = pretend(monkeypatch, accuracy, stop_at)
    with pytest.raises(KeyboardInterrupt):
        prune_to_gate(network, settings, part)
    after = pretend(monkeypatch, accuracy)
    result = prune_to_gate(network, settings, part)
    assert before + after == whole
    assert [(line["amount"], line["accuracy"]) for line in part.logged()] == [
        (line["amount"], line["accuracy"]) for line in context.part("whole").logged()
    ]
    assert all(torch.equal(mask, expected.masks[name]) for name, mask in result.masks.items())


def test_amounts_that_would_empty_a_tensor_fail(
    network: Network, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for search in ("scan", "bisection"):
        pretend(monkeypatch, lambda amount: 1.0)
        settings = settings_of(search=search, first_amount=0.9, step=0.001)
        pruned = prune_to_gate(network, settings, context.part(search))
        assert all(bool(mask.any()) for mask in pruned.masks.values())
        found.append(total_density(densities(pruned)).nonzero)
    assert found[0] == found[1] < sum(row.weights for row in densities(network)) / 50


def test_a_scan_has_nothing_to_confirm() -> None:
    for search in ("scan", "sweep"):
        with pytest.raises(SettingsError, match=f"confirm = 3 needs search = 'bisection': a {search} confirms nothing"):
            settings_of(confirm=3, search=search)
    with pytest.raises(SettingsError, match="'guess' is not one of"):
        settings_of(search="guess")


def test_a_network_below_the_gate_is_refused_or_stays_as_it_is(
    network: Network, context: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for search in ("scan", "bisection", "sweep"):
        seen = pretend(monkeypatch, falls_after(-1))
        part = context.part(search)
        with pytest.raises(UserError, match=r"gate 0\.7 is above the network's accuracy as it is, 60\.00%"):
            prune_to_gate(network, settings_of(search=search), part)
        seen.clear()
        part = context.part(f"{search}-kept")
        kept = prune_to_gate(network, settings_of(search=search, below_gate="keep"), part)
        assert seen == [0] and gone(kept) == 0 and not kept.masks  # one look, and none below the gate
        assert "60.00% is below the gate, 70.00%: nothing is pruned" in " ".join(capsys.readouterr().err.split())
        assert [line["amount"] for line in part.logged()] == [0.0]
        # One that reaches the gate is pruned as it would be otherwise.
        pretend(monkeypatch, falls_after(30))
        pruned = [
            gone(
                prune_to_gate(network, settings_of(search=search, below_gate=below), context.part(f"{search}-{below}"))
            )
            for below in ("refuse", "keep")
        ]
        assert pruned == [30, 30]
    with pytest.raises(SettingsError, match="below_gate"):
        settings_of(below_gate="ignore")
