"""Masks in blocks: weights that exist or not as a whole, so that one bit says it of all of them.

    pattern (1, 4): 1 output channel x 4 input channels at one place of the kernel
    a weight of [8, 10, 3, 3] has [8, 3, 3, 3] such blocks; the last of its inputs are blocks of two

A pattern counts along a weight's first two dimensions, and nothing else is told of the weight: what these dimensions
are (a transposed convolution has its inputs first) is known to those who choose the pattern. A weight that is narrower
than a block, and one of a single input an output (a depthwise kernel), has no blocks.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor

from netpress.numerics.formats import AnyFormat, Binary, Ternary
from netpress.settings import Count

MOST_WEIGHTS = 16  # in a block; also what bounds the memory that one bit of a file can ask for

Pattern = tuple[int, int]
"""Weights of a block along the first and the second dimension."""


def _is_block(pattern: Pattern) -> Pattern:
    first, second = pattern
    if first * second == 1:
        raise ValueError("blocks of 1 x 1 are single weights; leave the pattern out")
    if first * second > MOST_WEIGHTS:
        raise ValueError(f"blocks of {first} x {second} weights; {MOST_WEIGHTS} is the most, as in [1, 4] or [4, 4]")
    return pattern


BlockSize = Annotated[tuple[Count, Count], AfterValidator(_is_block)]
"""A pattern as a setting or a file states it."""


def takes_blocks(shape: Sequence[int], pattern: Pattern) -> bool:
    """Whether a weight of this shape has whole blocks of the pattern, and more than one input for an output."""
    return len(shape) > 1 and shape[1] > 1 and shape[0] >= pattern[0] and shape[1] >= pattern[1]


def grid_shape(shape: Sequence[int], pattern: Pattern) -> tuple[int, ...]:
    """How many blocks a weight has along each dimension, the narrower ones at its ends included."""
    return (-(-shape[0] // pattern[0]), -(-shape[1] // pattern[1]), *shape[2:])


def mask_bits(shape: Sequence[int], pattern: Pattern | None) -> int:
    """Bits of a mask: one a block, or without a pattern one a weight."""
    return torch.Size(shape if pattern is None else grid_shape(shape, pattern)).numel()


def sum_blocks(tensor: Tensor, pattern: Pattern) -> Tensor:
    """The sum of each block of `tensor`: [blocks, blocks, ...]."""
    for axis, length in enumerate(pattern):
        if length > 1:
            rest = -tensor.shape[axis] % length
            if rest:
                ends = list(tensor.shape)
                ends[axis] = rest
                tensor = torch.cat([tensor, tensor.new_zeros(ends)], axis)
            tensor = tensor.unflatten(axis, (-1, length)).sum(axis + 1)
    return tensor


def spread_blocks(grid: Tensor, shape: Sequence[int], pattern: Pattern) -> Tensor:
    """Each block's value at each of its weights: `grid` [blocks, blocks, ...] -> `shape`."""
    for axis, length in enumerate(pattern):
        if length > 1:
            grid = grid.repeat_interleave(length, axis).narrow(axis, 0, shape[axis])
    return grid.contiguous()


def block_grid(mask: Tensor, pattern: Pattern) -> Tensor:
    """Which blocks have any weight: bool [blocks, blocks, ...]."""
    return sum_blocks(mask.to(torch.int32), pattern) > 0


def is_whole(mask: Tensor, pattern: Pattern) -> bool:
    """Whether the mask can be stored by blocks: each of them is wholly there or wholly absent."""
    if not takes_blocks(mask.shape, pattern):
        return False
    return torch.equal(spread_blocks(block_grid(mask, pattern), mask.shape, pattern), mask)


def cheapest_mask(exists: Tensor, pattern: Pattern | None, format: AnyFormat) -> tuple[Tensor | None, Pattern | None]:
    """The mask that stores a tensor of this format in the fewest bits, and its blocks; None, None: stored without one.

    `exists` is True where a value is not zero. By weights, a mask costs a bit each and stores these values alone. By
    blocks of `pattern`, it costs a bit a block and stores every value of a block that has one that is not zero.
    Ternary and binary cannot do without a mask where there are zeros, nor store a zero inside a block.
    """
    count, kept = exists.numel(), int(exists.sum())
    signs = isinstance(format, Ternary | Binary)
    costs = {"whole": count * format.bits, "weights": kept * format.bits + count}
    blocks = exists
    if pattern is not None and takes_blocks(exists.shape, pattern):
        blocks = spread_blocks(block_grid(exists, pattern), exists.shape, pattern)
        if not signs or torch.equal(blocks, exists):
            costs["blocks"] = int(blocks.sum()) * format.bits + mask_bits(exists.shape, pattern)
    if signs and kept < count:
        del costs["whole"]
    best = min(costs, key=lambda choice: (costs[choice], choice == "weights"))
    if best == "whole":
        return None, None
    return (blocks, pattern) if best == "blocks" else (exists, None)


def describe_pattern(pattern: Pattern | None) -> str:
    """In words: blocks of 1x4, or single weights."""
    return "single weights" if pattern is None else f"blocks of {pattern[0]}x{pattern[1]}"
