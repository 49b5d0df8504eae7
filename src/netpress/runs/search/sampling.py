"""Which values are tried next: Optuna's samplers, asked anew each time with all that is known.

Every question has its own seed, that of the search and the trial's number. So the answer depends on nothing but the
trials before, and a search that was interrupted asks as one that was not.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from netpress.errors import UserError
from netpress.process.devices import seed_for
from netpress.recipe.search_schema import Candidates, Range
from netpress.runs.search.trials import Trial

if TYPE_CHECKING:
    import optuna

WORST = {"accuracy": 0.0}
"""What a recipe that was refused is told to have reached, that its like are avoided."""
FAR = 1e30
DIGITS = 6


class Asked(Protocol):
    """What there is to choose from, and how; the [search] table of a recipe is one."""

    @property
    def space(self) -> Mapping[str, Candidates]:
        """Name -> a list of values, or a range."""

    @property
    def objectives(self) -> Sequence[str]:
        """Names of figures; `accuracy` is better higher, all others lower."""

    @property
    def sampler(self) -> str:
        """`tpe` or `random`."""

    @property
    def random_trials(self) -> int:
        """Of `tpe`: how many begin at random."""


def require_optuna() -> None:
    """Raise UserError where the package is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError(f'netpress search needs the extra: pip install "netpress[search]" ({error})') from None


def propose(search: Asked, seed: int, number: int, history: Sequence[Trial]) -> dict[str, Any]:
    """The values of trial `number`, given those before, in the order in which they ended; open ones last."""
    import optuna
    from optuna.study import StudyDirection

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {path: _distribution(candidates) for path, candidates in search.space.items()}
    better = {True: StudyDirection.MAXIMIZE, False: StudyDirection.MINIMIZE}
    directions = [better[objective == "accuracy"] for objective in search.objectives]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Optuna calls experimental is tested here
        sampler = _sampler(search, seed_for(seed, "search", number) % 2**32)
        study = optuna.create_study(directions=directions, sampler=sampler)
        for trial in history:
            study.add_trial(_known(search, trial, distributions))
        asked = study.ask(distributions).params
    return {path: _value(search, path, asked[path]) for path in search.space}


def _sampler(search: Asked, seed: int) -> "optuna.samplers.BaseSampler":
    import optuna

    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=search.random_trials, multivariate=True, constant_liar=True
    )


def _distribution(candidates: Any) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(candidates, Range):
        return CategoricalDistribution(list(range(len(candidates))))  # by place: values may be lists and tables
    if candidates.whole:
        return IntDistribution(
            int(candidates.low), int(candidates.high), log=candidates.log, step=int(candidates.step or 1)
        )
    return FloatDistribution(candidates.low, candidates.high, log=candidates.log, step=candidates.step)


def _value(search: Asked, path: str, asked: Any) -> Any:
    candidates = search.space[path]
    if not isinstance(candidates, Range):
        return candidates[asked]
    if isinstance(asked, int):
        return asked
    short = float(f"{asked:.{DIGITS}g}")  # that people can read what a recipe says
    return min(max(short, candidates.low), candidates.high)


def _place(search: Asked, path: str, value: Any) -> Any:
    """The other way round."""
    candidates = search.space[path]
    return value if isinstance(candidates, Range) else list(candidates).index(value)


def _known(search: Asked, trial: Trial, distributions: Mapping[str, Any]) -> "optuna.trial.FrozenTrial":
    from optuna.trial import TrialState, create_trial

    params = {path: _place(search, path, value) for path, value in trial.values.items()}
    values, state = None, {"open": TrialState.RUNNING, "failed": TrialState.FAIL}.get(trial.state, TrialState.COMPLETE)
    if state == TrialState.COMPLETE:
        values = [float(trial.figures.get(name, WORST.get(name, FAR))) for name in search.objectives]
    return create_trial(params=params, distributions=dict(distributions), values=values, state=state)
