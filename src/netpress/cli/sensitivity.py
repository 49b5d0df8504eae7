"""The command that finds out which layers take low widths badly: sensitivity."""

from pathlib import Path
from tempfile import TemporaryDirectory
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

_ALONE = "since each layer is quantized alone, without training"
UNUSED = {
    "widths": "give --widths",
    "auto_images": "give --images",
    **dict.fromkeys(("rules", "train", "learn", "correct_biases", "arithmetic"), _ALONE),
    **dict.fromkeys(("bits", "target_accuracy", "target_score"), "since no widths are chosen"),
}
"""Settings of the stage `quantize` that the measurement does not look at, and what to do."""


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
) -> None:
    """Measure how much accuracy each layer loses when it alone is quantized, at each width.

    --set takes the settings of the stage `quantize`, such as preset, calibration or leave_out, and data.KEY=VALUE
    where the data is to be read otherwise than the network says.
    """
    from netpress import api
    from netpress.compression.quantization import QuantizeSettings
    from netpress.compression.quantization.sensitivity import measure_sensitivity
    from netpress.network.data import load_data
    from netpress.process.console import Console
    from netpress.process.devices import choose_device
    from netpress.recipe.overrides import apply_overrides, data_changes
    from netpress.settings import parse
    from netpress.stage import Context

    refuse_together(json=as_json, csv=as_csv)
    values: dict[str, Any] = {"kind": "quantize"}
    apply_overrides(values, overrides or [])
    changes = data_changes(values, classes_by_number, dataset)
    for key, instead in UNUSED.items():
        if key in values:
            raise UserError(f"--set {key}: changes nothing here, {instead}")
    settings = parse(QuantizeSettings, values, "sensitivity")
    loaded = api.load(network, allow_import=allow_import)
    console = Console(quiet=as_json or as_csv)
    found = load_data(loaded, data, dataset, changes, seed=seed or 0, selects=True, console=console)
    with TemporaryDirectory() as folder:
        context = Context(Path(folder), choose_device(device), seed or 0, console, found, name="sensitivity")
        rows = measure_sensitivity(loaded, settings, context, _widths(widths), images)
    if as_json:
        print_json([vars(row) for row in rows])
    elif as_csv:
        print("layer,bits,accuracy,lost,loss")
        for row in rows:
            print(f"{row.layer},{row.bits},{row.accuracy},{row.lost},{row.loss}")
    else:
        layers: dict[str, dict[str, Any]] = {}
        for row in rows:
            layers.setdefault(row.layer, {"layer": row.layer})[f"{row.bits} bits"] = f"{row.lost:+.2%}"
        print_table(list(layers.values()))
        count = min(images, len(found.selection))
        print(f"\naccuracy that each layer loses alone, of {count:,} images that are selected on")


def _widths(text: str) -> list[int]:
    try:
        widths = sorted({int(width) for width in text.split(",")}, reverse=True)
    except ValueError:
        raise UserError(f"--widths {text}: write whole numbers, as in 8,6,4") from None
    if not all(2 <= width <= 16 for width in widths):
        raise UserError(f"--widths {text}: a width is 2 to 16 bits")
    return widths
