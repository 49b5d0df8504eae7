"""Running tasks at a place: each when what it waits for has ended; one whose worker was lost is tried again."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from netpress.errors import Failure, UserError
from netpress.folders.holding import is_held
from netpress.process.console import Console
from netpress.runs.workers.child import GRACE
from netpress.runs.workers.places import Ended, Place
from netpress.runs.workers.tasks import Task

LOOK = 0.2  # seconds between two looks
TRIES = 3
"""How often a task is begun whose worker is lost, before that counts as its failure."""


class Tries:
    """Begins tasks at a place, and those again whose worker was lost."""

    def __init__(self, place: Place, console: Console) -> None:
        self.place, self.console, self.begun = place, console, Counter[str]()

    def begin(self, task: Task) -> None:
        """Start it."""
        self.begun[task.name] += 1
        self.place.start(task)

    def go_on(self, task: Task, ended: Ended) -> bool:
        """Whether it is to be begun again, where it was: then its folder is free."""
        if not ended.lost or self.begun[task.name] >= TRIES:
            return False
        self.console.warn(f"{task.name}: {ended.error}; it is begun again where it was")
        wait_until_free(task)
        return True


class TaskError(Exception):
    """What the user wrote in one task cannot be done."""

    def __init__(self, task: str, cause: UserError) -> None:
        self.task, self.cause = task, cause
        super().__init__(f"{task}: {cause}")


def run_tasks(
    tasks: Sequence[Task],
    place: Place,
    console: Console,
    *,
    prepare: Callable[[Task], None] = lambda task: None,
    finish: Callable[[Task], None] = lambda task: None,
    tell: Callable[[str, Failure | None], None] = lambda name, failure: None,
) -> Mapping[str, Failure | None]:
    """Run `tasks` at `place`, in their order as far as it has slots; by name None, or why one failed.

    In this process `prepare` is done before a task begins, `finish` after it ended well; a Failure of either is the
    task's. `tell` hears of each as it ends. A task comes after those that it waits for, which must stand before it. A
    failure keeps no other from running. A UserError, raised as TaskError, and whatever else is raised, ends the whole
    once those that run have been stopped. `place` is closed.
    """
    waiting, running = list(tasks), dict[str, Task]()
    outcomes, tries = dict[str, Failure | None](), Tries(place, console)

    def end(name: str, failure: Failure | None) -> None:
        outcomes[name] = failure
        tell(name, failure)

    def begin() -> None:
        for task in [one for one in waiting if outcomes.keys() >= set(one.after)][: place.slots - len(running)]:
            waiting.remove(task)
            try:
                failure = attempt(prepare, task)
                if failure is None:
                    running[task.name] = task
                    tries.begin(task)
                else:
                    end(task.name, failure)
            except UserError as error:
                raise TaskError(task.name, error) from None

    def settle(ended: Ended) -> None:
        task = running.pop(ended.name)
        if tries.go_on(task, ended):
            waiting.insert(0, task)
        elif isinstance(ended.error, UserError):
            raise TaskError(task.name, ended.error)
        else:
            end(task.name, ended.error or attempt(finish, task))

    try:
        while waiting or running:
            begin()
            for ended in place.wait() if running else ():
                settle(ended)
    finally:
        place.close()
    return {task.name: outcomes[task.name] for task in tasks}


def wait_until_free(task: Task) -> None:
    """Wait while what is left of a lost worker is at work in its folder: it ends when it sees that it is alone."""
    until = time.monotonic() + GRACE
    while is_held(task.folder) and time.monotonic() < until:
        time.sleep(LOOK)


def attempt(work: Callable[[Task], None], task: Task) -> Failure | None:
    """Do `work`; its Failure, if there is one."""
    try:
        work(task)
    except Failure as failure:
        return failure
    return None
