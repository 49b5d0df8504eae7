"""`netpress time`: how long a network takes for an image, by each way of calculating it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from netpress.cli.options import AllowImport, AsJson, NetworkName, print_json, print_table
from netpress.errors import UserError, visible

if TYPE_CHECKING:
    from netpress.export.latency import Latencies


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    app.command(name="time")(measure)


def measure(
    network: NetworkName,
    threads: Annotated[str, typer.Option(help="Numbers of threads, one measurement each: 1,2.")] = "1",
    batch: Annotated[int, typer.Option(min=1, help="Images a call.")] = 1,
    seconds: Annotated[float, typer.Option(help="How long each measurement takes.")] = 10.0,
    as_json: AsJson = False,
    allow_import: AllowImport = False,
) -> None:
    """Measure how long a network takes for an image: in torch, in C, and in ONNX Runtime if it is installed.

    From pixels to logits, on the CPU, all in one run and in turns. What the network does not allow is left out, and
    said.
    """
    from netpress import api
    from netpress.process.console import Console

    counts = _counts(threads)
    loaded = api.load(network, allow_import=allow_import)
    measured = api.time(loaded, threads=counts, batch=batch, seconds=seconds, console=Console(quiet=as_json))
    if as_json:
        print_json(measured.as_json())
    else:
        _print(measured)


def _counts(text: str) -> list[int]:
    try:
        return [int(count) for count in text.split(",")]
    except ValueError:
        raise UserError(f"--threads {text}: write whole numbers, as in 1,2") from None


def _print(measured: "Latencies") -> None:
    fastest: dict[int, float] = {}
    rows: list[dict[str, Any]] = []
    for row in measured.rows:  # the fastest first
        ratio = row.median / fastest.setdefault(row.threads, row.median)
        rows.append(
            {
                "threads": row.threads,
                "path": row.path,
                "ms an image": f"{row.median * 1e3:.3f}",
                "quartiles": f"{row.low * 1e3:.3f} - {row.high * 1e3:.3f}",
                "least": f"{row.least * 1e3:.3f}",
                "times the fastest": f"{ratio:.2f}",
                "calls": row.calls,
                "ready after": f"{row.ready:.2f} s",
            }
        )
    print_table(rows)
    print()
    for path, reason in measured.left_out:
        print(visible(f"left out    {path}: {reason}"))
    images = "1 image" if measured.batch == 1 else f"{measured.batch:,} images"
    print("ms          median from pixels to logits; quartiles and the least; in turns, all in one run")
    print("ready       exporting, compiling or loading, and the first answer")
    print(f"batch       {images} a call")
    print(visible(f"processor   {measured.processor}, {measured.cores} cores"))
