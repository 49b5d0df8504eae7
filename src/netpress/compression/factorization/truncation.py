"""Three ways to make factors of a layer's weights W with fewer rows and columns.

    eigenbasis   keep the most important rows and columns of W in the eigenbasis of the Fisher factors (EigenDamage)
    tucker       the Tucker-2 decomposition of W: the least squared error of the weights (what Wave's code came to)
    weighted     the same of G^1/2 W A^1/2: the least error by the curvature, where inputs and gradients count

Each gives W ~ last x core x first at each place of a kernel: [rows, r] [r, c, height, width] [c, columns].
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from netpress.compression.factorization.curvature import Curvature, rotate

Truncation = Literal["eigenbasis", "tucker", "weighted"]

SWEEPS = 20  # of alternating improvement, at most
SETTLED = 1e-9  # by what share of the kept energy a sweep must improve, to be followed by another
DAMPING = 1e-3  # what is added to A and G before whitening, as a share of their mean eigenvalue


@dataclass(frozen=True)
class Factors:
    """last [rows, r], core [r, c, height, width] or [r, c], and first [c, columns]; float64."""

    last: Tensor
    core: Tensor
    first: Tensor

    @property
    def product(self) -> Tensor:
        """The weights that the factors stand for: [rows, columns, ...]."""
        return rotate(self.core, self.last.T, self.first)

    def as_two(self) -> tuple[Tensor, Tensor]:
        """(last, first) without a core between, [rows, rank] and [rank, columns], of equal singular values.

        For cores of one place: of a 1x1 convolution or a linear layer. The rank is the lesser of r and c.
        """
        core = self.core.flatten(1)
        rank = min(core.shape)
        left, left_rest = torch.linalg.qr(self.last)
        right, right_rest = torch.linalg.qr(self.first.T)
        u, s, v = torch.linalg.svd(left_rest @ core @ right_rest.T, full_matrices=False)
        root = s[:rank].sqrt()
        return left @ u[:, :rank] * root, root[:, None] * (v[:rank] @ right.T)


def truncate(weight: Tensor, curvature: Curvature, kept: tuple[Tensor, Tensor], truncation: Truncation) -> Factors:
    """Factors of `weight` [rows, columns, ...] with as many rows and columns as are `kept`.

    kept: indices of rows and of columns in the eigenbasis. `tucker` and `weighted` only take their numbers.
    """
    weight = weight.detach().double()
    rows, columns = kept
    if truncation == "eigenbasis":
        core = curvature.rotate(weight)[rows][:, columns]
        return Factors(curvature.output_basis[:, rows], core, curvature.input_basis[:, columns].T)
    ranks = len(rows), len(columns)
    if truncation == "tucker":
        return tucker(weight, ranks)
    of_rows, back_rows = whitening(curvature.outputs)
    of_columns, back_columns = whitening(curvature.inputs)
    white = tucker(rotate(weight, of_rows, of_columns), ranks)
    return _orthonormal(Factors(back_rows @ white.last, white.core, white.first @ back_columns))


def whitening(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The root of a positive matrix, damped, and the root's inverse: both [n, n]."""
    values, vectors = torch.linalg.eigh(matrix.double())
    values = values.clamp_min(0)
    mean = values.mean()
    values = values + (DAMPING * mean if mean > 0 else 1.0)
    return (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T


def tucker(weight: Tensor, ranks: tuple[int, int]) -> Factors:
    """The Tucker-2 decomposition over rows and columns, orthonormal, by alternating eigenvectors (HOOI).

    De Lathauwer, De Moor and Vandewalle, SIAM J. Matrix Anal. Appl. 21 (2000), with the higher-order SVD to begin
    with, so that nothing is drawn. A matrix is decomposed exactly, by the first singular vectors.
    """
    rows, columns = ranks
    places = weight.flatten(2) if weight.dim() > 2 else weight[:, :, None]  # [rows, columns, places]
    first = _leading(places.transpose(0, 1), columns)  # [columns, c]
    kept = -1.0
    for _ in range(SWEEPS):
        last = _leading(torch.einsum("oik,ic->ock", places, first), rows)
        halved = torch.einsum("oik,or->irk", places, last)
        first = _leading(halved, columns)
        energy = float(torch.einsum("irk,ic->crk", halved, first).square().sum())
        if energy - kept <= SETTLED * energy:
            break
        kept = energy
    return Factors(last, rotate(weight, last, first), first.T)


def _leading(tensor: Tensor, count: int) -> Tensor:
    """The first `count` left singular vectors of [n, ...] unfolded: [n, count]."""
    matrix = tensor.reshape(tensor.shape[0], -1)
    return torch.linalg.eigh(matrix @ matrix.T)[1].flip(1)[:, :count]


def _orthonormal(factors: Factors) -> Factors:
    """The same product from orthonormal outer factors, which train better."""
    last, last_rest = torch.linalg.qr(factors.last)
    first, first_rest = torch.linalg.qr(factors.first.T)
    return Factors(last, rotate(factors.core, last_rest.T, first_rest.T), first.T)
