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

    def row(network: str, counted: Mapping[str, Any], score: float) -> dict[str, Any]:
        return {"network": network, **tabulate_sizes(counted), "score": f"{score:.5f}", "peak_at": counted["ram_at"]}

    rows = [row("as it begins", planned["footprint"], planned["dense"]["score"])]
    undecided: set[str] = set()
    for stage in planned["stages"]:
        undecided |= set(stage["undecided"])
        cells = row(f"after {stage['name']}", stage["footprint"], stage["score"])
        for name, column in (("flash", "flash"), ("ram", "RAM"), ("score", "score")):
            cells[column] = f"at most {cells[column]}" if name in undecided else cells[column]
        rows.append(cells)
    return rows
