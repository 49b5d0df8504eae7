"""Wave Computing's own count (PyramidNet, CIFAR-100 track, 2019): Test/main.py and Test/utils/compute_flops.py.

Their counter left out the residual additions: it looked for a class of the same name as the network's, but of
another file. The option `residual_adds` puts them back.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from netpress.scoring.arithmetic import Cost
from netpress.scoring.card import Counted, Row, Tally
from netpress.scoring.conventions import CONVENTIONS, Convention, ScoreSettings
from netpress.scoring.rules import rule
from netpress.scoring.widths import Bits
from netpress.tracing.operations import Operation, Stored, Trace

DESCRIPTION = (
    "Wave Computing's counter: 9-bit values and a mask over all, 12-bit multiplications, no residual additions"
)
SOURCE = "Wave Computing, Test/main.py"
PARAM_BITS, MULTIPLICATION_BITS, ADDITION_BITS = 9, 12, 32
EXPONENT_BITS = 8
TEST_IMAGES = 10_000


class WaveSettings(ScoreSettings):
    """How Wave Computing's counter was called."""

    convention: Literal["wave"] = "wave"
    weight_bits: Bits | None = None
    """Width of all stored values; their counter has 9."""
    activation_bits: Bits | None = None
    """Width of multiplications; their counter has 12."""
    freebie: bool = True
    """Whether widths of 16 bits are the challenge's gift and not an assumption."""
    norms: Literal["folded", "kept"] | None = None
    """Norms folded where data flow allows, or kept (default)."""
    residual_adds: bool = False
    """Count the residual additions, which an error in their counter left out."""


@rule("every non-zero parameter at param_bits (9), and 1 bit for each of all parameters, norms and biases too", SOURCE)
def storage(nonzeros: int, count: int, bits: int) -> tuple[int, int]:
    """Bits of values, and of the mask."""
    return nonzeros * bits, count


@rule("multiplications at mul_bits (12), additions at 32", SOURCE)
def operation_bits(activation_bits: int | None) -> tuple[int, int]:
    return activation_bits or MULTIPLICATION_BITS, ADDITION_BITS


@rule("n non-zero weights of an output: n multiplications, n - 1 additions, one more for a bias", SOURCE)
def products(operation: Operation, bias: bool) -> Cost:
    return Cost(operation.products, operation.products - (0 if bias else operation.outputs))


@rule("a norm that is not folded: 1 multiplication and 1 addition an element; relu 1 multiplication", SOURCE)
def element(operation: Operation) -> Cost | None:
    if operation.kind == "norm":
        return Cost(operation.outputs, operation.outputs)
    return Cost(operation.outputs, 0) if operation.function == "relu" else None


@rule("an average of n values: n - 1 additions, 1 multiplication", SOURCE)
def pool(operation: Operation) -> Cost | None:
    return Cost(operation.outputs, operation.read - operation.outputs) if operation.function == "average" else None


@rule("argmax and the exponents of the fixed-point layers: once for the whole test set", SOURCE)
def whole_test_set(classes: int, layers: int) -> Cost:
    return Cost((classes - 1) / TEST_IMAGES, layers / TEST_IMAGES)


@rule("not counted: scaling by ShakeDrop, softmax, norms' statistics, exponents' storage", SOURCE)
def uncounted(operation: Operation) -> str:
    if operation.kind == "add":
        return "residual additions, which an error in their counter left out"
    return "their counter charges nothing for it"


RULES = (storage, operation_bits, products, element, pool, whole_test_set, uncounted)
_ELEMENTS: dict[str, Callable[[Operation], Cost | None]] = {"norm": element, "activation": element, "pool": pool}


def count(trace: Trace, settings: WaveSettings, formats: Mapping[str, Any]) -> Counted:
    """Count a trace as Wave Computing did. Widths are theirs or assumed; the network's own play no part."""
    given = settings.freebie and settings.weight_bits == settings.activation_bits == 16
    param_bits = settings.weight_bits or PARAM_BITS
    multiplication_bits, addition_bits = operation_bits(settings.activation_bits)
    folded = trace.folded_norms() if settings.norms == "folded" else {}
    shifted = set(folded.values())
    charged: set[str] = set()
    rows = []
    stored = nonzeros = 0
    for operation in trace.operations:
        tally = Tally.of(operation)
        if operation.name in folded:
            tally.uncounted = f"folded into {folded[operation.name]}: its shift is counted there as a bias"
        else:
            cost = _cost(operation, operation.name in shifted, settings.residual_adds)
            if cost is None:
                tally.uncounted = uncounted(operation)
            else:
                tally.multiply(cost.multiplications, multiplication_bits)
                tally.add(cost.additions, addition_bits)
        for tensor in (trace.stored[name] for name in operation.tensors if name not in charged):
            charged.add(tensor.name)
            if tensor.role != "parameter":
                continue  # the statistics of norms stay float32 and are never counted
            if operation.name in folded and tensor.name == operation.tensors[0]:
                continue  # the scale is folded into the weights; the shift stays as their bias
            count_of, alive = tensor.count, _nonzeros(tensor)
            stored, nonzeros = stored + count_of, nonzeros + alive
            tally.store(*storage(alive, count_of, param_bits), count_of, alive)
        rows.append(tally.row())
    rows.append(_whole_test_set(trace, multiplication_bits))
    assumed = (f"parameters of {param_bits} bits, multiplications of {multiplication_bits}",) if not given else ()
    if settings.residual_adds:
        assumed = (*assumed, "residual additions counted, unlike their counter")
    return Counted(tuple(rows), RULES, assumed, extra={"parameters": stored, "nonzeros": nonzeros})


def _nonzeros(tensor: Stored) -> int:
    return tensor.nonzeros if len(tensor.shape) > 1 else tensor.count


def _cost(operation: Operation, shifted: bool, residual_adds: bool) -> Cost | None:
    if operation.kind in ("conv", "linear"):
        return products(operation, shifted or operation.has_bias)
    if operation.kind == "add" and residual_adds and len(operation.sources) > 1:
        return Cost(0, operation.outputs)
    return _ELEMENTS[operation.kind](operation) if operation.kind in _ELEMENTS else None


def _whole_test_set(trace: Trace, multiplication_bits: int) -> Row:
    tally = Tally("argmax and exponents", "once a test set")
    classes = trace.operations[-1].outputs if trace.operations else 1
    layers = sum(1 for operation in trace.operations if operation.kind in ("conv", "linear"))
    cost = whole_test_set(classes, layers)
    tally.multiply(cost.multiplications, multiplication_bits)
    tally.add(cost.additions, EXPONENT_BITS)
    return tally.row()


CONVENTIONS.add("wave", Convention(DESCRIPTION, WaveSettings, count))
