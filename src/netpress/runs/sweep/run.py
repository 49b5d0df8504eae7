"""Running a sweep: every member is a job, an executor runs the jobs, and one table collects what they came to.

Members that begin with the same stages, or train the same networks of a chain, compute those once: the next one copies
them from the folder of the first.
"""

from dataclasses import dataclass
from pathlib import Path

from netpress.errors import Failure, UserError
from netpress.folders.sweep import SweepFolder
from netpress.recipe.schema import resolve_again
from netpress.runs.jobs import Executor, InTurn, Job, Outcome, RunOptions
from netpress.runs.recipes import run_recipe
from netpress.runs.sweep.fitting import fit_members
from netpress.runs.sweep.members import Member, SweepMembers, name_member
from netpress.runs.sweep.plan import plan_member
from netpress.runs.sweep.results import measure_stages, write_tables
from netpress.runs.sweep.sharing import take_over
from netpress.runs.sweep.table import SweepTable


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to."""

    folder: Path
    table: SweepTable
    page: Path


def run_sweep(
    sweep: SweepMembers, folder: Path, options: RunOptions | None = None, executor: Executor | None = None
) -> SweepResult:
    """Run the members of `sweep` into folders below `folder`, going on where an earlier call was interrupted.

    A finished member is not run again; a sweep may therefore grow by seeds, values and variants. Where members
    begin with the same stages, those are run once and copied. Before the first is run, each is planned. A member
    that fails does not keep the others from running.
    Raises UserError, which names the member, for settings that do not fit or a folder that holds something else;
    Failure, when all have been tried, if some failed.
    """
    options, place = options or RunOptions(), SweepFolder(folder)
    sweep, choices = fit_members(sweep, options.data, options.allow_import, None if options.fresh else place)
    for name, fitted in choices.items():
        options.console.say(f"{name}: {fitted.told()}")
    members = {member.name: member for member in sweep.members}
    texts = {name: member.recipe.text for name, member in members.items()}
    with place.claimed(sweep.recipe.text, texts, options.fresh, resolve_again):
        for member in sweep.members:
            if not place.member(member.name).is_finished:
                plan_member(member, options.data, options.allow_import)
        failed: dict[str, str] = {}
        write_tables(sweep, place, failed)

        def tell(outcome: Outcome[None]) -> None:
            if outcome.failure is not None:
                failed[outcome.job.name] = str(outcome.failure)
                options.console.warn(f"{outcome.job.name}: failed: {outcome.failure}")
            write_tables(sweep, place, failed)

        own = options.for_members(folder)
        jobs = [Job(name, member.recipe, place.member(name).path) for name, member in members.items()]
        (executor or InTurn()).run(jobs, lambda job: _run_member(members[job.name], sweep, place, own), tell)
        table = write_tables(sweep, place, failed)
    if failed:
        messages = "\n".join(f"{name}: {message}" for name, message in failed.items())
        raise Failure(f"{len(failed)} of {len(members)} members failed; {place.markdown} has the rest\n{messages}")
    return SweepResult(folder, table, place.page)


def _run_member(member: Member, sweep: SweepMembers, place: SweepFolder, options: RunOptions) -> None:
    """One member from beginning to end, unless it is done. Its UserErrors name it."""
    run = place.member(member.name)
    try:
        if run.is_finished:
            options.console.say(f"{member.name}: done before")
        else:
            number = sweep.members.index(member) + 1
            options.console.say(f"{member.name}: member {number} of {len(sweep.members)}")
            take_over(member, sweep.members, place, options.console)
            run_recipe(member.recipe, run.path, options)
        if sweep.table.every_stage:
            measure_stages(member, run, options)
    except UserError as error:
        raise name_member(member, error) from None
