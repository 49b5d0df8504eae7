"""`netpress data`: what there is to learn from, looked at before anything is trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netpress.cli.options import AsJson, Cache, Seed, print_json, print_table
from netpress.errors import UserError, visible

if TYPE_CHECKING:
    from netpress.data.findings import Findings

SHOWN = 5
"""Files that were left out, of which the name and the reason are printed."""


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    app.command(name="data")(show_data)


def show_data(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A folder of images, or where the data set lies.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="See `netpress list datasets`; by default `folder`.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="data.KEY=VALUE", help="Read it as a recipe with this [data] would; repeatable."),
    ] = None,
    seed: Seed = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Look at a data set as a run would: classes, sizes, copies, the same image in training and test, unreadable files.

    Trains nothing. A run looks in the same way, and keeps what it finds as data.json.
    """
    from netpress.data import DataSettings
    from netpress.data.findings import inspect
    from netpress.data.store import cache_near
    from netpress.process.console import Console
    from netpress.recipe.overrides import apply_overrides, data_changes
    from netpress.runs.beginning import load_run_data
    from netpress.settings import parse

    values: dict[str, Any] = {}
    apply_overrides(values, overrides or [])
    changes = data_changes(values, False, dataset)
    if values:
        raise UserError(f"--set {next(iter(values))}: only data.KEY=VALUE can be set here")
    if folder is None and dataset is None and "dataset" not in changes:
        raise UserError("name a folder of images, or a data set with --dataset")
    named = {"dataset": dataset} if dataset is not None else {}
    settings = parse(DataSettings, {"dataset": "folder", **named, **changes}, "data")
    console = Console(quiet=as_json)
    found = inspect(load_run_data(settings, folder, seed or 0, None, console, cache_near(None, cache)))
    if as_json:
        print_json(found.as_json())
    else:
        _print(found)
        found.tell(console)


def _print(found: "Findings") -> None:
    parts = [part for part, counts in found.counts.items() if sum(counts)]
    print_table(
        [
            {"class": name, **{part: found.counts[part][place] for part in parts}}
            for place, name in enumerate(found.classes)
        ]
    )
    print()
    if found.sizes is not None and found.files is not None:
        sizes = (f"{width} x {height} ({key})" for key, (width, height) in found.sizes.items())
        print(f"sizes       {', '.join(sizes)}; made {found.image_size[2]} x {found.image_size[1]} ({found.resize})")
        print(f"modes       {', '.join(f'{count:,} {mode}' for mode, count in found.files.modes.items())}")
        for place, (path, reason) in enumerate(found.files.skipped[:SHOWN]):
            print(f"{'left out' if not place else '':12}{visible(path)} ({visible(reason)})")
        if len(found.files.skipped) > SHOWN:
            print(f"{'':12}and {len(found.files.skipped) - SHOWN:,} more")
