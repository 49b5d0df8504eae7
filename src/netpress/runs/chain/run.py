"""Running a chain: every network is a job, and jobs run in the order in which they need each other."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from netpress.errors import Failure, UserError
from netpress.files import atomic_write
from netpress.folders.chain import ChainFolder
from netpress.folders.run import RunFolder
from netpress.network import Network, load
from netpress.network.fingerprint import fingerprint
from netpress.recipe.schema import Recipe, resolve_again
from netpress.runs.chain.plan import plan_chain
from netpress.runs.chain.results import write_results
from netpress.runs.jobs import Job, Outcome, RunOptions, run_in_turn
from netpress.runs.pipeline import RunResult, run_network


def run_chain(recipe: Recipe, folder: Path, options: RunOptions) -> RunResult:
    """Run the networks of `recipe` into folders below `folder`, going on where an earlier call was interrupted.

    A finished network is not run again. Before the first is run, all are planned. One that fails keeps only those from
    running that need it; so does one that began with another network than the one that is there now, as after a folder
    was removed and its network made anew elsewhere. The result is that of the network which the recipe is for.
    Raises UserError, which names the network, for settings that do not fit or a folder that holds something else;
    Failure, when all have been tried, if some failed.
    """
    place = ChainFolder(folder)
    unfinished = options.fresh or not all(map(place.is_done, recipe.networks))
    if unfinished:
        plan_chain(recipe, options.data, options.allow_import)
    texts = {name: member.text for name, member in recipe.networks.items()}
    with place.claimed(recipe.text, texts, options.fresh, resolve_again):
        if unfinished:
            place.top.score.unlink(missing_ok=True)
        failed: dict[str, str] = {}
        write_results(recipe, place, failed)

        def tell(outcome: Outcome[RunResult | None]) -> None:
            if outcome.failure is not None:
                failed[outcome.job.name] = str(outcome.failure)
                options.console.warn(f"{outcome.job.name}: failed: {outcome.failure}")
            write_results(recipe, place, failed)

        run = _worker(recipe, place, options.for_members(folder))
        outcomes = run_in_turn(_make_jobs(recipe, place), run, tell)
        if failed:
            place.top.score.unlink(missing_ok=True)
            messages = "\n".join(f"{name}: {message}" for name, message in failed.items())
            raise Failure(
                f"{len(failed)} of {len(recipe.networks)} networks failed; {place.top.report} has all\n{messages}"
            )
        return _finish(recipe, place, outcomes)


def _make_jobs(recipe: Recipe, place: ChainFolder) -> list[Job]:
    return [
        Job(name, recipe.networks[name], place.member(name).path, tuple(needs)) for name, needs in recipe.needs.items()
    ]


def _worker(recipe: Recipe, place: ChainFolder, options: RunOptions) -> Callable[[Job], RunResult | None]:
    """What runs one job; None comes of a network that is done and nobody asks for."""
    needs = recipe.needs

    def run(job: Job) -> RunResult | None:
        try:
            members = {other: _load(recipe, place, other, options) for other in job.needs}
            _check_needed(place.member(job.name), members)
            if place.is_done(job.name) and job.name != recipe.result_name:
                options.console.say(f"{job.name}: done before")
                return None
            told = "".join(f", {verb} {other}" for other, verb in needs[job.name].items())
            options.console.say(f"{job.name}: network {list(needs).index(job.name) + 1} of {len(needs)}{told}")
            return run_network(job.recipe, job.folder, options, members)
        except UserError as error:
            raise UserError(f"network {job.name}: {error}") from None

    return run


def _check_needed(run: RunFolder, members: Mapping[str, Network]) -> None:
    """Raise Failure where the run began with other networks than these: it would be no run of the recipe."""
    before = run.read_needed()
    if before is None:
        return
    now = {name: fingerprint(network) for name, network in members.items()}
    other = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if other:
        raise Failure(
            f"{run.path}: began with another network {' and '.join(other)} than is there now; remove this folder, and "
            "the same command runs it again"
        )


def _load(recipe: Recipe, place: ChainFolder, name: str, options: RunOptions) -> Network:
    """A finished network of the chain; a class to import is allowed where a recipe names it, as in every run."""
    first = recipe.networks[name].model_table
    while first.network in recipe.networks:
        first = recipe.networks[first.network].model_table
    return load(place.member(name).network, allow_import=options.allow_import or first.own_class)


def _finish(recipe: Recipe, place: ChainFolder, outcomes: list[Outcome[RunResult | None]]) -> RunResult:
    """The network that the recipe is for, its figures and the page, in the chain's own folder."""
    result = next(outcome.result for outcome in outcomes if outcome.job.name == recipe.result_name)
    assert result is not None
    member = place.member(recipe.result_name)
    atomic_write(place.top.network, member.network.read_bytes())
    if member.predictions.exists():  # not of a network that an older version finished
        atomic_write(place.top.predictions, member.predictions.read_bytes())
    atomic_write(place.top.score, member.score.read_bytes())
    write_results(recipe, place, {})
    return replace(result, folder=place.path, report=place.top.report)
