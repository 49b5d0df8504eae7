"""The command line. Importing this package imports no torch: each command imports what it needs when it runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

from netpress.cli import (
    asking,
    comparing,
    exporting,
    listing,
    looking,
    measuring,
    running,
    scoring,
    searching,
    sensitivity,
    shipping,
    timing,
)
from netpress.cli.company import in_company, refuse_company
from netpress.errors import NetpressError, readable
from netpress.process.console import PatientStream
from netpress.process.interruption import Interrupted, listening
from netpress.process.memory import keep_freed_memory
from netpress.process.waiting import wait_briefly

app = typer.Typer(
    name="netpress",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # else what stands in square brackets is taken for markup and disappears
    context_settings={"help_option_names": ["-h", "--help"]},
)
groups = (
    running,
    searching,
    looking,
    measuring,
    asking,
    scoring,
    comparing,
    sensitivity,
    shipping,
    exporting,
    timing,
    listing,
)
for group in groups:
    group.add_commands(app)


def main() -> NoReturn:
    """Entry point: errors become one message and an exit code, never a traceback."""
    wait_briefly()
    keep_freed_memory()
    with _patient_output(), in_company():
        try:
            with listening():
                _run()
        except Interrupted as request:  # by a second request, while the first was being told
            _fail(str(request), request.exit_code)


def _run() -> NoReturn:
    try:
        app()
    except (NetpressError, Interrupted) as error:
        _fail(str(error), error.exit_code)
    except MemoryError:
        _fail("out of memory; try a smaller batch_size or fewer images", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    sys.exit(0)


@contextmanager
def _patient_output() -> Iterator[None]:
    """Let both streams take any text and outlive whoever reads them, while the context lasts."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = PatientStream.around(sys.stdout), PatientStream.around(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _fail(message: str, code: int) -> NoReturn:
    print(f"netpress: {readable(message)}", file=sys.stderr)
    sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        from netpress import __version__

        print(f"netpress {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, compress, score and ship tiny image classifiers.

    A recipe (a TOML file) says what to do; `netpress run RECIPE` does it and leaves a network, its score card and
    a report in a folder. Begin with `netpress list recipes`.
    """
    refuse_company(context.invoked_subcommand)
