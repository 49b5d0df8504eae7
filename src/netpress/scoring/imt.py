"""The count of IMT Atlantique's course (DenseNet, CIFAR-10, 2022): profile.py and readme_score.md.

Their counter hangs on modules and forgets that convolutions may be grouped. In all of their networks ReLU
and pools are functional calls, so they cost nothing; `modules` charges them as it would where they are modules.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from netpress.scoring.arithmetic import Cost
from netpress.scoring.card import Counted, Rule, Tally
from netpress.scoring.settings import ScoreSettings
from netpress.tracing.operations import Operation, Trace

DESCRIPTION = "IMT's course counter: half a value a parameter, groups ignored, activations and pools unseen"
SOURCE = "IMT's profile.py"
HALF, FULL = 16, 32
RULES = (
    Rule("every parameter as half a value; pruned ones are left out, without a mask", "IMT's readme_score.md"),
    Rule("a convolution: half an operation a multiplication, one an addition; groups are ignored", SOURCE),
    Rule("a norm: 3 operations an element; it is never folded", SOURCE),
    Rule("a linear layer: its bias is not added", SOURCE),
    Rule("not seen: functional relu, pools, concatenation, residual additions", SOURCE),
    Rule("zeros save no operations", SOURCE),
)


def count(trace: Trace, settings: ScoreSettings, formats: Mapping[str, Any]) -> Counted:
    """Count a trace as the course did. Number formats play no part: everything is 16 bits."""
    kept = 1 - settings.claimed_sparsity
    charged: set[str] = set()
    rows = []
    for operation in trace.operations:
        tally = Tally.of(operation)
        cost, bits = _cost(operation, settings.modules)
        if cost is None:
            tally.uncounted = "a functional call in their networks, which their counter does not see"
        else:
            tally.multiply(cost.multiplications, bits)
            tally.add(cost.additions, FULL)
        for tensor in (trace.stored[name] for name in operation.tensors if name not in charged):
            charged.add(tensor.name)
            if tensor.role == "parameter":
                values = tensor.count if settings.claimed_sparsity or len(tensor.shape) < 2 else tensor.nonzeros
                tally.store(values * kept * HALF, 0, tensor.count, tensor.nonzeros)
        rows.append(tally.row())
    for tensor in trace.unused:  # their sum is over all parameters of the module
        if tensor.role == "parameter" and not tensor.folded_into:
            tally = Tally(tensor.name, "unused")
            tally.store(tensor.count * kept * HALF, 0, tensor.count, tensor.nonzeros)
            rows.append(tally.row())
    assumed = (f"{settings.claimed_sparsity:.1%} of all parameters pruned",) if settings.claimed_sparsity else ()
    totals = None
    if settings.totals == "float32":
        operations = np.float32(0)
        for row in rows:
            operations += np.float32(row.operations)
        totals = (sum(row.params for row in rows), float(operations))
    return Counted(tuple(rows), RULES, assumed, totals=totals)


def _cost(operation: Operation, modules: bool) -> tuple[Cost | None, int]:
    outputs = operation.outputs
    if operation.kind == "conv":
        products = math.prod(operation.attributes["kernel"]) * operation.attributes["in_channels"]
        return Cost(products * outputs, (products - 1 + operation.has_bias) * outputs), HALF
    if operation.kind == "linear":
        return Cost(operation.window * outputs, (operation.window - 1) * outputs), HALF
    if operation.kind == "norm":
        return Cost(0, 3 * outputs), FULL
    if modules and operation.in_leaf and operation.function == "relu":
        return Cost(0, outputs), FULL
    if modules and operation.in_leaf and operation.kind == "pool" and operation.function == "average":
        # An average pool of k x k is charged k: the kernel size is one number there.
        return Cost(0, sum(math.isqrt(window) * count for window, count in operation.windows)), FULL
    return None, FULL
