"""What single operations cost: the formulae that all official counting goes through.

Operations are counted as plain numbers of multiplications and additions; widths come later
(`netpress.scoring.widths`). Sources: `counting.py` of google-research/micronet_challenge ("the
counter"), the rules' text, and where both are silent a verified entry of 2019.
"""

from typing import NamedTuple

from netpress.tracing.kinds import FUNCTIONS


class Cost(NamedTuple):
    """Multiplications (with everything that is charged like one) and additions."""

    multiplications: float
    additions: float

    def times(self, factor: float) -> "Cost":
        return Cost(self.multiplications * factor, self.additions * factor)


def dot_products(terms: float, outputs: float, bias: bool = False) -> Cost:
    """`outputs` dot products of `terms` products each: one addition less than products, one more for a bias.

    The counter lets `terms` be the mean over a layer, and it may then be below 1: a layer of zeros alone
    has -1 addition per output. Counter, Conv2D, DepthWiseConv2D and FullyConnected.
    """
    return Cost(terms * outputs, (terms - 1) * outputs + (outputs if bias else 0))


def average(window: float, outputs: float) -> Cost:
    """Mean of `window` values: window - 1 additions and one division. Counter, GlobalAvg."""
    return Cost(outputs, (window - 1) * outputs)


def maximum(window: float, outputs: float) -> Cost:
    """Largest of `window` values: window - 1 comparisons, charged as multiplications are (entry MB-PM, 2019)."""
    return Cost((window - 1) * outputs, 0)


def tensor_bits(count: float, bits: float, sparsity: float = 0.0) -> float:
    """Storage of a tensor: its non-zero values and, if it has zeros, a mask of one bit an element. Counter."""
    return count * bits * (1 - sparsity) + (count if sparsity > 0 else 0)


def output_size(size: int, kernel: int, stride: int, padding: str) -> int:
    """Length of a convolution's result; "same" pads kernel // 2 on both sides, "valid" not at all. Counter."""
    if padding not in ("same", "valid"):
        raise NotImplementedError(f"padding {padding!r}: same or valid")
    pad = kernel // 2 if padding == "same" else 0
    return -((size - kernel + 1 + 2 * pad) // -stride)  # rounded up


COUNTER_ACTIVATIONS = {
    "relu": Cost(1, 0),  # as a multiplication, so that it shares their 16 bits
    "sigmoid": Cost(2, 1),  # exp, division; addition
    "swish": Cost(3, 1),  # one multiplication more
}
"""The activations that the counter knows."""

ACTIVATIONS = COUNTER_ACTIVATIONS | {
    "relu6": Cost(2, 0),  # two comparisons: announcement to entrants, KAIST's entry
    "clamp": Cost(2, 0),  # the same with other bounds
    "hard_swish": Cost(4, 1),  # x * relu6(x + 3) / 6: KAIST and Rocker, both verified
    "hard_sigmoid": Cost(3, 1),  # the same without the product by x
    "elu": Cost(2, 1),  # entry MB-PM
    # From here on by the text: one for each arithmetic operation, comparison or transcendental function.
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
"""Cost per element of every activation that a trace can contain."""


def softmax(window: float, vectors: float) -> Cost:
    """exp of each value, their sum, a division of each. By the text; neither counter nor board had one."""
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


def upsampling(window: float, outputs: float) -> Cost:
    """A multiplication for each value that enters an output: so OSI AI's verified entry, for nearest neighbours."""
    return Cost(window * outputs, (window - 1) * outputs)
