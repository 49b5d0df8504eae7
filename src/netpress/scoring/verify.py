"""The official counting against results that are known, case by case.

    netpress verify tests/data/counting_vectors.json       183 of 183 cases agree with the official counter

The file is JSON. It has `cases` (one operation each, and what the organisers' counter returns), `error_cases` (what it
refuses, and how), `process_counts` (how it turns totals into millions), networks (objects with `ops` and `totals`), and
`rules` (small networks counted by hand). Each operation becomes a trace (`vectors`), and the convention counts it as it
counts networks.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.errors import UserError
from netpress.files import parse_json, read_file
from netpress.scoring.card import Counted, Row, relative_score
from netpress.scoring.conventions import CONVENTIONS, OFFICIAL, choose_settings
from netpress.scoring.tracks import TRACKS
from netpress.scoring.vectors import LAYER, Fields, Vector, counter_vector, rule_vector

TOLERANCE = 1e-9
LARGEST_FILE = 64 << 20  # bytes
GIFT, FULL = (16, 16, 32), (32, 32, 32)
"""Bits of values, multiplications and additions: those of a network that quantizes nothing, and those of the text."""


@dataclass(frozen=True)
class Verification:
    """How many cases were compared, and what disagrees: one line each."""

    cases: int
    disagreements: tuple[str, ...]

    @property
    def agreeing(self) -> int:
        return self.cases - len(self.disagreements)


def verify(path: Path | str) -> Verification:
    """Count every case of a file by the official convention. Raises UserError if it is not such a file."""
    path = Path(path)
    document = parse_json(read_file(path, LARGEST_FILE), str(path))
    if not isinstance(document, dict) or not isinstance(document.get("cases"), list):
        raise UserError(f"{path}: no list `cases` in it; see docs/scoring.md for the form of such a file")
    try:
        results = list(_results(document))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: a case is not of the form that docs/scoring.md describes ({error})") from error
    return Verification(len(results), tuple(result for result in results if result))


def count_vector(vector: Vector) -> Counted:
    """What the official convention says of a case."""
    settings = choose_settings(OFFICIAL, options=vector.options)
    return CONVENTIONS[OFFICIAL].count(vector.trace, settings, vector.formats)


def _results(document: Mapping[str, Any]) -> Iterator[str]:
    """For each case an empty text, or what disagrees."""
    for case in document["cases"]:
        vector = _vector_of(case)
        size = vector.trace.by_name[LAYER].output[-1]
        figures = _figures(count_vector(vector).rows) | {"out_size": size}
        yield _difference(f"case {case.get('id', '?')} ({case['op']})", figures, case["expect"])
    for number, case in enumerate(document.get("error_cases", []), 1):
        yield _refusal(f"error case {number} ({case['op']})", case)
    for number, case in enumerate(document.get("process_counts", []), 1):
        yield _difference(f"total {number}", _in_millions(case), case["expect"])
    for case in document.get("rules", []):
        yield _difference(case["rule"], _figures(count_vector(rule_vector(case)).rows), case["expect"])
    for name, value in document.items():
        if isinstance(value, dict) and "ops" in value and "totals" in value:
            for total in value["totals"]:
                yield _network(f"{name} at sparsity {total['sparsity']}", value["ops"], total)


def _vector_of(case: Fields) -> Vector:
    return counter_vector(case["op"], case["fields"], case["sparsity"], case["param_bits_in"])


def _figures(rows: tuple[Row, ...]) -> dict[str, float]:
    """Sums over the rows of a count, under the counter's names and ours."""

    def total(figure: Callable[[Row], float]) -> float:
        return sum(figure(row) for row in rows)

    params, operations = total(lambda row: row.params), total(lambda row: row.operations)
    return {
        "param_bits": total(lambda row: row.storage_bits + row.mask_bits),
        "mask_bits": total(lambda row: row.mask_bits),
        "mults": total(lambda row: row.multiplications),
        "adds": total(lambda row: row.additions),
        "operations": operations,
        "score": relative_score(params, operations, TRACKS["cifar100"]),
        "uncounted": sum(bool(row.uncounted) for row in rows),
    }


def _difference(label: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    wrong = [
        f"{key} {_plain(ours.get(key))} instead of {_plain(expected)}"
        for key, expected in theirs.items()
        if ours.get(key) is None or not math.isclose(ours[key], expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    ]
    return f"{label}: {', '.join(wrong)}" if wrong else ""


def _plain(value: Any) -> Any:
    """A whole number without a decimal point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _refusal(label: str, case: Mapping[str, Any]) -> str:
    try:
        count_vector(_vector_of(case))
        raised = None
    except (ValueError, NotImplementedError, AssertionError) as error:
        raised = type(error).__name__
    return "" if raised == case["raises"] else f"{label}: raises {raised} instead of {case['raises']}"


def _in_millions(case: Mapping[str, Any]) -> dict[str, float]:
    """Totals in megabytes of whole bits, and in millions of operations of `..._bits_base` bits, 32 by default."""
    multiplications = Row("", "", multiplications=case["mults"], multiplication_bits=case["mul_bits"])
    additions = Row("", "", additions=case["adds"], addition_bits=case["add_bits"])
    return {
        "param_mbytes": int(case["total_param_bits"]) / 8 / 1e6,
        "mults_m": multiplications.operations * 32 / case.get("mul_bits_base", 32) / 1e6,
        "adds_m": additions.operations * 32 / case.get("add_bits_base", 32) / 1e6,
    }


def _network(label: str, operations: list[Any], total: Mapping[str, Any]) -> str:
    """What disagrees in a network's totals. Widths are the convention's own where the total has one of those."""
    widths = {key: total[key] for key in ("param_bits_in", "mul_bits", "add_bits")}
    shared = {"sparsity": total["sparsity"], "param_bits_in": total["param_bits_in"]}
    rows = tuple(row for op in operations for row in count_vector(_vector_of(op | shared)).rows)
    raw = _figures(rows)
    millions = _in_millions(
        {"total_param_bits": raw["param_bits"], "mults": raw["mults"], "adds": raw["adds"], **widths}
    )
    ours = millions | {"mflops": millions["mults_m"] + millions["adds_m"]}
    if tuple(widths.values()) in (GIFT, FULL):
        ours["mflops"] = raw["operations"] / 1e6
    wrong = [_difference(label, raw, total["raw"])]
    wrong.append(_difference(label, ours, {key: total[key] for key in ours if key in total}))
    return "; ".join(text for text in wrong if text)
