"""In which memory the results of a forward pass lie, and how long each piece is needed.

    x = conv(image); y = relu(x); z = y.flatten(1) + x.flatten(1)

has four buffers: the image, x, y and z. A view is none: flatten shows the memory of y. x is needed from the convolution
to the addition, although ReLU has read it before.

The order is that of the trace, and no operation writes over what it reads: `relu_` has its own buffer, like `relu`.
A result that is put together in place, as by `y[:, :4] = a; y[:, 4:] = b`, is one buffer from the first of them on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from netpress.tracing.operations import INPUT, Trace
from netpress.tracing.untouched import storage_of


class Buffers:
    """Finds where results lie while a forward pass is recorded; the image lies in INPUT."""

    def __init__(self, image: Tensor) -> None:
        self.owners = {storage_of(image): INPUT}

    def place(self, name: str, result: Tensor, written: Sequence[Tensor]) -> tuple[str, int]:
        """The buffer of `result`, which the operation `name` made, and how many elements that has.

        It is a new one, called `name`, unless `result` shows, or was `written` into a part of, an earlier one.
        """
        # What was written to is the result itself, or where values have no place yet, stands for it; a norm's
        # statistics, which may be written to as well, are of another shape.
        target = next((tensor for tensor in written if tensor.shape == result.shape), None)
        place = result if target is None else target
        storage = storage_of(place)
        elements = place.untyped_storage().nbytes() // place.dtype.itemsize if storage else place.numel()
        owner = self.owners.get(storage) if storage else None
        if owner is None or (target is not None and target.numel() >= elements):
            owner = self.owners[storage] = name
        return owner, elements


@dataclass(frozen=True)
class Lifetime:
    """A buffer of a trace: `elements`, the places in the trace of the operations that make it and that read it last.

    `name` is that of the operation that makes it, or INPUT. The image is there `first` at -1, before all operations,
    and what the module returns is read `last` after all of them. `holds` names the operations whose results lie in it,
    and `readers` those that read it, without views.
    """

    name: str
    elements: int
    first: int
    last: int
    holds: tuple[str, ...]
    readers: tuple[str, ...]


def find_lifetimes(trace: Trace) -> list[Lifetime]:
    """The buffers of a trace (of one path), in the order in which they are made."""
    owner = {INPUT: INPUT} | {operation.name: operation.buffer or operation.name for operation in trace.operations}
    first, last = {INPUT: -1}, {INPUT: -1}
    elements = {INPUT: math.prod(trace.input_size)}
    holds: dict[str, list[str]] = {INPUT: [INPUT]}
    readers: dict[str, dict[str, None]] = {INPUT: {}}
    for place, operation in enumerate(trace.operations):
        own = owner[operation.name]
        if own not in first:
            first[own], holds[own], readers[own] = place, [], {}
            elements[own] = operation.buffer_elements or operation.outputs
        holds[own].append(operation.name)
        last[own] = place
        for source in operation.sources:
            last[owner[source]] = place
            if owner[source] != own:
                readers[owner[source]][operation.name] = None
    last.update((owner[name], len(trace.operations)) for name in trace.results)
    return [
        Lifetime(name, elements[name], first[name], last[name], tuple(holds[name]), tuple(readers[name]))
        for name in first
    ]


def sum_alive(lifetimes: list[Lifetime], sizes: list[int], places: int) -> list[int]:
    """How much is alive while each of `places` operations runs: the sum of the sizes of the buffers needed then."""
    changes = [0] * (places + 1)
    for lifetime, size in zip(lifetimes, sizes, strict=True):
        changes[max(lifetime.first, 0)] += size
        changes[min(lifetime.last + 1, places)] -= size
    return list(accumulate(changes[:places]))


def alive_at(lifetimes: list[Lifetime], place: int) -> list[Lifetime]:
    """The buffers that are needed while the operation at `place` runs."""
    return [lifetime for lifetime in lifetimes if lifetime.first <= place <= lifetime.last]
