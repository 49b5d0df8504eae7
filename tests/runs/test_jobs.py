"""Jobs run in turn: what they need comes first, and a failure keeps only those from running that need it."""

from pathlib import Path

import pytest

from netpress.errors import Failure, UserError
from netpress.recipe.schema import check_recipe
from netpress.runs.jobs import Job, put_in_order, run_in_turn

RECIPE = check_recipe(
    {
        "name": "small",
        "data": {"dataset": "digits"},
        "model": {"family": "resnet", "blocks": [1], "width": 8},
        "stages": [{"kind": "fold"}],
    }
)


def jobs_of(**needs: str) -> list[Job]:
    return [Job(name, RECIPE, Path(name), tuple(others.split())) for name, others in needs.items()]


def names(jobs: list[Job]) -> str:
    return " ".join(job.name for job in jobs)


def test_jobs_come_after_what_they_need_and_else_as_they_were():
    assert names(put_in_order(jobs_of(a="", b="", c=""))) == "a b c"
    assert names(put_in_order(jobs_of(a="d", b="", c="a b", d=""))) == "b d a c"


def test_outcomes_come_in_the_order_of_the_jobs_and_are_told_as_they_end():
    told: list[str] = []
    jobs = jobs_of(a="b", b="")
    outcomes = run_in_turn(jobs, lambda job: job.name.upper(), lambda outcome: told.append(outcome.job.name))
    assert [outcome.result for outcome in outcomes] == ["A", "B"] and told == ["b", "a"]
    assert [outcome.job for outcome in outcomes] == jobs


def test_a_failure_stops_only_those_that_need_it_and_is_told():
    begun: list[str] = []

    def work(job: Job) -> int:
        begun.append(job.name)
        if job.name == "first":
            raise Failure("the loss is nan")
        return 1

    outcomes = run_in_turn(jobs_of(first="", second="first", third="second", other=""), work)
    assert begun == ["first", "other"]
    first, second, third, other = (str(outcome.failure) for outcome in outcomes)
    assert (first, other) == ("the loss is nan", "None")
    assert second == "needs first, which failed: the loss is nan"
    assert third.startswith("needs second, which failed: needs first")
    assert [outcome.result for outcome in outcomes] == [None, None, None, 1]


@pytest.mark.parametrize("error", [UserError("wrong"), KeyboardInterrupt()])
def test_what_is_no_failure_ends_the_whole(error):
    begun: list[str] = []

    def work(job: Job) -> None:
        begun.append(job.name)
        raise error

    with pytest.raises(type(error)):
        run_in_turn(jobs_of(a="", b=""), work)
    assert begun == ["a"]


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (jobs_of(a="b"), "a: needs b, and there is no such job"),
        (jobs_of(a="b", b="a", c=""), "these jobs need each other: a, b"),
        (jobs_of(a="") * 2, "two jobs have one name"),
    ],
)
def test_jobs_that_cannot_be_ordered_are_refused_before_any_runs(jobs, message):
    with pytest.raises(ValueError, match=message):
        run_in_turn(jobs, lambda job: pytest.fail("ran"))
