"""How recipes are run, and jobs that need each other's results, such as the networks of a chain.

    jobs = [Job("small", recipe, folder), Job("smaller", other, elsewhere, needs=("small",))]
    for outcome in run_in_turn(jobs, lambda job: run_recipe(job.recipe, job.folder, options)):
        print(outcome.job.name, outcome.failure or "done")

What stands side by side, and may run in several processes, are the tasks of `netpress.runs.workers`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from netpress.data.store import LIMIT, ImageCache
from netpress.data.store import PLACE as IMAGES
from netpress.errors import Failure, UserError
from netpress.folders.answers import PLACE, AnswersFolder
from netpress.process.console import Console
from netpress.process.team import Team
from netpress.recipe.schema import Recipe
from netpress.runs.tensorboard import require_tensorboard

R = TypeVar("R")


@dataclass(frozen=True)
class RunOptions:
    """How recipes are run, whatever they are: what the command was given besides the recipe and the folder."""

    data: Path | None = None
    """The folder with the images; None where the data comes with netpress or is fetched."""
    device: str = "auto"
    fresh: bool = False
    """Begin anew in a folder that holds a run."""
    console: Console = field(default_factory=lambda: Console(quiet=True))
    save_every_seconds: float = 60.0
    threads: int | None = None
    """None: as many as torch takes. A run that goes on takes as many as it began with."""
    allow_import: bool = False
    """Whether network files that a recipe names may name a class to import."""
    answers: Path | None = None
    """The folder where teachers' answers are kept; None: `.answers` beside the run's folder, or a sweep's."""
    answers_limit: float = 10.0
    """GB that it may grow to."""
    cache: Path | None = None
    """The folder where decoded images are kept, of folders of images that are many; None: `.images` beside the run's
    folder, or a sweep's."""
    cache_limit: float = LIMIT
    """GB that it may grow to."""
    team: Team | None = None
    """Who trains together with this process; None for this one alone."""
    tensorboard: bool = False
    """Write event files for TensorBoard too; a UserError where the package is not there."""

    def __post_init__(self) -> None:
        if self.tensorboard:
            require_tensorboard()

    def answers_beside(self, folder: Path) -> AnswersFolder:
        """Where answers are kept in the run of `folder`, or an apply to that file; other runs beside it share them.

        Raises UserError where the options name what cannot be a folder, or no size of one.
        """
        place = self.answers or folder.resolve().parent / PLACE
        answers = AnswersFolder(place, _bytes("--answers-limit", self.answers_limit))
        answers.check()
        return answers

    def images_beside(self, folder: Path) -> ImageCache:
        """Where decoded images are kept, for runs of `folder` and beside it. Raises UserError as `answers_beside`."""
        cache = ImageCache(self.cache or folder.resolve().parent / IMAGES, _bytes("--cache-limit", self.cache_limit))
        cache.check()
        return cache

    def for_run(self, folder: Path) -> "RunOptions":
        """The same with the place of the cache of images settled."""
        return replace(self, cache=self.images_beside(folder).folder)

    def for_members(self, folder: Path) -> "RunOptions":
        """Of the runs in a sweep or chain in `folder`, once that is cleared; they share answers with runs beside it."""
        return replace(self.for_run(folder), fresh=False, answers=self.answers_beside(folder).path)


def _bytes(option: str, gigabytes: float) -> int:
    if not math.isfinite(gigabytes):
        raise UserError(f"{option} {gigabytes}: is no size; give a number of GB")
    return round(gigabytes * 1e9)


@dataclass(frozen=True)
class Job:
    """A recipe to run into a folder, once the jobs that it needs are done."""

    name: str
    recipe: Recipe
    folder: Path
    needs: tuple[str, ...] = ()
    """Names of jobs, whose results this one begins with."""


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What a job came to: a result, or else a failure."""

    job: Job
    result: R | None = None
    failure: Failure | None = None


def run_in_turn(
    jobs: Sequence[Job], work: Callable[[Job], R], tell: Callable[[Outcome[R]], None] = lambda outcome: None
) -> list[Outcome[R]]:
    """Do `work` on every job, in the order given but for those that wait for what they need; `tell` each outcome.

    Outcomes come in the order of the jobs. A Failure of one job keeps only those from running that need it, which then
    fail too. Any other error ends the whole. Raises ValueError before anything runs where a job needs one that is not
    there, or two need each other.
    """
    outcomes: dict[str, Outcome[R]] = {}
    for job in put_in_order(jobs):
        outcomes[job.name] = _attempt(job, work, outcomes)
        tell(outcomes[job.name])
    return [outcomes[job.name] for job in jobs]


def put_in_order(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, each after those that it needs, otherwise as they were. Raises ValueError as `run_in_turn`."""
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise ValueError(f"two jobs have one name: {', '.join(names)}")
    for job in jobs:
        absent = set(job.needs) - set(names)
        if absent:
            raise ValueError(f"{job.name}: needs {', '.join(sorted(absent))}, and there is no such job")
    ordered: dict[str, Job] = {}
    while len(ordered) < len(jobs):
        ready = next((job for job in jobs if job.name not in ordered and ordered.keys() >= set(job.needs)), None)
        if ready is None:
            raise ValueError(f"these jobs need each other: {', '.join(name for name in names if name not in ordered)}")
        ordered[ready.name] = ready
    return list(ordered.values())


def _attempt(job: Job, work: Callable[[Job], R], outcomes: dict[str, Outcome[R]]) -> Outcome[R]:
    for name in job.needs:
        reason = outcomes[name].failure
        if reason is not None:
            return Outcome(job, failure=Failure(f"needs {name}, which failed: {reason}"))
    try:
        return Outcome(job, work(job))
    except Failure as failure:
        return Outcome(job, failure=failure)
