"""The second executor: quantized networks run with exact integer sums.

    with exact_execution(module) as sums:
        logits = module(images)
    sums["stem.conv"].largest            # the largest accumulator met
    check_claims(sums)                   # Failure where an accumulator is claimed too narrow

Every quantized layer sums products of stored integers, padded with the zero point. Depthwise convolutions sum in
int32; for the others the integers are held in float64, which is as exact in whatever order sums below 2**53 are
made, and many times faster than torch's integers; a layer whose sums might not stay below is refused. No library's
convolution is called (`netpress.numerics.sums`). Scale and bias then follow in the layer's own float arithmetic,
and so does the rest.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from netpress.errors import Failure
from netpress.numerics.accumulators import range_width, signed_width
from netpress.numerics.formats import Fixed, Integer, integer_range
from netpress.numerics.layers import QuantizedConv2d, QuantizedLayer, quantized_layers
from netpress.numerics.sums import convolution_sums, linear_sums

EXACT = 2**53


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


def worst_sums(layer: QuantizedLayer) -> tuple[int, int]:
    """The least and the largest partial sum that any input could give.

    Every product lies in a range that holds 0, so a partial sum lies between the sums of all lower and all
    upper ends.
    """
    assert isinstance(layer.formats.input, Fixed | Integer)
    low, high = integer_range(layer.formats.input)
    weight = layer.integers().double().flatten(1)
    upper = torch.maximum(weight * low, weight * high).sum(1).max()
    lower = torch.minimum(weight * low, weight * high).sum(1).min()
    return int(lower), int(upper)


def layer_sums(module: nn.Module) -> dict[str, LayerSums]:
    """The accumulators of every integer layer as its weights bound them, before anything ran."""
    found = {}
    for name, layer in quantized_layers(module).items():
        if layer.formats.integer:
            lowest, highest = worst_sums(layer)
            found[name] = LayerSums(name, 0, lowest, highest, layer.claimed_width())
    return found


@contextmanager
def exact_execution(module: nn.Module) -> Iterator[dict[str, LayerSums]]:
    """Within, the module's quantized layers sum exactly and record their accumulators in what this yields.

    For evaluation; layers that are not integer compute as always. Raises Failure for a layer whose sums could
    reach 2**53.
    """
    records = layer_sums(module)
    layers = {name: layer for name, layer in quantized_layers(module).items() if name in records}
    for name, record in records.items():
        if max(-record.lowest, record.highest) >= EXACT:
            raise Failure(f"{name}: its sums may reach {max(-record.lowest, record.highest)}, too large to be exact")

    def watch(record: LayerSums, layer: QuantizedLayer) -> None:
        def sums(_: QuantizedLayer, values: Tensor, weight: Tensor) -> Tensor:
            exact = integer_sums(layer, values, weight)
            if exact.numel():
                lowest, highest = _in_memory_order(exact).aminmax()
                if bool(lowest.isnan()):
                    raise Failure(f"{record.name}: what enters it is NaN: values grow beyond what their numbers hold")
                record.largest = max(record.largest, -int(lowest), int(highest))
            return exact

        layer.exact_sums = sums

    for name, layer in layers.items():
        watch(records[name], layer)
    try:
        yield records
    finally:
        for layer in layers.values():
            layer.exact_sums = None


def check_claims(sums: Mapping[str, LayerSums]) -> None:
    """Raise Failure naming every layer whose claimed accumulators some input could overflow."""
    wrong = [record for record in sums.values() if not record.fits]
    if wrong:
        rows = "; ".join(f"{r.name} claims {r.claimed_width} bits and needs {r.needed_width}" for r in wrong[:5])
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise Failure(f"accumulators claimed too narrow: {rows}{more}; widen them or use an adder tree")


def integer_sums(layer: QuantizedLayer, values: Tensor, weight: Tensor) -> Tensor:
    """Exact sums of products of integers, in float64, or in float32 where none can reach 2**24.

    values: stored integers [batch, inputs, height, width] or [..., inputs], not centred; the padding is the zero point.
    """
    if not isinstance(layer, QuantizedConv2d):
        return linear_sums(values, weight)
    # The simulation's memory layout: what follows (a pool) adds in the order of memory, and floats notice.
    last = any(x.is_contiguous(memory_format=torch.channels_last) for x in (values, weight))
    layout = torch.channels_last if last else torch.contiguous_format
    zero = float(layer.input_zero_point) if layer.input_zero_point is not None else 0.0
    if any(layer._reversed_padding_repeated_twice):
        values = functional.pad(values, layer._reversed_padding_repeated_twice, value=zero)
    low, high = worst_sums(layer)
    sums = convolution_sums(values, weight, layer.stride, layer.dilation, layer.groups, max(-low, high))
    return sums.contiguous(memory_format=layout)


def _in_memory_order(tensor: Tensor) -> Tensor:
    """The same values, dimensions in the order in which they lie in memory: reductions then copy nothing."""
    strides = tensor.stride()
    return tensor.permute(sorted(range(tensor.dim()), key=lambda place: -strides[place]))
