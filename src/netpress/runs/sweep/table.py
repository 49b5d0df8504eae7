"""The table of a sweep: one row a run, means over seeds, and three ways to write them (CSV, Markdown, a page)."""

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from netpress.folders.run import REPORT
from netpress.report.facts import number
from netpress.report.figures import NOTHING, decimal, duration, percent, plain, short
from netpress.report.sizes import SIZE_COLUMNS, SIZES, size_cells
from netpress.report.sweep import FLASH, RAM, SCORE, Measure, Point, render_sweep
from netpress.report.tables import Cell, Table, write_markdown

FIGURES = ("accuracy", "top5", "loss", "params", "operations", "score", *SIZES, "sparsity", "seconds")
COUNTS = ("params", "operations", "score")  # of a score card beside the first
MEASURES = {SCORE: "score", FLASH: "flash_bytes", RAM: "ram_bytes"}  # what accuracy is plotted against
_QUALITIES: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("accuracy", percent),
    ("top5", percent),
    ("loss", lambda value: NOTHING if value is None else f"{value:.4f}"),
    ("score", decimal),
)
_EFFORTS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("sparsity", lambda value: percent(value, 1)),
    ("seconds", duration),
)
"""How figures of a run are written, by name, in the order of the table."""


@dataclass(frozen=True)
class Row:
    """What one member, or one of its stages, came to."""

    member: str
    variant: str | None
    point: dict[str, Any]
    seed: int
    stage: str | None
    """Which stage or round left this; None where only the end counts."""
    figures: dict[str, Any]
    """By the names in FIGURES: accuracy, top5 and sparsity are fractions; empty before the member is done. Under
    `beside` the same COUNTS by other conventions, by the name of their table in the recipe."""
    state: str
    """done, not begun, not finished, or failed with its message."""

    @property
    def page(self) -> str:
        """Where its own page lies, seen from the sweep's; empty where there is none yet."""
        return str(PurePosixPath(self.member) / REPORT) if self.state == "done" else ""

    @property
    def key(self) -> tuple[str, ...]:
        """What it is besides its seed: rows of one key are averaged."""
        return (self.variant or "", *map(plain, self.point.values()), self.stage or "")


@dataclass(frozen=True)
class Mean:
    """Rows that differ by their seed alone: mean and spread (sample standard deviation, 0 for a single run)."""

    rows: tuple[Row, ...]
    accuracy: float
    accuracy_spread: float
    score: float
    score_spread: float
    sizes: dict[str, float]
    """By SIZES, those that every row has."""
    sparsity: float | None


@dataclass(frozen=True)
class SweepTable:
    """All rows of a sweep, in the order of its members."""

    name: str
    description: str
    rows: tuple[Row, ...]
    dataset: str

    @property
    def columns(self) -> list[str]:
        """What tells rows apart, besides the seed: variant, the grid's columns, stage."""
        grid = list(self.rows[0].point)
        variant = ["variant"] if any(row.variant for row in self.rows) else []
        stage = ["stage"] if any(row.stage for row in self.rows) else []
        return [*variant, *grid, *stage]

    @cached_property
    def beside(self) -> list[str]:
        """The names of the counts beside the first, those of all rows."""
        return list(dict.fromkeys(name for row in self.rows for name in row.figures.get("beside", {})))

    @cached_property
    def means(self) -> list[Mean]:
        """Finished rows averaged over seeds, in order."""
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in self.rows:
            if row.figures:
                groups.setdefault(row.key, []).append(row)
        return [_average(rows) for rows in groups.values()]

    @property
    def state(self) -> str:
        """How far it is, in a line."""
        members = {row.member: row.state for row in self.rows}
        done = sum(state == "done" for state in members.values())
        return f"{done} of {len(members)} runs finished"

    def as_csv(self) -> str:
        """One line a run (and stage), fractions as fractions; figures are empty where there are none yet."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        others = [(name, count) for name in self.beside for count in COUNTS]
        writer.writerow(["member", *self.columns, "seed", "state", *FIGURES, *(f"{n}.{count}" for n, count in others)])
        for row in self.rows:
            figures = [row.figures.get(name, "") for name in FIGURES]
            cards = row.figures.get("beside", {})
            figures += [cards.get(name, {}).get(count, "") for name, count in others]
            writer.writerow([row.member, *self._values(row), row.seed, row.state, *figures])
        return text.getvalue()

    def as_markdown(self) -> str:
        """The means over seeds, then, where there are several seeds, every run."""
        parts = [f"# {self.name}", self.description, f"{self.state}."]
        tables = [self.mean_table()] + ([self.run_table()] if self._repeats() or self._unfinished() else [])
        parts += [write_markdown(table) if table.rows else "No run is finished yet." for table in tables]
        return "\n\n".join(part for part in parts if part) + "\n"

    def as_page(self, recipe_text: str) -> str:
        """A page that opens offline: accuracy against score, and the tables."""
        return render_sweep(
            name=self.name,
            description=self.description,
            state=self.state,
            finished=not self._unfinished(),
            dataset=self.dataset,
            points={measure: self.points(measure) for measure in MEASURES},
            means=self.mean_table(),
            runs=self.run_table(),
            recipe_text=recipe_text,
        )

    def mean_table(self) -> Table:
        """A row a group of equal runs: accuracy and score with their spread over seeds."""
        repeats = self._repeats()
        names = [*self.columns, *(["runs"] if repeats else []), "accuracy", "score", "parameters", "operations"]
        names += [f"{count} ({name})" for name in self.beside for count in ("score", "parameters", "operations")]
        rows = []
        for mean in self.means:
            first = mean.rows[0]
            cells = self._name_cells(first, linked=len(mean.rows) == 1)
            cells += [Cell(str(len(mean.rows)), len(mean.rows))] if repeats else []
            cells.append(Cell(percent(mean.accuracy) + _spread(mean, mean.accuracy_spread * 100, 2), mean.accuracy))
            cells.append(Cell(decimal(mean.score) + _spread(mean, mean.score_spread, 5), mean.score))
            for name in ("params", "operations"):
                value = statistics.fmean(row.figures[name] for row in mean.rows)
                cells.append(Cell(short(value), value))
            cells += [cell for name in self.beside for cell in _count_cells(mean, name)]
            rows.append([*cells, *size_cells(mean.sizes), Cell(percent(mean.sparsity, 1), mean.sparsity or 0.0)])
        return _table([*names, *SIZE_COLUMNS, "sparsity"], rows)

    def run_table(self) -> Table:
        """A row a run (and stage)."""
        names = [*self.columns, "seed", "accuracy", "top-5", "loss", "score", *SIZE_COLUMNS, "sparsity", "time"]
        rows = []
        for row in self.rows:
            cells = self._name_cells(row, linked=True)
            cells.append(Cell(str(row.seed), row.seed, link="" if cells else row.page))
            figures = {name: value for name, value in row.figures.items() if value is not None}  # no top-5 of 5 classes
            cells += [Cell(write(figures.get(name)), figures.get(name, -1.0)) for name, write in _QUALITIES]
            cells += size_cells(row.figures)
            cells += [Cell(write(figures.get(name)), figures.get(name, -1.0)) for name, write in _EFFORTS]
            rows.append([*cells, Cell(row.state, row.state)])
        return _table([*names, "state"], rows)

    def points(self, measure: Measure = SCORE) -> list[Point]:
        """The dots of the plot against a measure, of rows that have it: a line runs along the stages, or else the last
        column of the grid.
        """
        columns = self.columns
        along = columns[-1] if columns and columns[-1] != "variant" else None
        points = []
        for mean in self.means:
            texts = [plain(value) for value in self._values(mean.rows[0])]
            costs = [number(row.figures.get(MEASURES[measure])) for row in mean.rows]
            known = [cost / measure.unit for cost in costs if cost is not None]
            if len(known) == len(mean.rows):
                points.append(
                    Point(
                        series=", ".join(texts[:-1] if along else texts) or self.name,
                        label=f"{along} {texts[-1]}" if along else "",
                        cost=statistics.fmean(known),
                        accuracy=mean.accuracy,
                        spread=mean.accuracy_spread,
                        runs=tuple(zip(known, (row.figures["accuracy"] for row in mean.rows), strict=True)),
                    )
                )
        return points

    def _name_cells(self, row: Row, linked: bool) -> list[Cell]:
        """What tells the row apart; the first cell leads to its page."""
        cells = [_cell(value) for value in self._values(row)]
        if cells and linked:
            cells[0] = replace(cells[0], link=row.page)
        return cells

    def _values(self, row: Row) -> list[Any]:
        """The row's values in `columns`."""
        values = {"variant": row.variant or "", **row.point, "stage": row.stage or ""}
        return [values[column] for column in self.columns]

    def _repeats(self) -> bool:
        return any(len(mean.rows) > 1 for mean in self.means)

    def _unfinished(self) -> bool:
        return any(row.state != "done" for row in self.rows)


def _average(rows: Sequence[Row]) -> Mean:
    accuracies = [row.figures["accuracy"] for row in rows]
    scores = [row.figures["score"] for row in rows]
    sparsities = [row.figures["sparsity"] for row in rows if "sparsity" in row.figures]
    several = len(rows) > 1
    return Mean(
        tuple(rows),
        statistics.fmean(accuracies),
        statistics.stdev(accuracies) if several else 0.0,
        statistics.fmean(scores),
        statistics.stdev(scores) if several else 0.0,
        {
            name: statistics.fmean(row.figures[name] for row in rows)
            for name in SIZES
            if all(row.figures.get(name) is not None for row in rows)
        },
        statistics.fmean(sparsities) if sparsities else None,
    )


def _spread(mean: Mean, value: float, digits: int) -> str:
    """How it is written behind the mean; left out where it rounds to nothing beside a score."""
    rounds_to_nothing = digits > 2 and round(value, digits) == 0
    return f" ± {value:.{digits}f}" if len(mean.rows) > 1 and not rounds_to_nothing else ""


def _count_cells(mean: Mean, name: str) -> list[Cell]:
    """Mean score, parameters and operations by the count called `name`; dashes where no row has it."""
    cards = [row.figures["beside"][name] for row in mean.rows if name in row.figures.get("beside", {})]
    if not cards:
        return [Cell(NOTHING, -1.0)] * len(COUNTS)
    score, params, operations = (
        statistics.fmean(card[count] for card in cards) for count in ("score", "params", "operations")
    )
    return [Cell(decimal(score), score), Cell(short(params), params), Cell(short(operations), operations)]


def _cell(value: Any) -> Cell:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(plain(value), value if number else plain(value))


def _table(names: list[str], rows: list[list[Cell]]) -> Table:
    numeric = [
        bool(rows) and all(not isinstance(row[place].value, str) for row in rows) for place, _ in enumerate(names)
    ]
    return Table(names, numeric, rows)
