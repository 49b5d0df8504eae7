"""Targets: a share kept, a compression, a score: the first step that meets it, and what is said where none does."""

from typing import Any

import pytest
from small_networks import Measured, head, measure, network_of
from torch import nn

from netpress.compression.factorization.selection import Way, count_kept, find_way
from netpress.compression.factorization.settings import FactorizeSettings
from netpress.compression.factorization.sizes import Sizes, count_parameters, measure_score
from netpress.compression.factorization.targets import Aim, choose_step, compressed
from netpress.compression.prune import prune_once
from netpress.errors import UserError
from netpress.network import Network
from netpress.scoring import score
from netpress.settings import SettingsError, parse


def network() -> Network:
    parts = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2), nn.ReLU()]
    made = network_of(*parts, nn.Conv2d(24, 20, 1), nn.BatchNorm2d(20), nn.ReLU(), *head(20), size=8)
    made.facts["dataset"] = "cifar100"
    return made


@pytest.fixture(scope="module")
def measured() -> Measured:
    return measure(network())


@pytest.fixture(scope="module")
def pruned() -> Measured:
    return measure(prune_once(network(), 0.3)[0])


def asked(**values: Any) -> FactorizeSettings:
    return parse(FactorizeSettings, values, "stages.1")


def step_of(measured: Measured, settings: FactorizeSettings) -> tuple[int, Way, Sizes]:
    way = find_way(measured.rankings, settings.selection)
    sizes = Sizes(measured.network, measured.rankings, None)
    aim = Aim(settings, count_parameters(measured.network), settings.share)
    return choose_step(way, measured.rankings, aim, sizes), way, sizes


KINDS = [{"kind": "cost"}, {"kind": "cost", "per": "parameters"}, {"kind": "global", "limit": 0.9}]


@pytest.mark.parametrize("selection", KINDS, ids=str)
@pytest.mark.parametrize("given", ["measured", "pruned"])
def test_sizes_of_a_state_are_those_of_the_network_in_it(
    selection: dict[str, Any], given: str, request: pytest.FixtureRequest
) -> None:
    whole: Measured = request.getfixturevalue(given)
    way = find_way(whole.rankings, asked(selection=selection).selection)
    sizes = Sizes(whole.network, whole.rankings, None)
    for step in range(0, way.steps + 1, max(1, way.steps // 5)):
        state = way.state(step)
        made = whole.cut(state)
        masked = sum(int((~mask).sum()) for mask in made.masks.values())
        parameters = sum(parameter.numel() for parameter in made.module.parameters())
        assert sizes.parameters(state) == count_parameters(made) == parameters - masked
        # Zeros are counted as masked; factors of values have none of their own.
        assert sizes.score(state) == pytest.approx(score(made).score, rel=1e-3)
        assert measure_score(made, None) == score(made).score


@pytest.mark.parametrize("selection", KINDS, ids=str)
@pytest.mark.parametrize(
    "target", [{"compression": 0.2}, {"compression": 0.6}, {"score": 0.7}, {"score": 0.4}], ids=str
)
def test_a_target_is_the_first_step_that_meets_it(
    selection: dict[str, Any], target: dict[str, float], measured: Measured
) -> None:
    first = count_parameters(measured.network)
    whole = score(measured.network).score
    values = {name: value * whole if name == "score" else value for name, value in target.items()}
    step, way, _ = step_of(measured, asked(selection=selection, **values))

    def meets(step: int) -> bool:
        made = measured.cut(way.state(step))
        if "compression" in values:
            return 1 - count_parameters(made) / first >= values["compression"]
        return score(made).score <= values["score"]

    assert meets(step)
    assert step > 0 and not meets(step - 1)


@pytest.mark.parametrize("selection", KINDS, ids=str)
@pytest.mark.parametrize("keep", [0.9, 0.5, 0.3])
def test_a_share_is_the_first_step_that_keeps_no_more(
    selection: dict[str, Any], keep: float, measured: Measured
) -> None:
    step, way, _ = step_of(measured, asked(selection=selection, keep=keep))
    if selection["kind"] == "global":  # a quantile of the list: of layers at their limit more stays
        every = sum(sum(one.candidate.sides) for one in measured.rankings)
        kept = sum(sum(sides) for sides in way.state(step).values() if sides is not None)
        assert kept >= keep * every - 1
        return
    for at, expected in ((step, True), (step - 1, False)):
        kept = every = 0
        for one in measured.rankings:
            rows, columns = one.candidate.sides
            sides = way.state(at)[one.candidate.name] or (rows, columns)
            three = one.candidate.ranks(1, 1) == (1, 1)
            kept += sum(sides) if three else 2 * min(sides)
            every += rows + columns if three else 2 * min(rows, columns)
        assert count_kept(measured.rankings, way.state(at)) == (kept, every)
        assert (kept <= keep * every) == expected


def test_keeping_all_loses_nothing(measured: Measured) -> None:
    step, way, _ = step_of(measured, asked(selection={"kind": "global"}, keep=1.0))
    assert way.state(step) == measured.full()
    step, way, _ = step_of(measured, asked(keep=1.0))
    assert set(way.state(step).values()) == {None}


def test_of_a_share_and_a_target_the_first_to_come_counts(measured: Measured) -> None:
    by_share = step_of(measured, asked(keep=0.5))[0]
    near = step_of(measured, asked(compression=0.1))[0]
    far = step_of(measured, asked(compression=0.8))[0]
    assert near < by_share < far
    assert step_of(measured, asked(keep=0.5, compression=0.1))[0] == near
    assert step_of(measured, asked(keep=0.5, compression=0.8))[0] == by_share
    assert step_of(measured, asked(keep=0.5, compression=0.999))[0] == by_share  # rounds to come may reach it


def test_both_targets_are_met(measured: Measured) -> None:
    whole = score(measured.network).score
    step, way, sizes = step_of(measured, asked(compression=0.3, score=0.5 * whole))
    state = way.state(step)
    assert compressed(sizes.parameters(state), count_parameters(measured.network)) >= 0.3
    assert sizes.score(state) <= 0.5 * whole
    assert step == max(step_of(measured, asked(compression=0.3))[0], step_of(measured, asked(score=0.5 * whole))[0])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"compression": 0.99},
            r"compression 0\.99: no ranks reach it; the most is 0\.\d+ \(with selection\.limit 0\.95",
        ),
        ({"score": 1e-9}, r"score 1e-09: no ranks reach it; the least is \d\.\d+e-06 "),
        ({"compression": 0.99, "score": 1e-9}, r"compression 0\.99: .*; score 1e-09: "),
        ({"keep": 0.01}, r"keep 0\.01: no ranks keep so few of the rows and columns; .* at least 0\.\d+ stay"),
        ({"keep": 0.4, "selection": {"kind": "cost", "limit": 0.3}}, r"at least 0\.\d+ stay"),
        ({"compression": 0.9, "selection": {"kind": "global"}}, r"selection\.limit 0\.5"),
    ],
)
def test_what_no_ranks_reach_is_told(values: dict[str, Any], told: str, measured: Measured) -> None:
    with pytest.raises(UserError, match=told) as caught:
        step_of(measured, asked(**values))
    assert "\n" not in str(caught.value)


def test_figures_of_such_a_message_can_be_reached(measured: Measured) -> None:
    with pytest.raises(UserError) as caught:
        step_of(measured, asked(compression=0.99))
    most = float(str(caught.value).split("the most is ")[1].split(" ")[0])
    assert step_of(measured, asked(compression=most - 1e-4))[0] > 0
    with pytest.raises(UserError) as caught:
        step_of(measured, asked(keep=0.01))
    least = float(str(caught.value).split("at least ")[1].split(" ")[0])
    assert step_of(measured, asked(keep=least + 1e-4))[0] > 0


@pytest.mark.parametrize(
    "values",
    [
        {"keep": 0.0},
        {"keep": 1.1},
        {"compression": -0.1},
        {"score": 0},
        {"images": 1},
        {"regrow": {}},
        {"train_larger": {"epochs": 1}, "rounds": 2},
        {"selection": {"kind": "other"}},
        {"selection": {"kind": "global", "per": "score"}},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        asked(**values)


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ({}, 0.7),
        ({"keep": 0.5}, 0.5),
        ({"compression": 0.5}, None),
        ({"compression": 0.5, "rounds": 3}, 0.7),
        ({"gate": 0.5}, None),  # as much as the network stands
        ({"gate": 0.5, "train": {"epochs": 1}}, 0.7),  # what it stands after training nobody knows before
    ],
    ids=str,
)
def test_what_a_round_keeps_where_nobody_says(values: dict[str, Any], share: float | None) -> None:
    assert asked(**values).share == share
