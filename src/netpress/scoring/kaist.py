"""KAIST AI's own count (places 2 and 3 of the CIFAR-100 track, 2019): their notebook as revised after the review.

Source of every rule: repository Kthyeon/micronet_neurips_challenge, Score_MicroNet_revised notebook and its
Counting package. Their counter hangs on modules, so functional calls and operators cost nothing.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from netpress.scoring.arithmetic import ACTIVATIONS, Cost
from netpress.scoring.card import Counted, Row, Tally
from netpress.scoring.conventions import CONVENTIONS, Convention, ScoreSettings
from netpress.scoring.rules import rule
from netpress.tracing.operations import Operation, Trace

DESCRIPTION = "KAIST's revised notebook: 16-bit values and multiplications, a mask for every tensor, no operators"
SOURCE = "KAIST's revised notebook"


class KaistSettings(ScoreSettings):
    """How KAIST's notebook counts, before or after its revision."""

    convention: Literal["kaist"] = "kaist"
    mask: Literal["charged", "none"] | None = None
    """A mask for every tensor of more than one dimension (default), or none."""
    complete: bool = False
    """Count also what their hooks do not see: residual additions, gates, additions of the classifier's bias."""
    totals: Literal["exact", "float32"] | None = None
    """Sums over layers exact, or in float32 as their counter does (default)."""


@rule("values and multiplications at 16 bits, additions at 32", SOURCE)
def widths() -> tuple[int, int, int]:
    """Bits of values, multiplications, additions. Nothing is quantized: the challenge's gift."""
    return 16, 16, 32


@rule(
    "every tensor of more than one dimension: its non-zeros, and 1 bit an element for the mask, also if dense",
    SOURCE,
)
def storage(nonzeros: int, count: int, bits: int) -> tuple[int, int]:
    """Bits of values, and of the mask."""
    return nonzeros * bits, count


@rule(
    "a convolution: as many additions as multiplications by non-zeros, and a bias a channel (the folded norm)",
    SOURCE,
)
def convolution(operation: Operation) -> Cost:
    return Cost(operation.products, operation.products)


@rule("the classifier: inputs - 1 additions, its bias stored but not added", SOURCE)
def classifier(operation: Operation) -> Cost:
    """(inputs - 1) * outputs * density additions."""
    products = operation.products
    return Cost(products, products - products / operation.window)


@rule("hard-swish, or relu6: 4 multiplications, 1 addition; sigmoid 2 and 1", SOURCE)
def activation(operation: Operation) -> Cost | None:
    """The hook sits on ReLU6, which in their networks is always the inside of a hard-swish, and charges all of it."""
    function, outputs = operation.function, operation.outputs
    if function in ("hard_swish", "relu6"):
        return Cost(4, 1).times(outputs)
    return ACTIVATIONS[function].times(outputs) if operation.in_leaf else None


@rule("an average over n places: n additions, 1 multiplication", SOURCE)
def average(operation: Operation) -> Cost:
    return Cost(operation.outputs, operation.read)


@rule("not counted: norms, residual additions, scaling by a gate, whatever else is not a module", SOURCE)
def unseen(operation: Operation) -> str:
    return "folded, nothing is charged" if operation.kind == "norm" else "not a module that their counter knows"


RULES = (widths, storage, convolution, classifier, activation, average, unseen)


def count(trace: Trace, settings: KaistSettings, formats: Mapping[str, Any]) -> Counted:
    """Count a trace as KAIST did. Number formats play no part: everything is 16 bits."""
    masked = settings.mask != "none"
    value_bits, multiplication_bits, addition_bits = widths()
    charged: set[str] = set()
    rows = []
    for operation in trace.operations:
        tally = Tally.of(operation)
        cost = _with_unseen(operation) if settings.complete else _cost(operation)
        if cost is None:
            tally.uncounted = unseen(operation)
        else:
            tally.multiply(cost.multiplications, multiplication_bits)
            tally.add(cost.additions, addition_bits)
        if operation.kind in ("conv", "conv_transpose", "linear"):
            _store(operation, trace, tally, charged, masked, value_bits)
        rows.append(tally.row())
    assumed = [] if masked else ["no mask is charged"]
    if settings.complete:
        assumed.append("residual additions, gates and the classifier's bias counted, unlike their notebook")
    if settings.totals == "exact" or settings.complete:
        return Counted(tuple(rows), RULES, tuple(assumed))
    exact = sum(row.operations for row in rows)
    totals = sum(row.params for row in rows), _sum_in_float32(rows)
    notes = (f"operations are summed in float32, as their counter does; exactly they are {exact:,.2f}",)
    return Counted(tuple(rows), RULES, tuple(assumed), notes, totals=totals)


def _sum_in_float32(rows: list[Row]) -> float:
    """Total operations with float32 buffers for additions and multiplications, convolutions before the rest.

    Which order their modules have is not known; with this one every printed total comes out.
    """
    _, multiplication_bits, addition_bits = widths()
    sums = []
    for name, bits in (("additions", addition_bits), ("multiplications", multiplication_bits)):
        kinds: dict[str, np.float32] = {}
        for row in rows:
            kinds[row.kind] = kinds.get(row.kind, np.float32(0)) + np.float32(getattr(row, name))
        total = np.float32(0)
        for value in kinds.values():
            total += value
        sums.append(float(total) * bits / 32)
    return sum(sums)


def _store(operation: Operation, trace: Trace, tally: Tally, charged: set[str], masked: bool, value_bits: int) -> None:
    new = [trace.stored[name] for name in operation.tensors if name not in charged]
    charged.update(tensor.name for tensor in new)
    for tensor in new:
        if len(tensor.shape) > 1:
            bits, mask = storage(tensor.nonzeros, tensor.count, value_bits)
            tally.store(bits, mask if masked else 0, tensor.count, tensor.nonzeros)
    if new and (operation.kind != "linear" or operation.has_bias):
        tally.store(operation.channels * value_bits)


def _cost(operation: Operation) -> Cost | None:
    """What their hooks see of an operation; None where they see nothing."""
    if operation.kind in ("conv", "conv_transpose"):
        return convolution(operation)
    if operation.kind == "linear":
        return classifier(operation)
    if operation.kind == "pool" and operation.function == "average":
        return average(operation)
    return activation(operation) if operation.kind == "activation" else None


def _with_unseen(operation: Operation) -> Cost | None:
    """As `_cost`, with residual additions, gates, and additions of the classifier's bias."""
    cost = _cost(operation)
    if operation.kind == "add" and len(operation.sources) > 1:
        return Cost(0, operation.outputs)
    if operation.kind == "multiply" and len(operation.sources) > 1:
        return Cost(operation.outputs, 0)
    if cost is not None and operation.kind == "linear" and operation.has_bias:
        return Cost(cost.multiplications, cost.additions + operation.outputs)
    return cost


CONVENTIONS.add("kaist", Convention(DESCRIPTION, KaistSettings, count))
