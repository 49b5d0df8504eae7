"""The count of IMT Atlantique's course (DenseNet, CIFAR-10, 2022): profile.py and readme_score.md.

Their counter sees modules only, and forgets that convolutions may be grouped. ReLU and pools are functional calls in
all of their networks, so they cost nothing there; the option `modules` charges them as modules would be.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from netpress.scoring.arithmetic import Cost
from netpress.scoring.card import Counted, Row, Tally
from netpress.scoring.conventions import CONVENTIONS, Convention, ScoreSettings
from netpress.scoring.rules import rule
from netpress.settings import Fraction
from netpress.tracing.operations import Operation, Trace

DESCRIPTION = "IMT's course counter: half a value a parameter, groups ignored, activations and pools unseen"
SOURCE = "IMT's profile.py"
HALF, FULL = 16, 32


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


@rule("every parameter as half a value; pruned ones are left out, without a mask", "IMT's readme_score.md")
def storage(values: int, claimed_sparsity: float) -> float:
    return values * (1 - claimed_sparsity) * HALF


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


@rule("zeros save no operations", SOURCE)
def dense_products(window: int, outputs: int, bias: bool) -> Cost:
    return Cost(window * outputs, (window - 1 + bias) * outputs)


CONVOLUTIONS = {"ignored": convolution, "honoured": grouped_convolution}


def relu_module(operation: Operation) -> Cost:
    return Cost(0, operation.outputs)


def average_module(operation: Operation) -> Cost:
    """An average pool of k x k is charged k: the kernel size is one number there."""
    return Cost(0, sum(math.isqrt(window) * count for window, count in operation.windows))


_MODULES: dict[tuple[str, str], Callable[[Operation], Cost]] = {
    ("activation", "relu"): relu_module,
    ("pool", "average"): average_module,
}


def count(trace: Trace, settings: ImtSettings, formats: Mapping[str, Any]) -> Counted:
    """Count a trace as the course did. Number formats play no part: everything is 16 bits."""
    pruned, of_convolution = settings.claimed_sparsity, CONVOLUTIONS[settings.groups]
    layers: dict[str, Callable[[Operation], Cost]] = {"conv": of_convolution, "linear": linear, "norm": norm}
    charged: set[str] = set()
    rows = []
    for operation in trace.operations:
        tally = Tally.of(operation)
        charge = layers.get(operation.kind)
        if charge is None and settings.modules and operation.in_leaf:
            charge = _MODULES.get((operation.kind, operation.function))
        if charge is None:
            tally.uncounted = unseen(operation)
        else:
            cost = charge(operation)
            tally.multiply(cost.multiplications, HALF)
            tally.add(cost.additions, FULL)
        for tensor in (trace.stored[name] for name in operation.tensors if name not in charged):
            charged.add(tensor.name)
            if tensor.role == "parameter":
                values = tensor.count if pruned or len(tensor.shape) < 2 else tensor.nonzeros
                tally.store(storage(values, pruned), 0, tensor.count, tensor.nonzeros)
        rows.append(tally.row())
    for tensor in trace.unused:  # their sum is over all parameters of the module
        if tensor.role == "parameter" and not tensor.folded_into:
            tally = Tally(tensor.name, "unused")
            tally.store(storage(tensor.count, pruned), 0, tensor.count, tensor.nonzeros)
            rows.append(tally.row())
    assumed = (f"{pruned:.1%} of all parameters pruned",) if pruned else ()
    totals = _sum_in_float32(rows) if settings.totals == "float32" else None
    rules = (storage, of_convolution, norm, linear, unseen, dense_products)
    return Counted(tuple(rows), rules, assumed, totals=totals)


def _sum_in_float32(rows: list[Row]) -> tuple[float, float]:
    operations = np.float32(0)
    for row in rows:
        operations += np.float32(row.operations)
    return sum(row.params for row in rows), float(operations)


CONVENTIONS.add("imt", Convention(DESCRIPTION, ImtSettings, count))
