"""`netpress import` brings networks in; `netpress inspect` shows what a file holds."""

from pathlib import Path
from typing import Annotated

import typer

from netpress.cli.options import AsJson, print_json, print_table
from netpress.errors import UserError


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    app.command(name="import")(import_released)
    app.command()(inspect)


def import_released(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Whose file it is: kaist or imt.")],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Their weights: micronet_v1_pr_60.t7, nano.safetensors.")
    ],
    out: Annotated[Path, typer.Option(help="Where the network is written.")],
) -> None:
    """Turn weights that KAIST or IMT released into a network.

    KAIST's are of 2019 (.t7), those of IMT Atlantique of 2022 (.safetensors).
    """
    if source not in ("kaist", "imt"):
        raise UserError(f"import {source}: there are kaist and imt")
    from netpress.imports.imt import import_imt
    from netpress.imports.kaist import import_kaist
    from netpress.network import check_out, save

    check_out(out)
    network = import_kaist(file) if source == "kaist" else import_imt(file)
    save(network, out)
    weights = network.weights()
    total = sum(weight.numel() for weight in weights.values())
    left = sum(int(weight.count_nonzero()) for weight in weights.values())
    print(f"network     {out}: {left:,} of {total:,} weights are not zero")


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A network file or a run folder.")],
    as_json: AsJson = False,
) -> None:
    """Show the tensors in a network file, with their bits."""
    from netpress.network import find_file, inspect_file

    contents = inspect_file(find_file(file))
    if as_json:
        print_json(contents)
        return
    print_table(contents["layers"])
    print()
    counted = contents["tensor_bits"] - contents["alignment_bits"]
    print(f"values      {counted - contents['mask_bits']:,} bits, scales and zero points among them")
    print(f"masks       {contents['mask_bits']:,} bits")
    print(f"alignment   {contents['alignment_bits']:,} bits that fill up last bytes")
    print(f"tensors     {contents['tensor_bits']:,} bits in all; a score counts {counted:,} of them")
    print(f"file        {contents['file_bytes']:,} bytes, names and description included")
    print(f"family      {contents['architecture']['family']}")
