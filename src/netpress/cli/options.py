"""Options that several commands share, checks of options given together, and how tables and JSON are printed."""

import csv
import io
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from netpress.errors import UserError, visible

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a TOML file.")]
NetworkName = Annotated[
    str, typer.Argument(metavar="NETWORK", help="A network file, a run folder, or a model as NAME[:SETTINGS].")
]
DataFolder = Annotated[
    Path | None, typer.Option("--data", help="Where the data set is; what can be downloaded and is absent goes there.")
]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", help="See `netpress list datasets`; by default the one it was trained on.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, by its path; repeatable.")
]
DataChanges = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="data.KEY=VALUE", help="Read the data otherwise than the network says; repeatable."),
]
ByNumber = Annotated[bool, typer.Option("--classes-by-number", help="Match classes by their place, not by their name.")]
EpochsScale = Annotated[float, typer.Option(help="Multiply every number of epochs, for a trial: 0.01.")]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", help="Measure a few steps here, and choose the epochs that end in this time: 5."),
]
DeviceName = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Decides every random choice.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads on a CPU, by default one a core.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that run members of a sweep side by side, each with its share of the cores."),
]
ClusterAddress = Annotated[
    str | None,
    typer.Option("--cluster", metavar="ADDRESS", help="A Ray cluster that runs them: HEAD:6379, or auto."),
]
Answers = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where teachers' answers are kept; by default .answers beside --out.")
]
AnswersLimit = Annotated[
    float, typer.Option("--answers-limit", min=0, metavar="GB", help="How large that folder may grow.")
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache", metavar="DIR", help="Where a large folder's decoded images are kept; by default .images beside runs."
    ),
]
CacheLimit = Annotated[float, typer.Option("--cache-limit", min=0, metavar="GB", help="How large that may grow.")]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write event files too, for `tensorboard --logdir` of the folder.")
]
Flash = Annotated[
    str | None, typer.Option("--flash", metavar="SIZE", help="Most that may be stored, as 256K (of 1024 bytes).")
]
Ram = Annotated[
    str | None, typer.Option("--ram", metavar="SIZE", help="Most that activations may need at their peak, as 64K.")
]
HighestScore = Annotated[
    float | None, typer.Option("--score", help="Highest score that is allowed, by the convention of [score].")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Scale = Annotated[
    float, typer.Option("--scale", help="Multiply logits before the softmax: the loss's scale, for a cosine head.")
]
AllowImport = Annotated[
    bool, typer.Option("--allow-import", help="Trust network files that import their author's own Python class.")
]


def given_options(**options: Any) -> list[str]:
    """Those of `options` that were given, as a person writes them: `no_check=True` is --no-check."""
    names = (name for name, value in options.items() if value is not None and value is not False and value != [])
    return [f"--{name.replace('_', '-')}" for name in names]


def limit_overrides(
    overrides: list[str] | None, flash: str | None, ram: str | None, score: float | None = None
) -> list[str]:
    """The overrides, and those that --flash, --ram and --score stand for. Raises UserError where two say the same."""
    joined = list(overrides or [])
    for name, limit in given_limits(flash, ram, score).items():
        path = f"limits.{name}"
        if any(override.partition("=")[0].strip() == path for override in joined):
            raise UserError(f"--{name} and --set {path} say the same; give one of them")
        joined.append(f"{path}={json.dumps(limit)}")
    return joined


def given_limits(flash: str | None, ram: str | None, score: float | None) -> dict[str, str | float]:
    """The limits that were given by their options, by name."""
    limits = {"flash": flash, "ram": ram, "score": score}
    return {name: limit for name, limit in limits.items() if limit is not None}


def refuse_together(**options: Any) -> None:
    """Raise UserError where more than one is given of options that exclude each other."""
    written = given_options(**options)
    if len(written) > 1:
        raise UserError(f"{' and '.join(written)} exclude each other; give one of them")


def print_json(value: Any) -> None:
    """Print plain values as JSON."""
    print(json.dumps(value, indent=1))


def print_csv(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as CSV under a line of their columns, each as soon as it comes; what a row lacks stays empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    print(visible(text.getvalue()), end="")
    for row in rows:
        text.seek(0)
        text.truncate()
        writer.writerow(row)
        print(visible(text.getvalue()), end="")


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print rows whose keys may change from one to the next: a table for each stretch of equal keys."""
    for _, stretch in itertools.groupby(rows, key=tuple):
        print_table(list(stretch))


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows of equal keys as a table; numbers to the right, with thousands separated."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        number = any(isinstance(row[column], int | float) for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(_cell(value))) for value in row.values()))  # names from files are no markup
    # A pipe or a file has no width of its own; lines are then as long as they need to be.
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
