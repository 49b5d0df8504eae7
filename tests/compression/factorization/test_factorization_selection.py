"""Which rows and columns stay: both ways against plain lists, thresholds and brute force."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from netpress.compression.factorization.layers import Candidate
from netpress.compression.factorization.selection import (
    CostSelection,
    CostWay,
    GlobalSelection,
    GlobalWay,
    Ranking,
    find_curve,
    first_step,
)

UNITS = ["parameters", "operations", "score"]


def candidate(name: str, rows: int, columns: int, kind: str = "3x3", alive: float = 1.0) -> Candidate:
    layer: nn.Conv2d | nn.Linear
    if kind == "linear":
        layer = nn.Linear(columns, rows, device="meta")
    else:
        layer = nn.Conv2d(columns, rows, 3 if kind == "3x3" else 1, device="meta")
    count = layer.weight.numel()
    places = (1, 1) if kind == "linear" else (36, 25)
    return Candidate(name, layer, name, places, round(alive * count), count - round(alive * count))


def importance(rows: int, columns: int, seed: int, spread: float = 2.0) -> Tensor:
    """Products of a few large and many small numbers, with noise of their own: no order of elements is that of rows."""
    generator = torch.Generator().manual_seed(seed)
    sides = [
        torch.exp(spread * torch.randn(side, generator=generator, dtype=torch.float64)) for side in (rows, columns)
    ]
    return torch.outer(*sides) * torch.rand(rows, columns, generator=generator, dtype=torch.float64)


@st.composite
def rankings(draw: st.DrawFn, most: int = 8) -> list[Ranking]:
    made = []
    for place in range(draw(st.integers(1, 4))):
        rows, columns = draw(st.integers(2, most)), draw(st.integers(2, most))
        one = candidate(f"layer{place}", rows, columns, draw(st.sampled_from(["3x3", "1x1", "linear"])))
        made.append(Ranking(one, importance(rows, columns, 1000 * place + draw(st.integers(0, 999)))))
    return made


# --- one list of all


def as_wave(given: list[Ranking], ratio: float, limit: float) -> dict[str, tuple[int, int]]:
    """How many rows and columns stay, as Wave's code had it: a threshold in one list of all scores.

    Strictly greater stays. A layer that would lose more than the limit has its own threshold, there.
    """
    scores = {
        (one.candidate.name, side): one.importance.sum(1 - side).tolist() for one in given for side in (0, 1)
    }  # fmt: skip
    everything = sorted(itertools.chain(*scores.values()))
    threshold = everything[int(ratio * len(everything))]
    left = {}
    for slot, values in scores.items():
        kept = sum(value > threshold for value in values)
        own = sorted(values)
        if len(values) - kept > limit * len(values):
            kept = len([value for value in values if value not in own[: int(limit * len(values))]])
        left[slot] = max(kept, 1)
    return {one.candidate.name: (left[one.candidate.name, 0], left[one.candidate.name, 1]) for one in given}


@settings(deadline=None, max_examples=60)
@given(
    given=rankings(), ratio=st.sampled_from([0.1, 0.3, 0.37, 0.5, 0.8]), limit=st.sampled_from([0.25, 0.5, 0.9, 0.99])
)
def test_the_global_list_is_waves(given: list[Ranking], ratio: float, limit: float) -> None:
    count = sum(sum(one.candidate.sides) for one in given)
    assume(abs(ratio * count - round(ratio * count)) > 1e-6)  # else theirs takes one more: the threshold itself
    way = GlobalWay(given, GlobalSelection(limit=limit))
    step = way.at_share(1 - ratio)
    assert step is not None
    assert way.state(step) == as_wave(given, ratio, limit)


def test_the_share_of_a_list_is_exact_where_floats_are_not() -> None:
    given = [Ranking(candidate("a", 6, 4), importance(6, 4, 1))]
    way = GlobalWay(given, GlobalSelection(limit=0.9))
    for tenths in range(1, 11):
        step = way.at_share(tenths / 10)
        assert step == 10 - tenths
        assert sum(way.state(step)["a"] or ()) == max(tenths, 2)  # one of each side stays


@settings(deadline=None, max_examples=30)
@given(given=rankings(), limit=st.sampled_from([0.1, 0.5, 0.99]))
def test_each_step_of_the_global_list_takes_the_next(given: list[Ranking], limit: float) -> None:
    way = GlobalWay(given, GlobalSelection(limit=limit))
    assert way.steps == sum(sum(one.candidate.sides) for one in given)
    assert way.state(0) == {one.candidate.name: one.candidate.sides for one in given}  # in factors, all of them
    scores = sorted(
        (float(value), one.candidate.name, side)
        for one in given
        for side, of_side in enumerate((one.importance.sum(1), one.importance.sum(0)))
        for value in of_side
    )
    left = {one.candidate.name: list(one.candidate.sides) for one in given}
    for step, (_, name, side) in enumerate(scores, 1):
        size = next(one for one in given if one.candidate.name == name).candidate.sides[side]
        if left[name][side] > max(1, size - int(limit * size)):
            left[name][side] -= 1
        assert way.state(step) == {name: tuple(sides) for name, sides in left.items()}


# --- the least lost for what is saved


def choices(one: Ranking, limit: float, unit: Any) -> list[tuple[float, float]]:
    """(saved, lost) of everything that a layer may become, and of staying whole: brute force."""
    found = [(0.0, 0.0)]
    whole = float(one.candidate.cost_now(unit))
    for rows, columns in itertools.product(*(range(1, side + 1) for side in one.candidate.sides)):
        if any(
            side - kept > int(limit * side) for side, kept in zip(one.candidate.sides, (rows, columns), strict=True)
        ):
            continue
        best_rows = sorted(range(len(one.importance)), key=lambda row: -float(one.importance[row].sum()))[:rows]
        best = sorted(range(one.importance.shape[1]), key=lambda column: -float(one.importance[:, column].sum()))
        kept = float(one.importance[best_rows][:, best[:columns]].sum())
        saved = whole - float(one.candidate.cost(rows, columns, unit))
        found.append((saved, float(one.importance.sum()) - kept))
    return found


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(2, 9),
    columns=st.integers(2, 9),
    kind=st.sampled_from(["3x3", "1x1", "linear"]),
    seed=st.integers(0, 999),
    limit=st.sampled_from([0.3, 0.5, 0.95]),
    per=st.sampled_from(UNITS),
    alive=st.sampled_from([1.0, 0.6, 0.2]),
)
def test_a_curve_is_the_hull_of_all_that_a_layer_may_become(
    rows: int, columns: int, kind: str, seed: int, limit: float, per: Any, alive: float
) -> None:
    one = Ranking(candidate("a", rows, columns, kind, alive), importance(rows, columns, seed))
    curve = find_curve(one, CostSelection(per=per, limit=limit))
    points = choices(one, limit, per)
    slopes = [slope for slope, _ in curve]
    assert slopes == sorted(slopes) and all(slope >= 0 for slope in slopes)
    # corners, from the layer as it is, are among the choices
    corners = [(0.0, 0.0)]
    for slope, sides in curve:
        saved = float(one.candidate.cost_now(per) - one.candidate.cost(*sides, per))
        assert saved > corners[-1][0]
        corners.append((saved, one.lost(sides)))
        gone = corners[-1][1] - corners[-2][1]
        assert slope == pytest.approx(gone / (saved - corners[-2][0]), rel=1e-6, abs=1e-12)
    # no choice lies below the hull, and none saves more than its end
    total = float(one.importance.sum())
    most = max((saved for saved, _ in points), default=0.0)
    assert corners[-1][0] == pytest.approx(max(most, 0.0))
    for saved, lost in points:
        for before, after in itertools.pairwise(corners):
            if before[0] <= saved <= after[0]:
                share = (saved - before[0]) / (after[0] - before[0])
                assert lost >= before[1] + share * (after[1] - before[1]) - 1e-9 * total


@settings(deadline=None, max_examples=30)
@given(given=rankings(), limit=st.sampled_from([0.3, 0.5, 0.95]), per=st.sampled_from(UNITS))
def test_steps_of_the_cost_way_lose_and_save_ever_more(given: list[Ranking], limit: float, per: Any) -> None:
    way = CostWay(given, CostSelection(per=per, limit=limit))
    assert way.state(0) == {one.candidate.name: None for one in given}

    def totals(step: int) -> tuple[float, float]:
        state = way.state(step)
        saved = lost = 0.0
        for one in given:
            sides = state[one.candidate.name]
            if sides is None:
                continue
            whole, cost = one.candidate.cost_now(per), one.candidate.cost(*sides, per)
            assert cost < whole  # whole unless its factors are smaller
            for side, kept in zip(one.candidate.sides, sides, strict=True):
                assert 1 <= kept <= side and side - kept <= int(limit * side)
            saved, lost = saved + float(whole - cost), lost + one.lost(sides)
        return saved, lost

    walked = [totals(step) for step in range(way.steps + 1)]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(walked)]
    assert all(b[0] > a[0] for a, b in itertools.pairwise(walked))
    scale = 1e-6 * max(map(abs, slopes), default=0.0)
    assert all(later >= earlier - scale for earlier, later in itertools.pairwise(slopes))


def test_importance_that_is_all_alike_goes_in_order() -> None:
    """Slopes that rounding alone tells apart must not take a layer back to more rows than it had."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        value = float(torch.rand(1, generator=generator)) + 0.1
        given = [
            Ranking(candidate(f"{kind}{size}", size, size + 1, kind), torch.full((size, size + 1), value).double())
            for kind in ("3x3", "1x1")
            for size in (7, 12, 20)
        ]
        way = CostWay(given, CostSelection(per="parameters"))
        sizes = [sum(one.candidate.weights(*(way.state(step)[one.candidate.name] or one.candidate.sides))
                     if way.state(step)[one.candidate.name] else one.candidate.alive for one in given)
                 for step in range(way.steps + 1)]  # fmt: skip
        assert sizes == sorted(sizes, reverse=True)


def test_large_layers_look_at_some_numbers_and_at_both_ends() -> None:
    one = Ranking(candidate("a", 300, 200), importance(300, 200, 1))
    curve = find_curve(one, CostSelection(limit=0.95))
    assert curve[-1][1] == (15, 10)
    assert all(300 >= rows >= 15 and 200 >= columns >= 10 for _, (rows, columns) in curve)
    assert len(curve) > 20


def test_masks_count_for_a_layer_that_stays_whole() -> None:
    """Of 8 x 8 x 9 weights a tenth is left: no factors of three are smaller but the smallest."""
    sparse = candidate("a", 8, 8, alive=0.1)
    given = Ranking(sparse, importance(8, 8, 1))
    assert sparse.alive == 58 and sparse.zeros == 518
    smallest = find_curve(given, CostSelection(per="parameters"))
    assert smallest and all(sparse.weights(*sides) < 58 for _, sides in smallest)
    assert find_curve(Ranking(candidate("a", 8, 8, alive=0.02), importance(8, 8, 1)), CostSelection()) == []


@pytest.mark.parametrize("meets", [[0, 0, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1], [1], [0]])
def test_the_first_step_that_meets(meets: list[int]) -> None:
    asked: list[int] = []

    def ask(step: int) -> bool:
        asked.append(step)
        return bool(meets[step])

    expected = meets.index(1) if 1 in meets else None
    assert first_step(len(meets) - 1, ask) == expected


def test_the_first_step_asks_few_questions() -> None:
    for first in (0, 1, 777, 99_999, 100_000):
        asked: list[int] = []

        def meets(step: int, first: int = first, asked: list[int] = asked) -> bool:
            asked.append(step)
            return step >= first

        assert first_step(100_000, meets) == first
        assert len(asked) <= 1 + math.ceil(math.log2(100_001))


@pytest.mark.parametrize("last", [0, 1, 2, 7, 40])
def test_first_step_is_the_first_from_any_guess(last: int) -> None:
    """And none is looked at twice, nor one beyond the last."""
    for first in [*range(last + 1), None]:
        for guess in [None, *range(last + 1)]:
            looked: list[int] = []

            def meets(step: int, first: int | None = first, looked: list[int] = looked) -> bool:
                looked.append(step)
                return first is not None and step >= first

            assert first_step(last, meets, guess) == first
            assert len(set(looked)) == len(looked)
            assert all(0 <= step <= last for step in looked)


def test_first_step_near_a_good_guess_looks_at_few() -> None:
    looked: list[int] = []
    assert first_step(15_000, lambda step: (looked.append(step), step >= 7_003)[1], 7_000) == 7_003
    assert len(looked) <= 5
