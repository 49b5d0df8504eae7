"""`netpress compare`: runs and networks beside each other."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from netpress.cli.options import AllowImport, AsJson, print_json, print_table, refuse_together
from netpress.errors import UserError, visible


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    app.command()(compare)


def compare(
    networks: Annotated[
        list[str], typer.Argument(metavar="RUN_OR_NETWORK...", help="Run folders and network files, two or more.")
    ],
    convention: Annotated[str | None, typer.Option(help="Whose rules: see `netpress list conventions`.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page that opens offline.")] = None,
    against: Annotated[
        Literal["score", "parameters", "operations"], typer.Option(help="What the page plots accuracy against.")
    ] = "score",
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line a network.")] = False,
    allow_import: AllowImport = False,
) -> None:
    """Show accuracy, cost and score of runs and networks, and the settings in which the runs differ.

    All are counted by one convention, the official one by default. Accuracies are those that the files tell.
    """
    from netpress import api
    from netpress.files import atomic_write

    refuse_together(json=as_json, csv=as_csv)
    if out is not None and (out.suffix.lower() not in (".html", ".htm") or out.is_dir()):
        raise UserError(f"--out {out}: the page is HTML; name a file that ends in .html")
    if out is None and against != "score":
        raise UserError(f"--against {against}: is about the plot of the page; give --out FILE.html too")
    comparison = api.compare(networks, convention=convention, allow_import=allow_import)
    if out is not None:
        atomic_write(out, comparison.as_page(against))
    if as_json:
        print_json(comparison.as_json())
    elif as_csv:
        print(visible(comparison.as_csv()), end="")
    else:
        for table in (comparison.figure_table(), comparison.setting_table()):
            print_table([dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows])
            print()
        for note in (f"counted by the {comparison.convention} convention", *comparison.notes):
            print(visible(note))
        if out is not None:
            print(visible(f"page        {out}"))
