"""What a score card tells of layers in factors: their ranks, and their weights whole and now."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import netpress
from netpress.models.factorized import full_ranks, has_core, layer_widths
from netpress.network import Network
from netpress.network.edits.factorizing import Factorize
from netpress.network.edits.folding import FoldNorms

NETWORKS = ["pyramidnet:depth=11,alpha=6,classes=10", "densenet:nano,classes=10"]
Call = Callable[..., tuple[int, str, str]]


def halved(name: str) -> Network:
    """The network with every second convolution or linear layer at half of its full ranks; the new weights are 0."""
    network = netpress.load(name)
    layers = [(path, part) for path, part in network.module.named_modules() if type(part) in (nn.Conv2d, nn.Linear)]
    ranks = {}
    for path, layer in layers[1::2]:
        full = full_ranks(*layer_widths(layer), has_core(layer))
        ranks[path] = tuple(max(1, rank // 2) for rank in full)
    network.edit(Factorize.of(ranks))
    return network


@pytest.mark.parametrize("convention", ["official", "wave", "kaist", "uci", "imt"])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_row_of_a_factor_tells_its_layers_ranks(name: str, convention: str) -> None:
    network = halved(name)
    card = netpress.score(network, convention=convention)
    (edit,) = network.architecture.edits
    said = {row.name: row.note for row in card.grouped("layer") if "ranks" in row.note}
    expected: dict[str, str] = {}
    for path, ranks in edit["layers"]:
        names = ("first", "core", "last") if len(ranks) == 2 else ("first", "last")
        expected |= {f"{path}.{part}": f"ranks {', '.join(map(str, ranks))} of " for part in names}
    assert said.keys() == expected.keys()
    assert all(said[row].startswith(text) for row, text in expected.items())
    assert [[layer.name, list(layer.ranks)] for layer in card.in_factors] == edit["layers"]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_those_of_the_layer_before_and_of_its_factors_now(name: str) -> None:
    before, after = netpress.load(name).module, halved(name)
    for layer in netpress.score(after).in_factors:
        whole = before.get_submodule(layer.name)
        assert isinstance(whole, nn.Conv2d | nn.Linear)
        assert layer.whole == whole.weight.numel()
        assert layer.kernel == (whole.kernel_size if isinstance(whole, nn.Conv2d) else ())
        now = [weight for path, weight in after.weights().items() if path.startswith(f"{layer.name}.")]
        assert layer.weights == sum(weight.numel() for weight in now)
        assert all(0 < rank <= most for rank, most in zip(layer.ranks, layer.full_ranks, strict=True))


def test_a_block_sums_up_what_its_layers_are() -> None:
    network = netpress.load(NETWORKS[0])
    first, second = "blocks.0.conv1", "blocks.0.conv2"
    network.edit(Factorize.of({first: (4,), second: (9, 6), "classifier": (5,)}))
    card = netpress.score(network)
    notes = {row.name: row.note for row in card.grouped("block") if row.note}
    # 16 to 18 channels by 1x1, then 18 to 18 by 3x3.
    left = (16 * 4 + 4 * 18 + 18 * 9 + 9 * 6 * 9 + 6 * 18) / (16 * 18 + 18 * 18 * 9)
    assert notes == {
        "blocks.0": f"2 layers in factors, {left:.0%} of their weights",
        "classifier": "ranks 5 of 10",
    }
    kinds = {row.name: row.note for row in card.grouped("kind") if row.note}
    assert kinds == {"conv": notes["blocks.0"], "linear": "ranks 5 of 10"}


def test_norms_folded_into_the_last_factor_change_no_rank() -> None:
    network = netpress.load(NETWORKS[0])
    network.edit(Factorize.of({"blocks.0.conv1": (4,)}))
    told = netpress.score(network).in_factors
    network.edit(FoldNorms(pairs=(("blocks.0.conv1.last", "blocks.0.norm2"),)))
    assert netpress.score(network).in_factors == told  # the bias that it got is no weight of the layer's


def test_a_network_without_factors_has_no_notes_of_ranks() -> None:
    card = netpress.score(netpress.load(NETWORKS[0]))
    assert not card.in_factors and card.as_json()["in_factors"] == []
    assert card.grouped("layer") == list(card.rows)


def test_the_command_shows_ranks_in_every_form(tmp_path: Path, call: Call) -> None:
    path = tmp_path / "halved.netpress"
    network = halved(NETWORKS[0])
    netpress.save(network, path)
    code, out, _ = call("score", path)
    table = out[out.index("layers in factors\nlayer") :].splitlines()
    assert code == 0 and len(table[2 : table.index("")]) == len(network.architecture.edits[0]["layers"])
    # 16 to 18 channels: 288 weights whole, 8 x (16 + 18) in factors.
    assert table[2].split() == ["blocks.0.conv1", "1x1", "8", "16", "288", "272", "94%"]
    code, out, _ = call("score", path, "--json")
    document = json.loads(out)
    (edit,) = network.architecture.edits
    assert [[layer["name"], layer["ranks"]] for layer in document["in_factors"]] == edit["layers"]
    rows = {row["name"]: row.get("note", "") for row in document["layers"]}
    assert rows["blocks.0.conv1.first"] == rows["blocks.0.conv1.last"] == "ranks 8 of 16"
    code, out, _ = call("score", path, "--csv", "--per", "layer")
    lines = {row["name"]: row["note"] for row in csv.DictReader(io.StringIO(out))}
    assert {name: note for name, note in rows.items() if note} == {name: note for name, note in lines.items() if note}
    code, out, _ = call("score", NETWORKS[0])
    assert code == 0 and "layers in factors" not in out
