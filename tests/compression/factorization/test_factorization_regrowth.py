"""Regrowth: zeros answer as before and learn, copies are Wave's, and draws follow what was deleted."""

import json
import math
from typing import Literal

import pytest
import torch
from small_networks import CLASSES, Measured, answers, difference, head, measure, network_of, pixels_of
from torch import Tensor, nn
from torch.nn import functional

from netpress.compression.factorization.regrowth import (
    Deleted,
    RegrowSettings,
    count_deleted,
    draw_places,
    regrow,
)
from netpress.models.factorized import Factorized, factorized
from netpress.network import Architecture, InputSpec, Network, copy

Kind = Literal["zeros", "copies"]
KINDS: tuple[Kind, ...] = ("zeros", "copies")


@pytest.fixture(scope="module")
def measured() -> Measured:
    parts = [nn.Conv2d(3, 10, 3, padding=1), nn.BatchNorm2d(10), nn.GELU(), nn.Conv2d(10, 12, 1), nn.GELU()]
    return measure(network_of(*parts, nn.Conv2d(12, 9, 3, stride=2, bias=False), nn.GELU(), *head(9), size=8))


@pytest.fixture
def halved(measured: Measured) -> Network:
    return measured.cut(measured.share(0.5))


def layers(network: Network) -> dict[str, Factorized]:
    return {name: part for name, part in network.module.named_modules() if isinstance(part, Factorized)}


def full(network: Network) -> dict[str, tuple[int, ...]]:
    return {name: layer.full_ranks for name, layer in layers(network).items()}


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_zeros_answer_as_before(halved: Network) -> None:
    grown = copy(halved)
    regrow(grown, full(halved), "zeros", generator())
    assert {name: layer.ranks for name, layer in layers(grown).items()} == full(halved)
    assert all(layer.ranks != full(halved)[name] for name, layer in layers(halved).items())
    assert difference(halved, grown) < 1e-6
    assert len(grown.architecture.edits) == 1  # both say which ranks: one edit does


def test_zeros_are_found_by_training(halved: Network) -> None:
    """The new rows have gradients at once, and their partners after a step: nothing stays dead."""
    before = {name: layer.ranks for name, layer in layers(halved).items()}
    regrow(halved, full(halved), "zeros", generator())
    optimizer = torch.optim.SGD(halved.module.parameters(), lr=0.05)
    for step in range(2):
        optimizer.zero_grad()
        functional.cross_entropy(halved.module(pixels_of(halved, 8)), torch.arange(8) % CLASSES).backward()
        for name, layer in layers(halved).items():
            parts = list(layer.children())
            for old, into, out in zip(before[name], parts, parts[1:], strict=False):
                assert into.weight.grad is not None and out.weight.grad is not None  # type: ignore[union-attr]
                new = into.weight.grad[old:].flatten(1).abs().amax(1)  # type: ignore[union-attr, index]
                assert len(new) and float(new.min()) > 0, (name, step)
                partners = out.weight.grad[:, old:].abs()  # type: ignore[union-attr, index]
                assert bool(partners.any()) == (step == 1), (name, step)
        optimizer.step()


def component(layer: nn.Module, place: int) -> Tensor:
    """What the last channel between two factors adds to the layer's weights: [outputs, inputs, height, width]."""
    parts = [part.weight.detach().double() for part in layer.children()]  # type: ignore[operator, union-attr]
    parts = [part if part.dim() == 4 else part[:, :, None, None] for part in parts]
    into, out = parts[place], parts[place + 1]
    alone = [*parts[:place], into[-1:], out[:, -1:], *parts[place + 2 :]]
    return product(alone)


def product(parts: list[Tensor]) -> Tensor:
    """The weights that factors stand for; at most one of them is of more than one place."""
    whole = parts[0]
    for part in parts[1:]:
        whole = (
            torch.einsum("oikl,ijxy->ojkl", part, whole)
            if part.shape[2:] != (1, 1)
            else torch.einsum("oixy,ijkl->ojkl", part, whole)
        )
    return whole


def weights(layer: nn.Module) -> Tensor:
    parts = [part.weight.detach().double() for part in layer.children()]  # type: ignore[operator, union-attr]
    return product([part if part.dim() == 4 else part[:, :, None, None] for part in parts])


@pytest.mark.parametrize(
    ("name", "place", "copies"),
    [("0", 0, 1), ("0", 0, 2), ("0", 1, 1), ("0", 1, 3), ("3", 0, 2), ("3", 0, 3), ("5", 1, 3), ("9", 0, 2)],
)
def test_copies_multiply_the_last_component(name: str, place: int, copies: int, halved: Network) -> None:
    """It counts n + 1 times as much, but for the noise: with two copies the change is twice the component."""
    layer = layers(halved)[name]
    before, last = weights(layer), component(layer, place)
    ranks = tuple(rank + copies * (index == place) for index, rank in enumerate(layer.ranks))
    old = [part.weight.detach().clone() for part in layer.children()]  # type: ignore[operator, union-attr]
    regrow(halved, {name: ranks}, "copies", generator())
    grown = layers(halved)[name]
    assert grown.ranks == ranks
    change = weights(grown) - before
    times = float((change * last).sum() / last.square().sum())
    assert times == pytest.approx(copies, rel=0.01) and times != copies
    assert float((change - copies * last).norm() / last.norm()) < 0.02 * copies
    into, out = list(grown.children())[place : place + 2]
    for new, model in (
        (into.weight[layer.ranks[place] :], old[place][-1:]),  # type: ignore[index]
        (out.weight[:, layer.ranks[place] :], old[place + 1][:, -1:]),  # type: ignore[index]
    ):
        noise = ((new.detach() - model) / model.abs()).flatten()
        assert float(noise.min()) >= -1e-5 and float(noise.max()) <= 0.01 + 1e-5  # upwards, as theirs
        assert float(noise.max()) > 0.002 and len(noise.unique()) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_there_stays(kind: Kind, halved: Network) -> None:
    grown = copy(halved)
    regrow(grown, {name: ranks for name, ranks in full(halved).items() if name != "3"}, kind, generator())
    for name, layer in layers(halved).items():
        for old, new in zip(layer.children(), layers(grown)[name].children(), strict=True):
            kept = tuple(slice(0, side) for side in old.weight.shape)  # type: ignore[union-attr]
            assert torch.equal(new.weight[kept], old.weight)  # type: ignore[index, arg-type]
    assert layers(grown)["3"].ranks == layers(halved)["3"].ranks
    assert torch.equal(layers(grown)["0"].last.bias, layers(halved)["0"].last.bias)  # type: ignore[arg-type]
    assert layers(grown)["5"].last.bias is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_grows_the_same_again(kind: Kind, halved: Network) -> None:
    made = []
    for seed in (1, 1, 2):
        grown = copy(halved)
        regrow(grown, full(halved), kind, generator(seed))
        made.append(torch.cat([weight.detach().flatten() for weight in grown.module.parameters()]))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


# --- where


def large() -> Network:
    """Layers, on shapes, with room for thousands of rows and columns."""
    with torch.device("meta"):
        conv, linear = nn.Conv2d(4000, 4000, 3), nn.Linear(4000, 5000)
        module = nn.Sequential(factorized(conv, (1, 1)), factorized(linear, (1,)), nn.Linear(5000, 4))
    return Network(module, Architecture("import", {}), InputSpec(3, 8, 8, (0.5,), (0.5,)), tuple("abcd"))


def test_draws_follow_the_shares() -> None:
    shares = {"0": (0.5, 0.2), "1": (0.3, 0.0)}
    count = 4000
    settings = RegrowSettings(share=0.25)
    ranks = draw_places(large(), Deleted(4 * count, shares), settings, generator())
    columns, rows, rank = ranks["0"][0] - 1, ranks["0"][1] - 1, ranks["1"][0] - 1
    assert rows + columns + rank == count
    for drawn, share in ((rows, 0.5), (columns, 0.2), (rank, 0.3)):
        assert abs(drawn - share * count) < 4 * math.sqrt(count * share * (1 - share))


def test_of_two_factors_the_side_that_gets_more_counts() -> None:
    ranks = draw_places(large(), Deleted(400, {"1": (0.9, 0.1)}), RegrowSettings(share=0.5), generator())
    assert 1 + 150 < ranks["1"][0] < 1 + 200


def test_no_layer_gets_more_than_it_may(halved: Network) -> None:
    """Ranks end where nothing is lost, or at `most` for each side; a layer that is whole gets nothing."""
    shares = {"0": (0.25, 0.25), "3": (0.25, 0.25), "8": (0.0, 0.0), "1": (0.3, 0.3)}
    ranks = draw_places(halved, Deleted(1000, shares), RegrowSettings(share=0.9), generator())
    assert ranks == {name: full(halved)[name] for name in ("0", "3")}
    ranks = draw_places(halved, Deleted(1000, shares), RegrowSettings(share=0.9, most=1), generator())
    old = {name: layer.ranks for name, layer in layers(halved).items()}
    assert ranks == {name: tuple(rank + 1 for rank in old[name]) for name in ("0", "3")}
    whole = copy(halved)
    regrow(whole, full(halved), "zeros", generator())
    assert draw_places(whole, Deleted(1000, shares), RegrowSettings(share=0.9), generator()) == {}


def test_nothing_deleted_gives_nothing_back(halved: Network) -> None:
    settings = RegrowSettings(share=0.25)
    assert draw_places(halved, Deleted(3, {"0": (0.5, 0.5)}), settings, generator()) == {}  # less than one
    assert draw_places(halved, Deleted(100, {"0": (0.0, 0.0)}), settings, generator()) == {}
    assert draw_places(halved, Deleted(100, {}), settings, generator()) == {}


def test_a_seed_draws_the_same_again() -> None:
    deleted, settings = Deleted(400, {"0": (0.5, 0.2), "1": (0.3, 0.0)}), RegrowSettings()
    first, again, other = (draw_places(large(), deleted, settings, generator(seed)) for seed in (1, 1, 2))
    assert first == again != other


# --- what was deleted


def test_what_is_deleted_is_counted(measured: Measured) -> None:
    state = {**measured.share(0.5), "3": None}
    found = count_deleted(measured.rankings, state, None, 0.5)
    count, lost = 0, {}
    for ranking in measured.rankings:
        name, sides = ranking.candidate.name, state[ranking.candidate.name]
        if sides is None:
            continue
        for side, kept in enumerate(sides):
            scores = sorted(ranking.importance.sum(1 - side).tolist())
            gone = scores[: len(scores) - kept]
            count += len(gone)
            lost[name, side] = sum(gone)
    total = sum(lost.values())
    assert found.count == count
    assert found.shares.keys() == {"0", "5", "9"}
    for (name, side), value in lost.items():
        assert found.shares[name][side] == pytest.approx(value / total)


def test_earlier_deletions_are_remembered_and_fade(measured: Measured) -> None:
    state = {**measured.share(0.5), "3": None}
    now = count_deleted(measured.rankings, state, None, 0.5)
    before = Deleted(77, {"0": (0.1, 0.2), "3": (0.3, 0.4)})
    both = count_deleted(measured.rankings, state, before, 0.25)
    assert both.count == now.count
    assert both.shares["3"] == pytest.approx((0.25 * 0.3, 0.25 * 0.4))
    assert both.shares["0"][1] == pytest.approx(0.25 * 0.2 + 0.75 * now.shares["0"][1])
    assert both.shares["9"][0] == pytest.approx(0.75 * now.shares["9"][0])
    again = Deleted.of_json(json.loads(json.dumps(both.as_json())))
    assert again == both


def test_nothing_cut_deletes_nothing(measured: Measured) -> None:
    assert count_deleted(measured.rankings, measured.full(), None, 0.5).count == 0
    assert count_deleted(measured.rankings, dict.fromkeys(measured.full()), None, 0.5) == Deleted(0, {})


def test_fixtures_are_not_trivial(halved: Network, measured: Measured) -> None:
    assert set(layers(halved)) == {"0", "3", "5", "9"}
    assert difference(measured.network, halved) > 1e-3 and bool(answers(halved).isfinite().all())
