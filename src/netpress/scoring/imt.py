"""The count of IMT Atlantique's course (DenseNet, CIFAR-10, 2022): profile.py and readme_score.md.

Their counter sees modules only, and forgets that convolutions may be grouped. ReLU and pools are functional calls in
all of their networks, so they cost nothing there; the option `modules` charges them as modules would be.

The counter knows one width, 16 bits for values and multiplications. What narrower numbers save is words of the rules
(params * bits / 32, ops * widest input / 32), for the students to put into their copy of the counter.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from netpress.scoring.arithmetic import Cost
from netpress.scoring.card import Counted, Row, ScoreCard, Tally
from netpress.scoring.conventions import CONVENTIONS, Convention, ScoreSettings
from netpress.scoring.rules import Rule, rule
from netpress.scoring.widths import Widths, WidthSettings
from netpress.settings import Fraction
from netpress.tracing.operations import Operation, Stored, Trace

DESCRIPTION = "IMT's course counter: half a value a parameter, groups ignored, activations and pools unseen"
SOURCE, TEXT = "IMT's profile.py", "IMT's readme_score.md"
HALF, FULL = 16, 32
ALTERNATIVES: tuple[dict[str, str], ...] = ({"additions": "32"}, {"formats": "ignored"})
"""Other readings of the rules; the card of a network with number formats gives the score by each."""


class ImtSettings(ScoreSettings):
    """What the course's counter is told."""

    convention: Literal["imt"] = "imt"
    claimed_sparsity: Fraction = 0.0
    """Part of all parameters that is taken as pruned, whatever the network holds."""
    modules: bool = False
    """Count ReLU and average pools too, as that counter does where they are modules; in its networks none is."""
    groups: Literal["ignored", "honoured"] = "ignored"
    """A convolution in groups: as if it read all channels, as their counter has it, or by what it multiplies."""
    totals: Literal["exact", "float32"] | None = None
    """Sums over layers exact (default), or in float32 as their counter does."""
    formats: Literal["counted", "ignored"] = "counted"
    """Of a network with number formats: their widths, by the words of the course's rules; or 16 bits for every value
    and multiplication, as their counter has it for any network."""
    additions: Literal["inputs", "32"] = "inputs"
    """Where number formats are counted: additions as wide as the widest input of their layer, as the rules say of all
    operations; or 32 bits wide, as in their counter."""


@rule("every parameter as half a value; pruned ones are left out, without a mask", TEXT)
def counter_bits() -> int:
    return HALF


@rule("a parameter of n bits as n/32 of a value; pruned ones are left out, without a mask", TEXT)
def own_bits(widths: Widths, tensor: Stored) -> int:
    return widths.stored(tensor).bits


@rule("an operation whose widest input has n bits as n/32 of one, multiplications and additions alike", TEXT)
def widest_input(widths: Widths, operation: Operation, trace: Trace) -> float:
    if operation.kind in ("conv", "linear"):
        return max(widths.weight(operation, trace).bits, widths.operand(operation).bits)
    numbers = widths.float.bits if operation.kind == "norm" else 0  # its scales and shifts
    return max(*widths.element(operation), numbers)


@rule("a convolution: half an operation a multiplication, one an addition; groups are ignored", SOURCE)
def convolution(operation: Operation) -> Cost:
    window = math.prod(operation.attributes["kernel"]) * operation.attributes["in_channels"]
    return dense_products(window, operation.outputs, operation.has_bias)


@rule("a convolution: half an operation a multiplication, one an addition; of the channels of its own group", "ours")
def grouped_convolution(operation: Operation) -> Cost:
    return dense_products(operation.window, operation.outputs, operation.has_bias)


@rule("a norm: 3 operations an element; it is never folded", SOURCE)
def norm(operation: Operation) -> Cost:
    return Cost(0, 3 * operation.outputs)


@rule("a linear layer: its bias is not added", SOURCE)
def linear(operation: Operation) -> Cost:
    return dense_products(operation.window, operation.outputs, False)


@rule("not seen: functional relu, pools, concatenation, residual additions", SOURCE)
def unseen(operation: Operation) -> str:
    return "a functional call in their networks, which their counter does not see"


@rule("zeros save no operations", TEXT)
def dense_products(window: int, outputs: int, bias: bool) -> Cost:
    return Cost(window * outputs, (window - 1 + bias) * outputs)


CONVOLUTIONS = {"ignored": convolution, "honoured": grouped_convolution}
RULES: tuple[Rule[..., Any], ...] = (norm, linear, unseen, dense_products)


def relu_module(operation: Operation) -> Cost:
    return Cost(0, operation.outputs)


def average_module(operation: Operation) -> Cost:
    """An average pool of k x k is charged k: the kernel size is one number there."""
    return Cost(0, sum(math.isqrt(window) * count for window, count in operation.windows))


_LAYERS: dict[str, Callable[[Operation], Cost]] = {"linear": linear, "norm": norm}
_MODULES: dict[tuple[str, str], Callable[[Operation], Cost]] = {
    ("activation", "relu"): relu_module,
    ("pool", "average"): average_module,
}


@dataclass(frozen=True)
class _Charges:
    """How wide everything is that a trace has: by the counter (no widths), or by the network's own formats."""

    trace: Trace
    settings: ImtSettings
    widths: Widths | None

    def operate(self, tally: Tally, operation: Operation, cost: Cost) -> None:
        multiplication, addition = float(HALF), float(FULL)
        if self.widths is not None:
            multiplication = widest_input(self.widths, operation, self.trace)
            addition = FULL if self.settings.additions == "32" else multiplication
        tally.multiply(cost.multiplications, multiplication)
        tally.add(cost.additions, addition)

    def store(self, tally: Tally, tensor: Stored) -> None:
        """Charge a parameter; what is stored otherwise (statistics, zero points) is no parameter, and free."""
        if tensor.role == "parameter":
            pruned = self.settings.claimed_sparsity
            values = tensor.count if pruned or len(tensor.shape) < 2 else tensor.nonzeros
            bits = counter_bits() if self.widths is None else own_bits(self.widths, tensor)
            tally.store(values * (1 - pruned) * bits, 0, tensor.count, tensor.nonzeros)

    def rules(self) -> tuple[Rule[..., Any], ...]:
        of_widths = (counter_bits,) if self.widths is None else (own_bits, widest_input)
        return (*of_widths, CONVOLUTIONS[self.settings.groups], *RULES)


def count(trace: Trace, settings: ImtSettings, formats: Mapping[str, Any]) -> Counted:
    """Count a trace as the course did; number formats by the words of its rules, which are counted otherwise too."""
    charges = _Charges(trace, settings, _own_widths(trace, settings, formats))
    rows = list(_rows(charges))
    others: dict[str, tuple[float, float]] = {}
    for choice in ALTERNATIVES if charges.widths is not None else ():
        if any(getattr(settings, key) != value for key, value in choice.items()):
            then = settings.model_copy(update=choice)
            rows_then = list(_rows(_Charges(trace, then, _own_widths(trace, then, formats))))
            totals = sum(row.params for row in rows_then), sum(row.operations for row in rows_then)
            others[", ".join(f"{key} = {value}" for key, value in choice.items())] = totals
    pruned = settings.claimed_sparsity
    assumed = (f"{pruned:.1%} of all parameters pruned",) if pruned else ()
    in_float32 = _sum_in_float32(rows)
    totals_then = (sum(row.params for row in rows), in_float32) if settings.totals == "float32" else None
    extra = {"flops": in_float32}
    return Counted(tuple(rows), charges.rules(), assumed, extra=extra, totals=totals_then, alternatives=others)


def _own_widths(trace: Trace, settings: ImtSettings, formats: Mapping[str, Any]) -> Widths | None:
    """The widths of a network that has number formats, if they are to be counted."""
    if not formats or settings.formats == "ignored":
        return None
    return Widths(trace, formats, WidthSettings(freebie=False))


def _rows(charges: _Charges) -> Iterator[Row]:
    trace, settings = charges.trace, charges.settings
    layers = _LAYERS | {"conv": CONVOLUTIONS[settings.groups]}
    charged: set[str] = set()
    for operation in trace.operations:
        tally = Tally.of(operation)
        charge = layers.get(operation.kind)
        if charge is None and settings.modules and operation.in_leaf:
            charge = _MODULES.get((operation.kind, operation.function))
        if charge is None:
            tally.uncounted = unseen(operation)
        else:
            charges.operate(tally, operation, charge(operation))
        for tensor in (trace.stored[name] for name in operation.tensors if name not in charged):
            charged.add(tensor.name)
            charges.store(tally, tensor)
        yield tally.row()
    for tensor in trace.unused:  # their sum is over all parameters of the module
        if tensor.role == "parameter" and not tensor.folded_into:
            tally = Tally(tensor.name, "unused")
            charges.store(tally, tensor)
            yield tally.row()


def _sum_in_float32(rows: list[Row]) -> float:
    operations = np.float32(0)
    for row in rows:
        operations += np.float32(row.operations)
    return float(operations)


def print_as_they_did(card: ScoreCard) -> tuple[str, ...]:
    """The last lines of their profile.py, with the digits of their slides.

    The sum of operations is the one in float32. On the slides parameters are cut to a whole number, and of the three
    scores, to four decimals, that of the operations is cut (.027177: 0.0271, and .230957: 0.2309), that of the
    parameters rounded (.008562: 0.0086). The final score is the sum before either (.035740: 0.0357), rounded.
    """
    flops, params = card.extra["flops"], card.params
    of_flops, of_params = flops / card.track.operations, params / card.track.params
    return (
        f"Flops: {flops}, Params: {float(math.trunc(params))}",
        f"Score flops: {math.trunc(of_flops * 10_000) / 10_000:.4f} Score Params: {of_params:.4f}",
        f"Final score: {of_flops + of_params:.4f}",
    )


CONVENTIONS.add("imt", Convention(DESCRIPTION, ImtSettings, count, print_as_they_did))
