"""`netpress list`: what there is to choose from, and the runs there are; `netpress remove` removes one."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netpress.cli.options import AsJson, print_json, print_table
from netpress.errors import UserError, visible

if TYPE_CHECKING:
    from netpress.folders.listing import ListedRun


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    app.command(name="list")(list_choices)
    app.command()(remove)


def list_choices(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="recipes, models, stages, datasets, policies, conventions or runs.")
    ],
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Of runs: where they lie; by default runs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what there is to choose from, or the runs there are.

    Runs come with the one that changed last at the end. FOLDER can be that of a sweep or a chain, whose runs are then
    listed.
    """
    if what == "runs":
        _list_runs(folder or Path("runs"), as_json)
        return
    if what not in LISTS:
        raise UserError(f"list {what}: there are {', '.join([*LISTS, 'runs'])}")
    if folder is not None:
        raise UserError(f"list {what} {folder}: only `list runs` takes a folder")
    rows = LISTS[what]()
    if as_json:
        print_json(rows)
    else:
        print_table(rows)


def _list_runs(folder: Path, as_json: bool) -> None:
    from netpress.folders.listing import list_runs

    runs = list_runs(folder)
    if as_json:
        print_json([run.as_json() for run in runs])
        return
    print_table([_tabulate(run, folder) for run in runs])
    for run in runs:
        if run.problem is not None:
            print(visible(f"{run.path}: {run.problem}"))
    if not runs:
        print(visible(f"{folder}: holds no runs"))


def _tabulate(run: "ListedRun", folder: Path) -> dict[str, Any]:
    from netpress.process.console import write_bytes

    return {
        "run": run.path.relative_to(folder).as_posix() if run.path != folder else str(folder),
        "recipe": run.recipe if run.kind == "run" else f"{run.recipe} ({run.kind})",
        "state": run.tell_state(),
        "accuracy": "" if run.accuracy is None else f"{run.accuracy:.2%}",
        "score": "" if run.score is None else f"{run.score:.5f}",
        "flash": "" if run.flash_bytes is None else write_bytes(run.flash_bytes),
        "on_disk": write_bytes(run.disk_bytes),
        "changed": time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed)),
    }


def remove(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, a sweep or a chain.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove what a run wrote into its folder, after asking.

    So for a sweep and a chain. Other files there stay, and links are not followed.
    """
    from netpress.errors import some_of
    from netpress.folders.removal import find_contents
    from netpress.folders.removal import remove as remove_found
    from netpress.process.console import write_bytes

    found = find_contents(folder)
    told = f"{len(found.written):,} files, {write_bytes(found.bytes)}"
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"remove {folder}: nobody is there to be asked; give --yes to remove {told}")
        stays = f"; what netpress did not write stays: {some_of([str(path) for path in found.others])}"
        if not typer.confirm(visible(f"Remove {told} in {folder}{stays if found.others else ''}?"), default=False):
            print("nothing removed")
            return
    left = remove_found(found)
    print(visible(f"removed     {folder}: {told}"))
    if left:
        print(visible(f"stays       {some_of([str(path) for path in left])}: not written by netpress"))


def _recipes() -> list[dict[str, Any]]:
    from netpress.recipe.reading import shipped

    return [{"recipe": name, "what it does": description} for name, description in shipped().items()]


def _models() -> list[dict[str, Any]]:
    import torch

    from netpress.models.registry import FAMILIES, choose_model
    from netpress.scoring import count_multiply_adds

    rows: list[dict[str, Any]] = []
    for name, family in FAMILIES.all().items():
        for preset in family.presets or [""]:  # a user's own module can only be counted once it is named
            row: dict[str, Any] = {"model": f"{name}:{preset}" if preset else f"{name}:target=PACKAGE.MODULE:CLASS"}
            parameters = multiply_adds = None
            if preset:
                choice = choose_model(name, [preset])
                with torch.device("meta"):
                    module = choice.family.build(choice.settings)
                side = choice.settings.image_size
                parameters = sum(parameter.numel() for parameter in module.parameters())
                multiply_adds = count_multiply_adds(module, (choice.settings.channels, side, side))
            row |= {"parameters": parameters, "multiply_adds": multiply_adds}
            rows.append(row)
    return rows


def _stages() -> list[dict[str, Any]]:
    from netpress.stage import STAGES

    return [{"stage": kind, "what it does": stage.description} for kind, stage in STAGES.all().items()]


def _datasets() -> list[dict[str, Any]]:
    from netpress.data import DATASETS

    return [{"dataset": name, "what it is": dataset.description} for name, dataset in DATASETS.all().items()]


def _policies() -> list[dict[str, Any]]:
    from netpress.data.policies import describe_policies

    return [{"policy": name, "what it is": description} for name, description in describe_policies().items()]


def _conventions() -> list[dict[str, Any]]:
    from netpress.scoring import conventions

    return [{"convention": name, "what it counts": description} for name, description in conventions().items()]


LISTS = {
    "recipes": _recipes,
    "models": _models,
    "stages": _stages,
    "datasets": _datasets,
    "policies": _policies,
    "conventions": _conventions,
}
