"""What a network takes on a device, as cells of tables that stand in a terminal and on pages."""

from collections.abc import Mapping
from typing import Any

from netpress.process.console import write_bytes
from netpress.report.facts import number
from netpress.report.figures import NOTHING, short
from netpress.report.tables import Cell

SIZES = ("flash_bytes", "ram_bytes", "multiply_adds")
"""Names in score.json, below `footprint`."""
SIZE_COLUMNS = ("flash", "RAM", "multiply-adds")


def read_sizes(figures: Mapping[str, Any]) -> dict[str, float]:
    """The sizes in the figures of a score.json; {} where an older version wrote it."""
    footprint = figures.get("footprint")
    return {name: footprint[name] for name in SIZES if name in footprint} if isinstance(footprint, Mapping) else {}


def size_cells(sizes: Mapping[str, Any]) -> list[Cell]:
    """A cell for each of SIZE_COLUMNS; a dash where a size is not known."""
    writers = (write_bytes, write_bytes, short)
    values = [number(sizes.get(name)) for name in SIZES]
    return [
        Cell(NOTHING, -1.0) if value is None else Cell(write(value), value)
        for write, value in zip(writers, values, strict=True)
    ]
