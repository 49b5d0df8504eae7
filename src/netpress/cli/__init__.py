"""The command line. Importing this package imports no torch: each command imports what it needs when it runs."""

import sys
from typing import Annotated, NoReturn

import typer

from netpress.cli import exporting, listing, measuring, running, scoring, sensitivity, shipping
from netpress.errors import NetpressError, readable
from netpress.memory import keep_freed_memory
from netpress.waiting import wait_briefly

app = typer.Typer(
    name="netpress",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (running, measuring, scoring, sensitivity, shipping, exporting, listing):
    group.add_commands(app)


def main() -> NoReturn:
    """Entry point: errors become one message and an exit code, never a traceback."""
    wait_briefly()
    keep_freed_memory()
    try:
        app()
    except NetpressError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on where it was", 130)
    except MemoryError:
        _fail("out of memory; try a smaller batch_size or fewer images", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    sys.exit(0)


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
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, compress, score and ship tiny image classifiers.

    A recipe (a TOML file) says what to do; `netpress run RECIPE` does it and leaves a network, its score card and
    a report in a folder. Begin with `netpress list recipes`.
    """
