"""The constant arrays of a C file: weights as they are packed in the network's file, factors, tables."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from netpress.errors import Failure
from netpress.numerics.block_masks import Pattern, cheapest_mask, grid_shape
from netpress.numerics.formats import Binary, GridFormat, Ternary, integer_range
from netpress.numerics.packing import pack_bits, pack_mask
from netpress.program.operations import IntegerSums

AHEAD = 2  # bytes beyond packed weights that reading the last one touches


@dataclass
class Constants:
    """Collects a file's constants."""

    formats: dict[str, GridFormat]
    """Of the weights, by the layer's name."""
    patterns: Mapping[str, Pattern] = field(default_factory=dict)
    """The blocks that masks are made of, by the layer's name."""
    written: list[str] = field(default_factory=list)
    flash: int = 0
    """Bytes of all of them."""
    known: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, prefix: str, values: Iterable[int], size: int) -> str:
        """The name of a constant array, which is written once however often it is used."""
        numbers = list(values)
        body = ",".join(map(str, numbers))
        key = f"{kind} {body}"
        if key not in self.known:
            name = self.known[key] = f"{prefix}{len(self.known)}"
            lines = _wrap(body)
            self.written.append(f"static const {kind} {name}[{len(numbers)}] = {{\n{lines}\n}};")
            self.flash += size * len(numbers)
        return self.known[key]

    def stream(self, operation: IntegerSums) -> str:
        """A layer's weights, as the values of a `packed`."""
        return ", ".join(map(str, self.packed(operation)))

    def packed(self, operation: IntegerSums) -> tuple[str, str, str, int, int, int]:
        """A layer's weights as they lie in flash: their bits, the mask or 0, the blocks of the mask or 0, and what a
        weight's bits stand for.
        """
        format, weight = self.formats[operation.layer], operation.weight.long()
        mask, pattern = cheapest_mask(weight != 0, self.patterns.get(operation.layer), format)
        kept = weight.flatten() if mask is None else weight[mask]
        low, step = integer_range(format)[0], 1
        if isinstance(format, Ternary | Binary):
            low, step = -1, 2
        packed = pack_bits((kept - low) // step, format.bits).tolist()
        values = self.add("uint8_t", "weights_", [*packed, *[0] * AHEAD], 1)
        marks = "0" if mask is None else self.add("uint8_t", "mask_", pack_mask(mask, pattern).tolist(), 1)
        return values, marks, self._blocks(weight.shape, pattern), format.bits, step, low

    def _blocks(self, shape: torch.Size, pattern: Pattern | None) -> str:
        """How a mask in blocks is read; 0 for one with a bit a weight."""
        if pattern is None:
            return "0"
        marks = math.prod(grid_shape(shape, pattern)[1:])
        return self.add("uint32_t", "blocks_", [shape[1:].numel(), shape[2:].numel(), *pattern, marks], 4)

    def factors(self, name: str, amount: Tensor, multiplier: Tensor) -> str:
        """Each channel's shift and multiplier in 16 bits."""
        amounts, multipliers = amount.flatten(), multiplier.flatten()
        zero = multipliers == 0
        top = multipliers // 16 - 1024
        fits = zero | ((multipliers % 16 == 0) & (top >= 0) & (top < 1024) & (amounts >= -15) & (amounts < 32))
        if not bool(fits.all()):
            raise Failure(f"{name}: a factor is beyond what its scale can be; quantize the network again")
        numbers = torch.where(zero, 63 << 10, ((amounts + 15) << 10) + top).tolist()
        return self.add("uint16_t", "factors_", numbers, 2)


def _wrap(body: str, width: int = 118) -> str:
    lines, line = [], "    "
    for number in body.split(","):
        if len(line) + len(number) + 1 > width:
            lines.append(line)
            line = "    "
        line += f"{number},"
    return "\n".join([*lines, line])
