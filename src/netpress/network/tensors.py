"""What a network file stores of each tensor and each mask: encoding and decoding.

    stem.norm.weight                                      a tensor without format and mask, as it is
    stem.conv.weight#values, stem.conv.weight#mask        a tensor in parts: packed values, one bit a weight or a block
    stem.conv.weight_scale                                its scale, a tensor of the layer; no number is stored twice

`netpress.numerics.packing` makes the parts. Beside them each tensor has an entry in the file's JSON: its `shape`,
its `dtype` if that is not float32, `masked` if it has a mask, and `blocks` (as [1, 4]) if that mask has a bit a block
(`netpress.numerics.block_masks`). A buffer whose values are all equal (a counter, statistics that are merged into a
norm) is a `constant` in its entry and takes no bytes.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from netpress.numerics.block_masks import Pattern, describe_pattern, mask_bits
from netpress.numerics.formats import (
    AnyFormat,
    Binary,
    Fixed,
    Float32,
    Integer,
    Minifloat,
    Ternary,
    parse_format,
    scale_count,
    scale_format,
    zero_point_format,
)
from netpress.numerics.packing import (
    alignment_bits,
    decode_tensor,
    encode_tensor,
    pack_mask,
    packed_bytes,
    part_bits,
    unpack_mask,
)

Entry = dict[str, Any]
Formats = Mapping[str, Any]

PART = "#"  # between a tensor's name and the name of one of its parts
PARTS = ("values", "present", "scale", "zero_point", "mask")
SPARE = 4096  # values that constants may make beyond those that a file holds


def encode_state(
    state: Mapping[str, Tensor],
    buffers: Collection[str],
    masks: Mapping[str, Tensor],
    formats: Formats,
    patterns: Mapping[str, Pattern] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Entry]]:
    """What a file stores of `state` (tensors on the CPU), and the entry of each tensor.

    `buffers` names those that nothing trains, `patterns` the blocks of masks that are made of such. Raises ValueError
    for a tensor that is not made of values of its format, and for a mask that is not made of its blocks.
    """
    stored: dict[str, Tensor] = {}
    entries: dict[str, Entry] = {}
    for name, tensor in state.items():
        entry: Entry = {"shape": list(tensor.shape)}
        entries[name] = entry
        if tensor.dtype != torch.float32:
            entry["dtype"] = str(tensor.dtype).removeprefix("torch.")
        mask = masks[name].cpu() if name in masks else None
        if mask is not None:
            entry["masked"] = True
        pattern = (patterns or {}).get(name)
        if pattern is not None:
            entry["blocks"] = list(pattern)
        if name in buffers and (constant := _constant(tensor)) is not None:
            entry["constant"] = constant
        elif name not in formats and mask is None:
            stored[name] = tensor.contiguous()
        else:
            parts = encode_tensor(tensor, _format(name, formats), mask, *_own_grid(name, state))
            if mask is not None:
                parts["mask"] = pack_mask(mask, pattern)
            stored |= {f"{name}{PART}{part}": value.contiguous() for part, value in parts.items()}
    return stored, entries


def decode_state(
    entries: Mapping[str, Entry], formats: Formats, stored: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors and the masks that `encode_state` took apart.

    Every size is checked before anything of that size is made. Raises ValueError, TypeError or KeyError where entries
    and stored parts do not fit.
    """
    state: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    unread = set(stored)
    room = SPARE + sum(tensor.numel() for tensor in stored.values())
    for name in sorted(entries, key=lambda name: f"{name}_scale" in entries):  # scales before what they scale
        entry, shape = entries[name], tuple(entries[name]["shape"])
        if "constant" in entry:
            room -= torch.Size(shape).numel()
            if room < 0:
                raise ValueError(f"{name}: a constant of {list(shape)}, more than such a file can need")
            state[name] = torch.full(shape, entry["constant"], dtype=_dtype(entry))
            continue
        parts = _parts_of(name, stored)
        unread -= {name, *(f"{name}{PART}{part}" for part in parts)}
        if entry.get("masked"):
            masks[name] = unpack_mask(parts.pop("mask"), shape, pattern_of(entry))
        if name not in formats and not entry.get("masked"):
            tensor = stored[name]
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name}: its shape is {list(tensor.shape)}, not {list(shape)}")
            _check_type(name, tensor, entry)
        else:
            # Earlier files hold a scale twice: as a tensor and among the parts.
            grid = (None, None) if "scale" in parts else _own_grid(name, state)
            try:
                tensor = decode_tensor(parts, _format(name, formats), shape, masks.get(name), *grid)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            if isinstance(_format(name, formats), Float32):
                _check_type(name, tensor, entry)
        state[name] = tensor.to(_dtype(entry))
    if unread:
        raise ValueError(f"{min(unread)}: nothing says what it is")
    return {name: state[name] for name in entries}, masks


def pattern_of(entry: Entry) -> Pattern | None:
    """The blocks of a tensor's mask; None where a bit says it of one weight."""
    blocks = entry.get("blocks")
    return None if blocks is None else (blocks[0], blocks[1])


def inspect_state(entries: Mapping[str, Entry], formats: Formats, stored: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """For each tensor a row: its format, how many values are stored, and the bits that these, its mask and the
    alignment to whole bytes take. Raises as `decode_state`, since all of it is decoded.
    """
    _, masks = decode_state(entries, formats, stored)
    return [_inspect_tensor(name, entry, formats, masks.get(name), stored) for name, entry in entries.items()]


def stored_bytes(
    state: Mapping[str, Tensor],
    buffers: Collection[str],
    kept: Mapping[str, int],
    formats: Formats,
    patterns: Mapping[str, Pattern] | None = None,
) -> dict[str, int]:
    """The bytes that `encode_state` would make of each tensor, mask included, without making them.

    `kept` says of each tensor with a mask how many values this leaves, `patterns` which blocks it has, if any. Works on
    shapes too (the meta device): there a buffer of real numbers is taken to hold different values, and a ternary tensor
    to have zeros that no mask covers.
    """
    sizes = {}
    for name, tensor in state.items():
        if name in buffers and _takes_nothing(tensor):
            sizes[name] = 0
        elif name not in formats and name not in kept:
            sizes[name] = tensor.numel() * tensor.element_size()
        else:
            count = kept.get(name, tensor.numel())
            sizes[name] = _packed(tensor, count, _format(name, formats), f"{name}_scale" in state)
            sizes[name] += packed_bytes(mask_bits(tensor.shape, (patterns or {}).get(name)), 1) if name in kept else 0
    return sizes


def _takes_nothing(buffer: Tensor) -> bool:
    if buffer.is_meta:
        return not buffer.is_floating_point() and buffer.dim() == 0  # a counter
    return _constant(buffer) is not None


def _packed(tensor: Tensor, count: int, format: AnyFormat, own_scale: bool) -> int:
    """Bytes of `count` values of a tensor in a format, with their scales unless these are tensors of their own."""
    if isinstance(format, Float32):
        return count * tensor.element_size()
    if isinstance(format, Ternary):
        nonzeros = count if tensor.is_meta else min(count, int(tensor.count_nonzero()))
        present = packed_bytes(count, 1) if tensor.is_meta or nonzeros < count else 0
        size = present + packed_bytes(nonzeros, 1)
    else:
        size = packed_bytes(count, format.bits)
    scales = 0 if own_scale else scale_count(format, tensor.shape)
    if scales and isinstance(format, Fixed | Integer | Ternary | Binary | Minifloat):
        size += packed_bytes(scales, scale_format(format).bits)
        if isinstance(format, Integer) and format.zero_point:
            size += packed_bytes(scales, zero_point_format(format).bits)
    return size


def _inspect_tensor(
    name: str, entry: Entry, formats: Formats, mask: Tensor | None, stored: Mapping[str, Tensor]
) -> dict[str, Any]:
    parts, format, plain = _parts_of(name, stored), _format(name, formats), name not in formats
    pattern = pattern_of(entry)
    constant = "constant" in entry
    kind, bits = format.kind if not plain else str(entry.get("dtype", "float32")), format.bits
    if plain:
        bits = _dtype(entry).itemsize * 8
    if constant:
        kind, bits = f"constant {entry['constant']}", 0
    values = torch.Size(entry["shape"]).numel() if mask is None else int(mask.sum())
    return {
        "name": name,
        "shape": "x".join(str(length) for length in entry["shape"]) or "1",
        "format": kind,
        "bits": bits,
        "values": 0 if constant else values,
        "tensor_bits": 0 if constant else part_bits(parts or {name: stored[name]}),
        "mask_bits": 0 if mask is None else mask_bits(mask.shape, pattern),
        "mask": "" if mask is None else describe_pattern(pattern),
        "alignment_bits": 0 if constant else alignment_bits(parts, format, entry["shape"], mask, pattern),
    }


def _constant(buffer: Tensor) -> float | int | bool | None:
    """The value that all of a buffer has; None where values differ, and for single real numbers such as zero points."""
    if not buffer.numel() or (buffer.dim() == 0 and buffer.is_floating_point()):
        return None
    first = buffer.reshape(-1)[0]
    same = bool((buffer == first).all()) and bool((buffer.signbit() == first.signbit()).all())  # 0.0 is not -0.0
    return first.item() if same else None


def _format(name: str, formats: Formats) -> AnyFormat:
    return parse_format(formats.get(name) or Float32(), f"formats.{name}")


def _dtype(entry: Entry) -> torch.dtype:
    dtype = getattr(torch, entry.get("dtype", "float32"))
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{entry['dtype']} is no type of numbers")
    return dtype


def _check_type(name: str, tensor: Tensor, entry: Entry) -> None:
    """Stored as it is, a tensor has the type that its entry says: nothing is turned into another silently."""
    if tensor.dtype != _dtype(entry):
        raise ValueError(f"{name}: stored as {tensor.dtype}, its entry says {_dtype(entry)}")


def _parts_of(name: str, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {part: stored[f"{name}{PART}{part}"] for part in PARTS if f"{name}{PART}{part}" in stored}


def _own_grid(name: str, state: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Scale and zero point of a tensor where the network keeps them as tensors of their own."""
    return state.get(f"{name}_scale"), state.get(f"{name}_zero_point")
