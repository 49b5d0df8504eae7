"""The tables of the page: layer by layer, by kind of layer, and what stages logged besides epochs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netpress.report.facts import RunFacts, StageFacts, number
from netpress.report.figures import decimal, duration, label, percent, plain, share, short, size, whole


@dataclass(frozen=True)
class Cell:
    """One cell: what it shows, the value it is sorted by, the length of its bar (0 to 1), if it has one, and a link."""

    text: str
    value: float | str
    bar: float | None = None
    link: str = ""
    """Where a click leads, seen from the page; empty: nowhere."""


@dataclass(frozen=True)
class Table:
    """Column names, which of them hold numbers, and rows."""

    columns: list[str]
    numeric: list[bool]
    rows: list[list[Cell]]


def write_markdown(table: Table) -> str:
    """The table as Markdown."""

    def line(texts: Iterable[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"

    rule = "|" + "|".join("---:" if numeric else "---" for numeric in table.numeric) + "|"
    return "\n".join([line(table.columns), rule, *(line(cell.text for cell in row) for row in table.rows)])


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested tables as (dotted path, value)."""
    flat: list[tuple[str, Any]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat += flatten(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


def sparsity(figures: Mapping[str, Any]) -> float | None:
    """The fraction of weights that are zero."""
    weights, nonzeros = number(figures.get("weights")), number(figures.get("nonzeros"))
    return None if not weights or nonzeros is None else 1 - nonzeros / weights


STEP_FIGURES: dict[str, Callable[[Any], str]] = {
    "amount": lambda value: percent(value, 1),
    "compression": lambda value: percent(value, 1),
    "score": decimal,
    "seconds": duration,
}
"""How figures of steps are written that are neither accuracies nor counts."""


def tabulate_steps(stage: StageFacts) -> Table | None:
    """What a stage logged besides epochs (rounds, sweeps): every figure under the name it was logged by.

    A flag that is set in every line that has it tells nothing, and has no column.
    """
    names = [name for name in _union(stage.steps) if name not in ("stage", "kind")]
    names = [name for name in names if not all(line.get(name, True) is True for line in stage.steps)]
    if not names:
        return None
    rows = [[_step_cell(name, line.get(name)) for name in names] for line in stage.steps]
    numeric = [any(number(line.get(name)) is not None for line in stage.steps) for name in names]
    return Table([label(name) for name in names], numeric, rows)


def _step_cell(name: str, value: Any) -> Cell:
    figure = number(value)
    if figure is None:
        return Cell(plain(value), plain(value))
    if name.startswith("accuracy") or name.endswith(("accuracy", "sparsity")):
        return Cell(percent(figure), figure)
    if name in STEP_FIGURES:
        return Cell(STEP_FIGURES[name](figure), figure)
    return Cell(whole(figure) if isinstance(value, int) else plain(value), figure)


def _union(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    names: dict[str, None] = {}
    for line in lines:
        names.update(dict.fromkeys(line))
    return list(names)


Layer = Mapping[str, Any]


def read_layers(run: RunFacts) -> list[Layer]:
    """The rows of the score card."""
    layers = (run.score or {}).get("layers")
    return [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []


LAYER_NOTES = ("note", "uncounted")


def costs_nothing(layer: Layer) -> bool:
    """Whether a row of the score card stores nothing and computes nothing: a norm that is folded, say."""
    return not any(
        number(layer.get(name)) for name in ("weights", "params", "operations", "multiplications", "additions")
    )


def tabulate_layers(layers: list[Layer]) -> Table:
    """The score card layer by layer, with bars for what is stored and for operations (the longest bar is the largest
    layer's). Columns that no layer fills are left out.
    """
    largest = {name: _largest(layers, name) for name in ("params", "operations")}
    columns = [
        "layer",
        "kind",
        "weights",
        "non-zero",
        "zeros",
        "stored, bytes counted",
        "multiplications",
        "additions",
        "operations",
    ]
    rows = []
    for layer in layers:
        zeros = sparsity(layer)
        notes = "; ".join(plain(layer[name]) for name in LAYER_NOTES if layer.get(name))
        stored = None if number(layer.get("params")) is None else (number(layer["params"]) or 0) * 4
        rows.append(
            [
                _text(layer.get("name")),
                _text(layer.get("kind")),
                *(_count(layer.get(name)) for name in ("weights", "nonzeros")),
                Cell(percent(zeros, 1), _order(zeros)),
                _count(stored, share(layer.get("params"), largest["params"])),
                *(_count(layer.get(name)) for name in ("multiplications", "additions")),
                _count(layer.get("operations"), share(layer.get("operations"), largest["operations"])),
                _text(notes),
            ]
        )
    columns.append("note")
    filled = [place for place, _ in enumerate(columns) if any(row[place].value not in (-1.0, "") for row in rows)]
    numeric = [2 <= place < len(columns) - 1 for place in filled]
    return Table([columns[place] for place in filled], numeric, [[row[place] for place in filled] for row in rows])


def _count(value: Any, bar: float | None = None) -> Cell:
    return Cell(whole(value), _order(value), bar)


def tabulate_ranks(score: Mapping[str, Any]) -> Table | None:
    """The layers in factors, if there are any: their ranks, and their weights whole and in factors."""
    layers = score.get("in_factors")
    layers = [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
    rows = []
    for layer in layers:
        kernel = layer.get("kernel")
        shape = "x".join(map(str, kernel)) if isinstance(kernel, list) and kernel else "linear"
        left = share(layer.get("weights"), layer.get("whole"))
        texts = [
            _text(layer.get("name")),
            Cell(shape, shape),
            _text(layer.get("ranks")),
            _text(layer.get("full_ranks")),
        ]
        counts = [_count(layer.get("whole")), _count(layer.get("weights")), Cell(percent(left, 1), left, left)]
        rows.append([*texts, *counts])
    columns = ["layer", "kernel", "ranks", "of", "weights whole", "weights in factors", "share"]
    return Table(columns, [False] * 4 + [True] * 3, rows) if rows else None


def tabulate_kinds(layers: list[Layer]) -> Table:
    """The score card by kind of layer: each kind's part of the parameters (stored values) and of the operations."""
    kinds: dict[str, list[Layer]] = {}
    for layer in layers:
        kinds.setdefault(plain(layer.get("kind")), []).append(layer)
    storage, operations = _sum(layers, "params"), _sum(layers, "operations")
    rows = []
    for kind, members in sorted(kinds.items(), key=lambda item: -_sum(item[1], "operations")):
        weights, nonzeros = _sum(members, "weights"), _sum(members, "nonzeros")
        zeros = sparsity({"weights": weights, "nonzeros": nonzeros})
        stored, computed = _sum(members, "params"), _sum(members, "operations")
        rows.append(
            [
                _text(kind),
                Cell(str(len(members)), len(members)),
                Cell(whole(weights), weights),
                Cell(percent(zeros, 1), _order(zeros)),
                Cell(percent(share(stored, storage), 1), stored, share(stored, storage)),
                Cell(percent(share(computed, operations), 1), computed, share(computed, operations)),
            ]
        )
    columns = ["kind", "rows", "weights", "sparsity", "of parameters", "of operations"]
    return Table(columns, [False, True, True, True, True, True], rows)


def _text(value: Any) -> Cell:
    text = "" if value == "" else plain(value)
    return Cell(text, text)


def _order(value: Any) -> float:
    """What a cell is sorted by; the unknown comes last."""
    figure = number(value)
    return -1.0 if figure is None else figure


def _largest(layers: list[Layer], name: str) -> float:
    return max((number(layer.get(name)) or 0 for layer in layers), default=0)


def _sum(layers: Iterable[Layer], name: str) -> float:
    return sum(number(layer.get(name)) or 0 for layer in layers)


def describe_card(score: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures of the score card that are neither a headline nor a layer's."""
    rows = []
    # Where the baseline is borrowed there is no gate; earlier score.json have CIFAR-100's beside a note that says so.
    gated = not any("no track" in note for note in list_notes(score))
    for name, value in score.items():
        if name in HEADLINE_FIGURES or isinstance(value, list | dict):
            continue
        if name in ("gate", "meets_gate") and (value is None or not gated):
            continue
        name = "relative to" if name == "track" and not gated else name
        figure = number(value)
        big = figure is not None and abs(figure) >= 10_000
        rows.append((label(name), short(value) if big else plain(value)))
    return rows


HEADLINE_FIGURES = {
    *("accuracy", "top5", "loss", "params", "operations", "score", "params_score", "operations_score"),
    *("convention", "dataset", "select_on", "layers"),
}


def read_footprint(score: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the network takes on a device; empty in the score.json of earlier versions."""
    footprint = score.get("footprint")
    return footprint if isinstance(footprint, dict) else {}


def tabulate_memory(footprint: Mapping[str, Any]) -> Table | None:
    """Memory of activations operation by operation, with bars; None where it is not known."""
    operations = footprint.get("operations")
    operations = [one for one in operations if isinstance(one, dict)] if isinstance(operations, list) else []
    most = footprint.get("ram_bytes")
    rows = [
        [
            _text(one.get("name")),
            _text(one.get("kind")),
            _text(_shape(one.get("output"))),
            Cell(size(one.get("bytes")), _order(one.get("bytes")), share(one.get("bytes"), most)),
        ]
        for one in operations
    ]
    return (
        Table(["operation", "kind", "result (channels x height x width)", "alive"], [False, False, False, True], rows)
        if rows
        else None
    )


def describe_alive(footprint: Mapping[str, Any]) -> str:
    """What is alive at the peak, in words."""
    alive = footprint.get("alive")
    parts = [part for part in alive if isinstance(part, dict)] if isinstance(alive, list) else []
    return ", ".join(f"{plain(part.get('name'))} {size(part.get('bytes'))}" for part in parts)


def _shape(lengths: Any) -> str:
    return "x".join(map(plain, lengths[1:])) if isinstance(lengths, list) else plain(lengths)


def tabulate_beside(score: Mapping[str, Any]) -> Table | None:
    """The score card and those beside it, a line each; None where there is none beside it."""
    beside = score.get("beside")
    cards = {name: card for name, card in beside.items() if isinstance(card, dict)} if isinstance(beside, dict) else {}
    if not cards:
        return None
    rows = []
    for name, card in [("the run's own", score), *cards.items()]:
        assumed = card.get("assumed")
        rows.append(
            [
                _text(name),
                _text(card.get("convention")),
                _count(card.get("params")),
                _count(card.get("operations")),
                Cell(decimal(card.get("score")), _order(card.get("score"))),
                _text("; ".join(map(plain, assumed)) if isinstance(assumed, list) else ""),
            ]
        )
    columns = ["card", "convention", "parameters", "operations", "score", "assumed"]
    return Table(columns, [False, False, True, True, True, False], rows)


def list_notes(score: Mapping[str, Any]) -> list[str]:
    """What the score card says of itself in words: what it assumed, and notes."""
    notes = []
    for name, before in (("assumed", "assumed: "), ("notes", "")):
        texts = score.get(name)
        notes += [f"{before}{plain(text)}" for text in texts] if isinstance(texts, list) else []
    return notes
