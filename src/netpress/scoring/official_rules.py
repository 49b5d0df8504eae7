"""The challenge's own rules of products, norms, moves and quantizers.

    dot_products(9, 64, bias=True)      64 sums of 9 products: 576 multiplications, 512 additions, 64 more for biases

Those of stored tensors are in `official_storage`, those of single values in `arithmetic`, those of widths in `widths`.
"""

from typing import NamedTuple

from netpress.scoring.rules import rule
from netpress.tracing.operations import Operation, Trace

CLAMP_OPERATIONS = 3  # scale, round, clamp
SATURATIONS = {"conv": 2, "linear": 2, "norm": 2, "add": 1}
"""Operations by which a value of 16-bit integer arithmetic is rounded and clamped, by what makes it."""


@rule(
    "a norm fed only by a convolution is folded: a bias value a channel, an addition an output; other "
    "norms are a multiplication and an addition an element, two values a channel",
    "notebook; RIAIR, MSUNet",
)
def fold_norms(trace: Trace) -> dict[str, str]:
    return trace.folded_norms()


@rule(
    "every norm is taken as folded into the first convolution or linear layer that it feeds, through "
    "activations too: a bias value a channel, an addition an output",
    "the count that gives the WideResNet baseline of 36.5 M and 10.49 G",
)
def fold_norms_forward(trace: Trace) -> dict[str, str]:
    return trace.norms_folded_forward()


@rule("no norm is folded: a multiplication and an addition an element, 2 values a channel", "text")
def keep_norms(trace: Trace) -> dict[str, str]:
    return {}


NORMS = {"folded": fold_norms, "forward": fold_norms_forward, "kept": keep_norms}


class Products(NamedTuple):
    """Operations of dot products; a bias is added at a width of its own."""

    multiplications: float
    additions: float
    biases: float


@rule("n non-zero weights of an output: n multiplications, n - 1 additions, one more for a bias", "counter")
def dot_products(terms: float, outputs: float, bias: bool) -> Products:
    """`outputs` sums of `terms` products. `terms` may be a mean; where there are none, the output is a constant."""
    if not terms:
        return Products(0, 0, 0)
    return Products(terms * outputs, (terms - 1) * outputs, outputs if bias else 0)


@rule("padding counts like any other place", "counter")
def sums_of(operation: Operation, sparsity: float | None) -> tuple[tuple[float, int], ...]:
    """Pairs (non-zero terms, how many outputs have so many), padding included.

    Where a sparsity is assumed, the terms are a mean, which may be a fraction.
    """
    if sparsity is None or operation.kind == "matmul":
        return operation.terms
    if operation.kind == "conv_transpose":
        return tuple((terms * (1 - sparsity), outputs) for terms, outputs in operation.terms)
    return ((operation.window * (1 - sparsity), operation.outputs),)


@rule("a finished sum of integers is scaled by 1 multiplication in floating point", "RIAIR, MSUNet")
def scalings(sums: float) -> float:
    return sums


@rule("a finished sum of integers is scaled by 1 multiplication of 16-bit integers", "RIAIR: in floating point")
def integer_scalings(sums: float) -> float:
    return sums


@rule("moving and joining values, padding, dropout at evaluation: nothing", "notebook; the text is silent")
def move(operation: Operation) -> str:
    """Why a move costs nothing. The notebook counts nothing for them, nor did any verified entry."""
    return "places values elsewhere, calculates nothing"


@rule("scaling, rounding and clamping an activation: free", "text; RIAIR: free")
def free_clamps(values: float) -> float:
    return 0


@rule("scaling, rounding and clamping an activation: charged", "text; RIAIR: free")
def charged_clamps(values: float) -> float:
    return CLAMP_OPERATIONS * values


CLAMPS = {"free": free_clamps, "charged": charged_clamps}
