"""`netpress export`: a network in another format, onnx or c."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from netpress.cli.exporting_qonnx import export_as_qonnx
from netpress.cli.options import (
    AllowImport,
    AsJson,
    ByNumber,
    DataChanges,
    DataFolder,
    DatasetName,
    NetworkName,
    given_options,
    print_json,
)
from netpress.errors import UserError

if TYPE_CHECKING:
    from netpress.export.graph import Takes
    from netpress.export.onnx import OnnxCheck
    from netpress.network import Network


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    group = typer.Typer(no_args_is_help=True, help="Write a network in another format: onnx, qonnx, c.")
    group.command(name="onnx")(export_as_onnx)
    group.command(name="qonnx")(export_as_qonnx)
    group.command(name="c")(export_as_c)
    app.add_typer(group, name="export")


def export_as_onnx(
    network: NetworkName,
    out: Annotated[Path, typer.Option(metavar="FILE.onnx", help="Where the ONNX file is written.")],
    takes: Annotated[
        str,
        typer.Option("--input", metavar="KIND", help="pixels (uint8, 0 to 255; the file normalizes) or normalized."),
    ] = "pixels",
    exact: Annotated[
        bool, typer.Option("--exact", help="For integer arithmetic: a graph of integers, equal in every bit.")
    ] = False,
    data: DataFolder = None,
    dataset: DatasetName = None,
    overrides: DataChanges = None,
    classes_by_number: ByNumber = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Run the file in ONNX Runtime and compare.")] = True,
    agreement: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of equal answers below which the export fails.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Relative error beyond which a layer's output is said to be off.")
    ] = None,
    as_json: AsJson = False,
    allow_import: AllowImport = False,
) -> None:
    """Write a network as ONNX, in floats or QDQ, and compare it with the network in ONNX Runtime.

    With data it is compared on the test images, else on random ones.
    """
    from netpress import api
    from netpress.export.graph import KINDS, describe
    from netpress.export.onnx import check_onnx, export_exactly, export_onnx, stored_bytes
    from netpress.network.data import load_data_at_hand
    from netpress.process.console import Console
    from netpress.recipe.overrides import read_data_changes

    if takes not in KINDS:
        raise UserError(f"--input {takes}: there are {' and '.join(KINDS)}")
    kind = KINDS[takes]
    loose = given_options(agreement=agreement, tolerance=tolerance)
    if exact and (loose or kind != "pixels"):
        raise UserError(f"--exact takes pixels and compares every bit: leave out {' and '.join(loose) or '--input'}")
    loaded = api.load(network, allow_import=allow_import)
    if not check:
        compares = given_options(data=data, dataset=dataset, set=overrides, classes_by_number=classes_by_number)
        compares += loose
        if compares:
            raise UserError(f"--no-check compares nothing: leave out {' and '.join(compares)}, or --no-check")
        export_exactly(loaded, out) if exact else export_onnx(loaded, out, kind)
        print_json({"file": str(out), "metadata": describe(loaded, kind)}) if as_json else _print_call(
            out, loaded, kind
        )
        return
    changes = read_data_changes(overrides or [], classes_by_number, dataset)
    dataset_read = load_data_at_hand(loaded, data, dataset, changes, console=Console(quiet=as_json))
    images = None if dataset_read is None else dataset_read.test
    export_exactly(loaded, out) if exact else export_onnx(loaded, out, kind)
    result = check_onnx(loaded, out, images, agreement=agreement, far=tolerance, exact=exact)
    network_bytes = stored_bytes(loaded)
    if as_json:
        print_json(
            {"file": str(out), "network_bytes": network_bytes, **asdict(result), "metadata": describe(loaded, kind)}
        )
    else:
        _print(result, network_bytes)
        _print_call(out, loaded, kind)


def export_as_c(
    network: NetworkName,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder where the two files are written.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What files and functions are called; the network's by default.")
    ] = None,
    as_json: AsJson = False,
    allow_import: AllowImport = False,
) -> None:
    """Write a network of integer arithmetic as C99: NAME.c and NAME.h, without floats, malloc or dependencies.

    NAME_run(arena, pixels, logits) gives the same integers as `netpress evaluate --exact`, bit for bit.
    """
    from netpress import api
    from netpress.export.c import check_name, export_c

    named = name or _stem(network)
    check_name(named)
    written = export_c(api.load(network, allow_import=allow_import), out, named)
    if as_json:
        print_json({key: str(value) if isinstance(value, Path) else value for key, value in asdict(written).items()})
        return
    print(f"arena       {written.arena:,} bytes of memory")
    print(f"flash       {written.flash:,} bytes of constants")
    print(f"files       {written.source}")
    print(f"            {written.header}")
    print(f"as program  cc -O3 -D{named.upper()}_MAIN -o {named} {written.source}")


def _stem(network: str) -> str:
    """A name for C from that of a network's file or folder."""
    path = Path(network)
    stem = path.parent.name if path.name == "network.netpress" else path.stem
    name = re.sub(r"[^A-Za-z0-9_]", "_", stem)
    return name if name[:1].isalpha() else f"net_{name}"


def _print(result: "OnnxCheck", network_bytes: int) -> None:
    what = f"{result.count:,} {'test' if result.labelled else 'random'} images"
    if result.labelled:
        print(f"accuracy    {result.onnx_accuracy:.2%} in ONNX Runtime, {result.accuracy:.2%} in netpress")
    print(f"agreement   {result.agreement:.2%} of the answers to {what}; logits {result.error:.2%} off")
    print(f"size        {result.onnx_bytes:,} bytes in ONNX, {network_bytes:,} as a network file")
    print(f"latency     {result.onnx_single * 1e3:.2f} ms an image in ONNX Runtime, {result.single * 1e3:.2f} ms here")
    each = result.onnx_seconds * 1e3 / result.batch_size, result.seconds * 1e3 / result.batch_size
    print(f"            {each[0]:.2f} ms an image in batches of {result.batch_size}, {each[1]:.2f} ms here")


def _print_call(out: Path, network: "Network", takes: "Takes") -> None:
    """Where the file is, and how Python calls it."""
    from netpress.export.graph import calls, describe

    print(f"file        {out}")
    print(f"input       {describe(network, takes)['input']}")
    for name, code in calls(network, takes).items():
        print(f"{name:12}{code}")
