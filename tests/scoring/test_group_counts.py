"""What convolutions in groups cost: `imt` takes all channels for read, `official` and others those of a group."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from grouped import GROUPED, dense_twin, grouped_layers, grouped_network
from torch import nn

from netpress.models.registry import parse_model
from netpress.network import Network
from netpress.scoring import ScoreCard, choose_settings, score, score_trace
from netpress.tracing import trace

Sizes = Callable[[nn.Conv2d], int]
Layer = TypeVar("Layer", bound=nn.Module)


def given(network: Network, kind: type[Layer]) -> dict[str, tuple[Layer, int]]:
    """Each layer of the kind, with how many values it gives for an image."""
    found: dict[str, tuple[Layer, int]] = {}
    for name, layer in network.module.named_modules():
        if isinstance(layer, kind):

            def note(layer: Any, _: object, output: torch.Tensor, name: str = name) -> None:
                found[name] = (layer, output[0].numel())

            layer.register_forward_hook(note)
    with torch.no_grad():
        network.module(torch.zeros(1, *network.input.size))
    return found


def read_in_group(layer: nn.Conv2d) -> int:
    return layer.kernel_size[0] * layer.kernel_size[1] * (layer.in_channels // layer.groups)


def read_at_all(layer: nn.Conv2d) -> int:
    return layer.kernel_size[0] * layer.kernel_size[1] * layer.in_channels


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize(
    ("convention", "options", "terms"),
    [
        ("imt", {}, read_at_all),
        ("imt", {"groups": "honoured"}, read_in_group),
        ("official", {"norms": "kept"}, read_in_group),
        ("kaist", {}, read_in_group),
        ("wave", {}, read_in_group),
        ("uci", {}, read_in_group),
    ],
)
def test_products_of_each_convolution(name: str, convention: str, options: dict[str, str], terms: Sizes) -> None:
    network = grouped_network(name)
    rows = {row.name: row for row in score(network, convention=convention, **options).rows}
    for place, (layer, outputs) in given(grouped_network(name), nn.Conv2d).items():
        assert rows[place].multiplications == terms(layer) * outputs, place
        assert rows[place].weights == layer.out_channels * read_in_group(layer), place


@pytest.mark.parametrize("name", GROUPED)
def test_imt_by_the_formulae_of_its_counter(name: str) -> None:
    """K / 2 + K - 1 an output of a convolution, K from all channels; norms 3 an element; half of all parameters."""
    network = grouped_network(name)
    layers = given(grouped_network(name), nn.Conv2d).values()
    operations = sum((1.5 * read_at_all(layer) - 1) * outputs for layer, outputs in layers)
    operations += sum(3 * outputs for _, outputs in given(grouped_network(name), nn.BatchNorm2d).values())
    linear = network.module.classifier
    operations += linear.out_features * (1.5 * linear.in_features - 1)
    counted = score(network, convention="imt")
    assert counted.operations == operations
    assert counted.params == sum(parameter.numel() for parameter in network.module.parameters()) / 2
    assert counted.operations == score(dense_twin(network), convention="imt").operations


@pytest.mark.parametrize("name", GROUPED)
def test_the_official_count_is_that_of_block_diagonal_weights_but_for_the_mask(name: str) -> None:
    """Zeros cost nothing there, whether they are stored or are between groups; only their mask does."""
    network = grouped_network(name)
    counted, twin = score(network, convention="official"), score(dense_twin(network), convention="official")
    assert counted.multiplications == twin.multiplications and counted.additions == twin.additions
    between = sum(
        layer.out_channels * (read_at_all(layer) - read_in_group(layer)) for layer in grouped_layers(network).values()
    )
    masked = [row for row in twin.rows if row.mask_bits]
    assert {row.name for row in masked} == set(grouped_layers(network)) and between > 0
    assert sum(row.storage_bits for row in counted.rows) == sum(row.storage_bits for row in twin.rows)


def counted(text: str, convention: str, **options: object) -> ScoreCard:
    with torch.device("meta"):
        module = parse_model(text).build()
    return score_trace(trace(module, (3, 32, 32)), choose_settings(convention, options=options))


STUDY = [
    ("", 59_573, 22.68),
    ("groups=2,grouped=bottleneck2", 51_221, 17.92),
    ("groups=4,grouped=bottleneck2", 47_045, 15.54),
    ("groups=2,grouped=bottleneck1", 43_813, 18.22),
    ("groups=4,grouped=bottleneck1", 35_933, 15.99),
    ("groups=2,grouped=transition", 56_885, 21.50),
    ('groups=2,grouped=["bottleneck1","bottleneck2"]', 35_461, 13.47),
]
"""Nano in groups: half its parameters, and millions of operations by IMT's counter where groups are honoured."""


@pytest.mark.parametrize(("where", "params", "millions"), STUDY)
def test_imts_study(where: str, params: int, millions: float) -> None:
    text = f"densenet:nano,{where}".rstrip(",")
    theirs, honoured = counted(text, "imt"), counted(text, "imt", groups="honoured")
    assert (theirs.params, theirs.operations) == (params, 22_675_830)
    assert honoured.params == params
    assert honoured.operations / 1e6 == pytest.approx(millions, abs=0.005)
    assert honoured.score == pytest.approx(millions * 1e6 / 834_362_880 + params / 5_586_981, abs=7e-6)
    told = [rule.text for rule in theirs.rules], [rule.text for rule in honoured.rules]
    assert ["groups are ignored" in " ".join(texts) for texts in told] == [True, False]


def test_groups_of_three_in_four_give_less_than_the_whole_pruned_figure() -> None:
    """Nano with its 3x3 in 4 groups scores .0356 by their own counter, below their final .0357, before any pruning."""
    grouped = counted("densenet:nano,groups=4,grouped=bottleneck2", "imt")
    final = counted("densenet:nano", "imt", claimed_sparsity=0.197)
    assert round(grouped.score, 4) == 0.0356 and round(final.score, 4) == 0.0357
