"""A network of integer arithmetic as firmware: a folder that `make` builds and QEMU runs.

    written = export_firmware(network, Path("firmware"), "tiny", find_board("mps2-an386"))
    written.needs.flash         # bytes, code estimated

In it lie the C files of `netpress.export.c`, a program around them, what a Cortex-M needs before `main`, a linker
script with the board's memory, a Makefile, images and the logits that belong to them.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2

from netpress.errors import Failure, UserError, quote
from netpress.export.c import check_name, export_c
from netpress.export.firmware.boards import BOARDS, Board, find_board
from netpress.export.firmware.examples import draw_pattern, integer_logits, logit_lines, raw_pixels, read_examples
from netpress.export.firmware.needs import STACK, Needs, check_needs, measure_needs
from netpress.files import atomic_write
from netpress.network import Network
from netpress.process.console import Console

__all__ = ["BOARDS", "Board", "Firmware", "Needs", "export_firmware", "find_board", "missing_tools"]

TEMPLATES = ("Makefile", "README.md", "board.c", "board.h", "board.ld", "host.c", "main.c")
OPTIMIZE = "-O2"
TOOLS = {
    "arm-none-eabi-gcc": "to build it, install GCC for Arm with newlib (Debian: apt install gcc-arm-none-eabi "
    "libnewlib-arm-none-eabi)",
    "qemu-system-arm": "to run it here, install QEMU (Debian: apt install qemu-system-arm)",
}


@dataclass(frozen=True)
class Firmware:
    """What was written."""

    folder: Path
    board: Board
    needs: Needs
    flash: int
    """Bytes that it may take of the board's flash."""
    ram: int
    """Likewise of its memory."""


def export_firmware(
    network: Network,
    folder: Path,
    name: str,
    board: Board,
    *,
    flash: int | None = None,
    ram: int | None = None,
    images: Sequence[Path] = (),
    console: Console | None = None,
) -> Firmware:
    """Write the folder, whole or not at all; `flash` and `ram` are bytes that it may take, by default all there are.

    `images` lie in it as raw pixels, without any the image that the program draws itself.
    Raises UserError for a folder that holds something, a name that C or the folder cannot have, a network that
    computes in floats, limits beyond the board's, and a network that needs more, which says what would fit.
    """
    check_name(name)
    own = {Path(template).stem.lower() for template in TEMPLATES}
    if name.lower() in own:
        raise UserError(f"--name {quote(name)}: the folder has a file of that name for the board; take another name")
    flash = _limit("flash", flash, board.flash, board)
    ram = _limit("ram", ram, board.ram, board)
    _check_folder(folder)
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a killed process
        part.mkdir(parents=True)
        written = export_c(network, part, name)
        needs = measure_needs(network, written, board)
        check_needs(network, needs, board, flash, ram)
        shown = read_examples(network, images, console or Console(quiet=True)) if images else draw_pattern(network)
        atomic_write(part / "images.raw", raw_pixels(shown))
        atomic_write(part / "logits.txt", logit_lines(integer_logits(network, shown)))
        for template, text in _render(network, name, Firmware(folder, board, needs, flash, ram)).items():
            atomic_write(part / template, text)
        with suppress(OSError):
            folder.rmdir()
        part.replace(folder)
    except OSError as error:
        raise Failure(f"--out {folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Firmware(folder, board, needs, flash, ram)


def missing_tools() -> list[str]:
    """A sentence for each program that is not here and that building or running takes."""
    return [f"{tool} is not installed here; {what}" for tool, what in TOOLS.items() if shutil.which(tool) is None]


def _limit(option: str, given: int | None, there: int, board: Board) -> int:
    if given is not None and given > there:
        raise UserError(f"--{option} {given:,} bytes: {board.name} has {there:,}")
    return there if given is None else given


def _check_folder(folder: Path) -> None:
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"--out {folder}: holds something already; name a new or an empty folder")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out {folder}: is a file; name a new or an empty folder")
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be read ({error.strerror or error})") from error


def _render(network: Network, name: str, firmware: Firmware) -> dict[str, str]:
    """The files' texts, by name."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    board = firmware.board
    limited = "" if (firmware.flash, firmware.ram) == (board.flash, board.ram) else ", or the part of it that was asked"
    values = {
        "name": name,
        "upper": name.upper(),
        "board": board,
        "flash": firmware.flash,
        "ram": firmware.ram,
        "limited": limited,
        "needs": firmware.needs,
        "optimize": OPTIMIZE,
        "stack": STACK,
        "input": network.input,
        "classes": len(network.classes),
    }
    return {template: environment.get_template(template).render(values) for template in TEMPLATES}


def _read(name: str) -> str:
    return files("netpress.export.firmware").joinpath("templates", name).read_text(encoding="utf-8")
