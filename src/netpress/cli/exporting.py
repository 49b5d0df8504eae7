"""Commands that write networks in other formats: export onnx."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netpress.cli.options import (
    AllowImport,
    AsJson,
    ByNumber,
    DataChanges,
    DataFolder,
    DatasetName,
    NetworkName,
    print_json,
)
from netpress.errors import UserError

if TYPE_CHECKING:
    from netpress.data import Images
    from netpress.export.onnx import OnnxCheck
    from netpress.network import Network


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    group = typer.Typer(no_args_is_help=True, help="Write a network in another format: onnx.")
    group.command(name="onnx")(export_as_onnx)
    app.add_typer(group, name="export")


def export_as_onnx(
    network: NetworkName,
    out: Annotated[Path, typer.Option(metavar="FILE.onnx", help="Where the ONNX file is written.")],
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
    from netpress.export.onnx import check_onnx, export_onnx, stored_bytes
    from netpress.recipe.overrides import read_data_changes

    loaded = api.load(network, allow_import=allow_import)
    if not check and (data is not None or dataset is not None):
        raise UserError("--no-check compares nothing: leave out --data and --dataset, or --no-check")
    changes = read_data_changes(overrides or [], classes_by_number)
    images = _images(loaded, data, dataset, changes, quiet=as_json) if check else None
    export_onnx(loaded, out)
    if not check:
        print_json({"file": str(out)}) if as_json else print(f"file        {out}")
        return
    result = check_onnx(loaded, out, images, agreement=agreement, far=tolerance)
    network_bytes = stored_bytes(loaded)
    if as_json:
        print_json({"file": str(out), "network_bytes": network_bytes, **asdict(result)})
    else:
        _print(out, result, network_bytes)


def _images(
    network: "Network", data: Path | None, dataset: str | None, changes: dict[str, Any], quiet: bool
) -> "Images | None":
    """The test images; None where no data is at hand."""
    from netpress.network.data import dataset_of, load_data
    from netpress.process.console import Console

    if data is None and dataset is None and "dataset" not in changes and dataset_of(network) != "digits":
        return None
    return load_data(network, data, dataset, changes, console=Console(quiet=quiet)).test


def _print(out: Path, result: "OnnxCheck", network_bytes: int) -> None:
    what = f"{result.count:,} {'test' if result.labelled else 'random'} images"
    if result.labelled:
        print(f"accuracy    {result.onnx_accuracy:.2%} in ONNX Runtime, {result.accuracy:.2%} in netpress")
    print(f"agreement   {result.agreement:.2%} of the answers to {what}; logits {result.error:.2%} off")
    print(f"size        {result.onnx_bytes:,} bytes in ONNX, {network_bytes:,} as a network file")
    print(f"latency     {result.onnx_single * 1e3:.2f} ms an image in ONNX Runtime, {result.single * 1e3:.2f} ms here")
    each = result.onnx_seconds * 1e3 / result.batch_size, result.seconds * 1e3 / result.batch_size
    print(f"            {each[0]:.2f} ms an image in batches of {result.batch_size}, {each[1]:.2f} ms here")
    print(f"file        {out}")
