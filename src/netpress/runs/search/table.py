"""The table of a search: a row a trial, the front or the best of them, and three ways to write it."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from netpress.folders.run import REPORT
from netpress.folders.search import trial_name
from netpress.report.figures import NOTHING, decimal, percent, plain, short, size
from netpress.report.search import render_search
from netpress.report.sweep import FLASH, RAM, SCORE, Measure, Point
from netpress.report.tables import Cell, Table, write_markdown
from netpress.runs.search.space import Space
from netpress.runs.search.trials import IN_VAIN, Trial
from netpress.runs.sweep.members import name_columns

FIGURES: Mapping[str, Callable[[Any], str]] = {
    "accuracy": percent,
    "score": decimal,
    "flash": size,
    "ram": size,
    "file": size,
    "multiply_adds": short,
}
MEASURES: Mapping[str, Measure] = {
    "score": SCORE,
    "flash": FLASH,
    "ram": RAM,
    "file": Measure("file, KiB", lambda value: f"{value:,.1f}", may_be_logarithmic=True, unit=1024),
    "multiply_adds": Measure("multiply-adds, M", lambda value: f"{value:,.2f}", may_be_logarithmic=True, unit=1e6),
}


@dataclass(frozen=True)
class SearchTable:
    """What a search has tried so far. `tested`: accuracies on the test images, by which nothing is chosen."""

    space: Space
    trials: tuple[Trial, ...]
    tested: Mapping[int, float]

    @cached_property
    def done(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "done"]

    @cached_property
    def front(self) -> list[Trial]:
        """What is done and beaten by none: nothing is as good in every objective and better in one. By the last one."""
        ranks = {trial.number: self._rank(trial) for trial in self.done}

        def beaten(trial: Trial) -> bool:
            own = ranks[trial.number]
            others = (ranks[other.number] for other in self.done if other.number != trial.number)
            return any(all(a <= b for a, b in zip(other, own, strict=True)) and other < own for other in others)

        front = [trial for trial in self.done if not beaten(trial)]
        return sorted(front, key=lambda trial: (ranks[trial.number][-1], trial.number))

    @property
    def best(self) -> Trial | None:
        """The best of the front by the first objective; the first of equals."""
        return min(self.front, key=lambda trial: (self._rank(trial), trial.number), default=None)

    def _rank(self, trial: Trial) -> tuple[float, ...]:
        """Lower is better, objective by objective."""
        signs = {"accuracy": -1.0}
        return tuple(signs.get(name, 1.0) * trial.figures[name] for name in self.space.search.objectives)

    @property
    def _ended(self) -> int:
        return sum(trial.counts and trial.state != "open" for trial in self.trials)

    @property
    def state(self) -> str:
        """How far it is, in a line."""
        parts = [f"{self._ended} of {self.space.search.trials} trials ended"]
        for state, word in (("stopped", "stopped early"), ("failed", "failed"), ("refused", "refused by counting")):
            count = sum(trial.state == state for trial in self.trials)
            parts += [f"{count} {word}"] if count else []
        return ", ".join(parts)

    @property
    def is_finished(self) -> bool:
        """Whether no more is asked: there are enough, or the space has nothing more to train."""
        in_vain = len(self.trials) >= IN_VAIN and not any(trial.counts for trial in self.trials[-IN_VAIN:])
        return self._ended >= self.space.search.trials or in_vain

    def as_csv(self) -> str:
        """One line a trial, in the order in which they were asked for; fractions as fractions."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        front = {trial.number for trial in self.front}
        paths = list(self.space.search.space)
        writer.writerow(["trial", *paths, "state", "front", *FIGURES, "test_accuracy", "message"])
        for trial in self.trials:
            values = [trial.values[path] for path in paths]
            figures = [trial.figures.get(name, "") for name in FIGURES]
            on_front = int(trial.number in front)
            tested = self.tested.get(trial.number, "")
            writer.writerow([trial.number, *values, trial.state, on_front, *figures, tested, trial.message])
        return text.getvalue()

    def as_markdown(self) -> str:
        """The front, then every trial."""
        recipe = self.space.recipe
        parts = [f"# {recipe.name}", recipe.description, f"{self.state}."]
        if self.done:
            parts += [self.front_words, write_markdown(self._tabulate(self.front)), "Every trial:"]
        parts.append(write_markdown(self._tabulate(self.trials)) if self.trials else "Nothing was tried yet.")
        return "\n\n".join(part for part in parts if part) + "\n"

    def as_page(self) -> str:
        """A page that opens offline: accuracy against what the search is about, the front, every trial."""
        recipe = self.space.recipe
        return render_search(
            name=recipe.name,
            description=recipe.description,
            state=self.state,
            finished=self.is_finished,
            dataset=recipe.data.dataset,
            points={MEASURES[name]: self._points(name) for name in self._axes()},
            words=self.front_words,
            front=self._tabulate(self.front),
            trials=self._tabulate(self.trials),
            recipe_text=recipe.text,
        )

    @property
    def front_words(self) -> str:
        """What the first table holds."""
        names = [name.replace("_", "-") for name in self.space.search.objectives]
        if len(names) == 1:
            return f"The best by {names[0]}:"
        return f"The front: no other trial is better in {names[0]} and {names[1]}."

    def _axes(self) -> list[str]:
        """What accuracy is drawn against: the search's own objective first."""
        own = [name for name in self.space.search.objectives if name != "accuracy"]
        return [*own, *(name for name in ("score", "flash", "ram") if name not in own)]

    def _points(self, name: str) -> list[Point]:
        measure = MEASURES[name]
        found = [trial for trial in self.done if name in trial.figures]
        return [
            Point(
                series=trial_name(trial.number),
                label="",
                cost=trial.figures[name] / measure.unit,
                accuracy=trial.figures["accuracy"],
                spread=0.0,
                runs=((trial.figures[name] / measure.unit, trial.figures["accuracy"]),),
            )
            for trial in found
        ]

    def _tabulate(self, trials: Sequence[Trial]) -> Table:
        paths = list(self.space.search.space)
        names = ["trial", *name_columns(paths), "accuracy", "score", "flash", "RAM", "multiply-adds", "state"]
        shown = [name for name in FIGURES if name != "file"]
        rows = []
        for trial in trials:
            link = str(PurePosixPath(trial_name(trial.number)) / REPORT) if trial.state == "done" else ""
            cells = [Cell(str(trial.number), trial.number, link=link)]
            cells += [_value_cell(trial.values[path]) for path in paths]
            for name in shown:
                value = trial.figures.get(name)
                cells.append(Cell(NOTHING if value is None else FIGURES[name](value), -1.0 if value is None else value))
            message = trial.message.partition(";")[0]  # the whole stands in the journal
            state = f"{trial.state}: {message}" if message else trial.state
            rows.append([*cells, Cell(state, state)])
        numeric = [bool(rows) and all(not isinstance(row[i].value, str) for row in rows) for i in range(len(names))]
        return Table(names, numeric, rows)


def _value_cell(value: Any) -> Cell:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(plain(value), value if is_number else plain(value))
