"""Measures what `netpress.export.firmware.needs.CODE` says: python tests/export/measure_firmware.py [NETWORK ...]

It builds networks of every family, and those that are named, for every kind of processor, and prints a straight line
through their bytes of code over their operations. Run it after a change of the kernels or of the Makefile's options.
"""

import statistics
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from firmware import build
from integer_networks import FAMILIES, QUICK, context, family

import netpress
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.export.firmware import BOARDS, export_firmware
from netpress.export.firmware.needs import CODE, count_operations, name_bytes
from netpress.network import Network
from netpress.settings import parse

ROOM = 2**30  # bytes: what a board lacks decides nothing here


def measure(network: Network, folder: Path, found: dict[str, list[tuple[int, int]]]) -> None:
    """Add the operations and the bytes of one network, for every processor."""
    for board in {board.core: board for board in BOARDS.values()}.values():
        roomy = replace(board, flash=ROOM, ram=ROOM)
        written = export_firmware(network, folder / board.name, "net", roomy)
        script = written.folder / "board.ld"
        text = script.read_text(encoding="utf-8").replace(f"0x{board.ram_at:08x}", "0x80000000")  # beyond the flash
        script.write_text(text, encoding="utf-8")
        size = build(written.folder)
        code = size["text"] + size["data"] - written.needs.constants - name_bytes(network)
        found[board.core].append((count_operations(network), code))


def main() -> None:
    """Print the lines."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    with TemporaryDirectory() as folder:
        networks = [quantize(family(name), parse(QuantizeSettings, QUICK), context(Path(folder))) for name in FAMILIES]
        for index, network in enumerate([*networks, *map(netpress.load, sys.argv[1:])]):
            measure(network, Path(folder) / str(index), found)
    for core, pairs in found.items():
        line = statistics.linear_regression(*zip(*pairs, strict=True))
        off = [code - line.intercept - line.slope * count for count, code in pairs]
        print(f'"{core}": ({line.intercept:.0f}, {line.slope:.1f}),  # off by {min(off):.0f} to {max(off):.0f}')
        fixed, each = CODE[core]
        now = ", ".join(str(code - fixed - each * count) for count, code in pairs)
        print(f"    the table's {fixed}, {each} is off by {now}")


if __name__ == "__main__":
    main()
