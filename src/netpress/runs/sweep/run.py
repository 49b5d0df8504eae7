"""Running a sweep: every member is a task, tasks run in one place or another, one table collects what they came to.

Members that begin with the same stages, or train the same networks of a chain, compute those once: the next one copies
them from the folder of the first.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from netpress.errors import Failure, UserError
from netpress.folders.sweep import SweepFolder
from netpress.recipe.schema import resolve_again
from netpress.runs.jobs import RunOptions
from netpress.runs.sweep.fitting import fit_members
from netpress.runs.sweep.members import SweepMembers, name_member
from netpress.runs.sweep.plan import plan_member
from netpress.runs.sweep.results import measure_stages, write_tables
from netpress.runs.sweep.sharing import find_shared, take_over
from netpress.runs.sweep.table import SweepTable
from netpress.runs.workers.driver import TaskError, attempt, run_tasks
from netpress.runs.workers.places import Here, Place
from netpress.runs.workers.tasks import Task


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to."""

    folder: Path
    table: SweepTable
    page: Path


def run_sweep(
    sweep: SweepMembers, folder: Path, options: RunOptions | None = None, place: Place | None = None
) -> SweepResult:
    """Run the members of `sweep` into folders below `folder`, going on where an earlier call was interrupted.

    They run at `place`: one after the other in this process, or in several (`netpress.runs.workers`). A finished member
    is not run again; a sweep may therefore grow by seeds, values and variants. Where members begin with the same
    stages, those are run once and copied. Before the first is run, each is planned. A member that fails does not keep
    the others from running.
    Raises UserError, which names the member, for settings that do not fit or a folder that holds something else;
    Failure, when all have been tried, if some failed.
    """
    options, results = options or RunOptions(), SweepFolder(folder)
    sweep, choices = fit_members(sweep, options.data, options.allow_import, None if options.fresh else results)
    for name, fitted in choices.items():
        options.console.say(f"{name}: {fitted.told()}")
    texts = {member.name: member.recipe.text for member in sweep.members}
    with results.claimed(sweep.recipe.text, texts, options.fresh, resolve_again):
        for member in sweep.members:
            if not results.member(member.name).is_finished:
                plan_member(member, options.data, options.allow_import)
        failed = _run_members(sweep, results, options.for_members(folder), place or Here())
        table = write_tables(sweep, results, failed)
    if failed:
        messages = "\n".join(f"{name}: {message}" for name, message in failed.items())
        raise Failure(f"{len(failed)} of {len(texts)} members failed; {results.markdown} has the rest\n{messages}")
    return SweepResult(folder, table, results.page)


def _run_members(sweep: SweepMembers, results: SweepFolder, options: RunOptions, place: Place) -> dict[str, str]:
    """Run those members that are not finished, and bring the tables up to date after each; messages of the failed."""
    members, console = {member.name: member for member in sweep.members}, options.console
    failed: dict[str, str] = {}
    write_tables(sweep, results, failed)

    def prepare(task: Task) -> None:
        console.say(f"{task.name}: member {list(members).index(task.name) + 1} of {len(members)}")
        take_over(members[task.name], sweep.members, results, console)

    def finish(task: Task) -> None:
        if sweep.table.every_stage:
            measure_stages(members[task.name], results.member(task.name), options)

    def tell(name: str, failure: Failure | None) -> None:
        if failure is not None:
            failed[name] = str(failure)
            console.warn(f"{name}: failed: {failure}")
        write_tables(sweep, results, failed)

    tasks = []
    for number, member in enumerate(sweep.members):
        task = Task(member.name, member.recipe, results.member(member.name).path, options)
        if results.member(member.name).is_finished:
            console.say(f"{member.name}: done before")
            try:
                tell(member.name, attempt(finish, task))
            except UserError as error:
                raise name_member(member, error) from None
        else:
            origins = {one.origin.member.name for one in find_shared(member, sweep.members[:number])}
            unfinished = (name for name in sorted(origins) if not results.member(name).is_finished)
            tasks.append(replace(task, after=tuple(unfinished)))
    try:
        run_tasks(tasks, place, console, prepare=prepare, finish=finish, tell=tell)
    except TaskError as error:
        raise name_member(members[error.task], error.cause) from None
    return failed
