"""What a network takes on the device that it is meant for, in bytes and multiply-adds, and how that is written.

`netpress.scoring.memory` measures it.
"""

from dataclasses import dataclass
from typing import Any

from netpress.process.console import write_bytes
from netpress.tracing.operations import Shape

KIB = 1024


@dataclass(frozen=True)
class Need:
    """Bytes of activations that are alive while one operation runs; `output` is the shape of its result."""

    name: str
    function: str
    output: Shape
    bytes: int


@dataclass(frozen=True)
class Footprint:
    """`needs` has the activations' bytes operation by operation; `alive` those at the peak: pairs (maker, bytes).

    `multiply_adds` are those of the dense network for one example, `nonzero_multiply_adds` those by weights that are
    not zero.
    """

    flash_bytes: int
    needs: tuple[Need, ...]
    alive: tuple[tuple[str, int], ...]
    multiply_adds: float
    nonzero_multiply_adds: float

    @property
    def peak(self) -> Need:
        """The operation while which most is alive; of equals, the first."""
        return max(self.needs, key=lambda need: need.bytes)

    @property
    def ram_bytes(self) -> int:
        return self.peak.bytes

    def as_json(self) -> dict[str, Any]:
        """The totals, where the peak is and what is alive there, and every operation with its bytes."""
        return {
            **self.totals(),
            "alive": [{"name": name, "bytes": size} for name, size in self.alive],
            "operations": [
                {"name": need.name, "kind": need.function, "output": list(need.output), "bytes": need.bytes}
                for need in self.needs
            ],
        }

    def totals(self) -> dict[str, Any]:
        """The figures that stand beside a score."""
        return {
            "flash_bytes": self.flash_bytes,
            "ram_bytes": self.ram_bytes,
            "ram_at": self.peak.name,
            "multiply_adds": round(self.multiply_adds),
            "nonzero_multiply_adds": round(self.nonzero_multiply_adds),
        }

    def tell_peak(self) -> str:
        """Where the peak is and what is alive there, in words."""
        output = "x".join(map(str, self.peak.output[1:]))
        parts = ", ".join(f"{name} {write_bytes(size)}" for name, size in self.alive)
        return f"at {self.peak.name} ({self.peak.function}, output {output}), where these are alive: {parts}"


def write_count(count: float) -> str:
    """A large count for people: 58.6 M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f}"
