"""What a network stores, including what a forward pass calculates from stored tensors alone.

For `x @ (u @ v)` the network stores the product `u @ v`, not `u` and `v`: the product can be calculated once, before
any example. Four rules follow:

- A value that depends on stored tensors and constants alone is folded, so calculating it costs nothing.
- A stored tensor in another place (a view, a transpose, a slice, a cast, several joined) stores nothing new.
- A value calculated from stored tensors is stored itself, once and with its own zeros, where it meets the input's
  values. The tensors that it was made of need not be stored.
- A constant that repeats one number and comes from no stored tensor is part of the program, as in `x * 0.5`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from netpress.tracing.operations import Stored
from netpress.tracing.terms import count_nonzeros, readable

_KEEPS = """
view _unsafe_view reshape _reshape_alias permute t transpose slice select expand cat stack split split_with_sizes
unsafe_split unsafe_split_with_sizes unsafe_chunk chunk unbind squeeze unsqueeze clone alias detach contiguous
constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d narrow flatten unflatten repeat
roll flip _to_copy to lift lift_fresh lift_fresh_copy as_strided view_as movedim pixel_shuffle pixel_unshuffle im2col
unfold diagonal resolve_conj resolve_neg expand_copy dropout
"""
KEEPS = frozenset(_KEEPS.split())
"""Operators that keep a stored tensor's values as they are, or as a narrower type has them, in other places."""


@dataclass(eq=False, slots=True)
class Made:
    """A constant that a forward pass calculated. `origins` are the stored tensors that it depends on."""

    tensor: Tensor
    origins: tuple[str, ...] = ()
    name: str | None = None
    """Under which it is stored, once it has met the input's values; empty if it need not be."""


Part = str | Made
"""What a constant consists of: stored tensors by name, and what was calculated from such."""


@dataclass(eq=False, slots=True)
class Value:
    """What is known of a tensor: the operation that made it, or if it is constant, what it consists of."""

    tensor: Tensor  # kept, so that its id stays its own
    source: str = ""
    parts: tuple[Part, ...] = ()
    serial: int = 0

    @property
    def constant(self) -> bool:
        return not self.source

    @property
    def derived(self) -> bool:
        """Whether it was calculated, and is not just stored tensors in other places."""
        return any(isinstance(part, Made) for part in self.parts)

    @property
    def origins(self) -> tuple[str, ...]:
        names = ([part] if isinstance(part, str) else part.origins for part in self.parts)
        return tuple(dict.fromkeys(name for group in names for name in group))


@dataclass
class Store:
    """The tensors that a network keeps, by name, as a recording finds them."""

    tensors: dict[str, Stored] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    masked: dict[int, Tensor] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)
    digests: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def add(self, name: str, tensor: Tensor, role: str, mask: Tensor | None = None) -> None:
        """Keep `tensor` under `name`: a parameter, a buffer, or a constant of a user's module."""
        self.names[id(tensor)] = name
        self.kept.append(tensor)
        values = nonzeros = tensor.numel()
        if mask is not None:
            values = nonzeros = int(mask.sum())
        if not tensor.is_meta and tensor.dim() > 1:
            exists = readable(tensor)
            exists = exists if mask is None else exists * mask.to(tensor.device)
            nonzeros = int(count_nonzeros(exists))
            values = nonzeros if mask is None else values
            if mask is not None:
                self.masked[id(tensor)] = exists
        bits = 8 * tensor.dtype.itemsize
        self.tensors[name] = Stored(name, tuple(tensor.shape), values, nonzeros, role, bits=bits)

    def literal(self, tensor: Tensor, path: str) -> Value:
        """The value of a tensor that is new to the store: a user's module keeps it in its own way, or writes it out."""
        if not tensor.dim():
            return Value(tensor, parts=(Made(tensor),))
        key = _digest(tensor)
        name = self.digests.get(key) if key else None
        if name is None:
            name = self.free_name(path, "constant")
            self.add(name, tensor, "constant")
            if key:
                self.digests[key] = name
        return Value(tensor, parts=(name,))

    def free_name(self, path: str, role: str) -> str:
        name = f"{path}.{role}" if path else role
        while name in self.tensors:
            name += "'"
        return name

    def use(self, value: Value, path: str, role: str) -> tuple[str, ...]:
        """The names of what must be stored for a constant that meets the input's values.

        A calculated part gets its name here.
        """
        names = []
        for part in value.parts:
            name = part if isinstance(part, str) else self._keep(part, path, role)
            if name:
                self.tensors[name] = replace(self.tensors[name], used=True)
                names.append(name)
        return tuple(dict.fromkeys(names))

    def _keep(self, part: Made, path: str, role: str) -> str:
        if part.name is not None:
            return part.name
        tensor = distinct(part.tensor)
        if not part.origins and (tensor.numel() <= 1 or _uniform(tensor)):
            part.name = ""
            return ""
        key = _digest(tensor)
        name = self.digests.get(key) if key else None
        if name is None:
            name = self.free_name(path, role)
            origins = [self.tensors[origin] for origin in part.origins]
            roles = {origin.role for origin in origins}
            # A weight that is made with a mask or a norm's vectors is a weight.
            self.add(name, tensor, next((role for role in ("parameter", "buffer") if role in roles), "constant"))
            entry = self.tensors[name]
            if tensor.is_meta and len(origins) == 1 and origins[0].count == entry.count:
                entry = replace(entry, values=origins[0].values, nonzeros=origins[0].nonzeros)
            self.tensors[name] = replace(entry, made_of=part.origins)
            if key:
                self.digests[key] = name
        for origin in part.origins:
            self.tensors[origin] = replace(self.tensors[origin], folded_into=name)
        part.name = name
        return name


def of_constants(operator: str, inputs: Sequence[Value], result: Tensor) -> Value:
    """What an operator makes of constants alone."""
    parts: dict[int | str, Part] = {}
    for value in inputs:
        parts.update((part if isinstance(part, str) else id(part), part) for part in value.parts)
    # A part of what was calculated is all that need be stored of it.
    cut = len(inputs) == 1 and inputs[0].derived and result.numel() < inputs[0].tensor.numel()
    # What is calculated and then joined is stored as one: exporters do both beforehand.
    joined = len(inputs) > 1 and all(isinstance(part, Made) and part.name is None for part in parts.values())
    if inputs and operator.rstrip("_") in KEEPS and not cut and not joined:
        return Value(result, parts=tuple(parts.values()))
    origins = dict.fromkeys(name for value in inputs for name in value.origins)
    return Value(result, parts=(Made(result, tuple(origins)),))


def distinct(tensor: Tensor) -> Tensor:
    """The tensor without what it only repeats: dimensions along which it was expanded have length 1."""
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if size > 1 and stride == 0:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def _uniform(tensor: Tensor) -> bool:
    if tensor.is_meta:
        return False
    first = tensor.reshape(-1)[0]
    return bool((tensor == first).all()) or bool(tensor.isnan().all())


def _digest(tensor: Tensor) -> tuple[Any, ...] | None:
    """Equal for tensors of equal values, so that what is made at each call is stored once. None without values."""
    if tensor.is_meta or tensor.is_complex():
        return None
    array = np.ascontiguousarray(readable(tensor).cpu().numpy())
    return tuple(tensor.shape), str(tensor.dtype), hashlib.blake2b(array.tobytes(), digest_size=16).digest()
