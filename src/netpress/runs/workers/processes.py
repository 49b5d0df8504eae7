"""Processes of this machine that run tasks: one a task, each with cores or a GPU of its own.

A process is given its task on standard input and keeps reading there: when the one that started it is gone, however
that went, it saves its state and ends, instead of holding the folder. What it says comes on standard error, how it
ended on standard output. Nothing is pickled.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from netpress.errors import Failure, UserError
from netpress.process.console import Console
from netpress.process.devices import available_cores
from netpress.runs.workers.places import Ended
from netpress.runs.workers.tasks import Task

LAST_LINES = 5  # of what a process said, told where it dies
GRACE = 120.0  # seconds to save its state in, once a process was asked to end
POLL = 0.5  # seconds: a signal is noticed between two looks


@dataclass
class _Worker:
    task: Task
    process: "subprocess.Popen[str]"
    slot: int
    said: list[str]


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
        process = subprocess.Popen(
            [sys.executable, "-m", "netpress.runs.workers.working"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=_environment(slot, task.options.device),
            start_new_session=True,  # Ctrl-C goes to the one that started it, which asks each to end
        )
        if cores:
            with suppress(OSError):
                os.sched_setaffinity(process.pid, cores)
        worker = self._workers[task.name] = _Worker(task, process, slot, [])
        assert process.stdin is not None
        with suppress(OSError):  # it died already, as the watcher will see
            process.stdin.write(task.as_json() + "\n")
            process.stdin.flush()
        threading.Thread(target=self._watch, args=(worker,), daemon=True).start()

    def _watch(self, worker: _Worker) -> None:
        """Hand on what a process says, and note how it ended."""
        process, name = worker.process, worker.task.name
        assert process.stdout is not None
        assert process.stderr is not None
        told: list[str] = []
        reader = threading.Thread(target=_read, args=(process.stdout, told), daemon=True)
        reader.start()
        for line in process.stderr:
            worker.said.append(line.rstrip("\n"))
            del worker.said[:-LAST_LINES]
            with self._speaking:
                self._console.say(f"{name}: {line.rstrip()}")
        reader.join()
        self._ended.put(_how_it_ended(name, process.wait(), told, worker.said))

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
            _shut(self._workers.pop(one.name).process)
        return ended

    def cancel(self, name: str) -> None:
        """Ask a process to save its state and end."""
        if name in self._workers:
            self._workers[name].process.terminate()

    def close(self) -> None:
        """Ask all to save their state and end; end those that do not."""
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            try:
                worker.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            _shut(worker.process)
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


def _read(stream: IO[str], into: list[str]) -> None:
    into.extend(stream)


def _how_it_ended(name: str, code: int, told: list[str], said: list[str]) -> Ended:
    with suppress(ValueError, IndexError):
        answer = json.loads(told[-1])
        message = answer["error"]
        if message is None:
            return Ended(name)
        return Ended(name, UserError(message) if answer["wrong"] else Failure(message))
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    last = f"; it last said: {' / '.join(said)}" if said and code >= 0 else ""
    return Ended(name, Failure(f"its process {how}{last}"), lost=True)


def _shut(process: "subprocess.Popen[str]") -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.close()
