"""Running a sweep: its members in turn, each once, and one table of what they came to.

runs/NAME/recipe.toml        what the members have in common, and the [sweep] table
          MEMBER/            one run folder each: see `netpress.runs.pipeline`
                 stages.json where every stage is asked for: what each left
          sweep.csv  sweep.md  sweep.html    the table, written again after each member
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.data import Dataset
from netpress.errors import Failure, NetpressError, UserError
from netpress.evaluation import evaluate
from netpress.files import atomic_write, read_object, read_text
from netpress.network import load
from netpress.network.data import load_run_data
from netpress.process.console import Console
from netpress.process.devices import choose_device
from netpress.process.folders import held, is_empty, remove_written
from netpress.recipe.schema import understand_model
from netpress.report.sweep import PAGE
from netpress.runs.pipeline import (
    DONE,
    ENVIRONMENT,
    NETWORK,
    RECIPE,
    SCORE,
    STAGE_FILES,
    clear_run,
    holds_sweep,
    recipe_text,
    run_recipe,
)
from netpress.runs.planning import plan_recipe
from netpress.runs.sweep.members import Member, SweepMembers, read_sweep, shared_stages
from netpress.runs.sweep.table import Row, SweepTable
from netpress.scoring import score

STAGES = "stages.json"
CSV = "sweep.csv"
MARKDOWN = "sweep.md"


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to."""

    folder: Path
    table: SweepTable
    page: Path


def run_sweep(
    sweep: SweepMembers,
    folder: Path,
    *,
    data: Path | None = None,
    device: str = "auto",
    fresh: bool = False,
    console: Console | None = None,
    save_every_seconds: float = 60.0,
    threads: int | None = None,
    allow_import: bool = False,
) -> SweepResult:
    """Run the members of `sweep` into folders below `folder`, going on where an earlier call was interrupted.

    A finished member is not run again; a sweep may therefore grow by seeds, values and variants. Where members
    begin with the same stages, those are run once and copied. Before the first is run, each is planned. A member
    that fails does not keep the others from running.
    Raises UserError, which names the member, for settings that do not fit or a folder that holds something else;
    Failure, when all have been tried, if some failed.
    """
    console = console or Console(quiet=True)
    if not is_empty(folder) and not (folder / RECIPE).exists():  # before a lock is laid in somebody's folder
        raise UserError(f"--out {folder}: is not empty and holds no sweep; choose another folder")
    with held(folder):
        _settle(sweep, folder, fresh)
        failed: dict[str, str] = {}
        open_members = [member for member in sweep.members if not _is_finished(folder / member.name)]
        for member in open_members:
            plan_member(member, data, allow_import)
        _write_tables(sweep, folder, failed)
        for number, member in enumerate(sweep.members, 1):
            own = folder / member.name
            try:
                if member in open_members:
                    console.say(f"{member.name}: member {number} of {len(sweep.members)}")
                    _take_over_stages(member, sweep.members, folder, console)
                    run_recipe(
                        member.recipe,
                        own,
                        data=data,
                        device=device,
                        console=console,
                        save_every_seconds=save_every_seconds,
                        threads=threads,
                        allow_import=allow_import,
                    )
                else:
                    console.say(f"{member.name}: done before")
                if sweep.table.every_stage:
                    _measure_stages(member, own, data, device, console, allow_import)
            except Failure as error:
                failed[member.name] = str(error)
                console.warn(f"{member.name}: failed: {error}")
            except UserError as error:
                raise _named(member, error) from None
            _write_tables(sweep, folder, failed)
        table = _write_tables(sweep, folder, failed)
    if failed:
        told = "\n".join(f"{name}: {message}" for name, message in failed.items())
        raise Failure(f"{len(failed)} of {len(sweep.members)} members failed; {folder / MARKDOWN} has the rest\n{told}")
    return SweepResult(folder, table, folder / PAGE)


def report_sweep(folder: Path) -> Path:
    """Write the tables and the page of the sweep in `folder` again, from what its runs hold; the page's path.

    Raises UserError if the folder holds no sweep.
    """
    if not holds_sweep(folder):
        raise UserError(f"{folder}: holds no sweep")
    _write_tables(read_sweep(str(folder / RECIPE)), folder, {})
    return folder / PAGE


def plan_sweep(sweep: SweepMembers, data: Path | None = None, allow_import: bool = False) -> dict[str, Any]:
    """The plan as plain values: each member with what `plan_recipe` says of it. Runs nothing.

    Raises UserError, which names the member, where a stage does not fit the network.
    """
    members = []
    for place, member in enumerate(sweep.members):
        planned = plan_member(member, data, allow_import)
        count, other = _most_shared(member, sweep.members[:place])
        names = ", ".join(stage["name"] for stage in planned["stages"][:count])
        begins = f"{names} of {other.name}" if other is not None else None
        members.append({**planned, "name": member.name, "begins_with": begins})
    epochs = sum(plan["epochs"] for plan in members)
    images = sum(plan["epochs"] * plan["train_images"] for plan in members)
    shared = "; what they share is run once" if any(plan["begins_with"] for plan in members) else ""
    summary = f"{sweep.recipe.name}: {len(members)} runs of {epochs:,} epochs in all, {images:,} images{shared}"
    return {"name": sweep.recipe.name, "summary": summary, "members": members}


def plan_member(member: Member, data: Path | None, allow_import: bool = False) -> dict[str, Any]:
    """`plan_recipe` of one member; its errors name the member."""
    try:
        return plan_recipe(member.recipe, data, allow_import)
    except UserError as error:
        raise _named(member, error) from None


def _named(member: Member, error: NetpressError) -> UserError:
    return UserError(f"member {member.name}: {error}")


def _settle(sweep: SweepMembers, folder: Path, fresh: bool) -> None:
    """Make `folder` this sweep's. Raises UserError where it holds something else."""
    if (folder / RECIPE).exists() and not holds_sweep(folder):
        raise UserError(f"--out {folder}: holds a single run, not a sweep; choose another folder")
    if fresh:
        _clear(folder)
    for member in sweep.members:
        held_recipe = folder / member.name / RECIPE
        if held_recipe.exists() and read_text(held_recipe) != recipe_text(member.recipe):
            raise UserError(
                f"{held_recipe}: member {member.name} was begun with another recipe; "
                "choose another --out, or give --fresh to begin anew in its place"
            )
    atomic_write(folder / RECIPE, recipe_text(sweep.recipe))


def _clear(folder: Path) -> None:
    """Remove what a sweep writes, and nothing else; its recipe last, so that an interrupted clearing is seen."""
    for member in sorted(path.parent for path in folder.glob(f"*/{RECIPE}")):
        with held(member):
            (member / STAGES).unlink(missing_ok=True)
            clear_run(member)
        remove_written(member, ())
    for name in (CSV, MARKDOWN, PAGE, RECIPE):
        (folder / name).unlink(missing_ok=True)


def _is_finished(folder: Path) -> bool:
    return (folder / SCORE).exists()


def _most_shared(member: Member, others: Sequence[Member]) -> tuple[int, Member | None]:
    """With which of `others` it shares most leading stages, and how many; the first of equals."""
    counts = [(shared_stages(member.recipe, other.recipe), -place) for place, other in enumerate(others)]
    count, place = max(counts, default=(0, 0))
    return (count, others[-place]) if count else (0, None)


def _take_over_stages(member: Member, members: Sequence[Member], folder: Path, console: Console) -> None:
    """Begin a member with a copy of the finished stages that it shares with another: as if it were resumed there."""
    own = folder / member.name
    if not is_empty(own):
        return
    best: list[Path] = []
    for other in members:
        stages = sorted((folder / other.name).glob("[0-9][0-9]-*"))[: shared_stages(member.recipe, other.recipe)]
        done = [stage for place, stage in enumerate(stages) if all((s / DONE).exists() for s in stages[: place + 1])]
        if other is not member and len(done) > len(best):
            best = done
    if not best:
        return
    console.say(f"{member.name}: takes {', '.join(stage.name for stage in best)} from {best[0].parent.name}")
    draft = folder / f".{member.name}.draft"  # becomes the run's folder at once or not at all
    remove_written(draft, (*STAGE_FILES, ENVIRONMENT, RECIPE))
    for stage in best:
        shutil.copytree(stage, draft / stage.name)
    shutil.copy(best[0].parent / ENVIRONMENT, draft / ENVIRONMENT)
    atomic_write(draft / RECIPE, recipe_text(member.recipe))
    remove_written(own, ())  # an empty one, with a lock
    draft.rename(own)


def _write_tables(sweep: SweepMembers, folder: Path, failed: dict[str, str]) -> SweepTable:
    rows = [row for member in sweep.members for row in _read_rows(member, folder / member.name, failed)]
    table = SweepTable(sweep.recipe.name, sweep.recipe.description, tuple(rows), sweep.recipe.data.dataset)
    atomic_write(folder / CSV, table.as_csv())
    atomic_write(folder / MARKDOWN, table.as_markdown())
    atomic_write(folder / PAGE, table.as_page(recipe_text(sweep.recipe)))
    return table


def _read_rows(member: Member, folder: Path, failed: dict[str, str]) -> list[Row]:
    """The rows of one member: what its stages left, where that was measured, then its result."""

    def row(stage: str | None, figures: dict[str, Any], state: str) -> Row:
        return Row(member.name, member.variant, member.point, member.recipe.seed, stage, figures, state)

    steps: dict[str, dict[str, Any]] = {}
    if (folder / STAGES).exists():
        steps = read_object(folder / STAGES)
    rows = [row(stage, figures, "done") for stage, figures in steps.items()]
    if not _is_finished(folder):
        state = f"failed: {failed[member.name]}" if member.name in failed else "not finished"
        return [*rows, row(None, {}, state if folder.exists() else "not begun")]
    figures = read_object(folder / SCORE)
    done = [
        read_object(path, seconds=float, weights=int, nonzeros=int)
        for path in sorted(folder.glob(f"[0-9][0-9]-*/{DONE}"))
    ]
    figures |= {"seconds": sum(stage["seconds"] for stage in done)}
    if done and done[-1]["weights"]:
        figures["sparsity"] = 1 - done[-1]["nonzeros"] / done[-1]["weights"]
    last = _networks(folder)[-1].parent.relative_to(folder).as_posix() if steps else None
    return [*rows, row(last, figures, "done")]


def _measure_stages(
    member: Member, folder: Path, data: Path | None, device: str, console: Console, allow_import: bool
) -> None:
    """Measure what each stage before the last, and each round of a pruning, left; written down once."""
    if (folder / STAGES).exists():
        return
    dataset: Dataset | None = None
    steps: dict[str, dict[str, Any]] = {}
    for path in _networks(folder)[:-1]:
        network = load(path, allow_import=allow_import or understand_model(member.recipe.model).own_class)
        dataset = dataset or load_run_data(member.recipe.data, data, member.recipe.seed, network, Console(quiet=True))
        measured = evaluate(network, dataset.test, device=choose_device(device))
        card = score(network, settings=member.recipe.score)
        weights = network.weights().values()
        left = sum(int(weight.detach().count_nonzero()) for weight in weights)
        steps[path.parent.relative_to(folder).as_posix()] = {
            "accuracy": measured.accuracy,
            "top5": measured.top5,
            "loss": measured.loss,
            "params": card.params,
            "operations": card.operations,
            "score": card.score,
            "sparsity": 1 - left / sum(weight.numel() for weight in weights),
        }
        console.say(f"{member.name}: {path.parent.name} left {measured.accuracy:.2%}, score {card.score:.5f}")
    atomic_write(folder / STAGES, json.dumps(steps, indent=1))


def _networks(run: Path) -> list[Path]:
    """What the stages of a run left, in order: of a stage with rounds each round's, whose last is the stage's."""
    found: list[Path] = []
    for stage in sorted(run.glob("[0-9][0-9]-*")):
        rounds = sorted(stage.glob(f"round-*/{NETWORK}"), key=lambda path: int(path.parent.name.rpartition("-")[2]))
        found += rounds or [stage / NETWORK]
    return found
