"""SRIP against a matrix-by-matrix implementation that forms W'W - I, and against exact eigenvalues."""

import pytest
import torch
from torch import Tensor, nn

from netpress.errors import UserError
from netpress.training.regularizers import (
    Orthogonality,
    SpectralPenalty,
    penalised_weights,
    spectral_norms,
    spectral_penalty,
)

SHAPES = [(6, 4, 1, 1), (4, 6, 1, 1), (6, 4, 1, 1), (5, 5, 1, 1), (6, 1, 3, 3)]


def _weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in SHAPES]


def _by_matrix(weight: Tensor, start: Tensor, settings: Orthogonality) -> Tensor:
    """As the published code: u'(A v) with A = W'W - I, v = A'u / |A'u|, u = A v / |A v|."""
    matrix = weight.flatten(1)
    rows, columns = matrix.shape
    if settings.side == "out" or (settings.side == "smaller" and rows < columns):
        matrix = matrix.T
    gap = matrix.T @ matrix - torch.eye(matrix.shape[1], dtype=matrix.dtype)
    u = start
    for _ in range(settings.iterations):
        v = gap.T @ u / (gap.T @ u).norm()
        u = v
    u = gap @ v / (gap @ v).norm()
    sigma = torch.dot(u, gap @ v)
    return sigma**2 if settings.squared else sigma


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("side", ["in", "out", "smaller"])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_batched_srip_and_its_gradient_equal_matrix_by_matrix(squared, side, reduce, iterations):
    settings = Orthogonality(coefficient=0.7, squared=squared, side=side, reduce=reduce, iterations=iterations)
    weights = _weights()
    penalty = SpectralPenalty(weights, settings)
    value = penalty(torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(value, weights)

    count = sum(len(group) * length for group, length in zip(penalty.groups, penalty.lengths, strict=True))
    starts = torch.randn(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    terms = []
    for group, length in zip(penalty.groups, penalty.lengths, strict=True):
        for weight in group:
            start, starts = starts[:length], starts[length:]
            terms.append(_by_matrix(weight, start, settings))
    expected = 0.7 * (torch.stack(terms).mean() if reduce == "mean" else torch.stack(terms).sum())
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(list(gradients), list(torch.autograd.grad(expected, weights)))


def test_many_iterations_find_the_largest_eigenvalue():
    matrices = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    start = torch.randn(3, 5, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    exact = torch.linalg.eigvalsh(matrices.mT @ matrices - torch.eye(5)).abs().amax(1)
    torch.testing.assert_close(spectral_norms(matrices, start, 2000), exact, rtol=1e-6, atol=1e-6)


def test_orthogonal_weights_cost_nothing_on_their_smaller_side():
    tall = torch.linalg.qr(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)))[0].requires_grad_()
    on_smaller = SpectralPenalty([tall], Orthogonality(side="smaller"))(torch.Generator().manual_seed(0))
    on_larger = SpectralPenalty([tall], Orthogonality(side="out"))(torch.Generator().manual_seed(0))
    assert on_smaller.item() == pytest.approx(0, abs=1e-5)
    assert on_larger.item() == pytest.approx(1, abs=1e-4)  # WW' of 8 rows from 5 columns has rank 5 only


def test_following_the_gradient_brings_singular_values_to_one():
    weight = nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(4)))
    penalty = SpectralPenalty([weight], Orthogonality(squared=True))
    before = (torch.linalg.svdvals(weight.detach()) - 1).abs().max()
    for step in range(400):
        (gradient,) = torch.autograd.grad(penalty(torch.Generator().manual_seed(step)), weight)
        with torch.no_grad():
            weight -= 0.02 * gradient
    assert (torch.linalg.svdvals(weight.detach()) - 1).abs().max() < 0.1 * before


def test_equal_shapes_share_one_batch():
    penalty = SpectralPenalty(_weights(), Orthogonality())
    assert [len(group) for group in penalty.groups] == [2, 1, 1, 1]
    assert penalty.count == 5


def test_selection_by_kind_and_a_kind_that_is_not_there():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1), nn.Linear(6, 2))
    assert list(penalised_weights(module, Orthogonality(on="pointwise"))) == ["2"]
    assert list(penalised_weights(module, Orthogonality(on=("depthwise", "classifier")))) == ["1", "3"]
    with pytest.raises(UserError, match=r"orthogonality\.on"):
        spectral_penalty(nn.Sequential(nn.Linear(3, 2)), Orthogonality(on="pointwise"))
