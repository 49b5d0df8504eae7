"""`netpress sensitivity`: which layers take low widths badly."""

from typing import Annotated, Any

import typer

from netpress.cli.options import (
    AllowImport,
    AsJson,
    ByNumber,
    DataFolder,
    DatasetName,
    DeviceName,
    NetworkName,
    Overrides,
    Seed,
    print_json,
    print_table,
    refuse_together,
)
from netpress.errors import UserError


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    app.command()(sensitivity)


def sensitivity(
    network: NetworkName,
    data: DataFolder = None,
    dataset: DatasetName = None,
    widths: Annotated[str, typer.Option(help="Widths in bits, of weights and inputs alike.")] = "8,6,4",
    images: Annotated[int, typer.Option(min=1, help="So many images, of those set apart to select on.")] = 1000,
    overrides: Overrides = None,
    classes_by_number: ByNumber = False,
    device: DeviceName = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line a layer and width.")] = False,
    allow_import: AllowImport = False,
    apart: Annotated[bool, typer.Option("--apart", help="Weights and inputs of a layer, each by itself.")] = False,
) -> None:
    """Measure what each layer loses when it alone is quantized.

    It is the accuracy lost at each width, on images that are selected on, and the mean divergence of the answers from
    those in floats, in nats, which tells more from few images. --set takes the settings of the stage
    `quantize`, such as preset, calibration or leave_out, and data.KEY=VALUE where the data is to be read otherwise
    than the network says.
    """
    from netpress import api
    from netpress.process.console import Console

    refuse_together(json=as_json, csv=as_csv)
    measured = api.sensitivity(
        network,
        widths=_widths(widths),
        images=images,
        data=data,
        dataset=dataset,
        set=overrides or [],
        classes_by_number=classes_by_number,
        device=device,
        seed=seed or 0,
        console=Console(quiet=as_json or as_csv),
        allow_import=allow_import,
        apart=apart,
    )
    rows = measured.rows
    if as_json:
        print_json([vars(row) for row in rows])
    elif as_csv:
        print("layer,part,bits,accuracy,lost,loss,divergence")
        for row in rows:
            print(f"{row.layer},{row.part},{row.bits},{row.accuracy},{row.lost},{row.loss},{row.divergence}")
    else:
        layers: dict[str, dict[str, Any]] = {}
        for row in rows:
            column = f"{row.bits} bits" if row.part == "both" else f"{row.part}, {row.bits} bits"
            cell = f"{row.lost:+.2%} {row.divergence:7.4f}"
            layers.setdefault(row.layer, {"layer": row.layer})[column] = cell
        print_table(list(layers.values()))
        print(
            f"\naccuracy that each layer loses alone, of {measured.images:,} images that are selected on, "
            "and divergence in nats"
        )


def _widths(text: str) -> list[int]:
    try:
        widths = sorted({int(width) for width in text.split(",")}, reverse=True)
    except ValueError:
        raise UserError(f"--widths {text}: write whole numbers, as in 8,6,4") from None
    return widths
