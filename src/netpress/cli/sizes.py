"""How commands print what a network takes on a device: flash, memory of activations, multiply-adds."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from netpress.errors import visible

if TYPE_CHECKING:
    from netpress.scoring import Footprint


def print_footprint(footprint: "Footprint") -> None:
    """Print flash, memory with its peak, and multiply-adds, a line each."""
    from netpress.process.console import write_bytes
    from netpress.scoring.footprint import write_count

    print(f"flash       {write_bytes(footprint.flash_bytes)}: weights, masks, scales and biases as stored")
    print(visible(f"RAM         {write_bytes(footprint.ram_bytes)} of activations {footprint.tell_peak()}"))
    dense, left = footprint.multiply_adds, footprint.nonzero_multiply_adds
    print(f"products    {write_count(dense)} multiply-adds an image, {write_count(left)} by weights that are not zero")


def tabulate_sizes(totals: Mapping[str, Any]) -> dict[str, str]:
    """The totals of a footprint as cells of a table, with their units."""
    from netpress.process.console import write_bytes
    from netpress.scoring.footprint import write_count

    return {
        "flash": write_bytes(totals["flash_bytes"]),
        "RAM": write_bytes(totals["ram_bytes"]),
        "multiply_adds": write_count(totals["multiply_adds"]),
        "by_nonzeros": write_count(totals["nonzero_multiply_adds"]),
    }


def tabulate_plan(planned: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for the network as it begins, and as each stage of a plan would leave it.

    "at most" stands before what a stage lowers by an amount that only the run finds.
    """
    rows = [
        {"network": "as it begins", **tabulate_sizes(planned["footprint"]), "peak_at": planned["footprint"]["ram_at"]}
    ]
    undecided: set[str] = set()
    for stage in planned["stages"]:
        undecided |= set(stage["undecided"])
        cells = tabulate_sizes(stage["footprint"])
        for name, column in (("flash", "flash"), ("ram", "RAM")):
            cells[column] = f"at most {cells[column]}" if name in undecided else cells[column]
        rows.append({"network": f"after {stage['name']}", **cells, "peak_at": stage["footprint"]["ram_at"]})
    return rows
