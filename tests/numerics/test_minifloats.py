"""Scales of few bits: what is rounded to them comes back bit by bit, in the bits that they say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.numerics.formats import AnyFormat, Binary, Float16, Integer, Minifloat, scale_format
from netpress.numerics.grid import round_scales
from netpress.numerics.layer_formats import LayerFormats, check_formats
from netpress.numerics.packing import alignment_bits, decode_tensor, encode_tensor, part_bits

formats = st.builds(Minifloat, exponent_bits=st.integers(1, 5), mantissa_bits=st.integers(0, 10))


@settings(deadline=None)
@given(stored=formats, count=st.integers(1, 40), spread=st.floats(0, 12), seed=st.integers(0, 999))
def test_scales_come_back_bit_by_bit(stored: Minifloat, count: int, spread: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    real = torch.exp2(-spread * torch.rand(count, generator=generator) - 2)
    scales = round_scales(real, Integer(bits=8, scales=stored))
    parts = encode_tensor(scales, stored)
    assert torch.equal(decode_tensor(parts, stored, (count,)), scales)
    assert part_bits(parts) - alignment_bits(parts, stored, (count,)) == count * stored.bits + 8  # 8: their base
    reached = real >= real.max() * 2.0 ** (2 - 2**stored.exponent_bits)
    error = (scales / real - 1).abs()[reached]
    assert bool((error <= 2.0 ** -(stored.mantissa_bits + 1)).all())
    assert torch.equal(round_scales(scales, Integer(bits=8, scales=stored)), scales)  # rounded once, it stays


def test_scales_far_below_the_largest_become_the_smallest() -> None:
    stored = Minifloat(exponent_bits=2, mantissa_bits=1)  # 2**-3 ... 1.5 of the largest's power of two
    scales = round_scales(torch.tensor([1.3, 0.7, 0.01]), Binary(scale="channel", scales=stored))
    assert scales.tolist() == [1.5, 0.75, 0.125]


def test_one_scale_a_tensor_stays_float16() -> None:
    stored = Minifloat()
    assert scale_format(Integer(scale="channel", scales=stored)) == stored
    assert scale_format(Integer(scale="tensor", scales=stored)) == Float16()


@pytest.mark.parametrize(
    ("values", "format", "reason"),
    [
        (torch.tensor([1.0, 1.3]), Minifloat(), "not minifloats of 4 \\+ 4 bits"),
        (torch.tensor([1.0, 2.0**-16]), Minifloat(), "not minifloats"),
        (torch.tensor([1.0, 0.0]), Minifloat(), "not minifloats"),
        (torch.tensor([1.0, -1.0]), Minifloat(), "not minifloats"),
        (torch.ones(2, 3), Integer(bits=4, scales=Minifloat()), "give the scale"),
    ],
)
def test_other_values_are_refused(values: torch.Tensor, format: AnyFormat, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        encode_tensor(values, format)


def test_weights_are_no_minifloats() -> None:
    with pytest.raises(ValueError, match="minifloat, which is for scales"):
        check_formats(LayerFormats(weight=Minifloat()))
