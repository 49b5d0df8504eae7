"""Processes of this machine that run tasks: one a task, each with cores or a GPU of its own."""

import os
import queue
import threading
from contextlib import suppress
from dataclasses import dataclass

from netpress.errors import UserError
from netpress.process.console import Console
from netpress.process.devices import available_cores
from netpress.runs.workers.child import Child
from netpress.runs.workers.places import Ended
from netpress.runs.workers.tasks import Task

POLL = 0.5  # seconds: a signal is noticed between two looks


@dataclass(frozen=True)
class _Worker:
    child: Child
    slot: int
    watcher: threading.Thread


class Processes:
    """Up to `count` processes at a time on this machine."""

    def __init__(self, count: int, console: Console) -> None:
        """`console` shows what they say, with the task's name before each line. Raises UserError for no process."""
        if count < 1:
            raise UserError(f"--workers {count}: must be 1 or more")
        self.slots = count
        self._console = console
        self._workers: dict[str, _Worker] = {}
        self._ended: queue.Queue[Ended] = queue.Queue()
        self._speaking = threading.Lock()

    def start(self, task: Task) -> None:
        """Begin a task in a process of its own, on the cores of a free slot."""
        slot = min(set(range(self.slots)) - {worker.slot for worker in self._workers.values()})
        cores = _share(slot, self.slots)
        if task.options.threads is None:
            task = task.with_options(threads=len(cores) or max(1, available_cores() // self.slots))
        child = Child(task.as_json(), _environment(slot, task.options.device))
        if cores:
            with suppress(OSError):
                os.sched_setaffinity(child.process.pid, cores)
        watcher = threading.Thread(target=self._watch, args=(task.name, child), daemon=True)
        self._workers[task.name] = _Worker(child, slot, watcher)
        watcher.start()

    def _watch(self, name: str, child: Child) -> None:
        def hear(line: str) -> None:
            with self._speaking:
                self._console.say(f"{name}: {line}")

        self._ended.put(child.follow(hear).read(name))

    def wait(self, seconds: float | None = None) -> list[Ended]:
        """What has ended, waiting for the first."""
        ended: list[Ended] = []
        waited = 0.0
        while not ended and (seconds is None or waited < seconds):
            with suppress(queue.Empty):
                ended.append(self._ended.get(timeout=POLL))
            waited += POLL
        with suppress(queue.Empty):
            while ended:
                ended.append(self._ended.get_nowait())
        for one in ended:
            self._workers.pop(one.name).child.close()
        return ended

    def cancel(self, name: str) -> None:
        """Ask a process to save its state and end."""
        if name in self._workers:
            self._workers[name].child.ask_to_end()

    def close(self) -> None:
        """Ask all to save their state and end; end those that do not."""
        for worker in self._workers.values():
            worker.child.ask_to_end()
        for worker in self._workers.values():
            worker.child.end()
            worker.watcher.join()  # it still reads what the process has said last
            worker.child.close()
        self._workers.clear()


def _share(slot: int, slots: int) -> list[int]:
    """The cores of one slot of several; none where there are fewer cores than slots, or they cannot be chosen."""
    try:
        cores = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return []
    each = len(cores) // slots
    return cores[slot * each : (slot + 1) * each]


def _environment(slot: int, device: str) -> dict[str, str]:
    """That of this process; with several GPUs, one of them for each slot in turn."""
    environment = dict(os.environ)
    if device != "cpu":
        import torch

        count = torch.cuda.device_count()
        if count > 1:
            names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            given = names if len(names) == count else [str(number) for number in range(count)]
            environment["CUDA_VISIBLE_DEVICES"] = given[slot % count]
    return environment
