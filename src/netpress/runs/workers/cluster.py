"""The machines of a Ray cluster, on which tasks run: Ray decides where, each task in a process of its own there.

    ray start --head --port 6379                        on one machine
    ray start --address HEAD:6379                       on the others
    netpress run sweep.toml --cluster HEAD:6379         on any of them

All must have netpress, and see the data and the folder of results under the same paths, as on a shared disk.
"""

import logging
import os
from typing import Any

from netpress.errors import Failure, UserError
from netpress.process.console import Console
from netpress.runs.workers.child import GRACE, Child, Ending
from netpress.runs.workers.places import Ended
from netpress.runs.workers.tasks import Task

POLL = 1.0  # seconds: a signal is noticed between two looks


def require_ray() -> None:
    """Raise UserError where the package is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise UserError(f'--cluster needs the extra: pip install "netpress[cluster]" ({error})') from None


class Cluster:
    """A Ray cluster. As many tasks run at a time as it has processors, or GPUs where they are asked for."""

    def __init__(self, address: str, console: Console) -> None:
        """Raises UserError where Ray is not installed, or no cluster answers at `address`."""
        require_ray()
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"--cluster {address}: no Ray cluster answers there ({error}); `ray start --head` begins one"
            ) from None
        self._console = console
        self._threads = 1
        self._gpus = 0.0
        self._work = ray.remote(work)
        self._running: dict[Any, str] = {}

    @property
    def slots(self) -> int:
        """By what the cluster has now: machines may come and go."""
        import ray

        resources = ray.cluster_resources()
        if self._gpus:
            return max(1, int(resources.get("GPU", 0) // self._gpus))
        return max(1, int(resources.get("CPU", 1) // self._threads))

    def start(self, task: Task) -> None:
        """Hand a task to Ray, on one processor for each of its threads: one, unless its options say more."""
        self._threads = task.options.threads or 1
        self._gpus = 1.0 if task.options.device == "cuda" else 0.0
        line = task.with_options(threads=self._threads).as_json()
        resources = {"num_cpus": self._threads, "num_gpus": self._gpus, "max_retries": 0}
        submitted = self._work.options(**resources, scheduling_strategy="SPREAD").remote(line)
        self._running[submitted] = task.name
        self._console.say(f"{task.name}: given to the cluster; its log is {task.folder}/log.txt")

    def wait(self, seconds: float | None = None) -> list[Ended]:
        """What has ended, waiting for the first."""
        import ray

        waited, ended = 0.0, list[Any]()
        while self._running and not ended and (seconds is None or waited < seconds):
            ended, _ = ray.wait(list(self._running), num_returns=1, timeout=POLL)
            waited += POLL
        return [_read(one, self._running.pop(one)) for one in ended]

    def cancel(self, name: str) -> None:
        """Ask for a task's end."""
        import ray

        for submitted, other in self._running.items():
            if other == name:
                ray.cancel(submitted)

    def close(self) -> None:
        """Ask for the end of all, wait until they have saved their state, and leave the cluster."""
        import ray

        for submitted in self._running:
            ray.cancel(submitted)
        if self._running:
            ray.wait(list(self._running), num_returns=len(self._running), timeout=GRACE)
        self._running.clear()
        ray.shutdown()


def work(line: str) -> tuple[int, str, tuple[str, ...]]:
    """Run the task in `line` in a process of its own, on the machine that Ray has chosen; how that ended."""
    child = Child(line)
    try:
        ending = child.follow()
    finally:  # the task may be cancelled, which interrupts the following
        child.end()
        child.close()
    return ending.code, ending.told, ending.said


def _read(submitted: Any, name: str) -> Ended:
    import ray
    from ray import exceptions

    try:
        code, told, said = ray.get(submitted)
    except exceptions.TaskCancelledError:
        return Ended(name, Failure("its task was cancelled"))
    except exceptions.RayTaskError as error:
        return Ended(name, Failure(f"its machine could not run it: {str(error).splitlines()[-1]}"))
    except exceptions.RayError as error:
        return Ended(name, Failure(f"its machine was lost: {str(error).splitlines()[0]}"), lost=True)
    return Ending(code, told, said).read(name)
