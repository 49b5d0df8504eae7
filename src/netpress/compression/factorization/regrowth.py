"""Regrowth: factors get some of the rows and columns back that a factorization took, and training finds a use for them.

How many each layer gets is drawn, with its share of all importance that was deleted. Two ways:

    copies   Wave's "annealing" (2019): each new row is a copy of the last one with 1% noise, and so is the column of
             the outer factor that takes it up. The network answers otherwise than before.
    zeros    new rows of zeros with random columns to take them up: the network answers as before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netpress.compression.factorization.selection import Ranking, State
from netpress.models.factorized import Factorized, Ranks
from netpress.network import Network
from netpress.network.edits.factorizing import Factorize
from netpress.settings import Count, OpenFraction, Settings, Share
from netpress.training import TrainSettings

NOISE = 0.01  # of a copy, as a share of the values copied


class RegrowSettings(Settings):
    """Give factors some of the rows and columns back that the factorization before took."""

    kind: Literal["zeros", "copies"] = "zeros"
    """zeros: the network answers as before; copies: of the last row or column, with 1% noise, as Wave's."""
    share: OpenFraction = 0.25
    """Rows and columns that come back, as a share of those that the factorization before took."""
    memory: Share = 0.5
    """Share of the earlier factorizations in what decides where they come back."""
    most: Count | None = None
    """Rows, and columns, that one layer gets back at most."""
    train: TrainSettings | None = None
    """The training after it; without it, none."""


@dataclass(frozen=True)
class Deleted:
    """What factorizations deleted: how many rows and columns the last one, and where how much importance went.

    shares: for each layer, the share of its rows and that of its columns in all that was deleted, a moving average.
    """

    count: int
    shares: dict[str, tuple[float, float]]

    def as_json(self) -> dict[str, Any]:
        return {"count": self.count, "shares": {name: list(pair) for name, pair in self.shares.items()}}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> "Deleted":
        return cls(int(values["count"]), {name: (pair[0], pair[1]) for name, pair in values["shares"].items()})


def count_deleted(rankings: Sequence[Ranking], state: State, before: Deleted | None, memory: float) -> Deleted:
    """What a factorization deletes; its shares are averaged with those of the ones `before`."""
    count = 0
    lost: dict[str, tuple[float, float]] = {}
    for ranking in rankings:
        sides = state[ranking.candidate.name]
        if sides is None:
            continue
        both = zip((ranking.of_rows, ranking.of_columns), sides, strict=True)
        gone = [scores.sort().values[: len(scores) - kept] for scores, kept in both]
        count += sum(len(scores) for scores in gone)
        lost[ranking.candidate.name] = float(gone[0].sum()), float(gone[1].sum())
    total = sum(map(sum, lost.values())) or 1.0
    nothing = (0.0, 0.0)
    now = {name: (rows / total, columns / total) for name, (rows, columns) in lost.items()}
    if before is None:
        return Deleted(count, now)
    then = before.shares
    shares = {
        name: tuple(
            memory * a + (1 - memory) * b for a, b in zip(then.get(name, nothing), now.get(name, nothing), strict=True)
        )
        for name in {**then, **now}
    }
    return Deleted(count, {name: (rows, columns) for name, (rows, columns) in shares.items()})


def draw_places(
    network: Network, deleted: Deleted, settings: RegrowSettings, generator: torch.Generator
) -> dict[str, Ranks]:
    """The new ranks of the layers that get rows or columns back: drawn, none beyond what loses nothing."""
    slots = [(name, side) for name in deleted.shares for side in (0, 1)]
    weights = torch.tensor([deleted.shares[name][side] for name, side in slots], dtype=torch.float64)
    count = int(settings.share * deleted.count)
    if not count or not bool((weights > 0).any()):
        return {}
    drawn = torch.multinomial(weights, count, replacement=True, generator=generator).bincount(minlength=len(slots))
    more: dict[str, list[int]] = {}
    for (name, side), times in zip(slots, drawn.tolist(), strict=True):
        more.setdefault(name, [0, 0])[side] = min(times, settings.most or times)
    ranks = {}
    for name, (rows, columns) in more.items():
        layer = network.module.get_submodule(name)
        if not isinstance(layer, Factorized):
            continue
        added = (columns, rows) if layer.middle is not None else (max(rows, columns),)
        new = tuple(
            min(rank + plus, full) for rank, plus, full in zip(layer.ranks, added, layer.full_ranks, strict=True)
        )
        if new != layer.ranks:
            ranks[name] = new
    return ranks


@torch.no_grad()
def regrow(
    network: Network, ranks: dict[str, Ranks], kind: Literal["zeros", "copies"], generator: torch.Generator
) -> None:
    """Give the named layers these larger ranks, in place; values are drawn from `generator`."""
    before = {name: _values(network.module.get_submodule(name)) for name in ranks}
    network.edit(Factorize.of(ranks))
    for name, values in before.items():
        layer = network.module.get_submodule(name)
        assert isinstance(layer, Factorized)
        factors = [layer.first, *([layer.middle] if layer.middle is not None else []), layer.last]
        for place, rank in enumerate(ranks[name]):
            more = rank - values[place].shape[0]
            values[place], values[place + 1] = _grow(values[place], values[place + 1], more, kind, generator)
        for factor, value in zip(factors, values, strict=True):
            factor.weight.copy_(value.reshape(factor.weight.shape))


def _values(layer: nn.Module) -> list[Tensor]:
    """Weights of the factors in the order of use: [width, inputs, ...] each."""
    assert isinstance(layer, Factorized)
    parts = [layer.first, *([layer.middle] if layer.middle is not None else []), layer.last]
    return [part.weight.detach().clone() for part in parts]


def _grow(
    into: Tensor, out: Tensor, more: int, kind: Literal["zeros", "copies"], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`more` channels between two factors: rows of `into` [n, ...] and columns of `out` [m, n, ...]."""
    if more <= 0:
        return into, out
    rows = into[-1:].expand(more, *into.shape[1:])
    columns = out[:, -1:].expand(out.shape[0], more, *out.shape[2:])
    if kind == "copies":
        rows, columns = (_with_noise(copied, generator) for copied in (rows, columns))
    else:
        columns = _like(out, (out.shape[0], more, *out.shape[2:]), generator)
        rows = torch.zeros_like(rows)
    return torch.cat([into, rows]), torch.cat([out, columns], 1)


def _with_noise(copied: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.rand(copied.shape, generator=generator, dtype=torch.float64).to(copied)
    return copied + NOISE * copied.abs() * noise


def _like(out: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal values of the same mean square as those of `out`."""
    scale = out.double().square().mean().sqrt()
    return (torch.randn(shape, generator=generator, dtype=torch.float64).to(out.device) * scale).to(out)
