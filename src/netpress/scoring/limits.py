"""The `[limits]` table of a recipe: what the result may take, and what to do where it would take more.

    [limits]
    flash = "256K"     # K is 1024 bytes, M 1024 K; a plain number is bytes
    ram = "64K"
    score = 0.002      # by the recipe's convention

`netpress plan`, and every run before it begins, refuses a recipe whose result would need more, or lets its [fit] table
choose (`netpress.runs.fitting`). How flash and memory are counted: `netpress.scoring.memory`.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator
from torch import Tensor

from netpress.errors import UserError, quote
from netpress.network import Network
from netpress.network.tensors import stored_bytes
from netpress.numerics.formats import parse_format
from netpress.process.console import write_bytes
from netpress.scoring.card import ScoreCard
from netpress.scoring.memory import tensor_bytes
from netpress.settings import Positive, Settings, at_least, at_most

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
    score: Positive | None = None
    """The highest score, by the convention of [score]."""


@dataclass(frozen=True)
class Taken:
    """What a network takes of what one limit allows, in bytes or as a score.

    `margin` is the share by which it may turn out more, where it is foreseen and not found.
    """

    name: str
    limit: float
    found: float
    margin: float = 0.0

    @property
    def most(self) -> float:
        """What it takes at worst; whole bytes."""
        most = self.found * (1 + self.margin)
        return most if self.name == "score" else math.ceil(most)

    @property
    def fits(self) -> bool:
        return self.most <= self.limit

    @property
    def excess(self) -> str:
        """By how much it is too much, in words."""
        return f"{write_amount(self.name, self.most - self.limit)} too {'high' if self.name == 'score' else 'many'}"

    def __str__(self) -> str:
        """For people: flash 201.3 KiB of 256.0 KiB."""
        called = "RAM" if self.name == "ram" else self.name
        margin = f" + {self.margin:.0%}" if self.margin else ""
        return f"{called} {write_amount(self.name, self.found)}{margin} of {write_amount(self.name, self.limit)}"

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        figures = {"name": self.name, "limit": self.limit, "found": self.found, "fits": self.fits}
        return figures | ({"margin": self.margin} if self.margin else {})


def write_amount(name: str, amount: float) -> str:
    """An amount of what the limit called `name` limits, with its unit."""
    return f"{amount:.5f}" if name == "score" else write_bytes(round(amount))


def list_taken(limits: Limits, card: ScoreCard) -> list[Taken]:
    """What the network of the `card`, which must carry a footprint, takes of each limit that there is."""
    return list(_take(limits, card))


def _take(limits: Limits, card: ScoreCard) -> Iterator[Taken]:
    assert card.footprint is not None
    found = {"flash": card.footprint.flash_bytes, "ram": card.footprint.ram_bytes, "score": card.score}
    for name, limit in limits:
        if limit is not None:
            yield Taken(name, limit, found[name])


def list_excess(limits: Limits, card: ScoreCard, network: Network) -> dict[str, str]:
    """For each limit that the network does not keep a sentence: by how much, where, and what would fit.

    `card` is the network's, with its footprint.
    """
    assert card.footprint is not None
    problems = {}
    for taken in list_taken(limits, card):
        if taken.fits:
            continue
        if taken.name == "flash":
            problem = f"the network takes {_beyond(taken)}; {suggest_flash(network, int(taken.limit))}"
        elif taken.name == "ram":
            problem = (
                f"activations take {_beyond(taken)}, {card.footprint.tell_peak()}; a narrower network, smaller images "
                "or fewer bits for what enters layers need less"
            )
        else:
            problem = (
                f"the network scores {_beyond(taken)} by the {card.convention} convention: {card.params_score:.5f} for "
                f"what it stores and {card.operations_score:.5f} for operations; fewer channels, more zeros or fewer "
                "bits score less"
            )
        problems[taken.name] = f"limits.{taken.name}: {problem}"
    return problems


def check_limits(limits: Limits, card: ScoreCard, network: Network, undecided: Collection[str] = ()) -> None:
    """Raise UserError for a limit that the network would not keep, unless what it limits is `undecided` as yet."""
    problems = [text for name, text in list_excess(limits, card, network).items() if name not in undecided]
    if problems:
        raise UserError("\n".join(problems))


def _beyond(taken: Taken) -> str:
    found, limit = (write_amount(taken.name, amount) for amount in (taken.found, taken.limit))
    return f"{found} of {limit}, {taken.excess}"


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
            # Layers that have fewer weights already are left so: all together more than `percent` is gone.
            return f"{math.ceil(100 * (1 - sum(kept.values()) / total))}% of all weights pruned{known}"
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
    tensors = {name: state[name] for name in (*weights, *scales)}
    sizes = stored_bytes(tensors, (), kept, formats, network.whole_patterns())
    return sum(sizes[name] for name in weights)
