"""UCI and Qualcomm's own count (EfficientNet, CIFAR-100, 2019): torchscope as they changed it, count.py.

A multiplication costs half an operation or one (their "mul factor"), and a stored value costs the same. Zeros save
nothing, and no norm is folded.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from netpress.scoring.arithmetic import Cost
from netpress.scoring.card import Counted, Row, Tally
from netpress.scoring.conventions import CONVENTIONS, Convention, ScoreSettings
from netpress.scoring.rules import rule
from netpress.tracing.operations import Operation, Stored, Trace

DESCRIPTION = "UCI's torchscope: a multiplication and a value as half or one, norms never folded, no sparsity"
SOURCE = "UCI's count.py"
ADDITION_BITS = 32


class UciSettings(ScoreSettings):
    """How UCI's counter was called."""

    convention: Literal["uci"] = "uci"
    multiply: Literal["half", "one"] = "half"
    """A multiplication, and a stored value, as half (16 bits) or one."""


@rule("a multiplication and a stored value count half (16 bits), or both one", SOURCE)
def value_bits(multiply: str) -> int:
    return 16 if multiply == "half" else 32


@rule("all parameters are stored, zeros too", SOURCE)
def parameters(tensor: Stored) -> int:
    return tensor.count if tensor.role == "parameter" else 0


@rule("a convolution of n products an output: n multiplications, n - 1 additions, one more for a bias", SOURCE)
def convolution(operation: Operation) -> Cost:
    outputs, window = operation.outputs, operation.window
    return Cost(window * outputs, (window - 1 + operation.has_bias) * outputs)


@rule("a norm: 2 multiplications and 2 additions an element; it is never folded", SOURCE)
def norm(operation: Operation) -> Cost:
    return Cost(2 * operation.outputs, 2 * operation.outputs)


_ACTIVATIONS = {"swish": Cost(3, 1), "sigmoid": Cost(2, 1)}


@rule("swish 3 multiplications and 1 addition, sigmoid 2 and 1", SOURCE)
def activation(operation: Operation) -> Cost | None:
    one = _ACTIVATIONS.get(operation.function)
    return None if one is None else one.times(operation.outputs)


@rule("a pool of n values: n additions", SOURCE)
def pool(operation: Operation) -> Cost:
    return Cost(0, operation.read)


@rule("a linear layer: its bias is not added", SOURCE)
def linear(operation: Operation) -> Cost:
    outputs, window = operation.outputs, operation.window
    return Cost(window * outputs, (window - 1) * outputs)


@rule("a vector of n scaled to length 1: the length is calculated n times over", SOURCE)
def length(operation: Operation) -> Cost | None:
    """n times: n - 1 additions, n multiplications, 1 more. No other reduction is seen."""
    if operation.function != "length":
        return None
    products = operation.window * operation.window * operation.outputs
    return Cost(products, products)


@rule("not counted: scaling by a gate, residual additions, padding, normalizing the classes' directions", SOURCE)
def uncounted(operation: Operation) -> str:
    return "their counter charges nothing for it"


RULES = (value_bits, parameters, convolution, norm, activation, pool, linear, length, uncounted)
_COSTS: dict[str, Callable[[Operation], Cost | None]] = {
    "conv": convolution,
    "linear": linear,
    "norm": norm,
    "pool": pool,
    "activation": activation,
    "reduce": length,
}


def count(trace: Trace, settings: UciSettings, formats: Mapping[str, Any]) -> Counted:
    """Count a trace as UCI did. Number formats and masks play no part."""
    bits = value_bits(settings.multiply)
    charged: set[str] = set()
    rows: list[Row] = []
    hidden = flops = 0.0
    last_pool = next((op.name for op in reversed(trace.operations) if op.kind == "pool"), None)
    for operation in trace.operations:
        tally = Tally.of(operation)
        cost = _COSTS[operation.kind](operation) if operation.kind in _COSTS else None
        if cost is None:
            tally.uncounted = uncounted(operation)
        else:
            tally.multiply(cost.multiplications, bits)
            tally.add(cost.additions, ADDITION_BITS)
        for tensor in (trace.stored[name] for name in operation.tensors if name not in charged):
            charged.add(tensor.name)
            if stored := parameters(tensor):
                tally.store(stored * bits, 0, stored, stored)
                # Their counter takes for trained what is called `weight`; the classes' directions are a `kernel`.
                hidden += stored if operation.derived_weight else 0
        flops += _flops(operation, last_pool)
        rows.append(tally.row())
    total = sum(row.weights for row in rows)
    extra = {"parameters": total, "trainable": total - hidden, "flops": flops}
    return Counted(tuple(rows), RULES, (f"a multiplication and a value as {settings.multiply}",), extra=extra)


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


CONVENTIONS.add("uci", Convention(DESCRIPTION, UciSettings, count))
