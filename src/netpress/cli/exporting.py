"""`netpress export`: a network in another format: onnx, qonnx, c, firmware, web."""

import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from netpress.cli.asking import COSINES
from netpress.cli.exporting_qonnx import export_as_qonnx
from netpress.cli.options import (
    AllowImport,
    AsJson,
    ByNumber,
    DataChanges,
    DataFolder,
    DatasetName,
    NetworkName,
    Scale,
    given_options,
    print_json,
)
from netpress.errors import UserError, visible

if TYPE_CHECKING:
    from netpress.export.graph import Takes
    from netpress.export.onnx import OnnxCheck
    from netpress.network import Network


def add_commands(app: typer.Typer) -> None:
    """Put this file's commands into the command line."""
    group = typer.Typer(no_args_is_help=True, help="Write a network in another format: onnx, qonnx, c, firmware, web.")
    group.command(name="onnx")(export_as_onnx)
    group.command(name="qonnx")(export_as_qonnx)
    group.command(name="c")(export_as_c)
    group.command(name="firmware")(export_as_firmware)
    group.command(name="web")(export_as_web)
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
    from netpress.data.store import cache_near
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
    dataset_read = load_data_at_hand(
        loaded, data, dataset, changes, console=Console(quiet=as_json), cache=cache_near(network)
    )
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
    data: DataFolder = None,
    dataset: DatasetName = None,
    overrides: DataChanges = None,
    classes_by_number: ByNumber = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Compile the file, run it, and compare with the reference.")
    ] = True,
    as_json: AsJson = False,
    allow_import: AllowImport = False,
) -> None:
    """Write a network of integer arithmetic as C99: NAME.c and NAME.h, without floats, malloc or dependencies.

    NAME_run(arena, pixels, logits) gives the same integers as `netpress evaluate --exact`, bit for bit. Where there is
    a C compiler that is checked: with data on test images, else on a few of noise.
    """
    from netpress import api
    from netpress.data.store import cache_near
    from netpress.export.c import check_name, export_c
    from netpress.export.c.checking import check_c
    from netpress.network.data import load_data_at_hand
    from netpress.process.console import Console
    from netpress.recipe.overrides import read_data_changes

    named = name or _stem(network)
    check_name(named)
    loaded, images = api.load(network, allow_import=allow_import), None
    compares = given_options(data=data, dataset=dataset, set=overrides, classes_by_number=classes_by_number)
    if compares and not check:
        raise UserError(f"--no-check compares nothing: leave out {' and '.join(compares)}, or --no-check")
    if check:
        changes = read_data_changes(overrides or [], classes_by_number, dataset)
        read = load_data_at_hand(
            loaded, data, dataset, changes, console=Console(quiet=as_json), cache=cache_near(network)
        )
        images = None if read is None else read.test
    written = export_c(loaded, out, named)
    checked = check_c(loaded, written, named, images) if check else None
    if as_json:
        files = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(written).items()}
        print_json(files | {"check": None if checked is None else asdict(checked)})
        return
    print(f"arena       {written.arena:,} bytes of memory")
    print(f"flash       {written.flash:,} bytes of constants")
    print(f"files       {written.source}")
    print(f"            {written.header}")
    print(f"as program  cc -O3 -D{named.upper()}_MAIN -o {named} {written.source}")
    if checked is not None:
        print(visible("\n".join(checked.lines())))


def export_as_firmware(
    network: NetworkName,
    board: Annotated[str, typer.Option(metavar="BOARD", help="A board of QEMU: mps2-an386, microbit, ...")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder that is written: a new or an empty one.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What files and functions are called; the network's by default.")
    ] = None,
    flash: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most flash that it may take, as 512K; the board's by default.")
    ] = None,
    ram: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most memory that it may take, as 128K; the board's by default.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="An image for `make run`, or a folder of them; repeatable."),
    ] = None,
    as_json: AsJson = False,
    allow_import: AllowImport = False,
) -> None:
    """Write a network of integer arithmetic as firmware: a folder that `make` builds, and `make run` runs in QEMU.

    What does not fit into the board, or into --flash and --ram, is refused before: by how much, and what would fit.
    """
    from netpress import api
    from netpress.export.c import check_name
    from netpress.export.firmware import export_firmware, find_board, missing_tools
    from netpress.process.console import Console

    chosen, named = find_board(board), name or _stem(network)
    check_name(named)
    limits = {"flash": _size("flash", flash), "ram": _size("ram", ram)}
    loaded = api.load(network, allow_import=allow_import)
    console = Console(quiet=as_json)
    written = export_firmware(loaded, out, named, chosen, **limits, images=image or (), console=console)
    if as_json:
        needs = asdict(written.needs) | {"flash": written.needs.flash, "ram": written.needs.ram}
        print_json({"folder": str(out), "board": asdict(chosen), "needs": needs, "missing": missing_tools()})
        return
    needs_flash, needs_ram = written.needs.flash, written.needs.ram
    print(f"board       {chosen.name}, {chosen.core}")
    print(
        f"flash       about {needs_flash:,} of {written.flash:,} bytes: constants {written.needs.constants:,} and code"
    )
    print(f"RAM         {needs_ram:,} of {written.ram:,} bytes: arena {written.needs.arena:,}, an image, the stack")
    print(f"folder      {out}")
    print(f"build, run  make -C {shlex.quote(str(out))} run")
    for sentence in missing_tools():
        console.warn(sentence)


def _size(option: str, text: str | None) -> int | None:
    """Bytes from an option's text. Raises UserError for what is none, and for 0."""
    from netpress.scoring.limits import read_size

    if text is None:
        return None
    try:
        size = int(read_size(text))
    except ValueError as error:
        raise UserError(f"--{option} {error}") from None
    if size < 1:
        raise UserError(f"--{option} {text}: nothing fits into that; leave it out for all that the board has")
    return size


def export_as_web(
    network: NetworkName,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="Where the page is written.")],
    title: Annotated[str | None, typer.Option(help="What the page is called; the network's name by default.")] = None,
    data: DataFolder = None,
    dataset: DatasetName = None,
    overrides: DataChanges = None,
    classes_by_number: ByNumber = False,
    scale: Scale = 1.0,
    as_json: AsJson = False,
    allow_import: AllowImport = False,
) -> None:
    """Write a network of integer arithmetic as one web page that classifies images in the browser, offline.

    It needs clang with lld, or zig. With data the page shows an example of each class.
    """
    from netpress import api
    from netpress.data.store import cache_near
    from netpress.evaluation import ends_in_cosines
    from netpress.export.web import check_page, export_web
    from netpress.network.data import load_data_at_hand
    from netpress.process.console import Console
    from netpress.recipe.overrides import read_data_changes

    check_page(out)
    console = Console(quiet=as_json)
    loaded = api.load(network, allow_import=allow_import)
    changes = read_data_changes(overrides or [], classes_by_number, dataset)
    images = load_data_at_hand(loaded, data, dataset, changes, console=console, cache=cache_near(network))
    page = export_web(loaded, out, title=_own_name(network) if title is None else title, dataset=images, scale=scale)
    if ends_in_cosines(loaded):
        console.warn(COSINES.format(scale=scale))
    if as_json:
        print_json({key: str(value) if isinstance(value, Path) else value for key, value in asdict(page).items()})
        return
    print(f"page        {page.file}: {page.bytes:,} bytes, which open in a browser")
    print(
        f"network     {page.flash:,} bytes of constants, {page.module:,} with its code in WebAssembly ({page.compiler})"
    )
    print(f"memory      {page.memory:,} bytes while it runs, the constants among them")
    if page.accuracy is not None:
        print(f"accuracy    {page.accuracy:.2%}")
    hint = "" if images else "; give --data to show some"
    print(f"examples    {page.examples:,} of {len(loaded.classes):,} classes{hint}")


def _stem(network: str) -> str:
    """A name for C from that of a network's file or folder."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", _own_name(network))
    return name if name[:1].isalpha() else f"net_{name}"


def _own_name(network: str) -> str:
    """What a network's file or folder is called."""
    path = Path(network)
    if path.name == "network.netpress":
        path = path.parent
    return path.resolve().name if path.is_dir() else path.stem


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
