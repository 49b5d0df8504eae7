"""Our official counting against the organisers' counter, case by case, from a file of its results.

The file is JSON with `cases` (one operation each, with a sparsity and a width, and what the counter
returns), `error_cases` (what it refuses, and how), `process_counts` (how it turns totals into millions) and
networks: objects with `ops` and `totals`. The operations go through the same formulae as networks do.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.errors import UserError
from netpress.files import parse_json, read_file
from netpress.scoring import arithmetic
from netpress.scoring.arithmetic import COUNTER_ACTIVATIONS, Cost

TOLERANCE = 1e-9
LARGEST_FILE = 64 << 20  # bytes
Fields = Mapping[str, Any]


@dataclass(frozen=True)
class CountedOperation:
    """What the counter returns for one operation: bits of storage, and plain numbers of operations."""

    param_bits: float
    mults: float
    adds: float
    out_size: int | None = None


@dataclass(frozen=True)
class Verification:
    """How many cases were compared, and what disagrees: one line each."""

    cases: int
    disagreements: tuple[str, ...]

    @property
    def agreeing(self) -> int:
        return self.cases - len(self.disagreements)


def count_operation(op: str, fields: Fields, sparsity: float, param_bits: float) -> CountedOperation:
    """Count one operation as the counter does, whose errors these are too.

    Raises ValueError for an activation that it does not know, NotImplementedError for another padding than
    same and valid, AssertionError for what is not square, UserError for an operation that it does not have.
    """
    if op not in _OPERATIONS:
        raise UserError(f"{op}: the counter has no such operation, only {', '.join(_OPERATIONS)}")
    try:
        return _OPERATIONS[op](fields, sparsity, param_bits)
    except KeyError as error:
        raise UserError(f"{op}: the field {error} is missing") from None


def _activation(name: str | None, outputs: float) -> Cost:
    if not name:
        return Cost(0, 0)
    if name not in COUNTER_ACTIVATIONS:
        raise ValueError(f"activation {name}: the counter knows {', '.join(COUNTER_ACTIVATIONS)}")
    return COUNTER_ACTIVATIONS[name].times(outputs)


def _products(
    fields: Fields, window: int, weights: int, channels: int, places: int, sparsity: float, bits: float
) -> tuple[float, float, float]:
    """Bits, multiplications and additions of `places` * `channels` dot products with their activation."""
    bias = bool(fields["use_bias"])
    outputs = places * channels
    cost = arithmetic.dot_products(window * (1 - sparsity), outputs, bias)
    extra = _activation(fields["activation"], outputs)
    stored = arithmetic.tensor_bits(weights, bits, sparsity) + (channels * bits if bias else 0)
    return stored, cost.multiplications + extra.multiplications, cost.additions + extra.additions


def _convolution(fields: Fields, sparsity: float, bits: float, depthwise: bool = False) -> CountedOperation:
    height, width, inputs, last = fields["kernel_shape"]
    if height != width or fields["strides"][0] != fields["strides"][1]:
        raise AssertionError("the counter has square kernels and strides only")
    if depthwise and last != 1:
        raise AssertionError("the last length of a depthwise kernel is 1")
    size = arithmetic.output_size(fields["input_size"], height, fields["strides"][0], fields["padding"])
    channels = inputs if depthwise else last
    window = height * width * (1 if depthwise else inputs)
    counted = _products(fields, window, window * channels, channels, size * size, sparsity, bits)
    return CountedOperation(*counted, size)


def _depthwise(fields: Fields, sparsity: float, bits: float) -> CountedOperation:
    return _convolution(fields, sparsity, bits, depthwise=True)


def _fully_connected(fields: Fields, sparsity: float, bits: float) -> CountedOperation:
    inputs, outputs = fields["kernel_shape"]
    return CountedOperation(*_products(fields, inputs, inputs * outputs, outputs, 1, sparsity, bits))


def _global_average(fields: Fields, sparsity: float, bits: float) -> CountedOperation:
    cost = arithmetic.average(fields["input_size"] ** 2, fields["n_channels"])
    return CountedOperation(0.0, cost.multiplications, cost.additions)


def _scale(fields: Fields, sparsity: float, bits: float) -> CountedOperation:
    return CountedOperation(0.0, fields["input_size"] ** 2 * fields["n_channels"], 0.0)


def _add(fields: Fields, sparsity: float, bits: float) -> CountedOperation:
    return CountedOperation(0.0, 0.0, fields["input_size"] ** 2 * fields["n_channels"])


_OPERATIONS: dict[str, Callable[[Fields, float, float], CountedOperation]] = {
    "Conv2D": _convolution,
    "DepthWiseConv2D": _depthwise,
    "FullyConnected": _fully_connected,
    "GlobalAvg": _global_average,
    "Scale": _scale,
    "Add": _add,
}


def verify(path: Path | str) -> Verification:
    """Run every case of a file through our counter. Raises UserError if it is not such a file."""
    path = Path(path)
    document = parse_json(read_file(path, LARGEST_FILE), str(path))
    if not isinstance(document, dict) or not isinstance(document.get("cases"), list):
        raise UserError(f"{path}: no list `cases` in it; see docs/scoring.md for the form of such a file")
    try:
        results = list(_results(document))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: a case is not of the form that docs/scoring.md describes ({error})") from error
    return Verification(len(results), tuple(result for result in results if result))


def _results(document: Mapping[str, Any]) -> Iterator[str]:
    """For each case an empty text, or what disagrees."""
    for case in document["cases"]:
        counted = count_operation(case["op"], case["fields"], case["sparsity"], case["param_bits_in"])
        yield _difference(f"case {case.get('id', '?')} ({case['op']})", vars(counted), case["expect"])
    for number, case in enumerate(document.get("error_cases", []), 1):
        yield _refusal(f"error case {number} ({case['op']})", case)
    for number, case in enumerate(document.get("process_counts", []), 1):
        yield _difference(f"total {number}", _in_millions(case), case["expect"])
    for name, value in document.items():
        if isinstance(value, dict) and "ops" in value and "totals" in value:
            for total in value["totals"]:
                yield _network(f"{name} at sparsity {total['sparsity']}", value["ops"], total)


def _difference(label: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    wrong = [
        f"{key} {ours.get(key)} instead of {expected}"
        for key, expected in theirs.items()
        if ours.get(key) is None or not math.isclose(ours[key], expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    ]
    return f"{label}: {', '.join(wrong)}" if wrong else ""


def _refusal(label: str, case: Mapping[str, Any]) -> str:
    try:
        count_operation(case["op"], case["fields"], case["sparsity"], case["param_bits_in"])
        raised = None
    except (ValueError, NotImplementedError, AssertionError) as error:
        raised = type(error).__name__
    return "" if raised == case["raises"] else f"{label}: raises {raised} instead of {case['raises']}"


def _in_millions(case: Mapping[str, Any]) -> dict[str, float]:
    multiplications = case["mults"] * case["mul_bits"] / case.get("mul_bits_base", 32) / 1e6
    additions = case["adds"] * case["add_bits"] / case.get("add_bits_base", 32) / 1e6
    megabytes = int(case["total_param_bits"]) / 8 / 1e6  # whole bits
    return {"param_mbytes": megabytes, "mults_m": multiplications, "adds_m": additions}


def _network(label: str, operations: list[Any], total: Mapping[str, Any]) -> str:
    bits = total["param_bits_in"]
    counted = [count_operation(op["op"], op["fields"], total["sparsity"], bits) for op in operations]
    raw = {key: sum(getattr(one, key) for one in counted) for key in ("param_bits", "mults", "adds")}
    widths = {"mul_bits": total["mul_bits"], "add_bits": total["add_bits"]}
    millions = _in_millions(
        {"total_param_bits": raw["param_bits"], "mults": raw["mults"], "adds": raw["adds"]} | widths
    )
    ours = millions | {"mflops": millions["mults_m"] + millions["adds_m"]}
    wrong = [_difference(label, raw, total["raw"])]
    wrong.append(_difference(label, ours, {key: total[key] for key in ours if key in total}))
    return "; ".join(text for text in wrong if text)
