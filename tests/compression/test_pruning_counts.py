"""How many weights pruning takes, and which: exact, deterministic, and never one back."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from netpress.compression.magnitude import Choice, TooFew, choose_masks, count_removed
from netpress.compression.schedule import amounts
from netpress.errors import Failure, UserError

Weights = dict[str, torch.Tensor]

SHAPES = st.lists(
    st.sampled_from([(1, 1, 1, 1), (4, 1, 3, 3), (1, 6), (3, 5, 1, 1), (8, 4, 3, 3), (10, 7)]), min_size=1, max_size=5
)
AMOUNTS = st.integers(0, 999).map(lambda thousandths: thousandths / 1000)


def draw(shapes: list[tuple[int, ...]], seed: int, levels: int | None = None) -> Weights:
    """Random weights that are not zero; with `levels`, only so many different magnitudes, so that many are equal."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for index, shape in enumerate(shapes):
        values = torch.rand(shape, generator=generator) + 0.01
        if levels is not None:
            values = (values * levels).ceil()
        weights[str(index)] = values * torch.randint(0, 2, shape, generator=generator).mul(2).sub(1)
    return weights


def left(choice: Choice) -> int:
    return sum(int(mask.sum()) for mask in choice.masks.values())


@pytest.mark.parametrize(
    ("count", "amount", "kept"),
    [
        # The released checkpoints of KAIST: v1 at 60%, v2 at 15, 30, 45 and 60%.
        (450_456, 0.6, 180_182),
        (471_184, 0.15, 400_506),
        (471_184, 0.3, 329_829),
        (471_184, 0.45, 259_151),
        (471_184, 0.6, 188_474),
    ],
)
def test_released_counts(count: int, amount: float, kept: int) -> None:
    assert count - count_removed(amount, count) == kept


def test_ends_of_the_range() -> None:
    assert count_removed(0, 100) == 0
    assert count_removed(1, 100) == 100
    assert count_removed(0.5, 0) == 0
    assert count_removed(0.5, 1) == 1


@given(st.integers(2, 5000), st.integers(1, 999))
def test_count_is_that_of_a_percentile_of_distinct_values(count: int, thousandths: int) -> None:
    values = np.random.default_rng(count).permutation(count).astype(np.float64)
    threshold = np.percentile(values, thousandths / 10, method="lower")
    # "lower" is the value at the rank rounded down; with interpolation numpy's own rounding may shift the rank by one.
    assert abs(count_removed(thousandths / 1000, count) - int((values <= threshold).sum())) <= 1
    exact = thousandths * (count - 1) // 1000 + 1
    assert count_removed(thousandths / 1000, count) == exact


def test_masks_are_those_of_numpys_percentile() -> None:
    weights = draw([(40, 30, 3, 3), (100, 60), (64, 1, 3, 3)], seed=1)
    values = np.abs(np.concatenate([weight.numpy().ravel() for weight in weights.values()]))
    threshold = np.percentile(values, 45)
    choice = choose_masks(weights, {}, 0.45, "global")
    for name, mask in choice.masks.items():
        np.testing.assert_array_equal(mask.numpy(), np.abs(weights[name].numpy()) > threshold)


@given(SHAPES, st.integers(0, 1000), AMOUNTS, st.sampled_from([None, 1, 3]))
@example([(1, 1, 1, 1), (10, 7), (1, 1, 1, 1)], 0, 0.958, None)  # rescuing one makes another's last weight the least
@settings(max_examples=150, deadline=None)
def test_global_count_is_exact_and_keeps_the_largest(
    shapes: list[tuple[int, ...]], seed: int, amount: float, levels: int | None
) -> None:
    weights = draw(shapes, seed, levels)
    count = sum(weight.numel() for weight in weights.values())
    removed = count_removed(amount, count)
    if count - removed < len(weights):
        with pytest.raises(TooFew, match="choose a smaller amount"):
            choose_masks(weights, {}, amount, "global")
        return
    choice = choose_masks(weights, {}, amount, "global")
    assert left(choice) == count - removed
    assert all(bool(mask.any()) for mask in choice.masks.values())
    gone = [weights[name].abs()[~mask] for name, mask in choice.masks.items()]
    kept = [weights[name].abs()[mask] for name, mask in choice.masks.items() if name not in choice.rescued]
    if removed and kept:
        assert torch.cat(gone).max() <= torch.cat(kept).min()
    again = choose_masks(weights, {}, amount, "global")
    assert all(torch.equal(again.masks[name], mask) for name, mask in choice.masks.items())


@given(SHAPES, st.integers(0, 1000), AMOUNTS)
@settings(max_examples=100, deadline=None)
def test_layer_counts_are_exact(shapes: list[tuple[int, ...]], seed: int, amount: float) -> None:
    weights = draw(shapes, seed)
    choice = choose_masks(weights, {}, amount, "layer")
    for name, mask in choice.masks.items():
        expected = mask.numel() - count_removed(amount, mask.numel())
        assert int(mask.sum()) == max(1, expected)
        assert (name in choice.rescued) == (expected == 0)


@given(SHAPES, st.integers(0, 1000), AMOUNTS, AMOUNTS, st.sampled_from(["global", "layer"]))
@settings(max_examples=100, deadline=None)
def test_masks_only_shrink(shapes: list[tuple[int, ...]], seed: int, one: float, other: float, scope: str) -> None:
    weights = draw(shapes, seed)
    try:
        first = choose_masks(weights, {}, min(one, other), scope)  # type: ignore[arg-type]
        # Other weights meanwhile, and removed ones made large: they must stay away.
        moved = {name: weight.flip(0) + 5 for name, weight in weights.items()}
        second = choose_masks(moved, first.masks, max(one, other), scope)  # type: ignore[arg-type]
    except TooFew:
        return
    for name, mask in second.masks.items():
        assert not bool((mask & ~first.masks[name]).any())


def test_equal_magnitudes_go_in_order() -> None:
    weights = {"a": torch.ones(2, 2), "b": -torch.ones(2, 2)}
    choice = choose_masks(weights, {}, 0.6, "global")  # rank .6 * 7 = 4.2: five go
    assert choice.masks["a"].tolist() == [[False, False], [False, True]]
    assert choice.masks["b"].tolist() == [[False, False], [True, True]]
    assert choice.rescued == ["a"]


def test_zeros_of_before_count() -> None:
    weights = {"a": torch.arange(20.0).view(4, 5) + 1}
    first = choose_masks(weights, {}, 0.3, "global")
    assert left(first) == 20 - 6
    assert left(choose_masks(weights, first.masks, 0.5, "global")) == 20 - 10
    zeros = {"a": weights["a"] * first.masks["a"]}  # the same without a mask
    assert left(choose_masks(zeros, {}, 0.5, "global")) == 20 - 10


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_sparser_than_asked_is_an_error(scope: str) -> None:
    weights = {"a": torch.arange(20.0).view(4, 5) + 1}
    masks = choose_masks(weights, {}, 0.6, "global").masks
    with pytest.raises(UserError, match=r"12 of the 20 selected weights \(60\.0000%\) are zero already"):
        choose_masks(weights, masks, 0.5, scope)  # type: ignore[arg-type]
    same = choose_masks(weights, masks, 0.6, scope)  # type: ignore[arg-type]
    assert torch.equal(same.masks["a"], masks["a"])


def test_one_layer_sparser_than_asked_stays_as_it_is() -> None:
    weights = {"a": torch.arange(20.0).view(4, 5) + 1, "b": torch.arange(10.0).view(2, 5) + 1}
    masks = choose_masks({"a": weights["a"]}, {}, 0.8, "layer").masks
    choice = choose_masks(weights, masks, 0.5, "layer")
    assert choice.sparser == ["a"]
    assert torch.equal(choice.masks["a"], masks["a"])
    assert int(choice.masks["b"].sum()) == 5


def test_a_weight_that_is_not_finite_is_a_failure() -> None:
    with pytest.raises(Failure, match=r"layer\.weight holds weights that are not finite"):
        choose_masks({"layer.weight": torch.tensor([[1.0, float("nan")]])}, {}, 0.5, "global")


def test_schedules() -> None:
    assert amounts(0.6, 4) == [0.15, 0.3, 0.45, 0.6]
    assert amounts(0.6, 4, first=0.15) == [0.15, 0.3, 0.45, 0.6]
    assert amounts(0.65, 4, first=0.5) == [0.5, 0.55, 0.6, 0.65]  # their second command
    assert amounts(0.6, 1) == [0.6]
    halves = amounts(0.875, 3, "exponential")
    assert halves == pytest.approx([0.5, 0.75, 0.875]) and halves[-1] == 0.875
    assert amounts(0.95, 3, "exponential", first=0.2)[1] == pytest.approx(0.8)


def test_thirty_percent_of_what_is_left_each_round() -> None:
    assert amounts(0.83193, 5, "exponential") == [0.3, 0.51, 0.657, 0.7599, 0.83193]
    assert amounts(0.51, 2, "exponential") == [0.3, 0.51]
    # Of 10**5 m + 1 weights the percentile's rank is whole: an amount too small by one bit would take one less.
    for count in (1, 100_001, 700_001, 1_700_001, 81_500_001):
        left = [count - count_removed(amount, count) for amount in amounts(0.83193, 5, "exponential")]
        assert left == [(count - 1) * 7**k // 10**k for k in range(1, 6)]


@given(AMOUNTS, st.integers(1, 12), st.sampled_from(["linear", "exponential"]))
def test_schedules_rise_to_the_amount(amount: float, rounds: int, growth: str) -> None:
    steps = amounts(amount, rounds, growth)  # type: ignore[arg-type]
    assert len(steps) == rounds and steps[-1] == amount
    assert all(0 <= one <= other for one, other in itertools.pairwise(steps))
