"""Runs and networks beside each other: one table, the settings in which the runs differ, and one page.

comparison = compare(["runs/a", "runs/b", "released.netpress"], convention="official")
comparison.as_csv(), comparison.as_json(), comparison.as_page(against="operations")
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from netpress.errors import UserError
from netpress.files import is_there, parse_toml, read_text
from netpress.folders.run import RunFolder
from netpress.network import find_file, resolve
from netpress.report.figures import NOTHING, decimal, percent, short
from netpress.report.sweep import SCORE, Measure, Point, draw_points
from netpress.report.tables import Cell, Table
from netpress.report.templates import find_template, read_parts
from netpress.scoring import ScoreCard, choose_settings, score

Against = Literal["score", "parameters", "operations"]
MEASURES = {
    "score": Measure(SCORE.name, SCORE.write, may_be_logarithmic=True),
    "parameters": Measure("parameters", short, may_be_logarithmic=True),
    "operations": Measure("operations", short, may_be_logarithmic=True),
}
FIGURES = ("dataset", "accuracy", "parameters", "operations", "score")
NAMES = ("name", "description")  # of a recipe: what a run is called is no setting
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Compared:
    """One run folder or network file, counted. `settings` are those of its recipe, by path; None without a recipe."""

    name: str
    dataset: str | None
    card: ScoreCard
    settings: dict[str, Any] | None

    @property
    def figures(self) -> dict[str, Any]:
        """By the names in FIGURES: accuracy is a fraction, None where it is not known; counts are in 32 bits."""
        card = self.card
        values = (self.dataset, card.accuracy, card.params, card.operations, card.score)
        return dict(zip(FIGURES, values, strict=True))


@dataclass(frozen=True)
class Comparison:
    """At least two networks, counted by one convention, in the order in which they were given."""

    networks: tuple[Compared, ...]
    convention: str

    @cached_property
    def differing(self) -> list[str]:
        """The paths of settings in which the runs differ; one that only some of them have is among them."""
        recipes = [network.settings for network in self.networks if network.settings is not None]
        paths = dict.fromkeys(path for recipe in recipes for path in recipe)
        return [path for path in paths if any(_differ(recipe, recipes[0], path) for recipe in recipes)]

    @property
    def notes(self) -> list[str]:
        """What a reader must know before taking one figure for better than another."""
        notes = []
        tracks = sorted({network.card.track.name for network in self.networks})
        datasets = sorted({network.dataset for network in self.networks if network.dataset is not None})
        if len(datasets) > 1:
            notes.append(f"accuracies are on different data: {', '.join(datasets)}")
        if len(tracks) > 1:
            notes.append(f"scores are relative to different baselines: {', '.join(tracks)}")
        unknown = [network.name for network in self.networks if network.card.accuracy is None]
        if unknown:
            notes.append(f"accuracy unknown, so not in the plot: {', '.join(unknown)}; `netpress evaluate` measures it")
        return notes

    @property
    def gate(self) -> float | None:
        """The least accuracy asked of these networks; None where nothing, or not the same, is asked of all."""
        tracks = [network.card.track for network in self.networks]
        gates = {None if track.gate_is_perplexity else track.gate for track in tracks}
        return gates.pop() if len(gates) == 1 else None

    def as_json(self) -> dict[str, Any]:
        """Plain values: figures of each network, and each differing setting with its value in each run."""
        networks = [{"network": network.name} | network.figures for network in self.networks]
        recipes = {network.name: network.settings for network in self.networks if network.settings is not None}
        differing = {
            path: {name: recipe[path] for name, recipe in recipes.items() if path in recipe} for path in self.differing
        }
        return {"convention": self.convention, "gate": self.gate, "networks": networks} | {
            "differing_settings": differing,
            "notes": self.notes,
        }

    def as_csv(self) -> str:
        """One line a network; after the figures, a column for each setting in which runs differ.

        What is unknown, and a setting that a run does not have, is empty.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["network", *FIGURES, "convention", *self.differing])
        for network in self.networks:
            settings = [(network.settings or {}).get(path) for path in self.differing]
            told = ["" if value is None else _write(value) for value in settings]
            writer.writerow([network.name, *network.figures.values(), self.convention, *told])
        return text.getvalue()

    def figure_table(self) -> Table:
        """A row a network."""
        rows = []
        for network in self.networks:
            card = network.card
            accuracy = Cell(UNKNOWN, -1.0) if card.accuracy is None else Cell(percent(card.accuracy), card.accuracy)
            dataset = network.dataset or UNKNOWN
            costs = [Cell(short(card.params), card.params), Cell(short(card.operations), card.operations)]
            cells = [Cell(network.name, network.name), Cell(dataset, dataset), accuracy, *costs]
            rows.append([*cells, Cell(decimal(card.score), card.score)])
        return Table(["network", *FIGURES], [False, False, True, True, True, True], rows)

    def setting_table(self) -> Table:
        """A row for each setting in which runs differ, a column for each run; a dash where a run does not have it."""
        runs = [network for network in self.networks if network.settings is not None]
        rows = []
        for path in self.differing:
            texts = [path, *(_write((run.settings or {}).get(path)) for run in runs)]
            rows.append([Cell(text, text) for text in texts])
        return Table(["setting", *(run.name for run in runs)], [False] * (len(runs) + 1), rows)

    def as_page(self, against: Against = "score") -> str:
        """A page that opens offline: accuracy against a measure, and the tables. Every name is escaped."""
        points = []
        for network in self.networks:
            accuracy, cost = network.card.accuracy, network.figures[against]
            if accuracy is not None:
                points.append(Point(network.name, "", cost, accuracy, 0.0, ((cost, accuracy),)))
        return find_template("comparison.html").render(
            against=against,
            convention=self.convention,
            notes=self.notes,
            plot=draw_points(points, self.gate, MEASURES[against], reach_gate=True),
            figures=self.figure_table(),
            settings=self.setting_table(),
            style=read_parts("page.css", "plot.css"),
            script=read_parts("page.js"),
        )


def compare(names: Sequence[str | Path], convention: str | None = None, allow_import: bool = False) -> Comparison:
    """Count the networks of run folders and network files by one convention, by default the official one.

    Accuracies are those that the files tell; nothing is measured. `allow_import` as for `netpress.network.load`.
    Raises UserError for fewer than two, for one that is given twice, and for a folder without a finished run.
    """
    if len(names) < 2:
        raise UserError("compare: give at least two run folders or network files")
    settings = choose_settings(convention)
    files: dict[Path, str] = {}
    for name in map(str, names):
        file = _find_network(Path(name)).resolve()
        if file in files:
            raise UserError(f"{name}: is the same network as {files[file]}; give each one once")
        files[file] = name
    networks = []
    for name in files.values():
        network = resolve(name, allow_import=allow_import)
        card = score(network, settings=settings)
        networks.append(Compared(name, network.facts.get("dataset"), card, _read_settings(RunFolder(Path(name)))))
    return Comparison(tuple(networks), settings.convention)


def _find_network(path: Path) -> Path:
    """The network file that is meant. Raises UserError."""
    if not is_there(path):
        raise UserError(f"{path}: no such file or folder; give run folders and network files")
    if RunFolder(path).kind == "sweep":
        raise UserError(f"{path}: holds a sweep, which has a table of its own; give the folders of its runs")
    return find_file(path)


def _read_settings(folder: RunFolder) -> dict[str, Any] | None:
    """The settings of a run by path, as stages.0.epochs; None where this is no run's folder."""
    if not folder.holds_run:
        return None
    values = parse_toml(read_text(folder.recipe), str(folder.recipe))
    if folder.kind == "chain":  # what is compared is the network that the recipe is for
        return _read_settings(RunFolder(folder.path / str(values.get("result") or list(values["networks"])[-1])))
    return dict(_flatten({key: value for key, value in values.items() if key not in NAMES}))


def _flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Nested tables, and lists of tables by their place, as (dotted path, value)."""
    is_list = isinstance(value, list) and bool(value) and all(isinstance(entry, Mapping) for entry in value)
    if not is_list and not isinstance(value, Mapping):
        return [(path, value if isinstance(value, str | int | float | list) else str(value))]
    entries = enumerate(value) if is_list else value.items()
    return [pair for key, entry in entries for pair in _flatten(entry, f"{path}.{key}" if path else str(key))]


def _write(value: Any) -> str:
    """A setting with all its digits, so that what differs also looks different."""
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value)


def _differ(one: Mapping[str, Any], other: Mapping[str, Any], path: str) -> bool:
    return (path in one) != (path in other) or one.get(path) != other.get(path)
