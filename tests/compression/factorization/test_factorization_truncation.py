"""Truncations: each is the best, or as good as bounds allow, in the measure that it minimises."""

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import random_curvature
from torch import Tensor

from netpress.compression.factorization.curvature import Curvature
from netpress.compression.factorization.selection import Ranking
from netpress.compression.factorization.truncation import DAMPING, Factors, Truncation, truncate, tucker, whitening

TRUNCATIONS = get_args(Truncation)

weights = st.builds(
    lambda shape, seed: torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),
    st.one_of(
        st.tuples(st.integers(1, 7), st.integers(1, 7)),
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3)),
    ),
    st.integers(0, 999),
)
matrices = weights.filter(lambda weight: weight.dim() == 2)


def ranking_of(weight: Tensor, curvature: Curvature) -> Ranking:
    return Ranking(None, curvature.importance(weight))  # type: ignore[arg-type]


def made(weight: Tensor, curvature: Curvature, sides: tuple[int, int], truncation: Truncation) -> Factors:
    return truncate(weight, curvature, ranking_of(weight, curvature).kept(sides), truncation)


def damped(matrix: Tensor) -> Tensor:
    return matrix + DAMPING * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)


def curved_error(weight: Tensor, product: Tensor, inputs: Tensor, outputs: Tensor) -> float:
    """The sum over places of tr(G dW A dW^T)."""
    gone = (weight - product).reshape(*weight.shape[:2], -1).movedim(2, 0)
    return float((outputs @ gone @ inputs @ gone.mT).diagonal(dim1=1, dim2=2).sum())


def error(weight: Tensor, curvature: Curvature, sides: tuple[int, int], truncation: Truncation) -> float:
    """What the truncation minimises: lost importance, squared weights, squared weights by the curvature."""
    product = made(weight, curvature, sides, truncation).product
    assert product.shape == weight.shape
    if truncation == "eigenbasis":
        return float((curvature.diagonal.double() * curvature.rotate(weight - product).square()).sum())
    if truncation == "tucker":
        return float((weight - product).square().sum())
    return curved_error(weight, product, damped(curvature.inputs), damped(curvature.outputs))


@settings(deadline=None, max_examples=25)
@given(weight=weights, seed=st.integers(0, 99), truncation=st.sampled_from(TRUNCATIONS))
def test_errors_fall_with_every_row_and_column(weight: Tensor, seed: int, truncation: Truncation) -> None:
    curvature = random_curvature(weight, seed)
    rows, columns = weight.shape[:2]
    errors = torch.zeros(rows, columns, dtype=torch.float64)
    for sides in itertools.product(range(1, rows + 1), range(1, columns + 1)):
        errors[sides[0] - 1, sides[1] - 1] = error(weight, curvature, sides, truncation)
    scale = 1e-8 * float(errors.max() + weight.square().sum())
    assert bool((errors[1:] <= errors[:-1] + scale).all()) and bool((errors[:, 1:] <= errors[:, :-1] + scale).all())
    assert abs(float(errors[-1, -1])) <= scale


@settings(deadline=None, max_examples=60)
@given(weight=weights, seed=st.integers(0, 99), truncation=st.sampled_from(TRUNCATIONS), data=st.data())
def test_factors_have_the_ranks_asked_for(
    weight: Tensor, seed: int, truncation: Truncation, data: st.DataObject
) -> None:
    rows, columns = (data.draw(st.integers(1, side)) for side in weight.shape[:2])
    factors = made(weight, random_curvature(weight, seed), (rows, columns), truncation)
    assert factors.last.shape == (weight.shape[0], rows) and factors.first.shape == (columns, weight.shape[1])
    assert factors.core.shape == (rows, columns, *weight.shape[2:])
    for outer in (factors.last.T, factors.first):
        torch.testing.assert_close(outer @ outer.T, torch.eye(len(outer), dtype=torch.float64))
    by_hand = torch.einsum("or,rcp,ci->oip", factors.last, factors.core.flatten(2) if weight.dim() > 2 else
                           factors.core[..., None], factors.first)  # fmt: skip
    torch.testing.assert_close(factors.product, by_hand.view(weight.shape))


@settings(deadline=None, max_examples=60)
@given(weight=matrices, data=st.data())
def test_of_a_matrix_tucker_is_the_best_that_there_is(weight: Tensor, data: st.DataObject) -> None:
    """The first singular vectors (Eckart, Young and Mirsky), of the lesser of both ranks."""
    rows, columns = (data.draw(st.integers(1, side)) for side in weight.shape[:2])
    tail = torch.linalg.svdvals(weight)[min(rows, columns) :].square().sum()
    found = (weight - tucker(weight, (rows, columns)).product).square().sum()
    assert float(found) == pytest.approx(float(tail), rel=1e-8, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(weight=weights, data=st.data())
def test_tucker_stays_within_the_bounds_of_its_two_sides(weight: Tensor, data: st.DataObject) -> None:
    """What each side loses alone is a lower bound, and both together are what the higher-order SVD loses at most."""
    ranks = tuple(data.draw(st.integers(1, side)) for side in weight.shape[:2])
    tails = [
        float(torch.linalg.svdvals(weight.transpose(0, side).flatten(1))[rank:].square().sum())
        for side, rank in enumerate(ranks)
    ]
    found = float((weight - tucker(weight, (ranks[0], ranks[1])).product).square().sum())
    assert max(tails) - 1e-9 <= found <= sum(tails) + 1e-9


@settings(deadline=None, max_examples=40)
@given(weight=matrices, seed=st.integers(0, 99), data=st.data())
def test_of_a_matrix_weighted_is_the_best_by_the_curvature(weight: Tensor, seed: int, data: st.DataObject) -> None:
    curvature = random_curvature(weight, seed)
    sides = tuple(data.draw(st.integers(1, side)) for side in weight.shape)
    outputs, inputs = (torch.linalg.cholesky(damped(one)) for one in (curvature.outputs, curvature.inputs))
    tail = torch.linalg.svdvals(outputs.T @ weight @ inputs)[min(sides) :].square().sum()
    found = error(weight, curvature, (sides[0], sides[1]), "weighted")
    assert found == pytest.approx(float(tail), rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(weight=weights, seed=st.integers(0, 99), data=st.data())
def test_weighted_loses_least_by_the_curvature(weight: Tensor, seed: int, data: st.DataObject) -> None:
    curvature = random_curvature(weight, seed)
    sides = tuple(data.draw(st.integers(1, side)) for side in weight.shape[:2])
    matrices = damped(curvature.inputs), damped(curvature.outputs)
    found = {
        truncation: curved_error(weight, made(weight, curvature, (sides[0], sides[1]), truncation).product, *matrices)
        for truncation in TRUNCATIONS
    }
    scale = curved_error(weight, torch.zeros_like(weight), *matrices)
    assert found["weighted"] <= min(found.values()) + 1e-8 * scale


def test_what_it_is_for() -> None:
    """Inputs that hardly vary cost nothing: weighted lets them go, and tucker keeps them for their large weights."""
    weight = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    inputs = torch.diag(torch.tensor([100.0, 10.0, 0.01], dtype=torch.float64))
    outputs = torch.eye(3, dtype=torch.float64)
    curvature = Curvature(inputs, outputs, torch.eye(3).double(), outputs, torch.ones(3, 3))
    assert made(weight, curvature, (1, 1), "tucker").product[2, 2] == pytest.approx(3)
    assert made(weight, curvature, (1, 1), "weighted").product[0, 0] == pytest.approx(1)
    assert made(weight, curvature, (1, 1), "eigenbasis").product[2, 2] == pytest.approx(3)  # all s alike


@settings(deadline=None, max_examples=40)
@given(weight=weights, seed=st.integers(0, 99), data=st.data())
def test_eigenbasis_loses_the_importance_that_selection_reckons_with(
    weight: Tensor, seed: int, data: st.DataObject
) -> None:
    curvature = random_curvature(weight, seed)
    sides = tuple(data.draw(st.integers(1, side)) for side in weight.shape[:2])
    lost = ranking_of(weight, curvature).lost((sides[0], sides[1]))
    total = float(curvature.importance(weight).sum())
    assert error(weight, curvature, (sides[0], sides[1]), "eigenbasis") == pytest.approx(
        lost, rel=1e-6, abs=1e-9 * total
    )


@settings(deadline=None, max_examples=40)
@given(weight=matrices, seed=st.integers(0, 99), truncation=st.sampled_from(TRUNCATIONS), data=st.data())
def test_two_factors_are_what_three_are(weight: Tensor, seed: int, truncation: Truncation, data: st.DataObject) -> None:
    sides = tuple(data.draw(st.integers(1, side)) for side in weight.shape)
    factors = made(weight, random_curvature(weight, seed), (sides[0], sides[1]), truncation)
    last, first = factors.as_two()
    rank = min(sides)
    assert last.shape == (weight.shape[0], rank) and first.shape == (rank, weight.shape[1])
    torch.testing.assert_close(last @ first, factors.product)
    # Equal shares: neither factor is large where the other is small.
    torch.testing.assert_close(last.norm(dim=0), first.norm(dim=1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("truncation", TRUNCATIONS)
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3, 3)])
@pytest.mark.parametrize("what", ["no weights", "no gradients", "one image", "dead inputs"])
def test_nothing_to_go_by_is_no_reason_to_fail(what: str, shape: tuple[int, ...], truncation: Truncation) -> None:
    weight = torch.zeros(shape) if what == "no weights" else torch.randn(shape, generator=torch.Generator())
    curvature = random_curvature(weight, 1)
    inputs, outputs = curvature.inputs, curvature.outputs
    if what == "no gradients":
        outputs = torch.zeros_like(outputs)
    elif what == "one image":
        inputs, outputs = (torch.outer(one[0], one[0]) for one in (inputs, outputs))
    elif what == "dead inputs":
        inputs[2:] = inputs[:, 2:] = 0
    bases = torch.linalg.eigh(inputs)[1], torch.linalg.eigh(outputs)[1]
    curvature = Curvature(inputs, outputs, *bases, curvature.diagonal * (what != "no gradients"))
    whole = made(weight, curvature, (5, 4), truncation).product
    torch.testing.assert_close(whole, weight.double(), rtol=1e-7, atol=1e-9)
    factors = made(weight, curvature, (2, 3), truncation)
    for part in (factors.last, factors.core, factors.first, *(factors.as_two() if len(shape) == 2 else ())):
        assert bool(part.isfinite().all())


def test_whitening_is_a_root_and_its_inverse() -> None:
    matrix = random_curvature(torch.zeros(6, 4), 3).outputs
    root, back = whitening(matrix)
    torch.testing.assert_close(root @ root, damped(matrix))
    torch.testing.assert_close(root @ back, torch.eye(6, dtype=torch.float64))
