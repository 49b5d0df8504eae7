"""What quantized layers claim of their accumulators, and what these need.

    sums = layer_sums(module)
    sums["stem.conv"].needed_width   # bits that no input can overflow
    check_claims(sums)               # Failure where an accumulator is claimed too narrow

Exact execution (`netpress.program`) adds the largest sum that it met.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from netpress.errors import Failure
from netpress.numerics.accumulators import range_width, signed_width
from netpress.numerics.layers import quantized_layers


@dataclass
class LayerSums:
    """The accumulators of one layer."""

    name: str
    largest: int
    """Largest magnitude of a sum that was met; 0 before anything ran."""
    lowest: int
    """Least partial sum that any input could give, in any order of adding."""
    highest: int
    """Largest partial sum that any input could give, in any order of adding."""
    claimed_width: int
    """Bits that the layer's formats claim for its accumulators."""

    @property
    def met_width(self) -> int:
        """Bits that the sums which were met need."""
        return signed_width(self.largest)

    @property
    def needed_width(self) -> int:
        """Bits that no input can overflow."""
        return range_width(self.lowest, self.highest)

    @property
    def fits(self) -> bool:
        """Whether no input can overflow the claimed width."""
        return self.needed_width <= self.claimed_width


def layer_sums(module: nn.Module) -> dict[str, LayerSums]:
    """The accumulators of every integer layer as its weights bound them, before anything ran."""
    return {
        name: LayerSums(name, 0, *layer.sum_range(), layer.claimed_width())
        for name, layer in quantized_layers(module).items()
        if layer.formats.integer
    }


def check_claims(sums: Mapping[str, LayerSums]) -> None:
    """Raise Failure naming every layer whose claimed accumulators some input could overflow."""
    wrong = [record for record in sums.values() if not record.fits]
    if wrong:
        rows = "; ".join(f"{r.name} claims {r.claimed_width} bits and needs {r.needed_width}" for r in wrong[:5])
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise Failure(f"accumulators claimed too narrow: {rows}{more}; widen them or use an adder tree")
