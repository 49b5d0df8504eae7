"""`netpress compare`: runs and networks beside each other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from netpress.cli.options import (
    AllowImport,
    AsJson,
    DataFolder,
    DeviceName,
    Threads,
    print_json,
    print_table,
    refuse_together,
)
from netpress.errors import UserError, visible

if TYPE_CHECKING:
    from netpress.report.comparison import Comparison
    from netpress.report.tables import Table

SHOWN = 5  # classes of a comparison


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    app.command()(compare)


def compare(
    networks: Annotated[
        list[str], typer.Argument(metavar="RUN_OR_NETWORK", help="Run folders and network files, two or more.")
    ],
    convention: Annotated[str | None, typer.Option(help="Whose rules: see `netpress list conventions`.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page that opens offline.")] = None,
    against: Annotated[
        Literal["score", "parameters", "operations"], typer.Option(help="What the page plots accuracy against first.")
    ] = "score",
    per: Annotated[
        Literal["network", "class"], typer.Option(help="What a line of --csv is of; `class` shows all classes too.")
    ] = "network",
    measure: Annotated[
        bool, typer.Option("--measure", help="Run networks without predictions on their test images; so does --data.")
    ] = False,
    data: DataFolder = None,
    device: DeviceName = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line a network or a class.")] = False,
    allow_import: AllowImport = False,
) -> None:
    """Show runs and networks beside each other.

    Shown are accuracy, cost and score, and the settings and classes in which they differ. All are counted by one
    convention, the official one by default. Accuracies are those that the files tell, except with --measure or
    --data.
    """
    from netpress import api
    from netpress.files import atomic_write
    from netpress.process.console import Console
    from netpress.process.devices import set_threads

    refuse_together(json=as_json, csv=as_csv)
    if out is not None and (out.suffix.lower() not in (".html", ".htm") or out.is_dir()):
        raise UserError(f"--out {out}: the page is HTML; name a file that ends in .html")
    if out is None and against != "score":
        raise UserError(f"--against {against}: is about the plot of the page; give --out FILE.html too")
    if threads is not None:
        set_threads(threads)
    comparison = api.compare(
        networks,
        convention=convention,
        allow_import=allow_import,
        measure=measure,
        data=data,
        device=device,
        console=Console(quiet=as_json or as_csv),
    )
    told = comparison.as_class_csv() if as_csv and per == "class" else ""
    if out is not None:
        atomic_write(out, comparison.as_page(against))
    if as_json:
        print_json(comparison.as_json())
    elif as_csv:
        print(visible(told or comparison.as_csv()), end="")
    else:
        _show(comparison, None if per == "class" else SHOWN)
        if out is not None:
            print(visible(f"page        {out}"))


def _show(comparison: "Comparison", most: int | None) -> None:
    """Print the tables, of classes the `most` that differ most, and the notes."""
    from netpress.report.differences import EXPLANATION

    for table in (comparison.figure_table(), comparison.setting_table()):
        _print(table)
    notes = [f"counted by the {comparison.convention} convention", *comparison.notes]
    for difference in comparison.differences:
        print(visible(f"{difference.title}, {difference.summary}"))
        _print(difference.table(most))
    if comparison.differences:
        notes.append(EXPLANATION)
        if most is not None and any(len(difference.classes) > most for difference in comparison.differences):
            notes.append(f"the {most} classes that differ most are shown; --per class shows all")
    for note in notes:
        print(visible(note))


def _print(table: "Table") -> None:
    print_table([dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows])
    print()
