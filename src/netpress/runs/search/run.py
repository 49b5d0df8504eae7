"""Running a search: ask for a recipe, count it, train it where there is room, note what came of it, ask again."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from netpress.errors import Failure, UserError
from netpress.files import atomic_write, parse_toml, read_text
from netpress.folders.run import RunFolder
from netpress.folders.search import SearchFolder, trial_name
from netpress.network import Library
from netpress.recipe.schema import Recipe, check_recipe, resolve_again
from netpress.recipe.search_schema import Stopping
from netpress.report.figures import decimal, percent
from netpress.report.sizes import read_sizes
from netpress.runs.jobs import RunOptions
from netpress.runs.planning import plan_network
from netpress.runs.search.sampling import propose, require_optuna
from netpress.runs.search.space import Space, read_space
from netpress.runs.search.stopping import Curve, find_stop, find_training, read_curve
from netpress.runs.search.table import SearchTable
from netpress.runs.search.trials import IN_VAIN, Journal, Trial
from netpress.runs.workers.driver import Tries
from netpress.runs.workers.places import Ended, Place
from netpress.runs.workers.tasks import Task

LOOK = 1.0
"""Seconds between two looks at the epochs of what runs."""


@dataclass(frozen=True)
class SearchResult:
    """What a search came to."""

    folder: Path
    table: SearchTable
    page: Path
    best: Path | None
    """The best recipe, where a trial was done."""


def run_search(space: Space, folder: Path, options: RunOptions, place: Place) -> SearchResult:
    """Search `space` with trials that run at `place` into folders below `folder`; an interrupted search goes on.

    A search may grow by trials. Raises UserError where Optuna is not installed, for a folder that holds something else,
    and where the first questions bring no recipe that can run within its limits; Failure where every trial failed.
    """
    require_optuna()
    results, search = SearchFolder(folder), space.search
    if search.stop is not None:
        find_training(space.recipe)
    if not options.fresh:
        _refuse_another(results, space)
    with results.claimed(space.recipe.text, {}, options.fresh, resolve_again):
        journal = Journal(results.journal)
        work = _Work(space, results, options.for_members(folder), place, journal, Tries(place, options.console))
        try:
            work.run()
        finally:
            place.close()
            table = work.write()
    if journal.trials and not any(trial.figures for trial in journal.trials.values()):
        raise Failure(f"no trial could be brought to its end; the first: {_first_message(journal)}")
    return SearchResult(folder, table, results.page, results.best if table.best is not None else None)


def _first_message(journal: Journal) -> str:
    return next((trial.message for trial in journal.trials.values() if trial.message), "")


def _refuse_another(results: SearchFolder, space: Space) -> None:
    """Raise UserError where trials were begun with another recipe or space; only their number may have changed."""
    if not (results.is_here and results.journal.exists()):
        return
    before = check_recipe(parse_toml(read_text(results.recipe), str(results.recipe)))
    if _without_trials(before) != _without_trials(space.recipe):
        raise UserError(
            f"--out {results.path}: holds a search that was begun with another recipe; choose another --out, or give "
            "--fresh to begin anew in its place"
        )


def _without_trials(recipe: Recipe) -> str:
    assert recipe.search is not None
    return recipe.model_copy(update={"search": recipe.search.model_copy(update={"trials": 1})}).text


@dataclass
class _Work:
    """A search at work."""

    space: Space
    results: SearchFolder
    options: RunOptions
    place: Place
    journal: Journal
    tries: Tries
    running: dict[str, Task] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    curves: dict[int, Curve] = field(default_factory=dict)
    in_vain: int = 0

    def run(self) -> None:
        waiting = [trial.number for trial in self.journal.trials.values() if trial.state == "open"]
        self.write()
        while True:
            while len(self.running) < self.place.slots:
                number = waiting.pop(0) if waiting else self._ask()
                if number is None:
                    break
                self._start(number)
            if not self.running:
                return
            for ended in self.place.wait(LOOK if self.space.search.stop else None):
                self._settle(ended, waiting)
            self._stop_poor()

    # --- asking

    def _ask(self) -> int | None:
        """The next trial that is worth a training; None where there are enough."""
        search, journal = self.space.search, self.journal
        while sum(trial.counts for trial in journal.trials.values()) < search.trials and self.in_vain < IN_VAIN:
            number = len(journal.trials)
            values = propose(search, self.space.recipe.seed, number, journal.history())
            trial = Trial(number, values)
            refusal = self._refusal(trial)
            journal.ask(trial)
            if refusal is None:
                self.in_vain = 0
                return number
            self.in_vain += 1
            journal.tell(replace(trial, state="refused", message=refusal[0], figures=refusal[1]))
        if self.in_vain >= IN_VAIN and not any(trial.counts for trial in journal.trials.values()):
            raise UserError(f"no recipe of the space can run within its limits; the first: {_first_message(journal)}")
        return None

    def _refusal(self, trial: Trial) -> tuple[str, Mapping[str, float]] | None:
        """Why a trial is not trained, and what is known of it: it was tried before, or is over a limit."""
        for other in self.journal.trials.values():
            if other.counts and other.values == trial.values:
                return f"the same as trial {other.number}", other.figures
        try:
            plan_network(
                self.space.put(trial.number, trial.values), self.options.data, Library(self.options.allow_import)
            )
        except UserError as error:
            return str(error), {}
        return None

    def _start(self, number: int) -> None:
        trial, name = self.journal.trials[number], trial_name(number)
        folder = self.results.member(name).path
        told = ", ".join(f"{path} = {value}" for path, value in trial.values.items())
        self.options.console.say(f"{name}: {told}")
        task = self.running[name] = Task(name, self.space.put(number, trial.values), folder, self.options)
        self.tries.begin(task)

    # --- what came of it

    def _settle(self, ended: Ended, waiting: list[int]) -> None:
        task = self.running.pop(ended.name)
        number = _number(ended.name)
        trial, run = self.journal.trials[number], RunFolder(task.folder)
        stop = self._find_stop(number)
        if stop is not None:
            share, best = stop
            message = f"below the median after {share:.0%} of its epochs"
            trial = replace(trial, state="stopped", figures={"accuracy": best}, message=message)
        elif ended.error is None:
            trial = replace(trial, state="done", figures=_read_figures(run))
        elif self.tries.go_on(task, ended):
            waiting.insert(0, number)
            return
        else:
            trial = replace(trial, state="failed", message=str(ended.error))
            self.options.console.warn(f"{ended.name}: failed: {ended.error}")
        self.journal.tell(trial)
        self.stopped.discard(ended.name)
        self.options.console.say(f"{ended.name}: {trial.state}  {_tell_figures(trial)}")
        self.write()

    def _stop_poor(self) -> None:
        for name in self.running:
            if name not in self.stopped and self._find_stop(_number(name)) is not None:
                self.stopped.add(name)
                self.place.cancel(name)

    def _find_stop(self, number: int) -> tuple[float, float] | None:
        stop: Stopping | None = self.space.search.stop
        if stop is None:
            return None
        before = [self._curve(other) for other in self.journal.order if self.journal.trials[other].counts]
        return find_stop(self._curve(number), before, stop)

    def _curve(self, number: int) -> Curve:
        trial = self.journal.trials[number]
        if number not in self.curves or trial.state == "open":
            stage, epochs = find_training(self.space.put(number, trial.values))
            folder = self.results.member(trial_name(number)).stage(stage)
            self.curves[number] = read_curve(folder.read_metrics() if folder.path.exists() else [], stage, epochs)
        return self.curves[number]

    def write(self) -> SearchTable:
        """The tables of what is known."""
        return write_tables(self.space, self.results, self.journal)


def report_search(folder: Path) -> Path:
    """Write the tables and the page of the search in `folder` again; the page's path.

    Raises UserError if the folder holds no search.
    """
    results = SearchFolder(folder)
    if not results.is_here:
        raise UserError(f"{folder}: holds no search")
    write_tables(read_space(str(results.recipe)), results, Journal(results.journal))
    return results.page


def write_tables(space: Space, results: SearchFolder, journal: Journal) -> SearchTable:
    """Write the tables, and the best recipe, of what a journal says."""
    done = [trial.number for trial in journal.trials.values() if trial.state == "done"]
    # Nothing is chosen by accuracies on the test images.
    tested = {number: results.member(trial_name(number)).read_score()["accuracy"] for number in done}
    table = SearchTable(space, tuple(journal.trials.values()), tested)
    atomic_write(results.csv, table.as_csv())
    atomic_write(results.markdown, table.as_markdown())
    atomic_write(results.page, table.as_page())
    if table.best is not None:
        atomic_write(results.best, space.put(table.best.number, table.best.values).text)
    return table


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _read_figures(run: RunFolder) -> dict[str, float]:
    """What a finished run came to, by objective; the accuracy is that on the images to select on."""
    score, sizes = run.read_score(), read_sizes(run.read_score())
    figures: dict[str, Any] = {
        "accuracy": run.read_summaries()[-1].get("accuracy"),
        "score": score.get("score"),
        "flash": sizes.get("flash_bytes"),
        "ram": sizes.get("ram_bytes"),
        "multiply_adds": sizes.get("multiply_adds"),
        "file": run.network.stat().st_size,
    }
    return {name: float(value) for name, value in figures.items() if value is not None}


def _tell_figures(trial: Trial) -> str:
    if trial.state != "done":
        return trial.message
    return f"{percent(trial.figures['accuracy'])} of the images to select on, score {decimal(trial.figures['score'])}"
