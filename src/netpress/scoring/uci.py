"""UCI and Qualcomm's own count (EfficientNet, CIFAR-100, 2019): torchscope as they changed it, count.py.

One multiplication is half an operation or one ("mul factor"), one stored value likewise. No sparsity, no
folding of norms.
"""

from collections.abc import Mapping
from typing import Any

from netpress.scoring.arithmetic import Cost
from netpress.scoring.card import Counted, Row, Rule, Tally
from netpress.scoring.settings import ScoreSettings
from netpress.tracing.operations import Operation, Trace

DESCRIPTION = "UCI's torchscope: a multiplication and a value as half or one, norms never folded, no sparsity"
SOURCE = "UCI's count.py"
ADDITION_BITS = 32
RULES = (
    Rule("a multiplication and a stored value count half (16 bits), or both one", SOURCE),
    Rule("all parameters are stored, zeros too", SOURCE),
    Rule("a convolution of n products an output: n multiplications, n - 1 additions, one more for a bias", SOURCE),
    Rule("a norm: 2 multiplications and 2 additions an element; it is never folded", SOURCE),
    Rule("swish 3 multiplications and 1 addition, sigmoid 2 and 1", SOURCE),
    Rule("a pool of n values: n additions", SOURCE),
    Rule("a linear layer: its bias is not added", SOURCE),
    Rule("a vector of n scaled to length 1: the length is calculated n times over", SOURCE),
    Rule("not counted: scaling by a gate, residual additions, padding, normalizing the classes' directions", SOURCE),
)
_ACTIVATIONS = {"swish": Cost(3, 1), "sigmoid": Cost(2, 1)}


def count(trace: Trace, settings: ScoreSettings, formats: Mapping[str, Any]) -> Counted:
    """Count a trace as UCI did. Number formats and masks play no part."""
    bits = 16 if settings.multiply == "half" else 32
    charged: set[str] = set()
    rows: list[Row] = []
    hidden = flops = 0.0
    last_pool = next((op.name for op in reversed(trace.operations) if op.kind == "pool"), None)
    for operation in trace.operations:
        tally = Tally.of(operation)
        cost = _cost(operation)
        if cost is None:
            tally.uncounted = "their counter charges nothing for it"
        else:
            tally.multiply(cost.multiplications, bits)
            tally.add(cost.additions, ADDITION_BITS)
        for tensor in (trace.stored[name] for name in operation.tensors if name not in charged):
            charged.add(tensor.name)
            if tensor.role == "parameter":
                tally.store(tensor.count * bits, 0, tensor.count, tensor.count)
                # Their counter takes for trained what is called `weight`; the classes' directions are a `kernel`.
                hidden += tensor.count if operation.derived_weight else 0
        flops += _flops(operation, last_pool)
        rows.append(tally.row())
    parameters = sum(row.weights for row in rows)
    extra = {"parameters": parameters, "trainable": parameters - hidden, "flops": flops}
    return Counted(tuple(rows), RULES, (f"a multiplication and a value as {settings.multiply}",), extra=extra)


def _cost(operation: Operation) -> Cost | None:
    outputs, window = operation.outputs, operation.window
    if operation.kind == "conv":
        return Cost(window * outputs, (window - 1 + operation.has_bias) * outputs)
    if operation.kind == "linear":
        return Cost(window * outputs, (window - 1) * outputs)
    if operation.kind == "norm":
        return Cost(2 * outputs, 2 * outputs)
    if operation.kind == "pool":
        return Cost(0, operation.read)
    if operation.function == "length":  # n times: n - 1 additions, n multiplications, 1 more
        return Cost(window * window * outputs, window * window * outputs)
    return _ACTIVATIONS[operation.function].times(outputs) if operation.function in _ACTIVATIONS else None


def _flops(operation: Operation, last_pool: str | None) -> float:
    """Their column "FLOPs": multiply-adds and biases, 2 an element of a norm, the values that the last pool reads.

    It knows neither activations and gates nor the cosine layer.
    """
    if operation.kind == "conv":
        return operation.multiply_adds + operation.outputs * operation.has_bias
    if operation.kind == "linear":
        return 0 if operation.derived_weight else operation.multiply_adds
    if operation.kind == "norm":
        return 2 * operation.outputs
    return operation.read if operation.name == last_pool else 0
