"""Score cards for people: tables on a terminal."""

from collections.abc import Mapping

from rich.table import Table

from netpress.scoring.card import Per, Row, ScoreCard


def card_table(card: ScoreCard, per: Per = "layer", *, all_rows: bool = False) -> Table:
    """The rows of a card. Those that cost nothing are left out, and counted in the caption, unless `all_rows`."""
    rows = card.grouped(per)
    shown = [row for row in rows if all_rows or row.params or row.operations]
    table = Table(
        title=f"{card.convention}, relative to {card.track.baseline} ({card.track.name})", title_justify="left"
    )
    table.add_column(per)
    if per == "layer":
        table.add_column("kind")
    for heading in ("weights", "non-zero", "bits stored", "mask", "mults", "at bits", "adds", "at bits", "score"):
        table.add_column(heading, justify="right")
    for row in shown:
        table.add_row(*_cells(row, card, per), style="dim" if row.uncounted else None)
    table.add_section()
    total = Row(
        "total",
        "",
        weights=sum(row.weights for row in rows),
        nonzeros=sum(row.nonzeros for row in rows),
        storage_bits=card.storage_bits,
        mask_bits=card.mask_bits,
        multiplications=card.multiplications,
        additions=card.additions,
    )
    table.add_row(*_cells(total, card, per)[:-1], f"{card.score:.7f}")
    if len(shown) < len(rows):
        table.caption = f"{len(rows) - len(shown)} rows cost nothing and are not shown"
    return table


def comparison_table(cards: Mapping[str, ScoreCard]) -> Table:
    """One line a network: what several cards come to."""
    table = Table()
    table.add_column("network")
    for heading in ("convention", "accuracy", "params", "operations", "params score", "operations score", "score"):
        table.add_column(heading, justify="right")
    for name, card in cards.items():
        accuracy = "-" if card.accuracy is None else f"{card.accuracy:.2%}"
        if card.meets_gate is False:
            accuracy += " (below the gate)"
        figures = (f"{card.params:,.2f}", f"{card.operations:,.0f}")
        scores = (f"{card.params_score:.7f}", f"{card.operations_score:.7f}", f"{card.score:.7f}")
        table.add_row(name, card.convention, accuracy, *figures, *scores)
    return table


def _cells(row: Row, card: ScoreCard, per: Per) -> list[str]:
    score = row.params / card.track.parameters + row.operations / card.track.operations
    cells = [row.name, row.kind] if per == "layer" else [row.name]
    cells += [f"{row.weights:,}", f"{row.nonzeros:,}", f"{row.storage_bits:,.0f}", f"{row.mask_bits:,.0f}"]
    cells += [f"{row.multiplications:,.0f}", f"{row.multiplication_bits:.4g}" if row.multiplications else ""]
    cells += [f"{row.additions:,.0f}", f"{row.addition_bits:.4g}" if row.additions else ""]
    return [cell if cell != "0" else "" for cell in cells] + [f"{score:.7f}"]
