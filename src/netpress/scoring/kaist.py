"""KAIST AI's own count (places 2 and 3 of the CIFAR-100 track, 2019): their notebook as revised after the review.

Source of every rule: repository Kthyeon/micronet_neurips_challenge, Score_MicroNet_revised notebook and its
Counting package. Their counter hangs on modules, so functional calls and operators cost nothing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from netpress.scoring.arithmetic import ACTIVATIONS, Cost
from netpress.scoring.card import Counted, Row, Rule, Tally
from netpress.scoring.settings import ScoreSettings
from netpress.tracing.operations import Operation, Trace

DESCRIPTION = "KAIST's revised notebook: 16-bit values and multiplications, a mask for every tensor, no operators"
SOURCE = "KAIST's revised notebook"
# The hook sits on ReLU6, which in their networks is always the inside of a hard-swish, and charges all of it.
HARD_SWISH = Cost(4, 1)
VALUE_BITS = MULTIPLICATION_BITS = 16  # nothing is quantized: the challenge's gift
ADDITION_BITS = 32
RULES = (
    Rule("values and multiplications at 16 bits, additions at 32", SOURCE),
    Rule(
        "every tensor of more than one dimension: its non-zeros, and 1 bit an element for the mask, also if dense",
        SOURCE,
    ),
    Rule(
        "a convolution: as many additions as multiplications by non-zeros, and a bias a channel (the folded norm)",
        SOURCE,
    ),
    Rule("the classifier: inputs - 1 additions, its bias stored but not added", SOURCE),
    Rule("hard-swish, or relu6: 4 multiplications, 1 addition; sigmoid 2 and 1", SOURCE),
    Rule("an average over n places: n additions, 1 multiplication", SOURCE),
    Rule("not counted: norms, residual additions, scaling by a gate, whatever else is not a module", SOURCE),
)
UNSEEN = "not a module that their counter knows"


def count(trace: Trace, settings: ScoreSettings, formats: Mapping[str, Any]) -> Counted:
    """Count a trace as KAIST did. Number formats play no part: everything is 16 bits."""
    masked = settings.mask != "none"
    charged: set[str] = set()
    rows = []
    for operation in trace.operations:
        tally = Tally.of(operation)
        _operations(operation, tally, settings.complete)
        if operation.kind in ("conv", "conv_transpose", "linear"):
            _storage(operation, trace, tally, charged, masked)
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
    sums = []
    for name, bits in (("additions", ADDITION_BITS), ("multiplications", MULTIPLICATION_BITS)):
        kinds: dict[str, np.float32] = {}
        for row in rows:
            kinds[row.kind] = kinds.get(row.kind, np.float32(0)) + np.float32(getattr(row, name))
        total = np.float32(0)
        for value in kinds.values():
            total += value
        sums.append(float(total) * bits / 32)
    return sum(sums)


def _storage(operation: Operation, trace: Trace, tally: Tally, charged: set[str], masked: bool) -> None:
    new = [trace.stored[name] for name in operation.tensors if name not in charged]
    charged.update(tensor.name for tensor in new)
    for tensor in new:
        if len(tensor.shape) > 1:
            mask = tensor.count if masked else 0
            tally.store(tensor.nonzeros * VALUE_BITS, mask, tensor.count, tensor.nonzeros)
    if new and (operation.kind != "linear" or operation.has_bias):
        tally.store(operation.channels * VALUE_BITS)


def _operations(operation: Operation, tally: Tally, complete: bool) -> None:
    cost = _cost(operation)
    if complete and cost is None and operation.kind == "add" and len(operation.sources) > 1:
        cost = Cost(0, operation.outputs)
    elif complete and cost is None and operation.kind == "multiply" and len(operation.sources) > 1:
        cost = Cost(operation.outputs, 0)
    elif complete and cost is not None and operation.kind == "linear" and operation.has_bias:
        cost = Cost(cost.multiplications, cost.additions + operation.outputs)
    if cost is None:
        tally.uncounted = "folded, nothing is charged" if operation.kind == "norm" else UNSEEN
        return
    tally.multiply(cost.multiplications, MULTIPLICATION_BITS)
    tally.add(cost.additions, ADDITION_BITS)


def _cost(operation: Operation) -> Cost | None:
    products, outputs = operation.products, operation.outputs
    if operation.kind in ("conv", "conv_transpose"):
        return Cost(products, products)
    if operation.kind == "linear":
        # (inputs - 1) * outputs * density
        return Cost(products, products - products / operation.window)
    if operation.kind == "pool" and operation.function == "average":
        return Cost(outputs, operation.read)
    if operation.function in ("hard_swish", "relu6"):
        return HARD_SWISH.times(outputs)
    if operation.kind == "activation" and operation.function in ACTIVATIONS and operation.in_leaf:
        return ACTIVATIONS[operation.function].times(outputs)
    return None
