"""Values packed into bits: what a network file holds, bit for bit what a score counts.

Three values of 5 bits take 15 bits, which are two bytes; the last bit is 0.

Bits lie least significant first. Bit i of value j is bit (j * bits + i) of the stream, and bit k of the stream is bit
k % 8 of byte k // 8. Only the last byte of a tensor is padded, with zeros.
"""

import torch
from torch import Tensor

from netpress.numerics.block_masks import Pattern, block_grid, grid_shape, is_whole, mask_bits, spread_blocks
from netpress.numerics.formats import (
    AnyFormat,
    Binary,
    Fixed,
    Float16,
    Float32,
    GridFormat,
    Integer,
    Minifloat,
    Power,
    Ternary,
    integer_range,
    scale_count,
    scale_format,
    zero_point_format,
)
from netpress.numerics.grid import along_channels, find_grid

_CHUNK = 1 << 20  # values unpacked at once: a multiple of 8, so that every chunk starts at a byte; bounds memory


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` values of `bits` bits take."""
    return (count * bits + 7) // 8


def pack_bits(values: Tensor, bits: int) -> Tensor:
    """Integers 0 ... 2**bits-1 of any shape -> uint8 [packed_bytes(count, bits)].

    Raises ValueError for bits outside 1 ... 32 or a value that does not fit.
    """
    _check_width(bits)
    flat = values.detach().reshape(-1).to(torch.int64)
    if flat.numel() and (int(flat.min()) < 0 or int(flat.max()) >> bits):
        raise ValueError(f"values from {int(flat.min())} to {int(flat.max())} do not fit {bits} unsigned bits")
    parts = [_pack_chunk(chunk, bits) for chunk in flat.split(_CHUNK)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.uint8)


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """uint8 [packed_bytes(count, bits)] -> int64 [count], the inverse of `pack_bits`.

    The size is checked before anything is allocated, so a file can never ask for more than it holds.
    Raises ValueError where bytes are missing or left over, or padding bits are set.
    """
    _check_width(bits)
    if packed.dtype != torch.uint8 or packed.dim() != 1:
        raise ValueError(f"packed bits are {packed.dtype} of shape {list(packed.shape)}, not a row of bytes")
    if packed.numel() != packed_bytes(count, bits):
        needed = packed_bytes(count, bits)
        raise ValueError(f"{count} values of {bits} bits take {needed} bytes, but there are {packed.numel()}")
    padding = packed.numel() * 8 - count * bits
    if padding and int(packed[-1]) >> (8 - padding):
        raise ValueError(f"the {padding} padding bits after {count} values of {bits} bits are not zero")
    chunks = []
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        first = start * bits // 8
        chunks.append(_unpack_chunk(packed[first : first + packed_bytes(size, bits)], bits, size))
    return torch.cat(chunks) if chunks else torch.zeros(0, dtype=torch.int64)


def pack_mask(mask: Tensor, pattern: Pattern | None = None) -> Tensor:
    """bool of any shape -> one bit an element, or with a pattern one a block.

    Raises ValueError for a mask that is not made of whole blocks.
    """
    if pattern is None:
        return pack_bits(mask, 1)
    _require(is_whole(mask, pattern), f"the mask is not made of whole blocks of {pattern[0]} x {pattern[1]}")
    return pack_bits(block_grid(mask, pattern), 1)


def unpack_mask(packed: Tensor, shape: torch.Size | tuple[int, ...], pattern: Pattern | None = None) -> Tensor:
    """The bool tensor of `shape` that `pack_mask` packed. Raises ValueError where the size differs."""
    bits = unpack_bits(packed, 1, mask_bits(shape, pattern)).bool()
    if pattern is None:
        return bits.reshape(tuple(shape))
    return spread_blocks(bits.reshape(grid_shape(shape, pattern)), shape, pattern)


def encode_tensor(
    tensor: Tensor,
    format: AnyFormat,
    mask: Tensor | None = None,
    scale: Tensor | None = None,
    zero_point: Tensor | None = None,
) -> dict[str, Tensor]:
    """The parts that a file stores of one tensor; only the values where `mask` is true.

    Parts: `values` (packed bytes; float16 or float32 values; int8 exponents), and for a format with
    a scale also `scale` and `zero_point`, unless these are given, because the file holds them as tensors of
    their own. Ternary adds `present`, one bit for each value that the mask leaves, if some of those are zero.
    `decode_tensor` gives back the very same bits.
    Raises ValueError where the tensor is not made of values of this format: it would not come back the same.
    """
    tensor = tensor.detach()
    mask = _checked_mask(mask, tensor.shape)
    if mask is not None and bool((tensor[~mask] != 0).any()):
        raise ValueError("values outside the mask are not zero")
    kept = tensor.reshape(-1) if mask is None else tensor[mask]
    if isinstance(format, Float32):
        return {"values": kept.contiguous().clone() if mask is not None else tensor.contiguous()}
    if isinstance(format, Float16):
        half = kept.half()
        _require(torch.equal(half.to(kept.dtype), kept), "values are not float16 numbers; round them first")
        return {"values": half}
    if isinstance(format, Power):
        mantissa, exponent = torch.frexp(kept)
        exponent = exponent - 1
        fits = (mantissa == 0.5) & (exponent >= -128) & (exponent <= 127)
        _require(bool(fits.all()), "values are not powers of two between 2**-128 and 2**127")
        return {"values": exponent.to(torch.int8)}
    if isinstance(format, Minifloat):
        return _encode_minifloats(kept, format)
    stored: dict[str, Tensor] = {}
    if isinstance(format, Integer) and format.scale == "none":
        integers = kept.to(torch.int64)
        _require(torch.equal(integers.to(kept.dtype), kept), "values are not integers")
    else:
        if scale is None:
            own = isinstance(scale_format(format), Minifloat)
            _require(not own, "minifloats that scale a tensor are a tensor of their own; give the scale")
            scale, zero_point = find_grid(tensor, format)
            stored |= _encode_companion("scale", scale, scale_format(format))
            if isinstance(format, Integer) and format.zero_point:
                stored |= _encode_companion("zero_point", zero_point, zero_point_format(format))
        integers = _to_integers(tensor, format, mask, scale, zero_point)
    low, high = integer_range(format)
    _require(_inside(integers, low, high), f"values are not on a grid of {format.bits}-bit integers")
    if isinstance(format, Ternary):
        present = integers != 0
        if not bool(present.all()):
            stored["present"] = pack_mask(present)
        return {"values": pack_bits(integers[present] > 0, 1), **stored}
    if isinstance(format, Binary):
        _require(bool((integers != 0).all()), "a binary tensor has zeros that no mask covers")
        return {"values": pack_bits(integers > 0, 1), **stored}
    return {"values": pack_bits(integers - low, format.bits), **stored}


def decode_tensor(
    parts: dict[str, Tensor],
    format: AnyFormat,
    shape: torch.Size | tuple[int, ...],
    mask: Tensor | None = None,
    scale: Tensor | None = None,
    zero_point: Tensor | None = None,
) -> Tensor:
    """The tensor of `shape` that `encode_tensor` took apart, given the same mask, scale and zero point.

    float32 except for `int` without scale (int64) and for unquantized tensors, which keep their type.
    Raises ValueError where a part is missing, superfluous or of a wrong size or type.
    """
    shape = torch.Size(shape)
    mask = _checked_mask(mask, shape)
    count = _count(shape) if mask is None else int(mask.sum())
    companions = {"scale", "zero_point"} if scale is None else set()
    extra = set(parts) - {"values", *companions, *({"present"} if isinstance(format, Ternary) else ())}
    _require(not extra, f"unknown parts: {', '.join(sorted(extra))}")
    _require("values" in parts, "the values are missing")
    values = parts["values"]
    if isinstance(format, Float32):
        return _place(values, shape, mask, count)
    if isinstance(format, Float16):
        _require(values.dtype == torch.float16, f"the values are {values.dtype}, not float16")
        return _place(values.float(), shape, mask, count)
    if isinstance(format, Power):
        _require(values.dtype == torch.int8, f"the exponents are {values.dtype}, not int8")
        return _place(torch.exp2(values.double()).float(), shape, mask, count)
    if isinstance(format, Minifloat):
        return _place(_decode_minifloats(parts, format, count), shape, mask, count)
    low, _ = integer_range(format)
    if isinstance(format, Ternary):
        present = unpack_bits(parts["present"], 1, count).bool() if "present" in parts else _all_true(count)
        integers = torch.zeros(count, dtype=torch.int64)
        integers[present] = unpack_bits(values, 1, int(present.sum())) * 2 - 1
    elif isinstance(format, Binary):
        integers = unpack_bits(values, 1, count) * 2 - 1
    else:
        integers = unpack_bits(values, format.bits, count) + low
    if isinstance(format, Integer) and format.scale == "none":
        return _place(integers, shape, mask, count)
    if scale is None:
        scale, zero_point = _decode_companions(parts, format, shape)
    return _to_values(integers, format, shape, mask, scale, zero_point)


def part_bits(parts: dict[str, Tensor]) -> int:
    """Bits that the parts of a tensor take in the file: whole bytes."""
    return sum(part.numel() * part.element_size() * 8 for part in parts.values())


def alignment_bits(
    parts: dict[str, Tensor],
    format: AnyFormat,
    shape: torch.Size | tuple[int, ...],
    mask: Tensor | None = None,
    pattern: Pattern | None = None,
) -> int:
    """Bits of the parts that mean nothing: the padding of every packed part to whole bytes.

    The parts are those of a tensor of `shape` whose values `mask`, by weights or by blocks of `pattern`, leaves; their
    sizes must be right.
    """
    count = _count(shape) if mask is None else int(mask.sum())
    packed = {"present": count, "mask": mask_bits(shape, pattern)}
    if isinstance(format, Ternary):
        packed["values"] = int(unpack_bits(parts["present"], 1, count).sum()) if "present" in parts else count
    elif isinstance(format, Fixed | Integer | Binary | Minifloat):
        packed["values"] = count * format.bits
    if isinstance(format, Integer) and format.zero_point:
        packed["zero_point"] = scale_count(format, shape) * format.bits
    return sum(-packed.get(name, 0) % 8 for name in parts)


def _pack_chunk(values: Tensor, bits: int) -> Tensor:
    if bits in (8, 16, 32):
        shifts = torch.arange(0, bits, 8)
        return ((values.unsqueeze(1) >> shifts) & 255).to(torch.uint8).reshape(-1)
    stream = ((values.unsqueeze(1) >> torch.arange(bits)) & 1).to(torch.uint8).reshape(-1)
    stream = torch.nn.functional.pad(stream, (0, -stream.numel() % 8)).reshape(-1, 8)  # [bytes, 8]
    weights = 1 << torch.arange(8)
    return (stream * weights.to(torch.uint8)).sum(1, dtype=torch.uint8)


def _unpack_chunk(packed: Tensor, bits: int, count: int) -> Tensor:
    if bits in (8, 16, 32):
        columns = packed.reshape(count, bits // 8).to(torch.int64)
        return (columns << torch.arange(0, bits, 8)).sum(1)
    stream = (packed.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1  # [bytes, 8]
    stream = stream.reshape(-1)[: count * bits].reshape(count, bits).to(torch.int64)
    return (stream << torch.arange(bits)).sum(1)


def _check_width(bits: int) -> None:
    if not 1 <= bits <= 32:
        raise ValueError(f"a width of {bits} bits is not between 1 and 32")


def _count(shape: torch.Size | tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _all_true(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _inside(integers: Tensor, low: int, high: int) -> bool:
    return not integers.numel() or (int(integers.min()) >= low and int(integers.max()) <= high)


def _checked_mask(mask: Tensor | None, shape: torch.Size) -> Tensor | None:
    if mask is not None and (mask.dtype != torch.bool or mask.shape != shape):
        given = f"{mask.dtype} of shape {list(mask.shape)}"
        raise ValueError(f"the mask is {given}, the tensor has shape {list(shape)}")
    return mask


def _to_integers(
    tensor: Tensor, format: GridFormat, mask: Tensor | None, scale: Tensor, zero_point: Tensor | None
) -> Tensor:
    """The stored integers of the values that the mask leaves. ValueError where value / scale is not whole."""
    steps = along_channels(scale.to(tensor.dtype), tensor).expand_as(tensor)
    kept, steps = (tensor.reshape(-1), steps.reshape(-1)) if mask is None else (tensor[mask], steps[mask])
    ratio = kept / steps
    integers = torch.nan_to_num(ratio).round().to(torch.int64)
    same = torch.equal(integers.to(tensor.dtype) * steps, kept)
    _require(same, f"values are not whole multiples of their scale ({format.kind}); quantize the tensor first")
    if zero_point is not None:
        shift = along_channels(zero_point.to(torch.int64), tensor).expand_as(tensor)
        integers = integers + (shift.reshape(-1) if mask is None else shift[mask])
    return integers


def _to_values(
    integers: Tensor,
    format: GridFormat,
    shape: torch.Size,
    mask: Tensor | None,
    scale: Tensor,
    zero_point: Tensor | None,
) -> Tensor:
    like = torch.empty(shape)
    steps = along_channels(scale.float(), like).expand(shape)
    if zero_point is not None:
        shift = along_channels(zero_point.to(torch.int64), like).expand(shape)
        integers = integers - (shift.reshape(-1) if mask is None else shift[mask])
    values = integers.float() * (steps.reshape(-1) if mask is None else steps[mask])
    return _place(values, shape, mask, values.numel())


def _place(values: Tensor, shape: torch.Size, mask: Tensor | None, count: int) -> Tensor:
    if values.numel() != count or (values.dim() > 1 and values.shape != shape):
        raise ValueError(f"there are {values.numel()} values, the shape {list(shape)} and its mask ask for {count}")
    if mask is None:
        return values.reshape(shape).clone()
    whole = torch.zeros(shape, dtype=values.dtype)
    whole[mask] = values.reshape(-1)
    return whole


def _encode_minifloats(values: Tensor, format: Minifloat) -> dict[str, Tensor]:
    """Exponents above the mantissas; the base is the smallest exponent there is."""
    mantissa, exponent = torch.frexp(values.double())  # .5 <= mantissa < 1
    base = exponent.min() if len(values) else torch.zeros((), dtype=exponent.dtype)
    whole = (mantissa * 2 - 1) * 2.0**format.mantissa_bits
    exponent = (exponent - base).to(torch.int64)
    fits = (mantissa >= 0.5) & (whole == whole.round()) & (exponent < 2**format.exponent_bits)
    _require(bool(fits.all()), f"values are not minifloats of {format.exponent_bits} + {format.mantissa_bits} bits")
    codes = (exponent << format.mantissa_bits) + whole.to(torch.int64)
    return {
        "values": pack_bits(codes, format.bits),
        **_encode_companion("scale", torch.exp2(base.double() - 1), Power()),
    }


def _decode_minifloats(parts: dict[str, Tensor], format: Minifloat, count: int) -> Tensor:
    _require("scale" in parts, "the base is missing")
    base = decode_tensor({"values": parts["scale"]}, Power(), ()).double()
    codes = unpack_bits(parts["values"], format.bits, count)
    exponent, whole = codes >> format.mantissa_bits, codes & (2**format.mantissa_bits - 1)
    values = (torch.exp2(exponent.double()) * (1 + whole / 2.0**format.mantissa_bits) * base).float()
    _require(bool(torch.isfinite(values).all()), "minifloats beyond those of float32")
    return values


def _encode_companion(name: str, tensor: Tensor | None, format: AnyFormat) -> dict[str, Tensor]:
    _require(tensor is not None, f"the {name} is missing")
    assert tensor is not None
    return {name: encode_tensor(tensor, format)["values"]}


def _decode_companions(parts: dict[str, Tensor], format: GridFormat, shape: torch.Size) -> tuple[Tensor, Tensor | None]:
    _require("scale" in parts, "the scale is missing")
    form = torch.Size([shape[0]] if format.scale == "channel" and shape else [])
    scale = decode_tensor({"values": parts["scale"]}, scale_format(format), form)
    if not (isinstance(format, Integer) and format.zero_point):
        return scale, None
    _require("zero_point" in parts, "the zero point is missing")
    return scale, decode_tensor({"values": parts["zero_point"]}, zero_point_format(format), form)
