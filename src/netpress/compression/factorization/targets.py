"""From what a user asks for to a step of the way: a share of rows and columns, a compression, a score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netpress.compression.factorization.selection import Ranking, State, Way, count_kept, first_step
from netpress.compression.factorization.settings import FactorizeSettings
from netpress.compression.factorization.sizes import Sizes
from netpress.errors import UserError


@dataclass(frozen=True)
class Aim:
    """What one factorization aims at; `first` is how many parameters the network had before all of them."""

    settings: FactorizeSettings
    first: int
    share: float | None
    further: bool = False
    """Whether it follows others: then a share that no ranks keep any more is no error, it goes as far as it can."""

    def is_met(self, parameters: int, score: float) -> bool:
        """Whether a network of this size meets a target, where there is one."""
        wanted = self.settings
        small = wanted.compression is None or compressed(parameters, self.first) >= wanted.compression
        cheap = wanted.score is None or score <= wanted.score
        return small and cheap and (wanted.compression, wanted.score) != (None, None)


def compressed(parameters: int, first: int) -> float:
    """The share of `first` parameters that is gone."""
    return 1 - parameters / first


def choose_step(way: Way, rankings: Sequence[Ranking], aim: Aim, sizes: Sizes) -> int:
    """The step of the way that keeps the share asked for, or the one that meets the targets where that comes before.

    Without a share or a target it is the last one. Raises UserError for what no step reaches.
    """
    steps = []
    if aim.share is not None:
        steps.append(_step_of_share(way, rankings, aim.share, aim.further))
    settings = aim.settings
    if settings.compression is not None or settings.score is not None:
        step = _step_of_targets(way, aim, sizes)
        if step is not None:
            steps.append(step)
        elif aim.share is None:
            raise _unreached(way, aim, sizes)
    return min(steps, default=way.steps)


def _step_of_targets(way: Way, aim: Aim, sizes: Sizes) -> int | None:
    """The first step that meets the targets, None where none does."""

    def meets(step: int, score: Callable[[State], float]) -> bool:
        state = way.state(step)
        return aim.is_met(sizes.parameters(state), score(state))

    if aim.settings.score is None:
        return first_step(way.steps, lambda step: meets(step, lambda state: 0.0))
    estimate = _estimated_score(way, sizes)  # a score takes a trace: few are looked at, near an estimated one
    guess = first_step(way.steps, lambda step: meets(step, estimate))
    return first_step(way.steps, lambda step: meets(step, sizes.score), way.steps if guess is None else guess)


def _estimated_score(way: Way, sizes: Sizes) -> Callable[[State], float]:
    """A score by the layers' costs, which is right at both ends of the way."""
    ends = [way.state(step) for step in (0, way.steps)]
    first, last = (sizes.score(state) for state in ends)
    most, least = (sizes.cost(state) for state in ends)
    slope = (first - last) / (most - least) if most > least else 0.0
    return lambda state: last + (sizes.cost(state) - least) * slope


def _step_of_share(way: Way, rankings: Sequence[Ranking], share: float, further: bool) -> int:
    step = way.at_share(share)
    if step is None and further:
        return way.steps
    if step is None:
        kept, every = count_kept(rankings, way.state(way.steps))
        raise UserError(
            f"keep {share:g}: no ranks keep so few of the rows and columns; with selection.limit, at least "
            f"{kept / every:.4g} stay"
        )
    return step


def _unreached(way: Way, aim: Aim, sizes: Sizes) -> UserError:
    settings, last = aim.settings, way.state(way.steps)
    figures = []
    if settings.compression is not None:
        most = compressed(sizes.parameters(last), aim.first)
        figures.append(f"compression {settings.compression:g}: no ranks reach it; the most is {most:.4g}")
    if settings.score is not None:
        figures.append(f"score {settings.score:g}: no ranks reach it; the least is {sizes.score(last):.4g}")
    return UserError(
        f"{'; '.join(figures)} (with selection.limit {settings.selection.limit:g} and these layers); ask for less, "
        "or take more rounds"
    )
