"""The rounds of the `factorize` stage: what follows what, what each leaves, and which network is the result."""

import copy as copying
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from netpress.compression.factorization.settings import FactorizeSettings
from netpress.compression.factorize import best_round, factorize, next_step
from netpress.data import Dataset, normalize
from netpress.models.factorized import Factorized
from netpress.network import Network, copy, create, load
from netpress.process.console import Console
from netpress.process.world import World
from netpress.recipe.schema import check_recipe
from netpress.runs.recipes import run_recipe
from netpress.settings import parse
from netpress.stage import Context

FIT: dict[str, Any] = {"epochs": 1, "batch_size": 32, "augment": {"crop": 1}}
REGROW = {"regrow": {"train": FIT}}


def settings_of(**values: Any) -> FactorizeSettings:
    return parse(FactorizeSettings, values, "stages.1")


def lines_of(*rounds: tuple[str, float, float], changed: bool = True) -> list[dict[str, Any]]:
    """Lines as the stage logs them, from (step, accuracy, parameters left) of each round, of 1000 at first."""
    lines: list[dict[str, Any]] = [{"round": 0, "step": "begin", "accuracy": 0.9, "parameters": 1000, "score": 1.0}]
    lines[0]["compression"] = 0.0
    for number, (step, accuracy, left) in enumerate(rounds, 1):
        sizes = {"parameters": int(left), "compression": 1 - left / 1000, "score": left / 1000}
        line = {"round": number, "step": step, "accuracy_before": 0.95, "accuracy_cut": 0.1}
        lines.append(line | {"accuracy_trained": accuracy, "changed": changed} | sizes)
    return lines


CUT, GROWN = ("factorize", 0.8, 700), ("regrow", 0.85, 800)


@pytest.mark.parametrize(
    ("rounds", "settings", "expected"),
    [
        ([], {}, "factorize"),
        ([CUT], {}, None),  # one round is what there is if nothing is said
        ([CUT], {"rounds": 3}, "factorize"),
        ([CUT], {"rounds": 3, **REGROW}, "regrow"),
        ([CUT, GROWN], {"rounds": 3, **REGROW}, "factorize"),
        ([CUT, GROWN, CUT], {"rounds": 3, **REGROW}, None),
        ([CUT, GROWN, CUT], {"rounds": 4, **REGROW}, None),  # a regrowth would be the last round
        ([CUT, GROWN, CUT], {"rounds": 5, **REGROW}, "regrow"),
        ([("factorize", 0.8, 1100)], {"rounds": 5, **REGROW}, "factorize"),  # larger than at first: nothing to regrow
        ([CUT], {"rounds": 5, "compression": 0.3}, None),
        ([CUT], {"rounds": 5, "compression": 0.31}, "factorize"),
        ([CUT], {"rounds": 5, "score": 0.7}, None),
        ([CUT], {"rounds": 5, "score": 0.69}, "factorize"),
        ([CUT], {"rounds": 5, "score": 0.7, "compression": 0.5}, "factorize"),  # both targets, not one of them
        ([("factorize", 0.8, 700), ("regrow", 0.8, 600)], {"rounds": 5, "compression": 0.3, **REGROW}, "factorize"),
        ([CUT], {"rounds": 5, "gate": 0.8}, "factorize"),
        ([CUT], {"rounds": 5, "gate": 0.81}, None),
        ([CUT, ("regrow", 0.7, 800)], {"rounds": 5, "gate": 0.8, **REGROW}, None),
    ],
)
def test_what_the_next_round_does(rounds: list[Any], settings: dict[str, Any], expected: str | None) -> None:
    assert next_step(lines_of(*rounds), settings_of(**settings)) == expected


def test_a_factorization_that_changes_nothing_is_the_last() -> None:
    assert next_step(lines_of(CUT, changed=False), settings_of(rounds=5, **REGROW)) is None


@pytest.mark.parametrize(
    ("rounds", "gate", "expected"),
    [
        ([CUT, GROWN, ("factorize", 0.7, 500)], 0.75, 1),
        ([CUT, GROWN, ("factorize", 0.7, 500)], 0.7, 3),
        ([CUT, GROWN], 0.7, 1),  # never a regrowth
        ([CUT], 0.81, 0),
        ([CUT, GROWN, ("factorize", 0.1, 500)], None, 3),
    ],
)
def test_the_result_is_the_last_factorization_at_the_gate(rounds: list[Any], gate: float | None, expected: int) -> None:
    assert best_round(lines_of(*rounds), settings_of(gate=gate, rounds=9)) == expected


def count(network: Network) -> int:
    """Parameters that exist, one tensor after the other."""
    found = 0
    for name, parameter in network.module.named_parameters():
        found += int(network.masks[name].sum()) if name in network.masks else parameter.numel()
    return found


@pytest.mark.slow
def test_a_run_alternates_and_tells_each_round_by_what_it_left(tmp_path: Path, call: Any) -> None:
    """keep 0.65 of a global list makes the network larger at first, so that both trainings are needed."""
    factors = {"kind": "factorize", "keep": 0.65, "images": 32, "rounds": 6, "selection": {"kind": "global"}}
    trainings = {"train": {**FIT, "epochs": 2}, "train_larger": {**FIT, "epochs": 3}}
    recipe = check_recipe(
        {
            "name": "rounds",
            "data": {"dataset": "digits", "train_images": 96, "image_size": 8},
            "model": {"family": "pyramidnet", "depth": 11, "alpha": 12},
            "score": {"convention": "wave"},
            "stages": [
                {"kind": "train", **FIT},
                {**factors, **trainings, "regrow": {"share": 0.1, "train": FIT}, "compression": 0.45},
            ],
        }
    )
    run_recipe(recipe, tmp_path / "run")
    stage = tmp_path / "run" / "02-factorize"
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line["step"] for line in lines]
    assert steps[0] == "begin" and steps[-1] == "factorize" and steps.count("regrow") >= 1
    grown = sorted(path.parent for path in stage.glob("round-*/network.netpress"))
    assert [path.name for path in grown] == [f"round-{number}" for number in range(1, len(lines))]
    first = lines[0]["parameters"]
    assert first == count(load(tmp_path / "run" / "01-train" / "network.netpress"))
    epochs = []
    for before, line in itertools.pairwise(lines):
        part = stage / f"round-{line['round']}"
        network = load(part / "network.netpress")
        assert line["parameters"] == count(network)
        assert line["compression"] == pytest.approx(1 - line["parameters"] / first)
        code, out, _ = call("score", part / "network.netpress", "--convention", "wave", "--json")
        assert code == 0 and line["score"] == pytest.approx(json.loads(out)["score"])
        last = before["accuracy_trained"] if before["round"] else before["accuracy"]
        assert line["accuracy_before"] == last and {"accuracy_cut", "accuracy_trained"} <= line.keys()
        trained = len((part / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        epochs.append((line["step"], line["compression"] > 0, trained))
        if line["step"] == "regrow":
            assert line["parameters"] > before["parameters"] and before["compression"] > 0
        else:
            assert (part / "deleted.json").is_file() and line["removed"] > 0
    assert ("factorize", False, 3) in epochs and ("factorize", True, 2) in epochs
    assert all(number == {"regrow": 1, "factorize": 2 if small else 3}[step] for step, small, number in epochs)
    assert lines[-1]["compression"] >= 0.45 > max(line["compression"] for line in lines[:-1])
    assert (stage / "network.netpress").read_bytes() == (grown[-1] / "network.netpress").read_bytes()


@pytest.fixture
def network() -> Network:
    settings = {"depth": 11, "alpha": 12, "classes": 4, "image_size": 8}
    return create("pyramidnet", settings, classes=("a", "b", "c", "d"), seed=3)


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def context(shades: Dataset, tmp_path: Path, said: io.StringIO) -> Context:
    return Context(tmp_path, World(torch.device("cpu")), 1, Console(stream=said), shades, name="01-factorize")


def test_norms_are_measured_anew_behind_the_factors(network: Network, context: Context, shades: Dataset) -> None:
    found = factorize(network, settings_of(keep=0.5, images=64, batch_size=64), context)
    assert any(isinstance(layer, Factorized) for layer in found.module.modules())
    batch = copying.deepcopy(found.module).eval()
    norms = [(name, norm) for name, norm in batch.named_modules() if isinstance(norm, nn.BatchNorm2d)]
    for _, norm in norms:
        norm.train()
        norm.momentum = 1.0  # what they see of one batch of all images, and nothing of before
    with torch.no_grad():
        batch(normalize(shades.train.images, network.input.mean, network.input.std))
    for name, norm in norms:
        measured = found.module.get_submodule(name)
        torch.testing.assert_close(measured.running_mean, norm.running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(measured.running_var, norm.running_var, rtol=1e-4, atol=1e-5)


def test_the_network_given_is_left_as_it_was(network: Network, context: Context) -> None:
    before = copy(network)
    factorize(network, settings_of(keep=0.5, images=16), context)
    assert before.architecture == network.architecture
    for name, tensor in before.module.state_dict().items():
        assert torch.equal(network.module.state_dict()[name], tensor), name


def test_nothing_asked_for_changes_nothing(network: Network, context: Context, said: io.StringIO) -> None:
    """Not the norms' statistics either: it is the network that came."""
    found = factorize(network, settings_of(compression=0.0, images=16, rounds=1), context)
    lines = context.logged()
    assert lines[1]["changed"] is False and lines[1]["parameters"] == lines[0]["parameters"]
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(found.module.state_dict()[name], tensor), name


def test_a_gate_without_training_is_kept_on_the_way(network: Network, context: Context) -> None:
    """An untrained network answers at random; the gate is what it has, so some of the way must be walked back."""
    found = factorize(network, settings_of(gate=0.25, images=32), context)
    begin, cut = context.logged()
    assert begin["accuracy"] >= 0.25 and cut["accuracy_cut"] >= 0.25
    assert count(found) == cut["parameters"]


@pytest.mark.parametrize("convention", ["official", "wave"])
def test_a_target_score_is_met_by_a_little(convention: str, network: Network, context: Context) -> None:
    from dataclasses import replace

    from netpress.compression.factorization.sizes import measure_score
    from netpress.scoring import choose_settings

    context = replace(context, score_settings=choose_settings(convention=convention))
    wanted = 0.6 * measure_score(network, context.score_settings)
    found = factorize(network, settings_of(score=wanted, images=16), context)
    reached = measure_score(found, context.score_settings)
    assert 0.85 * wanted < reached <= wanted
