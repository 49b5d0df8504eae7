"""How many words a layer's weights take once they are unpacked, and how many outputs are summed at once."""

from dataclasses import dataclass

from torch import Tensor as Values

from netpress.export.c.vector_plan import CHANNELS, Tensor, gathered, rounded
from netpress.program.operations import Convolution, IntegerSums

HEAD = 3  # words of an output beside its weights
DEPTHWISE = 5  # words of a pair of taps
LANES = 16
"""Pixels of a short run of sums."""


@dataclass(frozen=True)
class Unpacked:
    """Of pairs of 16-bit weights, and of quads of 8-bit ones."""

    pairs: int
    """32-bit words."""
    quads: int
    together: tuple[int, int]
    """Outputs that are summed at once, which share what they read: 1 or 4."""


def unpacked(operation: IntegerSums, depthwise: bool, read: Tensor, pixels: int) -> Unpacked:
    """What `v_unpack` writes of a layer. `pixels`: of its output."""
    weight = operation.weight.flatten(1)
    if depthwise:
        taps = (weight != 0).sum(1)
        words = rounded(len(weight), CHANNELS) * (1 + HEAD) + DEPTHWISE * int(((taps + 1) // 2).sum())
        return Unpacked(words, words, (1, 1))
    lines = _lines(operation)
    pairs, quads = _pairs(lines, pixels), _quads(lines)
    return Unpacked(pairs[1], quads[1] if read.small else pairs[1], (pairs[0], quads[0]))


def _lines(operation: IntegerSums) -> Values:
    """Which weights exist, [outputs, values of all groups], both multiples of 4."""
    weight = operation.weight.flatten(1) != 0
    outputs, taps = weight.shape
    groups = operation.window.groups if isinstance(operation, Convolution) else 1
    lines = weight.new_zeros(rounded(outputs, CHANNELS), gathered(operation))
    for group in range(groups):
        rows = slice(group * outputs // groups, (group + 1) * outputs // groups)
        lines[rows, group * taps : (group + 1) * taps] = weight[rows]
    return lines


def _entries(lines: Values, group: int, together: int) -> int:
    """Groups of weights of which one at least is not 0, in blocks of `together` outputs."""
    blocks = lines.view(len(lines) // together, together, -1, group)
    return int(blocks.any(3).any(1).sum())


def _words(lines: Values, entries: int, together: int) -> int:
    return len(lines) // together * (1 + HEAD * together) + entries * (1 + together)


def _pairs(lines: Values, pixels: int) -> tuple[int, int]:
    """Outputs at once and words. Four outputs share what they read, one skips more zeros."""
    alone, four = _entries(lines, 2, 1), _entries(lines, 2, 4)
    long, short = divmod(rounded(pixels, LANES), 4 * LANES)
    costs = alone * (5 * long + 3 * (short // LANES)), four * 4.5 * (rounded(pixels, LANES) // LANES)
    return (1, _words(lines, alone, 1)) if costs[0] < costs[1] else (4, _words(lines, four, 4))


def _quads(lines: Values) -> tuple[int, int]:
    alone, four = _entries(lines, 4, 1), _entries(lines, 4, 4)
    return (1, _words(lines, alone, 1)) if alone * 5.5 < four * 9 else (4, _words(lines, four, 4))
