"""The `[limits]` table of a recipe: how much flash and memory the device has, and what to do where a network has none.

    [limits]
    flash = "256K"     # K is 1024 bytes, M 1024 K; a plain number is bytes
    ram = "64K"

`netpress plan`, and every run before it begins, refuses a recipe whose result would need more. How either is counted:
`netpress.scoring.memory`.
"""

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator
from torch import Tensor

from netpress.errors import UserError, quote
from netpress.network import Network
from netpress.network.tensors import stored_bytes
from netpress.numerics.formats import parse_format
from netpress.process.console import write_bytes
from netpress.scoring.footprint import Footprint
from netpress.scoring.memory import tensor_bytes
from netpress.settings import Settings, at_least, at_most

UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
WIDTHS = (16, 8, 7, 6, 5, 4, 3, 2)
SPARSEST = 99  # percent


def read_size(value: Any) -> Any:
    """Bytes from text: 256K, 1.5M, 64KiB or 65536. Raises ValueError; what is no text stays as it is."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([KMG]?)(?:i?B)?\s*", value, re.IGNORECASE)
    if not match:
        raise ValueError(f"{quote(value)} is no size; write bytes as 65536, 64K or 1.5M (K is 1024 bytes)")
    return int(float(match[1]) * UNITS[match[2].upper()])


Size = Annotated[int, at_least(1), at_most(2**40), BeforeValidator(read_size)]


class Limits(Settings):
    """What the device has for the result: of several networks, for the one that the recipe is for."""

    flash: Size | None = None
    """Bytes for what the network stores, as "256K" or 262144: K is 1024 bytes, M 1024 K."""
    ram: Size | None = None
    """Bytes for activations at their peak, likewise."""


def list_excess(limits: Limits, footprint: Footprint, network: Network) -> dict[str, str]:
    """For each limit that the network does not keep a sentence: by how much, where, and what would fit."""
    problems = {}
    if limits.flash is not None and footprint.flash_bytes > limits.flash:
        problems["flash"] = (
            f"limits.flash: the network takes {_beyond(footprint.flash_bytes, limits.flash)}; "
            f"{suggest_flash(network, limits.flash)}"
        )
    if limits.ram is not None and footprint.ram_bytes > limits.ram:
        problems["ram"] = (
            f"limits.ram: activations take {_beyond(footprint.ram_bytes, limits.ram)}, {footprint.tell_peak()}; a "
            "narrower network, smaller images or fewer bits for what enters layers need less"
        )
    return problems


def check_limits(limits: Limits, footprint: Footprint, network: Network, undecided: Collection[str] = ()) -> None:
    """Raise UserError for a limit that the network would not keep, unless what it limits is `undecided` as yet."""
    problems = [text for name, text in list_excess(limits, footprint, network).items() if name not in undecided]
    if problems:
        raise UserError("\n".join(problems))


def _beyond(bytes: int, limit: int) -> str:
    return f"{write_bytes(bytes)} of {write_bytes(limit)}, {write_bytes(bytes - limit)} too many"


def suggest_flash(network: Network, limit: int) -> str:
    """Which sparsity of all weights, and which width, would each alone make the network fit into `limit` bytes."""
    weights = network.weights()
    sizes = tensor_bytes(network)
    room = limit - sum(size for name, size in sizes.items() if name not in weights)
    offers = [
        text for text in (_fitting_sparsity(network, weights, room), _fitting_bits(network, weights, room)) if text
    ]
    if offers:
        return f"what would fit: {', or '.join(offers)}"
    return f"neither {SPARSEST}% of zeros nor weights of {WIDTHS[-1]} bits would fit: take a smaller network"


def _fitting_sparsity(network: Network, weights: Mapping[str, Tensor], room: int) -> str:
    now = {name: one.numel() for name, one in weights.items()}
    now |= {name: int(mask.sum()) for name, mask in network.masks.items() if name in weights}
    total = sum(weight.numel() for weight in weights.values())
    for percent in range(1, SPARSEST + 1):
        kept = {name: min(now[name], one.numel() - one.numel() * percent // 100) for name, one in weights.items()}
        if _weight_bytes(network, weights, kept, network.formats) <= room:
            known = f" (now {1 - sum(now.values()) / total:.0%})" if sum(now.values()) < total else ""
            return f"{percent}% of all weights pruned{known}"
    return ""


def _fitting_bits(network: Network, weights: Mapping[str, Tensor], room: int) -> str:
    kept = {name: int(mask.sum()) for name, mask in network.masks.items()}
    widest = max((_width(network.formats.get(name)) for name in weights), default=0)
    for bits in WIDTHS:
        one: dict[str, Any] = {"kind": "float16"} if bits == 16 else {"kind": "int", "bits": bits}
        formats = network.formats | dict.fromkeys(weights, one)
        if bits < widest and _weight_bytes(network, weights, kept, formats) <= room:
            return f"weights of {bits} bits (now {widest})"
    return ""


def _width(format: Mapping[str, Any] | None) -> int:
    return 32 if format is None else parse_format(format).bits


def _weight_bytes(
    network: Network, weights: Mapping[str, Tensor], kept: Mapping[str, int], formats: Mapping[str, Any]
) -> int:
    """Bytes of the weights if they had other masks or formats, with scales that the network does not keep yet."""
    state = network.module.state_dict()
    scales = [f"{name}_scale" for name in weights if f"{name}_scale" in state]
    sizes = stored_bytes({name: state[name] for name in (*weights, *scales)}, (), kept, formats)
    return sum(sizes[name] for name in weights)
