"""Masks in blocks: compared with loops over single weights."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from netpress.network.tensors import decode_state, encode_state, inspect_state, stored_bytes
from netpress.numerics.block_masks import (
    Pattern,
    block_grid,
    cheapest_mask,
    grid_shape,
    is_whole,
    mask_bits,
    spread_blocks,
    sum_blocks,
    takes_blocks,
)
from netpress.numerics.formats import parse_format
from netpress.numerics.packing import alignment_bits, pack_mask, part_bits, unpack_mask
from netpress.settings import parse

LENGTHS = st.integers(1, 9)
SHAPES = st.tuples(LENGTHS, LENGTHS) | st.tuples(LENGTHS, LENGTHS, st.integers(1, 3), st.integers(1, 3))
PATTERNS = st.sampled_from([(1, 4), (4, 1), (2, 2), (1, 3), (3, 4), (1, 2)])
FORMATS: list[dict[str, Any]] = [
    {"kind": "float32"},
    {"kind": "float16"},
    {"kind": "int", "bits": 4, "scale": "channel"},
    {"kind": "ternary", "scale": "tensor"},
]


def blocks_of(shape: tuple[int, ...], pattern: Pattern) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """The weights of each block, by the block's place, in the order in which a mask has their bits."""
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for place in itertools.product(*map(range, shape)):
        found.setdefault((place[0] // pattern[0], place[1] // pattern[1], *place[2:]), []).append(place)
    return dict(sorted(found.items()))


def draw(shape: tuple[int, ...], seed: int, share: float = 0.5) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


@given(SHAPES, PATTERNS, st.integers(0, 99))
def test_blocks_are_those_of_a_loop(shape: tuple[int, ...], pattern: Pattern, seed: int) -> None:
    blocks = blocks_of(shape, pattern)
    assert len(blocks) == mask_bits(shape, pattern) and max(blocks) == tuple(n - 1 for n in grid_shape(shape, pattern))
    values = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(seed))
    assert sum_blocks(values, pattern).flatten().tolist() == [
        sum(int(values[place]) for place in places) for places in blocks.values()
    ]
    grid = draw(grid_shape(shape, pattern), seed)
    mask = spread_blocks(grid, shape, pattern)
    assert all(bool(mask[place]) == bool(grid[block]) for block, places in blocks.items() for place in places)
    assert torch.equal(block_grid(mask, pattern), grid)


@given(SHAPES, PATTERNS, st.integers(0, 99))
def test_a_mask_takes_one_bit_a_block(shape: tuple[int, ...], pattern: Pattern, seed: int) -> None:
    loose = draw(shape, seed, 0.8)
    whole = all(len({bool(loose[place]) for place in places}) == 1 for places in blocks_of(shape, pattern).values())
    takes = shape[1] > 1 and shape[0] >= pattern[0] and shape[1] >= pattern[1]
    assert takes_blocks(shape, pattern) == takes and is_whole(loose, pattern) == (whole and takes)
    if not (whole and takes):
        with pytest.raises(ValueError, match="whole blocks"):
            pack_mask(loose, pattern)
    if takes:
        grid = draw(grid_shape(shape, pattern), seed)
        packed = pack_mask(spread_blocks(grid, shape, pattern), pattern)
        assert packed.numel() == -(-grid.numel() // 8)
        bits = [int(packed[place // 8]) >> place % 8 & 1 for place in range(grid.numel())]
        assert bits == grid.flatten().int().tolist()
        assert torch.equal(unpack_mask(packed, shape, pattern), spread_blocks(grid, shape, pattern))


@given(SHAPES, PATTERNS, st.integers(0, 99), st.sampled_from(FORMATS), st.sampled_from([0.2, 0.9]))
def test_what_is_stored_comes_back_and_is_counted(
    shape: tuple[int, ...], pattern: Pattern, seed: int, format: dict[str, Any], share: float
) -> None:
    if not takes_blocks(shape, pattern):
        return
    mask = spread_blocks(draw(grid_shape(shape, pattern), seed), shape, pattern)
    values = torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(seed)).float() * mask
    state, formats = {"w": values, "w_scale": torch.ones(shape[0])}, {"w": format}
    stored, entries = encode_state(state, (), {"w": mask}, formats, {"w": pattern})
    assert entries["w"]["blocks"] == list(pattern)
    again, masks = decode_state(entries, formats, stored)
    assert torch.equal(again["w"], values) and torch.equal(masks["w"], mask)
    parts = {name.partition("#")[2]: part for name, part in stored.items() if "#" in name}
    row = inspect_state(entries, formats, stored)[0]
    assert row["mask_bits"] == mask_bits(shape, pattern) and row["tensor_bits"] == part_bits(parts)
    assert row["mask"] == f"blocks of {pattern[0]}x{pattern[1]}"
    assert row["alignment_bits"] == alignment_bits(parts, parse_format(format), shape, mask, pattern)
    sizes = stored_bytes(state, (), {"w": int(mask.sum())}, formats, {"w": pattern})
    exact = format["kind"] != "ternary" or bool((values != 0)[mask].all())
    assert 8 * sizes["w"] == part_bits(parts) or not exact


def bits_by_hand(exists: Tensor, pattern: Pattern | None, bits: int) -> dict[str, int]:
    count, kept = exists.numel(), int(exists.sum())
    costs = {"whole": count * bits, "weights": kept * bits + count}
    if pattern is not None:
        full = [places for places in blocks_of(tuple(exists.shape), pattern).values() if any(exists[p] for p in places)]
        costs["blocks"] = sum(map(len, full)) * bits + mask_bits(exists.shape, pattern)
    return costs


@given(SHAPES, PATTERNS, st.integers(0, 99), st.sampled_from([0.05, 0.5, 0.95]), st.sampled_from(FORMATS[:3]))
def test_the_cheapest_mask_is_taken(
    shape: tuple[int, ...], pattern: Pattern, seed: int, share: float, format: dict[str, Any]
) -> None:
    if not takes_blocks(shape, pattern):
        return
    blocks = spread_blocks(draw(grid_shape(shape, pattern), seed), shape, pattern)
    exists = blocks & draw(shape, seed + 1, share)
    parsed = parse_format(format)
    mask, chosen = cheapest_mask(exists, pattern, parsed)
    costs = bits_by_hand(exists, pattern, parsed.bits)
    assert mask is None or not bool((exists & ~mask).any())
    kept = exists.numel() if mask is None else int(mask.sum())
    assert kept * parsed.bits + (0 if mask is None else mask_bits(shape, chosen)) == min(costs.values())
    mask, chosen = cheapest_mask(exists, None, parsed)
    assert chosen is None and (mask is not None) == (costs["weights"] < costs["whole"])


def test_signs_have_no_zero_inside_a_block() -> None:
    ternary, pattern = parse_format({"kind": "ternary"}), (1, 4)
    exists = torch.zeros(8, 8, dtype=torch.bool)
    exists[0, :4] = True
    assert cheapest_mask(exists, pattern, ternary)[1] == pattern
    exists[0, 0] = False  # 3 signs and 64 bits: a sign cannot say zero, and a second mask was denied
    mask, chosen = cheapest_mask(exists, pattern, ternary)
    assert chosen is None and mask is not None and torch.equal(mask, exists)
    assert cheapest_mask(torch.ones(8, 8, dtype=torch.bool), pattern, ternary) == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masked": False}, "without a mask"),
        ({"blocks": [1, 1]}, "single weights"),
        ({"blocks": [4, 8]}, "the most"),
        ({"blocks": [1, 0]}, "blocks"),
        ({"blocks": [1, 4, 1]}, "blocks"),
        ({"blocks": "1x4"}, "blocks"),
        ({"blocks": [1, 9]}, "no blocks of"),
        ({"shape": [4, 1, 3, 3], "blocks": [4, 1]}, "no blocks of"),
        ({"shape": [8]}, "no blocks of"),
    ],
)
def test_a_file_that_says_nonsense_is_refused(change: dict[str, Any], message: str) -> None:
    from netpress.network.description import DescribedTensor
    from netpress.settings import SettingsError

    entry = {"shape": [8, 8], "masked": True, "blocks": [1, 4]}
    parse(DescribedTensor, entry)
    with pytest.raises(SettingsError, match=message):
        parse(DescribedTensor, entry | change)
