"""What a network takes on the device that it is meant for: flash, memory of activations, multiply-adds.

    measure_footprint(trace_network(network), network).ram_bytes

Flash is what the network stores, packed as its file has it: weights, masks, scales, biases, statistics of norms.

Memory is that of activations while the trace runs, operation by operation, at batch 1 (`netpress.tracing.buffers`): the
image and every result, each from the operation that makes it to the last that reads it, without reuse in place. A value
is as wide as the network computes it: 32 bits without number formats, else what `*` says. What exactly one quantized
layer reads is stored as it enters that layer; what is read elsewhere too stays as wide as it is computed, since each
layer has a scale of its own. Buffers are packed to whole bytes. What a runtime needs besides (scratch memory of
convolutions, code) is not counted, and one that fuses operations or streams rows needs less.

Nothing is assumed here, whatever a convention is told to assume.
"""

from collections.abc import Mapping
from typing import Any

from netpress.network import Network
from netpress.network.edits.folding import mergeable_norms
from netpress.network.tensors import stored_bytes
from netpress.numerics.layers import quantized_layers
from netpress.scoring.footprint import Footprint, Need
from netpress.scoring.widths import Widths, WidthSettings
from netpress.tracing.buffers import Lifetime, alive_at, find_lifetimes, sum_alive
from netpress.tracing.operations import Operation, Trace


def measure_footprint(
    traced: Trace, network: Network | None = None, formats: Mapping[str, Any] | None = None
) -> Footprint:
    """The footprint of a trace: of a network, or of a foreign module or file with its `formats`.

    Of a path that depends on the example, the one that needs most memory counts.
    """
    formats = network.formats if network is not None else formats or {}
    flash = sum(tensor_bytes(network).values()) if network is not None else _foreign_flash(traced, formats)
    needs, alive = max((_walk(path, formats) for path in traced.paths or (traced,)), key=_highest)
    return Footprint(flash, needs, alive, traced.multiply_adds, traced.nonzero_multiply_adds)


def tensor_bytes(network: Network) -> dict[str, int]:
    """The bytes that the network's file would hold for each tensor, mask included (`netpress inspect` shows them).

    Buffers whose values are all equal take none; but of a network that has seen no images, statistics count in full, as
    they will be once it has, unless it is planned to be quantized, which merges them into their norms.
    """
    buffers = dict(network.module.named_buffers(remove_duplicate=False))
    kept, patterns = {name: int(mask.sum()) for name, mask in network.masks.items()}, network.whole_patterns()
    state = network.module.state_dict()
    if network.data is not None or "accuracy" in network.facts:
        return stored_bytes(state, buffers, kept, network.formats, patterns)
    state |= {name: buffer.to("meta") for name, buffer in buffers.items() if name in state}
    sizes = stored_bytes(state, buffers, kept, network.formats, patterns)
    merged = mergeable_norms(network.module) if quantized_layers(network.module) else ()
    return sizes | {f"{name}.{statistic}": 0 for name in merged for statistic in ("running_mean", "running_var")}


Walk = tuple[tuple[Need, ...], tuple[tuple[str, int], ...]]


def _walk(path: Trace, formats: Mapping[str, Any]) -> Walk:
    """What each operation needs, and what is alive at the peak."""
    widths = Widths(path, formats, WidthSettings())
    lifetimes = find_lifetimes(path)
    operations = path.by_name
    sizes = [-(-lifetime.elements * _bits(lifetime, operations, widths) // 8) for lifetime in lifetimes]
    if not path.operations:  # the image alone goes in and comes out
        image = tuple((lifetime.name, size) for lifetime, size in zip(lifetimes, sizes, strict=True))
        elements = sum(lifetime.elements for lifetime in lifetimes)
        return (Need("image", "input", (1, elements), sum(sizes)),), image
    totals = sum_alive(lifetimes, sizes, len(path.operations))
    needs = tuple(
        Need(operation.name, operation.function, operation.output, total)
        for operation, total in zip(path.operations, totals, strict=True)
    )
    size_of = {lifetime.name: size for lifetime, size in zip(lifetimes, sizes, strict=True)}
    alive = alive_at(lifetimes, totals.index(max(totals)))
    return needs, tuple((lifetime.name, size_of[lifetime.name]) for lifetime in alive)


def _highest(walk: Walk) -> int:
    return max(need.bytes for need in walk[0])


def _bits(lifetime: Lifetime, operations: Mapping[str, Operation], widths: Widths) -> int:
    """The width of a buffer's values: as its only reader takes them in, if that is a quantized layer, else as made."""
    made = max(widths.values[name].bits for name in lifetime.holds)
    if len(lifetime.readers) == 1 and lifetime.last < len(operations):
        reader = operations[lifetime.readers[0]]
        entering = widths.formats.get(f"{reader.module}.input")
        if entering is not None and reader.weight is not None:
            return min(made, entering.bits)
    return made


def _foreign_flash(traced: Trace, formats: Mapping[str, Any]) -> int:
    """Every tensor that an operation uses, at the width of its format, or as torch keeps it, with its scales."""
    widths = Widths(traced, formats, WidthSettings())
    total = 0
    for tensor in traced.stored.values():
        if not tensor.used:
            continue
        stored = widths.formats.get(tensor.name)
        bits = tensor.count * (tensor.bits if stored is None else stored.bits)
        total += -(-bits // 8)
        if stored is not None:
            total += -(-int(Widths.scale_bits(stored, tensor.shape)) // 8)
    return total
