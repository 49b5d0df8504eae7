"""`netpress export qonnx`: a quantized network for compilers of FPGAs."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    from netpress.export.qonnx import QonnxCheck


def export_as_qonnx(
    network: NetworkName,
    out: Annotated[Path, typer.Option(metavar="FILE.onnx", help="Where the QONNX file is written.")],
    data: DataFolder = None,
    dataset: DatasetName = None,
    overrides: DataChanges = None,
    classes_by_number: ByNumber = False,
    images: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Test images to compare on; 64 by default.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Execute the file by the package qonnx, if it is installed.")
    ] = True,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="How far off the logits may be, as a share of their size; 0.25.")
    ] = None,
    as_json: AsJson = False,
    allow_import: AllowImport = False,
) -> None:
    """Write a quantized network as QONNX, for FPGAs (FINN, hls4ml): every number at the network's own width.

    The package qonnx executes the file, where it is installed, and the answers are compared with the network's: on
    test images with data, else on random ones.
    """
    from netpress import api
    from netpress.data.store import cache_near
    from netpress.export import qonnx
    from netpress.network.data import load_data_at_hand
    from netpress.process.console import Console
    from netpress.recipe.overrides import read_data_changes

    loaded = api.load(network, allow_import=allow_import)
    compares = given_options(data=data, dataset=dataset, set=overrides, classes_by_number=classes_by_number)
    compares += given_options(images=images, tolerance=tolerance)
    if not check and compares:
        raise UserError(f"--no-check compares nothing: leave out {' and '.join(compares)}, or --no-check")
    if check and compares and not qonnx.has_executor():
        raise UserError(f"{' and '.join(compares)}: comparing needs the package qonnx: {qonnx.INSTALL}")
    checks = check and qonnx.has_executor()
    seen = None
    if checks:
        changes = read_data_changes(overrides or [], classes_by_number, dataset)
        read = load_data_at_hand(
            loaded, data, dataset, changes, console=Console(quiet=as_json), cache=cache_near(network)
        )
        if read is None and images is not None:
            raise UserError("--images: there are none to take them from; name the data with --data or --dataset")
        seen = None if read is None else qonnx.some_images(read.test, images or 64)
    qonnx.export_qonnx(loaded, out)
    far = qonnx.FAR_QUANTIZED if tolerance is None else tolerance
    result = qonnx.check_qonnx(loaded, out, seen, far=far) if checks else None
    zeros = qonnx.zero_points(loaded)
    if as_json:
        print_json({"file": str(out), "zero_points": zeros, "check": None if result is None else asdict(result)})
        return
    if result is not None:
        _print(result)
    elif check:
        print(f"not checked: the package qonnx, which executes such files, is not installed: {qonnx.INSTALL}")
    print(f"size        {out.stat().st_size:,} bytes")
    print(f"file        {out}")
    print(f"input       {qonnx.describe(loaded, 'normalized', '1')['input']}")
    if zeros:
        print(
            f"zero points {zeros} layers' inputs have one that is not 0; FINN and hls4ml read none. Quantize with\n"
            '            --set \'inputs={kind="int",bits=8,scale="tensor"}\' for inputs without'
        )


def _print(result: "QonnxCheck") -> None:
    what = f"{result.count:,} {'test' if result.labelled else 'random'} images"
    if result.labelled:
        print(f"accuracy    {result.qonnx_accuracy:.2%} executed by qonnx, {result.accuracy:.2%} in netpress")
    print(f"agreement   {result.agreement:.2%} of the answers to {what}; logits {result.error:.2%} off")
