"""The score card: what a convention says of a network, row by row."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from netpress.errors import UserError
from netpress.scoring.footprint import Footprint
from netpress.scoring.rules import Rule, rule
from netpress.scoring.tracks import Track
from netpress.tracing.factors import LayerInFactors, describe_ranks
from netpress.tracing.operations import Operation, Shape

Per = Literal["layer", "kind", "block"]


@rule("score = parameters / baseline's + operations / baseline's, in units of 32 bits", "text")
def relative_score(params: float, operations: float, track: Track) -> float:
    return params / track.params + operations / track.operations


@dataclass(frozen=True)
class Row:
    """What one operation, or a group of them, is charged.

    `storage_bits` are stored values, `mask_bits` the mask that says which weights exist, `multiplications` and
    `additions` plain numbers; `multiplication_bits` and `addition_bits` their mean widths. `params` and
    `operations` are the same in units of 32-bit values and 32-bit operations. `uncounted` gives the reason
    where a convention charges nothing for it.
    """

    name: str
    kind: str
    block: str = ""
    output: Shape = ()
    weights: int = 0
    nonzeros: int = 0
    storage_bits: float = 0.0
    mask_bits: float = 0.0
    multiplications: float = 0.0
    additions: float = 0.0
    multiplication_bits: float = 0.0
    addition_bits: float = 0.0
    note: str = ""
    uncounted: str = ""

    @property
    def params(self) -> float:
        return (self.storage_bits + self.mask_bits) / 32

    @property
    def operations(self) -> float:
        return (self.multiplications * self.multiplication_bits + self.additions * self.addition_bits) / 32

    def as_json(self) -> dict[str, Any]:
        fields = ("name", "kind", "block", "weights", "nonzeros", "storage_bits", "mask_bits", "multiplications")
        more = ("additions", "multiplication_bits", "addition_bits", "params", "operations")
        row = {key: getattr(self, key) for key in (*fields, *more)}
        row["output"] = list(self.output)
        return row | {key: getattr(self, key) for key in ("note", "uncounted") if getattr(self, key)}


@dataclass(frozen=True)
class Counted:
    """What a convention makes of a trace; the card adds the track and what is known of the network.

    `totals` replace the sums of the rows where a convention's own counter does not get exact sums.
    `alternatives` are what other readings of the same rules come to: (params, operations) by what they change.
    """

    rows: tuple[Row, ...]
    rules: tuple[Rule[..., Any], ...] = ()
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    extra: Mapping[str, float] = field(default_factory=dict)
    totals: tuple[float, float] | None = None
    alternatives: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Tally:
    """Collects what one operation is charged, at whatever widths, and makes a row of it."""

    def __init__(self, name: str, kind: str, output: Shape = (), share: float = 1.0) -> None:
        self.name, self.kind, self.output, self.share = name, kind, output, share
        self.weights = self.nonzeros = 0
        self.storage_bits = self.mask_bits = 0.0
        self._multiplications: list[tuple[float, float]] = []
        self._additions: list[tuple[float, float]] = []
        self.notes: list[str] = []
        self.uncounted = ""

    @classmethod
    def of(cls, operation: Operation) -> "Tally":
        return cls(operation.name, operation.function, operation.output, operation.share)

    def multiply(self, count: float, bits: float) -> None:
        self._multiplications.append((count * self.share, bits))

    def add(self, count: float, bits: float) -> None:
        self._additions.append((count * self.share, bits))

    def store(self, bits: float, mask_bits: float = 0.0, weights: int = 0, nonzeros: int = 0) -> None:
        """Charge stored bits; `weights` and `nonzeros` say of how many values they are."""
        self.storage_bits += bits
        self.mask_bits += mask_bits
        self.weights += weights
        self.nonzeros += nonzeros

    @property
    def charged(self) -> bool:
        return bool(self._multiplications or self._additions or self.storage_bits or self.mask_bits)

    def row(self) -> Row:
        multiplications, multiplication_bits = _mean_width(self._multiplications)
        additions, addition_bits = _mean_width(self._additions)
        return Row(
            self.name,
            self.kind,
            block_of(self.name),
            self.output,
            self.weights,
            self.nonzeros,
            self.storage_bits,
            self.mask_bits,
            multiplications,
            additions,
            multiplication_bits,
            addition_bits,
            "; ".join(self.notes),
            "" if self.charged else self.uncounted,
        )


def _mean_width(charges: list[tuple[float, float]]) -> tuple[float, float]:
    total = sum(count for count, _ in charges)
    if not total:
        return 0.0, 0.0
    return total, sum(count * bits for count, bits in charges) / total


def block_of(name: str) -> str:
    """The block that a layer belongs to: its first name, with the number after it if there is one."""
    parts = name.split(" ")[0].split(".")
    return ".".join(parts[: 2 if len(parts) > 1 and parts[1].isdigit() else 1])


@dataclass(frozen=True)
class ScoreCard:
    """What a convention says of a network.

    `assumed` says in words which widths were not the network's own. `accuracy` is a fraction, None if unknown.
    `extra` are further figures that a convention's authors printed. `alternatives` are the scores that other
    readings of the same rules give, by the settings that choose them. `in_factors` lists the layers in factors.
    `printed` are the lines in which the convention's authors print a result, where they are known. `footprint` is what
    the network takes on a device, whatever the convention; None where only its operations were counted.
    """

    convention: str
    track: Track
    rows: tuple[Row, ...]
    rules: tuple[Rule[..., Any], ...] = ()
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    accuracy: float | None = None
    extra: Mapping[str, float] = field(default_factory=dict)
    totals: tuple[float, float] | None = None
    alternatives: Mapping[str, float] = field(default_factory=dict)
    in_factors: tuple[LayerInFactors, ...] = ()
    printed: tuple[str, ...] = ()
    footprint: Footprint | None = None

    @property
    def params(self) -> float:
        """Stored values in units of 32 bits, masks included."""
        return self.totals[0] if self.totals else sum(row.params for row in self.rows)

    @property
    def operations(self) -> float:
        """Operations an example, in units of 32-bit operations."""
        return self.totals[1] if self.totals else sum(row.operations for row in self.rows)

    @property
    def multiplications(self) -> float:
        return sum(row.multiplications for row in self.rows)

    @property
    def additions(self) -> float:
        return sum(row.additions for row in self.rows)

    @property
    def storage_bits(self) -> float:
        return sum(row.storage_bits for row in self.rows)

    @property
    def mask_bits(self) -> float:
        return sum(row.mask_bits for row in self.rows)

    @property
    def params_score(self) -> float:
        return self.params / self.track.params

    @property
    def operations_score(self) -> float:
        return self.operations / self.track.operations

    @property
    def score(self) -> float:
        return relative_score(self.params, self.operations, self.track)

    def shares(self) -> dict[str, float]:
        """What each row adds to the score, by name."""
        return {row.name: relative_score(row.params, row.operations, self.track) for row in self.rows}

    @property
    def meets_gate(self) -> bool | None:
        return None if self.accuracy is None else self.track.passes(self.accuracy)

    def grouped(self, per: Per = "layer") -> list[Row]:
        """The rows, or their sums by kind or by block, in order of first appearance; their notes tell the ranks."""
        if per == "layer":
            return [self._with_ranks(row, [row]) for row in self.rows]
        if per not in ("kind", "block"):
            raise UserError(f"per {per}: choose layer, kind or block")
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(getattr(row, per), []).append(row)
        return [self._with_ranks(_sum_rows(name, per, rows), rows) for name, rows in groups.items()]

    def _with_ranks(self, row: Row, parts: Iterable[Row]) -> Row:
        """`row`, noting the ranks of the layers that its `parts` are factors of."""
        if not self.in_factors:
            return row
        owners = {part.name.split(" ")[0].rpartition(".")[0] for part in parts}
        text = describe_ranks([layer for layer in self.in_factors if layer.name in owners])
        return replace(row, note="; ".join(filter(None, (row.note, text))))

    def as_json(self, per: Per = "layer") -> dict[str, Any]:
        """A dict of plain values; `layers` are the rows, as `per` groups them."""
        return {
            "convention": self.convention,
            "track": self.track.name,
            "params": self.params,
            "operations": self.operations,
            "score": self.score,
            "params_score": self.params_score,
            "operations_score": self.operations_score,
            "accuracy": self.accuracy,
            "gate": self.track.gate,
            "meets_gate": self.meets_gate,
            "storage_bits": self.storage_bits,
            "mask_bits": self.mask_bits,
            "multiplications": self.multiplications,
            "additions": self.additions,
            "assumed": list(self.assumed),
            "notes": list(self.notes),
            "extra": dict(self.extra),
            "printed": list(self.printed),
            "alternatives": dict(self.alternatives),
            **({} if self.footprint is None else {"footprint": self.footprint.as_json()}),
            "in_factors": [layer.as_json() for layer in self.in_factors],
            "layers": [row.as_json() for row in self.grouped(per)],
        }

    def as_csv(self, per: Per = "layer") -> str:
        """One line a row, with a header."""
        rows = [row.as_json() for row in self.grouped(per)]
        columns = [*Row("", "").as_json(), "note", "uncounted"]
        out = io.StringIO()
        writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"output": "x".join(str(length) for length in row["output"])})
        return out.getvalue()

    def explain(self) -> str:
        """The rules that were applied, each with its source, and what was assumed."""
        lines = [f"{self.convention}, relative to the {self.track.name} baseline ({self.track.baseline})", ""]
        lines += [f"- {rule.text} [{rule.source}]" for rule in self.rules]
        lines += [f"- assumed: {text}" for text in self.assumed]
        lines += [f"- {text}" for text in self.notes]
        return "\n".join(lines)


def _sum_rows(name: str, per: str, rows: Iterable[Row]) -> Row:
    rows = list(rows)
    multiplications, multiplication_bits = _mean_width([(r.multiplications, r.multiplication_bits) for r in rows])
    additions, addition_bits = _mean_width([(r.additions, r.addition_bits) for r in rows])
    reasons = {row.uncounted for row in rows}
    return Row(
        name,
        name if per == "kind" else "",
        name if per == "block" else "",
        (),
        sum(row.weights for row in rows),
        sum(row.nonzeros for row in rows),
        sum(row.storage_bits for row in rows),
        sum(row.mask_bits for row in rows),
        multiplications,
        additions,
        multiplication_bits,
        addition_bits,
        "",
        reasons.pop() if len(reasons) == 1 else "",
    )
