"""Wave Computing's own count (PyramidNet, CIFAR-100 track, 2019): Test/main.py and Test/utils/compute_flops.py.

Their counter left out the residual additions: it looked for a class of the same name as the network's, but of
another file. `residual_adds` puts them back.
"""

from collections.abc import Mapping
from typing import Any

from netpress.scoring.arithmetic import Cost
from netpress.scoring.card import Counted, Rule, Tally
from netpress.scoring.settings import ScoreSettings
from netpress.tracing.operations import Operation, Stored, Trace

DESCRIPTION = (
    "Wave Computing's counter: 9-bit values and a mask over all, 12-bit multiplications, no residual additions"
)
SOURCE = "Wave Computing, Test/main.py"
PARAM_BITS, MULTIPLICATION_BITS, ADDITION_BITS = 9, 12, 32
EXPONENT_BITS = 8
TEST_IMAGES = 10_000
RULES = (
    Rule(
        "every non-zero parameter at param_bits (9), and 1 bit for each of all parameters, norms and biases too", SOURCE
    ),
    Rule("multiplications at mul_bits (12), additions at 32", SOURCE),
    Rule("n non-zero weights of an output: n multiplications, n - 1 additions, one more for a bias", SOURCE),
    Rule("a norm that is not folded: 1 multiplication and 1 addition an element; relu 1 multiplication", SOURCE),
    Rule("an average of n values: n - 1 additions, 1 multiplication", SOURCE),
    Rule("argmax and the exponents of the fixed-point layers: once for the whole test set", SOURCE),
    Rule("not counted: scaling by ShakeDrop, softmax, norms' statistics, exponents' storage", SOURCE),
)


def count(trace: Trace, settings: ScoreSettings, formats: Mapping[str, Any]) -> Counted:
    """Count a trace as Wave Computing did. Widths are theirs or assumed; the network's own play no part."""
    freebie = settings.freebie and settings.weight_bits == settings.activation_bits == 16
    param_bits = settings.weight_bits or PARAM_BITS
    multiplication_bits = settings.activation_bits or MULTIPLICATION_BITS
    folded = trace.folded_norms() if settings.norms == "folded" else {}
    shifted = set(folded.values())
    charged: set[str] = set()
    rows = []
    stored = nonzeros = 0
    for operation in trace.operations:
        tally = Tally.of(operation)
        cost = _cost(operation, operation.name in shifted, operation.name in folded, settings.residual_adds)
        if cost is not None:
            tally.multiply(cost.multiplications, multiplication_bits)
            tally.add(cost.additions, ADDITION_BITS)
        else:
            tally.uncounted = _reason(operation, folded)
        for tensor in (trace.stored[name] for name in operation.tensors if name not in charged):
            charged.add(tensor.name)
            if tensor.role != "parameter":
                continue  # the statistics of norms stay float32 and are never counted
            if operation.name in folded and tensor.name == operation.tensors[0]:
                continue  # the scale is folded into the weights; the shift stays as their bias
            count_of, alive = tensor.count, _nonzeros(tensor)
            stored, nonzeros = stored + count_of, nonzeros + alive
            tally.store(alive * param_bits, count_of, count_of, alive)
        rows.append(tally.row())
    rows.append(_whole_test_set(trace, multiplication_bits))
    assumed = (f"parameters of {param_bits} bits, multiplications of {multiplication_bits}",) if not freebie else ()
    if settings.residual_adds:
        assumed = (*assumed, "residual additions counted, unlike their counter")
    return Counted(tuple(rows), RULES, assumed, extra={"parameters": stored, "nonzeros": nonzeros})


def _nonzeros(tensor: Stored) -> int:
    return tensor.nonzeros if len(tensor.shape) > 1 else tensor.count


def _cost(operation: Operation, bias: bool, folded: bool, residual_adds: bool) -> Cost | None:
    outputs = operation.outputs
    if operation.kind in ("conv", "linear"):
        return Cost(operation.products, operation.products - (0 if bias or operation.has_bias else outputs))
    if operation.kind == "norm" and not folded:
        return Cost(outputs, outputs)
    if operation.function == "relu":
        return Cost(outputs, 0)
    if operation.kind == "pool" and operation.function == "average":
        return Cost(outputs, operation.read - outputs)
    if operation.kind == "add" and residual_adds and len(operation.sources) > 1:
        return Cost(0, outputs)
    return None


def _reason(operation: Operation, folded: Mapping[str, str]) -> str:
    if operation.name in folded:
        return f"folded into {folded[operation.name]}: its shift is counted there as a bias"
    if operation.kind == "add":
        return "residual additions, which an error in their counter left out"
    return "their counter charges nothing for it"


def _whole_test_set(trace: Trace, multiplication_bits: int) -> Any:
    tally = Tally("argmax and exponents", "once a test set")
    classes = trace.operations[-1].outputs if trace.operations else 1
    tally.multiply((classes - 1) / TEST_IMAGES, multiplication_bits)
    layers = sum(1 for operation in trace.operations if operation.kind in ("conv", "linear"))
    tally.add(layers / TEST_IMAGES, EXPONENT_BITS)
    return tally.row()
