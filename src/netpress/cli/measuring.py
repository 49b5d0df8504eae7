"""Commands that measure a network: evaluate, score, verify."""

import typer

from netpress.cli.options import (
    AllowImport,
    AsJson,
    DataFolder,
    DatasetName,
    DeviceName,
    NetworkName,
    print_json,
)


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    for command in (evaluate,):
        app.command()(command)


def evaluate(
    network: NetworkName,
    data: DataFolder = None,
    dataset: DatasetName = None,
    device: DeviceName = "auto",
    as_json: AsJson = False,
    allow_import: AllowImport = False,
) -> None:
    """Measure a network's accuracy on the test images."""
    from netpress import api
    from netpress.console import Console

    loaded = api.load(network, allow_import=allow_import)
    measured = api.evaluate(loaded, data=data, dataset=dataset, device=device, console=Console(quiet=as_json))
    if as_json:
        print_json(
            {"accuracy": measured.accuracy, "top5": measured.top5, "loss": measured.loss, "images": measured.count}
        )
        return
    print(f"accuracy    {measured.accuracy:.2%} of {measured.count:,} test images")
    print(f"top-5       {measured.top5:.2%}")
    print(f"loss        {measured.loss:.4f}")
