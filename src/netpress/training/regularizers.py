"""SRIP: a penalty that keeps the singular values of weight matrices near 1.

The penalty of a matrix W is the largest absolute eigenvalue of W'W - I. A few steps of power iteration from a random
start estimate it (Bansal et al. 2018; Kim et al., PMLR 123, section 3.1).

Matrices of equal shape are stacked, so that one batched product serves all of them. The Gram matrix is never formed:
(W'W - I) v is computed as W'(W v) - v.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netpress.network.selection import select
from netpress.settings import Count, NonNegative, Settings, at_most


class Orthogonality(Settings):
    """SRIP, a penalty that keeps the singular values of weight matrices near 1.

    The defaults are the paper's; their code squares, uses .7 and always the input side.
    """

    on: str | tuple[str, ...] = "pointwise"
    """Which layers: pointwise, depthwise, classifier, stem, conv, linear, all, or patterns of module names."""
    coefficient: NonNegative = 1.0
    """Multiplies the term before it is added to the loss."""
    iterations: Annotated[Count, at_most(100)] = 1
    """Normalised power steps before the norm is read; 1 is both the paper's and the code's."""
    squared: bool = False
    """Penalise the square of the norm."""
    reduce: Literal["mean", "sum"] = "mean"
    """Over the matrices."""
    side: Literal["in", "out", "smaller"] = "smaller"
    """in: W'W - I, out: WW' - I, smaller: whichever is smaller. The other side cannot go below 1."""


class SpectralPenalty:
    """The SRIP term of a fixed set of weights, ready to be computed each step."""

    def __init__(self, weights: Sequence[Tensor], settings: Orthogonality) -> None:
        self.settings = settings
        self.count = len(weights)
        shapes: dict[tuple[int, int], list[Tensor]] = {}
        for weight in weights:
            shapes.setdefault((weight.shape[0], weight[0].numel()), []).append(weight)
        self.groups = list(shapes.values())
        self.transposed = [_is_transposed(shape, settings.side) for shape in shapes]
        self.lengths = [shape[0] if over else shape[1] for shape, over in zip(shapes, self.transposed, strict=True)]

    def __call__(self, generator: torch.Generator) -> Tensor:
        """The term, times the coefficient: a scalar with a gradient. `generator` lives on the weights' device."""
        sizes = [len(group) * length for group, length in zip(self.groups, self.lengths, strict=True)]
        first = self.groups[0][0]
        # One draw for all matrices: a normal vector's direction is uniform whatever the others are. It is another one
        # where other layers are selected, as everything is in a training under another penalty.
        starts = torch.randn(sum(sizes), generator=generator, device=first.device, dtype=first.dtype).split(sizes)
        norms = [
            self._norms(group, transposed, start.view(len(group), -1, 1))
            for group, transposed, start in zip(self.groups, self.transposed, starts, strict=True)
        ]
        values = torch.cat(norms)  # [matrices]
        if self.settings.squared:
            values = values.square()
        total = values.mean() if self.settings.reduce == "mean" else values.sum()
        return self.settings.coefficient * total

    def _norms(self, group: list[Tensor], transposed: bool, starts: Tensor) -> Tensor:
        matrices = torch.stack([weight.flatten(1) for weight in group])  # [matrices, out, in]
        return spectral_norms(matrices.mT if transposed else matrices, starts, self.settings.iterations)


def spectral_norms(matrices: Tensor, vectors: Tensor, iterations: int) -> Tensor:
    """Estimate of the largest |eigenvalue| of W'W - I of each matrix: [matrices].

    `matrices` is [matrices, rows, columns], `vectors` the starts [matrices, columns, 1]. The gradient
    flows through the power iteration, as in the team's code. With A = W'W - I their three products
    u'(A v), u = Av / |Av|, v = A u0 / |A u0| are |A v|: one product fewer, the same number.
    """
    for _ in range(iterations):
        vectors = F.normalize(_apply_gap(matrices, vectors), dim=1)
    return _apply_gap(matrices, vectors).flatten(1).norm(dim=1)


def _apply_gap(matrices: Tensor, vectors: Tensor) -> Tensor:
    return torch.bmm(matrices.mT, torch.bmm(matrices, vectors)) - vectors


def spectral_penalty(module: nn.Module, settings: Orthogonality) -> SpectralPenalty:
    """The SRIP term of the selected layers of `module`. Raises UserError where nothing is selected."""
    return SpectralPenalty(list(penalised_weights(module, settings).values()), settings)


def penalised_weights(module: nn.Module, settings: Orthogonality) -> dict[str, nn.Parameter]:
    """The weights that SRIP touches, by the name of their layer, in the network's order."""
    on = settings.on if isinstance(settings.on, str) else list(settings.on)
    return {name: layer.get_parameter("weight") for name, layer in select(module, on, "orthogonality.on")}


def _is_transposed(shape: tuple[int, int], side: str) -> bool:
    rows, columns = shape
    return side == "out" or (side == "smaller" and rows < columns)
