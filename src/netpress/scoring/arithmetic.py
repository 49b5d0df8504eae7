"""What single operations cost: the formulae of official counting, each a rule that says itself.

    average(16, 64)      Cost(multiplications=64, additions=960)

Operations are counted as plain numbers of multiplications and additions; their widths come later
(`netpress.scoring.widths`). Sources: "counter" is `counting.py` of google-research/micronet_challenge, "text" the
challenge's scoring page, a name an entry of 2019 that the organisers verified.
"""

from collections.abc import Callable
from typing import NamedTuple

from netpress.scoring.rules import rule
from netpress.tracing.kinds import FUNCTIONS
from netpress.tracing.operations import Operation


class Cost(NamedTuple):
    """Multiplications (with everything that is charged like one) and additions."""

    multiplications: float
    additions: float

    def times(self, factor: float) -> "Cost":
        return Cost(self.multiplications * factor, self.additions * factor)


def average(window: float, outputs: float) -> Cost:
    """Mean of `window` values: window - 1 additions and one division. Counter, GlobalAvg."""
    return Cost(outputs, (window - 1) * outputs)


def maximum(window: float, outputs: float) -> Cost:
    """Largest of `window` values: window - 1 comparisons, charged as multiplications are (entry MB-PM, 2019)."""
    return Cost((window - 1) * outputs, 0)


COUNTER_ACTIVATIONS = {
    "relu": Cost(1, 0),  # as a multiplication, so that it shares their 16 bits
    "sigmoid": Cost(2, 1),  # exp, division; addition
    "swish": Cost(3, 1),  # one multiplication more
}
"""The activations that the counter knows."""

ENTRY_ACTIVATIONS = {
    "relu6": Cost(2, 0),  # two comparisons: announcement to entrants, KAIST's entry
    "clamp": Cost(2, 0),  # the same with other bounds
    "hard_swish": Cost(4, 1),  # x * relu6(x + 3) / 6: KAIST and Rocker, both verified
    "hard_sigmoid": Cost(3, 1),  # the same without the product by x
    "elu": Cost(2, 1),  # entry MB-PM
}
"""Those of verified entries."""

TEXT_ACTIVATIONS = {
    "selu": Cost(4, 1),
    "leaky_relu": Cost(2, 0),
    "prelu": Cost(2, 0),
    "threshold": Cost(1, 0),
    "softplus": Cost(2, 1),
    "mish": Cost(4, 1),
    "gelu": Cost(4, 1),  # x / 2 * (1 + erf(x / sqrt 2))
    "glu": Cost(3, 1),  # x * sigmoid(y)
    "power": Cost(1, 0),
    "tanh": Cost(1, 0),
    **{name: Cost(1, 0) for name in FUNCTIONS},
}
"""All others that a trace can contain."""

ACTIVATIONS = COUNTER_ACTIVATIONS | ENTRY_ACTIVATIONS | TEXT_ACTIVATIONS
"""Cost per element of every activation that a trace can contain."""


@rule("relu 1 multiplication, sigmoid 2 and 1 addition, swish 3 and 1", "counter")
def counter_activation(function: str) -> Cost:
    return COUNTER_ACTIVATIONS[function]


@rule("relu6 2 multiplications, hard-swish 4 and 1 addition", "KAIST, Rocker")
def entry_activation(function: str) -> Cost:
    return ENTRY_ACTIVATIONS[function]


@rule("other functions: 1 for each operation, comparison or transcendental function", "text")
def other_function(operation: Operation) -> Cost:
    outputs, window = operation.outputs, operation.window
    if operation.kind == "activation":
        return TEXT_ACTIVATIONS[operation.function].times(outputs)
    if operation.kind == "softmax":
        return softmax(operation.function, window, outputs)
    if operation.kind == "group_norm":
        return group_norm(window, outputs, affine=bool(operation.tensors))
    if operation.kind == "reduce":
        return reduction(operation.function, window, outputs)
    return Cost(outputs, 0)  # comparisons


@rule("mean of n values: n - 1 additions, 1 multiplication; maximum: n - 1 comparisons", "counter; MB-PM")
def pool(operation: Operation) -> Cost:
    one = average if operation.function == "average" else maximum
    costs = [one(window, outputs) for window, outputs in operation.windows]
    return Cost(sum(cost.multiplications for cost in costs), sum(cost.additions for cost in costs))


@rule("residual additions and scaling by a gate: 1 an element", "counter")
def elementwise(operation: Operation) -> Cost:
    outputs, more = operation.outputs, operation.attributes
    if operation.kind == "multiply":
        return Cost(outputs, 0)
    return Cost(outputs * more.get("scaled", 0), outputs * more.get("additions", 1))


@rule("a permutation of channels is a product with a sparse matrix", "text")
def permutation(operation: Operation) -> Cost:
    return Cost(operation.outputs, 0)


@rule("an upsampled value is 1 multiplication", "OSI AI")
def upsampling(operation: Operation) -> Cost:
    """A multiplication for each value that enters an output, for nearest neighbours one."""
    return Cost(operation.window * operation.outputs, (operation.window - 1) * operation.outputs)


def activation(operation: Operation) -> Cost:
    """An activation by the first source that knows it."""
    function, outputs = operation.function, operation.outputs
    if function in COUNTER_ACTIVATIONS:
        return counter_activation(function).times(outputs)
    if function in ENTRY_ACTIVATIONS:
        return entry_activation(function).times(outputs)
    return other_function(operation)


ELEMENTARY: dict[str, Callable[[Operation], Cost]] = {
    "activation": activation,
    "add": elementwise,
    "multiply": elementwise,
    "compare": other_function,
    "permute_channels": permutation,
    "pool": pool,
    "reduce": other_function,
    "softmax": other_function,
    "group_norm": other_function,
    "upsample": upsampling,
}
"""By kind the operations of everything that is neither a product with weights nor a batch norm."""


def softmax(function: str, window: float, outputs: float) -> Cost:
    """exp of each value, their sum, a division of each; log_softmax is x - log(sum of exp): no divisions."""
    vectors = outputs / window
    if function == "log_softmax":
        return Cost(outputs + vectors, (window - 1) * vectors + outputs)
    return Cost(2 * window * vectors, (window - 1) * vectors)


def group_norm(window: float, outputs: float, affine: bool) -> Cost:
    """A norm whose statistics depend on the example: mean, variance, scaling, by the text."""
    groups = outputs / window
    mean = average(window, groups)
    # Squared differences and their mean, epsilon, root and reciprocal; then scaling of each difference.
    multiplications = mean.multiplications + outputs + 3 * groups + outputs
    additions = mean.additions + outputs + (window - 1) * groups + groups
    if affine:
        multiplications, additions = multiplications + outputs, additions + outputs
    return Cost(multiplications, additions)


def reduction(function: str, window: float, outputs: float) -> Cost:
    """Many values made one. `function` as the kinds name it; by the text."""
    if function == "sum":
        return Cost(0, (window - 1) * outputs)
    if function == "average":
        return average(window, outputs)
    if function == "product":
        return Cost((window - 1) * outputs, 0)
    if function == "max":
        return maximum(window, outputs)
    if function == "length":  # squares, their sum, a root
        return Cost((window + 1) * outputs, (window - 1) * outputs)
    # variance: mean, differences, squares, their mean; deviation: a root more
    mean = average(window, outputs)
    root = outputs if function == "deviation" else 0
    return Cost(mean.multiplications * 2 + window * outputs + root, 2 * mean.additions + window * outputs)
