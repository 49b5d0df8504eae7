"""How many rows and columns each layer keeps: ways that lead from nothing removed to as much as may be, step by step.

    global   One list of all rows and columns of all layers, by importance; each step removes the next. Every layer is
             put into factors, even where these are larger (Wave Computing 2019).
    cost     Each layer has a curve of the least importance lost for each cost; each step takes the piece of all curves
             that loses least for what it saves. A layer stays whole until its factors are smaller.

A target (a share kept, a compression, a score, a gate) is the first step of the way that meets it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from netpress.compression.factorization.layers import Candidate, Numbers, Unit
from netpress.settings import Settings, Share

Sides = tuple[int, int]
"""Rows and columns that a layer keeps."""
State = dict[str, Sides | None]
"""What each layer keeps; None: it stays as it is."""

MOST_CHOICES = 64  # of numbers of rows, and of columns, that a curve looks at


class GlobalSelection(Settings):
    """One list of all rows and columns; every layer is put into factors."""

    kind: Literal["global"] = "global"
    limit: Share = 0.5
    """Largest share of a layer's rows, and of its columns, that goes at once."""


class CostSelection(Settings):
    """What loses least for what it saves; a layer stays whole until its factors are smaller."""

    kind: Literal["cost"] = "cost"
    per: Unit = "score"
    """What is saved: `parameters`, `operations` (multiply-adds), or both as the official `score` weighs them."""
    limit: Share = 0.95
    """Largest share of a layer's rows, and of its columns, that goes at once."""


Selection = Annotated[GlobalSelection | CostSelection, Field(discriminator="kind")]


@dataclass(frozen=True)
class Ranking:
    """How much the rows and columns of a layer matter: `importance` [rows, columns], not negative."""

    candidate: Candidate
    importance: Tensor

    @property
    def of_rows(self) -> Tensor:
        return self.importance.sum(1)

    @property
    def of_columns(self) -> Tensor:
        return self.importance.sum(0)

    def kept(self, sides: Sides) -> tuple[Tensor, Tensor]:
        """Indices of the most important rows and columns, so many, the most important first."""
        rows, columns = sides
        return _order(self.of_rows)[:rows], _order(self.of_columns)[:columns]

    def lost(self, sides: Sides) -> float:
        """The importance that goes where so many rows and columns stay."""
        rows, columns = self.kept(sides)
        return float(self.importance.sum() - self.importance[rows][:, columns].sum())


class Way(Protocol):
    """From nothing removed, at step 0, to as much as may be."""

    steps: int
    """The number of the last step."""

    def state(self, step: int) -> State:
        """What each layer keeps after so many steps."""

    def at_share(self, share: float) -> int | None:
        """The step that keeps this share of rows and columns; None where none keeps so few."""


def find_way(rankings: Sequence[Ranking], selection: GlobalSelection | CostSelection) -> Way:
    """The way of a selection over these layers."""
    return GlobalWay(rankings, selection) if isinstance(selection, GlobalSelection) else CostWay(rankings, selection)


class GlobalWay:
    """Removes the least of all rows and columns, one at a step."""

    def __init__(self, rankings: Sequence[Ranking], settings: GlobalSelection) -> None:
        self.names = [ranking.candidate.name for ranking in rankings]
        scores = [side for ranking in rankings for side in (ranking.of_rows, ranking.of_columns)]
        sizes = [len(score) for score in scores]
        places = torch.empty(sum(sizes), dtype=torch.int64)
        places[torch.cat(scores).cpu().argsort(stable=True)] = torch.arange(sum(sizes))
        self.places = [part.sort().values.numpy() for part in places.split(sizes)]
        self.most = [min(int(settings.limit * size), size - 1) for size in sizes]
        self.steps = sum(sizes)

    def state(self, step: int) -> State:
        left = [
            len(places) - min(int(np.searchsorted(places, step)), most)
            for places, most in zip(self.places, self.most, strict=True)
        ]
        return dict(zip(self.names, zip(left[::2], left[1::2], strict=True), strict=True))

    def at_share(self, share: float) -> int | None:
        """A quantile of the list, as Wave has it: of layers at their limit more stays."""
        return self.steps - math.floor(share * self.steps + 1e-6)  # 0.7 of 10 are 7, whatever floats say of 1 - 0.7


class CostWay:
    """Takes the piece that loses least importance for what it saves, of the convex curves of all layers."""

    def __init__(self, rankings: Sequence[Ranking], settings: CostSelection) -> None:
        self.names = [ranking.candidate.name for ranking in rankings]
        moves: list[tuple[float, int, int, Sides]] = []
        for index, ranking in enumerate(rankings):
            curve = find_curve(ranking, settings)
            moves += [(slope, index, number, sides) for number, (slope, sides) in enumerate(curve)]
        self.moves = sorted(moves)
        self.rankings = rankings
        self.steps = len(moves)

    def state(self, step: int) -> State:
        state: State = dict.fromkeys(self.names)
        for _, index, _, sides in self.moves[:step]:
            state[self.names[index]] = sides
        return state

    def at_share(self, share: float) -> int | None:
        def keeps(step: int) -> bool:
            kept, every = count_kept(self.rankings, self.state(step))
            return kept <= share * every

        return first_step(self.steps, keeps)


def find_curve(ranking: Ranking, settings: CostSelection) -> list[tuple[float, Sides]]:
    """The corners of the least importance lost for each cost saved, convex: (loss for saving one more, sides), rising.

    Of large layers, at most MOST_CHOICES numbers of rows and of columns are looked at.
    """
    candidate = ranking.candidate
    rows, columns = (_choices(side, settings.limit) for side in ranking.importance.shape)
    sums = ranking.importance[_order(ranking.of_rows)][:, _order(ranking.of_columns)].cumsum(0).cumsum(1)
    lost = (sums[-1, -1] - sums[rows - 1][:, columns - 1]).clamp_min(0).flatten().cpu().numpy()
    of_rows, of_columns = (side.flatten().numpy() for side in torch.meshgrid(rows, columns, indexing="ij"))
    saved = candidate.cost_now(settings.per) - candidate.cost(of_rows, of_columns, settings.per)
    corners: list[tuple[float, Sides]] = []
    at_saved = at_lost = 0.0
    for corner in _lower_hull(saved, lost):
        slope = (float(lost[corner]) - at_lost) / (float(saved[corner]) - at_saved)
        at_saved, at_lost = float(saved[corner]), float(lost[corner])
        corners.append((slope, (int(of_rows[corner]), int(of_columns[corner]))))
    return corners


def _lower_hull(saved: Numbers, lost: Numbers) -> list[int]:
    """The corners, rising, of the lower convex hull of points (saved, lost) and the origin, of those that save."""
    order = np.lexsort((-lost, saved))
    least_beyond = np.minimum.accumulate(lost[order][::-1])[::-1]  # of this point and those that save no less
    useful = (saved[order] > 0) & (lost[order] <= least_beyond)
    hull: list[int] = []
    for point in map(int, order[useful]):
        while hull and not _turns(hull, point, saved, lost):
            hull.pop()
        hull.append(point)
    return hull


def _turns(hull: Sequence[int], point: int, saved: Numbers, lost: Numbers) -> bool:
    """Whether the way from the hull's last corner to `point` is steeper than the way to that corner."""
    before = (saved[hull[-2]], lost[hull[-2]]) if len(hull) > 1 else (0.0, 0.0)
    here = (saved[hull[-1]], lost[hull[-1]])
    return bool((here[1] - before[1]) * (saved[point] - here[0]) < (lost[point] - here[1]) * (here[0] - before[0]))


def count_kept(rankings: Sequence[Ranking], state: Mapping[str, Sides | None]) -> tuple[int, int]:
    """Rows and columns that stay, of so many.

    A layer that stays as it is keeps all. Two factors have as many rows as columns: what they pass between them.
    """
    kept = every = 0
    for ranking in rankings:
        whole = (ranking.importance.shape[0], ranking.importance.shape[1])
        kept += _sides_kept(ranking, state[ranking.candidate.name] or whole)
        every += _sides_kept(ranking, whole)
    return kept, every


def _sides_kept(ranking: Ranking, sides: Sides) -> int:
    ranks = ranking.candidate.ranks(*sides)
    return sum(ranks) if len(ranks) == 2 else 2 * ranks[0]


def first_step(last: int, meets: Callable[[int], bool], guess: int | None = None) -> int | None:
    """The first step from 0 to `last` that meets what is asked, where all after it do too; None where none does.

    Steps around a `guess` are tried first, ever further away: near a good one few are.
    """
    low, high = -1, last + 1  # none up to low meets it, all from high on do
    at, reach = (last if guess is None else guess), 1
    while high - low > 1:
        low, high = (low, at) if meets(at) else (at, high)
        if guess is not None and low < 0:
            at = max(0, high - reach)
        elif guess is not None and high > last:
            at = min(last, low + reach)
        else:
            at = (low + high) // 2
        reach *= 2
    return high if high <= last else None


def _order(scores: Tensor) -> Tensor:
    return scores.argsort(descending=True, stable=True)


def _choices(side: int, limit: float) -> Tensor:
    """Numbers to keep of `side` rows or columns, from the least that the limit allows to all."""
    least = max(1, side - int(limit * side))
    count = min(side - least + 1, MOST_CHOICES)
    return torch.linspace(least, side, count, dtype=torch.float64).round().to(torch.int64).unique()
