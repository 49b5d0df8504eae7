"""How wide the sums of integer products grow: adder trees and fixed accumulators.

For example, 9 products of 16 bits take 4 levels of a tree, and the result has 20 bits.

An adder tree without overflow adds the products in pairs, level by level. Each level is one bit wider than the one
before, so no sum is ever rounded (RIAIR, winner of the MicroNet Challenge 2019). An operation is as wide as its widest
input, so an add at level l (from 0) costs `first_bits + l` bits.
"""

import torch
from torch import Tensor

from netpress.numerics.formats import AnyFormat, Binary, GridFormat, Minifloat, Power, Ternary, integer_range


def tree_bits(count: Tensor, first_bits: int) -> Tensor:
    """Summed widths of the adds of a tree over `count` values of `first_bits` bits, elementwise: int64.

    A value left over at a level waits for the next one. A tree over one value, or none, adds nothing.
    """
    count = count.to(torch.int64).clone()
    total = torch.zeros_like(count)
    level = 0
    while bool((count > 1).any()):
        total += count // 2 * (first_bits + level)
        count = (count + 1) // 2
        level += 1
    return total


def tree_width(count: int, first_bits: int) -> int:
    """Width of the tree's result: one bit more for every level, `first_bits + ceil(log2(count))`."""
    return first_bits + max(0, count - 1).bit_length()


def signed_width(largest: int) -> int:
    """Bits of the two's complement integers that hold every number from -largest to largest."""
    return int(largest).bit_length() + 1


def range_width(lowest: int, highest: int) -> int:
    """Bits of the two's complement integers that hold every number from lowest (0 or less) to highest."""
    return max(signed_width(highest), signed_width(-lowest - 1) if lowest < 0 else 1)


def sum_range(weight: Tensor, activations: GridFormat) -> tuple[int, int]:
    """The least and the largest partial sum that any input could give, in any order of adding.

    weight: stored integers [outputs, ...]. Every product lies in a range that holds 0, so a partial sum lies between
    the sums of all lower and of all upper ends.
    """
    low, high = integer_range(activations)
    weight = weight.double().flatten(1)
    upper = torch.maximum(weight * low, weight * high).sum(1).max()
    lower = torch.minimum(weight * low, weight * high).sum(1).min()
    return int(lower), int(upper)


def is_integer(format: AnyFormat) -> bool:
    """Whether values of this format are computed as integers."""
    return isinstance(format, GridFormat)


def operand_bits(format: AnyFormat) -> int:
    """Bits of a value where it enters an operation: ternary values need two, though one and a mask store them."""
    match format:
        case Ternary():
            return 2
        case Power() | Minifloat():
            return 32
        case _:
            return format.bits


def product_bits(weights: AnyFormat, activations: AnyFormat) -> int:
    """Bits that hold every product of a weight and an activation, both stored integers.

    Factors of w and a bits make w + a bits; +-1 only changes a sign, which takes one bit more than the activation.
    """
    if isinstance(weights, Binary | Ternary):
        return operand_bits(activations) + 1
    return operand_bits(weights) + operand_bits(activations)
