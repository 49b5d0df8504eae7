"""Widths of adder trees, against trees built add by add."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from netpress.numerics.accumulators import product_bits, signed_width, tree_bits, tree_width
from netpress.numerics.formats import Binary, Fixed, GridFormat, Integer, Ternary, integer_range


def _add_up(count: int, first_bits: int) -> tuple[int, int]:
    """Add a tree by hand: the summed widths of its adds and the width of its result."""
    level, width, total = list(range(count)), first_bits, 0
    while len(level) > 1:
        pairs = [level[place : place + 2] for place in range(0, len(level), 2)]
        total += sum(width for pair in pairs if len(pair) == 2)
        level = [pair[0] for pair in pairs]
        width += 1
    return total, width


@given(counts=st.lists(st.integers(0, 400), min_size=1, max_size=20), first_bits=st.integers(2, 24))
def test_trees_equal_those_built_add_by_add(counts: list[int], first_bits: int) -> None:
    totals = tree_bits(torch.tensor(counts), first_bits).tolist()
    assert totals == [_add_up(count, first_bits)[0] for count in counts]
    assert [tree_width(count, first_bits) for count in counts] == [_add_up(count, first_bits)[1] for count in counts]


@given(count=st.integers(1, 300), bits=st.integers(2, 12))
def test_a_tree_never_overflows(count: int, bits: int) -> None:
    largest = count * 2 ** (bits - 1)  # every leaf at the end of its range
    assert -(2 ** (tree_width(count, bits) - 1)) <= -largest


def test_products_fit() -> None:
    inputs: list[GridFormat] = [Integer(bits=4, signed=False), Integer(bits=5), Fixed(bits=3)]
    weights: list[GridFormat] = [Integer(bits=2), Integer(bits=6), Fixed(bits=9), Ternary(), Binary()]
    for weight in weights:
        for value in inputs:
            products = [w * a for w in integer_range(weight) for a in integer_range(value)]
            half = 2 ** (product_bits(weight, value) - 1)
            assert -half <= min(products) and max(products) <= half
            assert max(products) < half or isinstance(value, Integer | Fixed)


@given(st.integers(0, 2**40))
def test_signed_width_is_the_narrowest(largest: int) -> None:
    width = signed_width(largest)
    assert -(2 ** (width - 1)) <= -largest <= largest < 2 ** (width - 1)
    assert width == 1 or not largest < 2 ** (width - 2)
