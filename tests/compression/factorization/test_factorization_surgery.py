"""Putting layers into factors is an edit like others: what comes out goes through every stage and every export."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from small_networks import CLASSES, Measured, answers, dataset, difference, images, measure, zoo
from torch import nn

from netpress.compression.factorization.layers import find_candidates
from netpress.compression.factorization.truncation import Truncation
from netpress.compression.fold import FoldSettings, fold
from netpress.compression.masks import densities
from netpress.compression.prune import prune_once
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.evaluation import evaluate_exactly
from netpress.models.factorized import Factorized
from netpress.network import Network, copy, load, save
from netpress.network.edits.factorizing import Factorize
from netpress.process.console import Console
from netpress.process.world import World
from netpress.scoring import CONVENTIONS, score
from netpress.settings import parse
from netpress.stage import Context
from netpress.training import TrainSettings, run_training
from netpress.training.norms import remeasure_norms

pytestmark = pytest.mark.slow

SIZE = 16
FAMILIES: dict[str, dict[str, Any]] = {
    "densenet:nano": {"blocks": [2, 1], "growth": 6},
    "resnet:18": {"width": 4},
    "c_efficientnet:tiny": {"width_factor": 0.5},
    "pyramidnet:272": {"depth": 11, "alpha": 12.0},
}


@pytest.fixture(scope="module", params=FAMILIES)
def measured(request: pytest.FixtureRequest) -> Measured:
    return measure(zoo(request.param, **FAMILIES[request.param], image_size=SIZE, classes=CLASSES), 12)


@pytest.fixture(scope="module")
def halved(measured: Measured) -> Network:
    network = measured.cut(measured.share(0.5))
    network.facts["dataset"] = "cifar100"
    return network


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path, World(torch.device("cpu")), 3, Console(quiet=True), dataset(SIZE), name="02-stage")


def factors(network: Network) -> dict[str, Factorized]:
    return {name: part for name, part in network.module.named_modules() if isinstance(part, Factorized)}


def reloaded(network: Network, path: Path) -> Network:
    save(network, path)
    again = load(path)
    assert torch.equal(answers(again), answers(network))
    assert again.architecture == network.architecture
    assert {name: layer.ranks for name, layer in factors(again).items()} == {
        name: layer.ranks for name, layer in factors(network).items()
    }
    return again


def test_it_saves_and_loads(measured: Measured, halved: Network, tmp_path: Path) -> None:
    assert len(factors(halved)) == len(measured.rankings) > 4
    again = reloaded(halved, tmp_path / "a.netpress")
    # The network in factors is data: what is measured on the one that was loaded is the same.
    layers = measure(again, 4), measure(halved, 4)
    for one, other in zip(layers[0].rankings, layers[1].rankings, strict=True):
        assert torch.equal(one.importance, other.importance)


@pytest.mark.parametrize("convention", sorted(CONVENTIONS))
def test_every_convention_counts_it(convention: str, halved: Network) -> None:
    card = score(halved, convention=convention)
    rows = {row.name for row in card.rows}
    for name, layer in factors(halved).items():
        assert {f"{name}.{factor}" for factor, _ in layer.named_children()} <= rows
    assert card.score > 0


def test_the_official_count_is_that_of_the_same_layers_by_hand(measured: Measured, halved: Network) -> None:
    """A module of plain Sequentials in place of the factors is counted alike."""
    plain = copy(halved)
    for name, layer in factors(plain).items():
        owner, _, child = name.rpartition(".")
        setattr(plain.module.get_submodule(owner), child, nn.Sequential(*layer.children()))
    assert torch.equal(answers(plain), answers(halved))
    settings = {"accuracy": 0.5, "dataset": "cifar100"}
    one = score(halved, **settings)  # type: ignore[arg-type]
    other = score(plain.module, (3, SIZE, SIZE), **settings)  # type: ignore[arg-type]
    assert one.score == other.score < score(measured.network, **settings).score  # type: ignore[arg-type]


def test_it_prunes_folds_and_quantizes(halved: Network, context: Context, tmp_path: Path) -> None:
    pruned, _ = prune_once(halved, 0.5)
    assert {f"{name}.last.weight" for name in factors(halved)} <= pruned.masks.keys()
    folded = fold(pruned, FoldSettings(), context)
    assert difference(pruned, folded) < 1e-4
    pairs = folded.architecture.edits[1]["pairs"]
    assert [
        pair for pair in pairs if pair[0].endswith(".last")
    ]  # a norm that followed the layer follows its last factor
    assert folded.masks.keys() == pruned.masks.keys()
    reloaded(folded, tmp_path / "folded.netpress")
    for preset in ("int8", "fixed-9-12"):
        values: dict[str, Any] = {"preset": preset, "arithmetic": "float16", "calibration_images": 8}
        if preset == "int8":
            values["calibration"] = {"kind": "minmax"}
        quantized = quantize(folded, parse(QuantizeSettings, values), context)
        assert "Factorized" in str(quantized.module)  # it can be printed
        again = reloaded(quantized, tmp_path / f"{preset}.netpress")
        assert f"{next(iter(factors(halved)))}.first.input" in again.formats
        exact = evaluate_exactly(again, images(6, SIZE, 8))
        assert exact.equal_answers == 1
        assert 0 < score(again).score < score(halved).score
        left = {row.name: row.nonzero for row in densities(again)}
        assert all(left[name] <= int(mask.sum()) for name, mask in again.masks.items())


def test_it_trains(halved: Network, context: Context) -> None:
    """Every factor learns, whether blocks are accelerated or not; masks stay."""
    pruned, _ = prune_once(halved, 0.3)
    before = {name: weight.detach().clone() for name, weight in pruned.weights().items()}
    settings = parse(TrainSettings, {"epochs": 1, "batch_size": 8, "augment": {"crop": 0, "flip": False}})
    trained = run_training(pruned, settings, context).network
    after = trained.weights()
    for name, layer in factors(trained).items():
        for factor in dict(layer.named_children()):
            assert not torch.equal(after[f"{name}.{factor}.weight"], before[f"{name}.{factor}.weight"]), name
    assert all(not bool(after[name][~mask].any()) for name, mask in trained.masks.items())


def test_it_becomes_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    from netpress.export.onnx import check_onnx, export_onnx

    whole = measure(zoo("resnet:18", width=4, image_size=SIZE, classes=CLASSES))
    halved = whole.cut(whole.share(0.5))
    export_onnx(halved, tmp_path / "a.onnx")
    check = check_onnx(halved, tmp_path / "a.onnx", images(6, SIZE))
    assert check.agreement == 1 and check.largest_difference < 1e-4 * float(answers(halved).abs().max()) + 1e-4


@pytest.mark.parametrize("truncation", get_args(Truncation))
def test_twice_leaves_three_factors_and_one_edit(truncation: Truncation, measured: Measured, halved: Network) -> None:
    second = measure(halved, 8)
    narrow = {name for name, layer in factors(halved).items() if min(layer.ranks) == 1}
    names = [one.candidate.name for one in measured.rankings if one.candidate.name not in narrow]
    assert [one.candidate.name for one in second.rankings] == names and len(names) > len(narrow)
    assert {name: find_candidates(halved).left[name] for name in narrow} == dict.fromkeys(narrow, "one channel")
    again = second.cut(second.full(), truncation)
    assert difference(halved, again) < 1e-4  # at the ranks that they have, nothing is lost
    third = second.cut(second.share(0.5), truncation)
    before, after = factors(halved), factors(third)
    assert before.keys() == after.keys()
    smaller = 0
    for name, layer in after.items():
        assert list(dict(layer.named_children())) == list(dict(before[name].named_children()))
        assert not [part for part in layer.children() if isinstance(part, Factorized)]
        assert all(new <= old for new, old in zip(layer.ranks, before[name].ranks, strict=True))
        smaller += layer.ranks != before[name].ranks
    assert smaller > len(names) / 2
    (edit,) = third.architecture.edits
    assert edit == Factorize.of({name: layer.ranks for name, layer in after.items()}).model_dump(mode="json")


def test_masks_of_what_is_replaced_end_and_are_counted(measured: Measured) -> None:
    pruned, _ = prune_once(measured.network, 0.4)
    some = [one.candidate.name for one in measured.rankings][::2]
    removed = {f"{name}.weight": int((~pruned.masks[f"{name}.weight"]).sum()) for name in some}
    assert sum(removed.values()) > 0
    for one in find_candidates(pruned).candidates:
        assert one.zeros == int((~pruned.masks[f"{one.name}.weight"]).sum())
        assert one.alive == int(pruned.masks[f"{one.name}.weight"].sum())
    before = dict(pruned.masks)
    ended = pruned.edit(Factorize.of({name: (1, 1) if _three(pruned, name) else (1,) for name in some}))
    assert ended == removed
    assert pruned.masks.keys() == before.keys() - removed.keys()
    again, _ = prune_once(pruned, 0.8)
    inside = [name for name in again.masks if name.startswith(f"{some[0]}.")]
    assert inside
    ended = again.edit(Factorize.of({some[0]: factors(again)[some[0]].ranks}))  # new factors, even of the same ranks
    assert ended.keys() == set(inside)


def _three(network: Network, name: str) -> bool:
    layer = network.module.get_submodule(name)
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


def test_an_edit_that_does_not_fit_changes_nothing(halved: Network) -> None:
    before, edits = str(halved.module), list(halved.architecture.edits)
    names = list(factors(halved))
    for name, ranks in ((names[-1], (0,)), (names[-1], (1, 1)), (names[0], (99, 1)), ("no.such.layer", (1,))):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            halved.edit(Factorize.of({names[1]: factors(halved)[names[1]].full_ranks, name: ranks}))
        assert str(halved.module) == before and halved.architecture.edits == edits


def test_norms_measured_anew_bring_answers_back(measured: Measured) -> None:
    """At full rank: statistics of the same values, so what is measured does not depend on whether there are factors."""
    given = images(12, SIZE, 7)
    whole, changed = copy(measured.network), measured.cut(measured.full())
    for network in (whole, changed):
        norms = [part for part in network.module.modules() if isinstance(part, nn.BatchNorm2d)]
        assert remeasure_norms(network, given, batch_size=6, device=torch.device("cpu")) == len(norms) > 0
    assert difference(whole, changed) < 1e-3 and difference(measured.network, whole) > 1e-2
