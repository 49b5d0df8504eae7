"""Tasks at a place: order, failures, and workers that are lost."""

from dataclasses import replace
from pathlib import Path

import pytest

from netpress.errors import Failure, UserError
from netpress.process.console import Console
from netpress.recipe.schema import check_recipe
from netpress.runs.jobs import RunOptions
from netpress.runs.workers.driver import TRIES, TaskError, run_tasks
from netpress.runs.workers.places import Ended, Here
from netpress.runs.workers.tasks import Task, read_task

RECIPE = check_recipe(
    {
        "name": "small",
        "data": {"dataset": "digits"},
        "model": {"family": "resnet", "blocks": [1], "width": 8},
        "stages": [{"kind": "fold"}],
    }
)
QUIET = Console(quiet=True)


def tasks_of(**after):
    return [Task(name, RECIPE, Path(name), RunOptions(), tuple(others.split())) for name, others in after.items()]


class Scripted:
    """A place of two slots. Each task ends as the script says, in turn, the one begun last first."""

    slots = 2

    def __init__(self, **script):
        self.script = {name: list(endings) for name, endings in script.items()}
        self.running, self.begun, self.most, self.closed = [], [], 0, 0

    def start(self, task):
        self.begun.append(task.name)
        self.running.append(task.name)
        self.most = max(self.most, len(self.running))
        assert len(self.running) <= self.slots

    def wait(self, seconds=None):
        name = self.running.pop()
        endings = self.script.get(name)
        return [endings.pop(0) if endings else Ended(name)]

    def cancel(self, name):
        raise AssertionError(name)

    def close(self):
        self.closed += 1


def test_tasks_fill_the_slots_and_come_after_what_they_wait_for():
    place, told = Scripted(), []
    outcomes = run_tasks(tasks_of(a="", b="", c="a", d="b"), place, QUIET, tell=lambda name, failure: told.append(name))
    assert list(outcomes) == ["a", "b", "c", "d"] and not any(outcomes.values())
    assert (place.begun, place.most, place.closed) == (["a", "b", "d", "c"], 2, 1)
    assert told == ["b", "d", "a", "c"]


def test_what_waits_begins_whatever_the_other_came_to():
    place = Scripted(a=[Ended("a", Failure("the loss is nan"))])
    outcomes = run_tasks(tasks_of(a="", b="a"), place, QUIET)
    assert str(outcomes["a"]) == "the loss is nan" and outcomes["b"] is None


@pytest.mark.parametrize("losses", range(TRIES + 1))
def test_a_lost_worker_costs_its_task_a_few_tries(losses):
    place = Scripted(a=[Ended("a", Failure("its process was ended by signal 9"), lost=True)] * losses)
    told = []
    outcomes = run_tasks(tasks_of(a="", b=""), place, QUIET, tell=lambda name, failure: told.append(name))
    assert place.begun.count("a") == min(losses + 1, TRIES) and place.begun.count("b") == 1
    assert (outcomes["a"] is None) == (losses < TRIES)
    assert sorted(told) == ["a", "b"]


def test_a_failure_before_or_after_is_the_tasks_own():
    def fail(task):
        if task.name == "a":
            raise Failure("the disk is full")

    for when in ("prepare", "finish"):
        place = Scripted()
        outcomes = run_tasks(tasks_of(a="", b=""), place, QUIET, **{when: fail})
        assert str(outcomes["a"]) == "the disk is full" and outcomes["b"] is None
        assert ("a" in place.begun) == (when == "finish")


def test_what_the_user_wrote_wrong_ends_the_whole_and_says_where():
    place = Scripted(b=[Ended("b", UserError("--data x: no such folder"))])
    with pytest.raises(TaskError) as error:
        run_tasks(tasks_of(a="", b="", c=""), place, QUIET)
    assert (error.value.task, str(error.value.cause)) == ("b", "--data x: no such folder")
    assert place.closed == 1 and "c" not in place.begun

    def refuse(task):
        raise UserError("no")

    with pytest.raises(TaskError):
        run_tasks(tasks_of(a=""), Here(refuse), QUIET)


def test_a_task_is_written_as_a_line_and_read_again():
    options = RunOptions(data=Path("däta"), threads=3, save_every_seconds=0.5, answers=Path("a b"), allow_import=True)
    task = Task("müde", RECIPE, Path("runs/x"), options)
    line = task.as_json()
    assert "\n" not in line
    again = read_task(line, options.console)
    assert (again.name, again.recipe.text, again.folder) == (task.name, task.recipe.text, task.folder.absolute())
    assert again.options == replace(options, data=Path("däta").absolute(), answers=Path("a b").absolute())
