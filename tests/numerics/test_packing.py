"""Values packed into bits come back the same, take exactly their bits, and damage is noticed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.numerics.formats import (
    AnyFormat,
    Binary,
    Fixed,
    Float16,
    Float32,
    Integer,
    Power,
    Ternary,
    integer_range,
    parse_format,
    significant_bits,
)
from netpress.numerics.grid import along_channels, find_grid, round_scale
from netpress.numerics.packing import (
    alignment_bits,
    decode_tensor,
    encode_tensor,
    pack_bits,
    pack_mask,
    packed_bytes,
    part_bits,
    unpack_bits,
    unpack_mask,
)
from netpress.settings import SettingsError

SHAPES = [(), (1,), (7,), (3, 5), (4, 3, 2, 2), (1, 1, 3, 3), (0,), (5, 1)]
spreads = st.sampled_from(["tensor", "channel"])
grids = st.one_of(
    st.builds(Fixed, bits=st.integers(2, 16)),
    st.builds(Integer, bits=st.integers(1, 16), scale=spreads, signed=st.booleans(), zero_point=st.booleans()),
    st.builds(Ternary, scale=spreads),
    st.builds(Binary, scale=spreads),
)


def storage_bits(count: int, format: AnyFormat, present: int | None = None) -> int:
    """Bits of `count` values that a mask leaves, as a score counts them. Of ternary ones `present` are not zero."""
    return count + present if present is not None and present < count else count * format.bits


@given(bits=st.integers(1, 32), values=st.lists(st.integers(0, 2**32 - 1), max_size=70))
def test_bits_come_back(bits: int, values: list[int]) -> None:
    numbers = torch.tensor([value % 2**bits for value in values], dtype=torch.int64)
    packed = pack_bits(numbers, bits)
    assert packed.numel() == packed_bytes(len(values), bits)
    assert torch.equal(unpack_bits(packed, bits, len(values)), numbers)
    stream = sum(value << (bits * place) for place, value in enumerate(numbers.tolist()))
    assert bytes(packed.tolist()) == stream.to_bytes(packed.numel(), "little")  # least significant bit first


def test_chunks_join() -> None:
    numbers = torch.arange((1 << 20) + 13) % 8
    assert torch.equal(unpack_bits(pack_bits(numbers, 3), 3, len(numbers)), numbers)


def test_mask_takes_one_bit_an_element() -> None:
    mask = torch.rand((3, 5, 3, 3), generator=torch.Generator().manual_seed(1)) < 0.4
    assert pack_mask(mask).numel() == 17
    assert torch.equal(unpack_mask(pack_mask(mask), mask.shape), mask)


@pytest.mark.parametrize(
    ("packed", "bits", "count", "reason"),
    [
        (torch.zeros(3, dtype=torch.uint8), 5, 7, "take 5 bytes, but there are 3"),
        (torch.zeros(6, dtype=torch.uint8), 5, 7, "take 5 bytes, but there are 6"),
        (torch.full((5,), 255, dtype=torch.uint8), 5, 7, "padding bits"),
        (torch.zeros(5), 5, 7, "row of bytes"),
        (torch.zeros(5, dtype=torch.uint8), 33, 1, "between 1 and 32"),
        (torch.zeros(5, dtype=torch.uint8), 8, 10**15, "but there are 5"),  # nothing of that size is allocated
    ],
)
def test_damaged_bits_are_refused(packed: torch.Tensor, bits: int, count: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        unpack_bits(packed, bits, count)


def test_values_beyond_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 3 unsigned bits"):
        pack_bits(torch.tensor([8]), 3)
    with pytest.raises(ValueError, match="do not fit"):
        pack_bits(torch.tensor([-1]), 3)


def _on_grid(
    format: AnyFormat, shape: tuple[int, ...], mask: torch.Tensor | None, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """A random tensor of values of the format, with its scale and zero point."""
    assert isinstance(format, Fixed | Integer | Ternary | Binary)
    low, high = integer_range(format)
    integers = torch.randint(low, high + 1, shape, generator=generator)
    if isinstance(format, Binary):
        integers = integers.where(integers != 0, 1)
    form = (shape[0],) if format.scale == "channel" and shape else ()
    scale = round_scale(
        torch.rand(form, generator=generator) + 1e-3, significant_bits(format), isinstance(format, Fixed)
    )
    zero_point = None
    if isinstance(format, Integer) and format.zero_point:
        zero_point = torch.randint(low, high + 1, form, generator=generator)
        integers = integers - along_channels(zero_point, integers)
    tensor = integers.float() * along_channels(scale, integers)
    return (tensor if mask is None else tensor * mask), scale, zero_point


@settings(deadline=None, max_examples=150)
@given(format=grids, shape=st.sampled_from(SHAPES), masked=st.booleans(), own=st.booleans(), seed=st.integers(0, 999))
def test_any_format_comes_back_bit_by_bit(
    format: AnyFormat, shape: tuple[int, ...], masked: bool, own: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < 0.6 if masked else None
    tensor, scale, zero_point = _on_grid(format, shape, mask, generator)
    known = (scale, zero_point) if own else (None, None)
    parts = encode_tensor(tensor, format, mask, *known)
    assert torch.equal(decode_tensor(parts, format, shape, mask, *known), tensor)
    count = int(mask.sum()) if mask is not None else tensor.numel()
    present = int((tensor != 0).sum()) if isinstance(format, Ternary) else None
    values = {name: part for name, part in parts.items() if name in ("values", "present")}
    wasted = part_bits(values) - storage_bits(count, format, present=present)
    assert 0 <= wasted < 8 * len(values)  # nothing but the alignment to bytes
    assert alignment_bits(values, format, shape, mask) == wasted


@given(seed=st.integers(0, 99), masked=st.booleans())
def test_floats_and_powers_come_back(seed: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn((4, 5), generator=generator)
    mask = tensor > 0 if masked else None
    power = torch.ldexp(torch.ones(4, 5), torch.randint(-100, 100, (4, 5), generator=generator))
    cases: list[tuple[AnyFormat, torch.Tensor]] = [
        (Float32(), tensor),
        (Float16(), tensor.half().float()),
        (Power(), power),
    ]
    for format, values in cases:
        kept = values if mask is None else values * mask
        parts = encode_tensor(kept, format, mask)
        assert torch.equal(decode_tensor(parts, format, kept.shape, mask), kept)
        assert part_bits(parts) == storage_bits(20 if mask is None else int(mask.sum()), format)


def test_counters_keep_their_type() -> None:
    steps = torch.tensor(17)
    assert decode_tensor(encode_tensor(steps, Float32()), Float32(), ()).dtype == torch.int64


@settings(deadline=None)
@given(format=grids, seed=st.integers(0, 99))
def test_the_grid_is_found_from_the_values(format: AnyFormat, seed: int) -> None:
    tensor, scale, _ = _on_grid(format, (4, 9), None, torch.Generator().manual_seed(seed))
    found, _ = find_grid(tensor, format)  # type: ignore[arg-type]
    ratio = found / scale
    assert torch.equal(ratio.round(), ratio) or not tensor.all()  # the same grid or a coarser one
    steps = tensor / along_channels(found, tensor)
    assert torch.equal(steps.round(), steps)


@pytest.mark.parametrize(
    ("tensor", "format", "reason"),
    [
        (torch.tensor([0.1, 0.2, 0.30001]), Integer(bits=4, scale="tensor"), "not float16|grid"),
        (torch.tensor([0.1]), Float16(), "not float16"),
        (torch.tensor([3.0]), Power(), "powers of two"),
        (torch.tensor([1.0, 0.0]), Binary(), "zeros that no mask covers"),
        (torch.tensor([1.0, float("nan")]), Ternary(), "not finite"),
        (torch.tensor([1e-30, 1.0]), Fixed(bits=8), "powers of two|grid|span"),
        (torch.tensor([1.5]), Integer(bits=4, scale="none"), "not integers"),
    ],
)
def test_tensors_of_another_format_are_refused(tensor: torch.Tensor, format: AnyFormat, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        encode_tensor(tensor, format)


def test_damaged_parts_are_refused() -> None:
    format = Integer(bits=5)
    tensor = torch.arange(-6, 6).float().reshape(3, 4)
    parts = encode_tensor(tensor, format)
    for damaged, reason in [
        ({"scale": parts["scale"]}, "values are missing"),
        ({"values": parts["values"]}, "scale is missing"),
        ({**parts, "more": parts["scale"]}, "unknown parts: more"),
        ({**parts, "values": parts["values"][:-1]}, "take 8 bytes, but there are 7"),
        ({**parts, "scale": parts["scale"][:-1]}, "there are 2 values"),
        ({**parts, "scale": parts["scale"].float()}, "not float16"),
    ]:
        with pytest.raises(ValueError, match=reason):
            decode_tensor(damaged, format, (3, 4))
    with pytest.raises(ValueError, match="the mask is"):
        decode_tensor(parts, format, (3, 4), torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="outside the mask"):
        encode_tensor(tensor, format, torch.zeros(3, 4, dtype=torch.bool))


def test_formats_are_strict() -> None:
    assert parse_format({"kind": "int", "bits": 5}) == Integer(bits=5)
    assert parse_format(Integer(bits=5).model_dump()) == Integer(bits=5)
    wrong: list[tuple[dict[str, object], str]] = [
        ({"kind": "int", "bits": 17}, "17 is not between 1 and 16"),
        ({"kind": "fixed", "bits": 1}, "1 is not between 2 and 16"),
        ({"kind": "int", "width": 4}, "no such setting"),
        ({"kind": "posit"}, "'posit' is not one of"),
    ]
    for values, reason in wrong:
        with pytest.raises(SettingsError, match=reason):
            parse_format(values)
