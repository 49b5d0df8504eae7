"""Runs and networks beside each other: figures, the settings and the classes in which they differ, and one page.

comparison = compare(["runs/a", "runs/b", "released.netpress"], convention="official")
comparison.as_csv(), comparison.as_class_csv(), comparison.as_json(), comparison.as_page(against="operations")
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from netpress.data import DATASETS
from netpress.data.store import cache_near
from netpress.errors import UserError
from netpress.evaluation import Predictions, evaluate, predictions_of, read_predictions
from netpress.files import is_there, parse_toml, read_text
from netpress.folders.run import RunFolder
from netpress.network import Network, find_file, resolve
from netpress.network.data import dataset_of, load_data
from netpress.process.console import Console
from netpress.process.devices import choose_device
from netpress.report.differences import EXPLANATION, Difference, compare_classes
from netpress.report.figures import NOTHING, decimal, percent, short
from netpress.report.sizes import SIZE_COLUMNS, SIZES, size_cells
from netpress.report.sweep import SCORE, Measure, Point, draw_points
from netpress.report.tables import Cell, Table
from netpress.report.templates import find_template, read_parts
from netpress.scoring import ScoreCard, ScoreSettings, choose_settings, score

Against = Literal["score", "parameters", "operations"]
MEASURES = {
    "score": Measure(SCORE.name, SCORE.write, may_be_logarithmic=True),
    "parameters": Measure("parameters", short, may_be_logarithmic=True),
    "operations": Measure("operations", short, may_be_logarithmic=True),
}
FIGURES = ("dataset", "accuracy", "parameters", "operations", "score")
"""Of each network, and SIZES after them."""
NAMES = ("name", "description")  # of a recipe: what a run is called is no setting
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Compared:
    """One run folder or network file, counted. `settings` are those of its recipe, by path; None without a recipe."""

    name: str
    dataset: str | None
    card: ScoreCard
    settings: dict[str, Any] | None
    predictions: Predictions | None = None
    """What it says of the test images; None where no file tells and nothing was measured."""
    remark: str = ""
    """What a reader must know of its accuracy or its predictions; empty where there is nothing."""

    @property
    def figures(self) -> dict[str, Any]:
        """By the names in FIGURES and SIZES: accuracy is a fraction, None where unknown; counts are in 32 bits."""
        card = self.card
        values = (self.dataset, card.accuracy, card.params, card.operations, card.score)
        return dict(zip(FIGURES, values, strict=True)) | {name: self.sizes.get(name) for name in SIZES}

    @property
    def sizes(self) -> dict[str, Any]:
        """What the network takes on a device."""
        return {} if self.card.footprint is None else self.card.footprint.totals()


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

    @cached_property
    def differences(self) -> list[Difference]:
        """Class by class, the first network whose predictions are known against each later one of which they are."""
        known = [(network.name, network.predictions) for network in self.networks if network.predictions is not None]
        if not known:
            return []
        (against, other), *rest = known
        found = [compare_classes(name, predictions, against, other) for name, predictions in rest]
        return [difference for difference in found if difference.classes]

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
            notes.append(f"accuracy unknown, so not in the plot: {', '.join(unknown)}; --measure measures it")
        return [*notes, *(network.remark for network in self.networks if network.remark), *self._class_notes()]

    def _class_notes(self) -> list[str]:
        notes = []
        without = [network.name for network in self.networks if network.predictions is None]
        if without:
            notes.append(
                f"not compared by class: {', '.join(without)}; no predictions of the test images are kept there, and "
                "--measure makes them"
            )
        named = {difference.network for difference in self.differences}
        first, *rest = [network.name for network in self.networks if network.predictions is not None] or [""]
        apart = [name for name in rest if name not in named]
        if apart:
            notes.append(f"no class in common with {first}: {', '.join(apart)}")
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
            "differences": [difference.as_json() for difference in self.differences],
            "notes": self.notes,
        }

    def as_csv(self) -> str:
        """One line a network; after the figures, a column for each setting in which runs differ.

        What is unknown, and a setting that a run does not have, is empty.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["network", *FIGURES, *SIZES, "convention", *self.differing])
        for network in self.networks:
            settings = [(network.settings or {}).get(path) for path in self.differing]
            told = ["" if value is None else _write(value) for value in settings]
            writer.writerow([network.name, *network.figures.values(), self.convention, *told])
        return text.getvalue()

    def as_class_csv(self) -> str:
        """One line a class of each network that is compared by class. Accuracies are fractions.

        Raises UserError where there is nothing to compare by class.
        """
        if not self.differences:
            raise UserError("; ".join(["nothing can be compared by class", *self._class_notes()]))
        text = io.StringIO()
        rows = [
            {"network": told["network"], "against": told["against"], "paired": told["paired"]} | row
            for told in (difference.as_json() for difference in self.differences)
            for row in told["classes"]
        ]
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
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
            rows.append([*cells, Cell(decimal(card.score), card.score), *size_cells(network.sizes)])
        names = ["network", *FIGURES, *SIZE_COLUMNS]
        return Table(names, [False, False, *[True] * (len(names) - 2)], rows)

    def setting_table(self) -> Table:
        """A row for each setting in which runs differ, a column for each run; a dash where a run does not have it."""
        runs = [network for network in self.networks if network.settings is not None]
        rows = []
        for path in self.differing:
            texts = [path, *(_write((run.settings or {}).get(path)) for run in runs)]
            rows.append([Cell(text, text) for text in texts])
        return Table(["setting", *(run.name for run in runs)], [False] * (len(runs) + 1), rows)

    def as_page(self, against: Against = "score") -> str:
        """A page that opens offline: accuracy against each measure, `against` in sight first, and the tables.

        Every name is escaped.
        """
        return find_template("comparison.html").render(
            against=against,
            convention=self.convention,
            notes=self.notes,
            plots={name: self._draw(name) for name in MEASURES},
            figures=self.figure_table(),
            settings=self.setting_table(),
            differences=self.differences,
            explanation=EXPLANATION,
            style=read_parts("page.css", "plot.css", "comparison.css"),
            script=read_parts("page.js"),
        )

    def _draw(self, measure: str) -> Markup | None:
        """Accuracy against a measure; None where no accuracy is known."""
        points = []
        for network in self.networks:
            accuracy, cost = network.card.accuracy, network.figures[measure]
            if accuracy is not None:
                points.append(Point(network.name, "", cost, accuracy, 0.0, ((cost, accuracy),)))
        return draw_points(points, self.gate, MEASURES[measure], reach_gate=True)


@dataclass(frozen=True)
class Measuring:
    """How networks are run on their test images: where these lie, and on what device."""

    data: Path | None = None
    device: str = "auto"
    console: Console = field(default_factory=lambda: Console(quiet=True))


def compare(
    names: Sequence[str | Path],
    convention: str | None = None,
    allow_import: bool = False,
    *,
    measure: bool = False,
    data: str | Path | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> Comparison:
    """Count the networks of run folders and network files by one convention, by default the official one.

    Accuracies, and the predictions that are compared by class, are those that the files tell. With `measure`, or with
    `data`, a folder of images, networks without predictions are run on their test images. `allow_import` as for
    `netpress.network.load`.
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
    folder = None if data is None else Path(data)
    measuring = Measuring(folder, device, console or Console(quiet=True)) if measure or folder else None
    networks = [_examine(name, file, settings, allow_import, measuring) for file, name in files.items()]
    return Comparison(tuple(networks), settings.convention)


def _examine(
    name: str, file: Path, settings: ScoreSettings, allow_import: bool, measuring: Measuring | None
) -> Compared:
    """Count one network, and find or make its predictions."""
    network = resolve(name, allow_import=allow_import)
    predictions, remark = _find_predictions(network, file)
    if predictions is None and measuring is not None:
        predictions = _measure(name, network, measuring)
        remark = f"{name}: measured on {len(predictions.labels):,} test images of {predictions.dataset}"
        network.facts |= {"accuracy": predictions.accuracy, "dataset": predictions.dataset}
    card = score(network, settings=settings)
    recipe = _read_settings(RunFolder(Path(name)))
    return Compared(name, network.facts.get("dataset"), card, recipe, predictions, remark)


def _find_predictions(network: Network, file: Path) -> tuple[Predictions | None, str]:
    """What lies beside the network's file, and why it is not used where it is not."""
    path = RunFolder(file.parent).predictions
    if not path.is_file() or RunFolder(file.parent).network != file:
        return None, ""
    predictions = read_predictions(path)
    if predictions.accuracy != network.facts.get("accuracy"):
        return None, f"{path}: not used, since it does not have the accuracy of the network beside it"
    return predictions, ""


def _measure(name: str, network: Network, how: Measuring) -> Predictions:
    """Run the network on the test images of the data set that it was made with."""
    own = dataset_of(network)
    embedded = own is not None and own in DATASETS and DATASETS[own].embedded
    folder = None if embedded else how.data
    try:
        data = load_data(network, folder, console=how.console, cache=cache_near(name))
        measured = evaluate(network, data.test, device=choose_device(how.device))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    how.console.say(f"{name}: {measured.accuracy:.2%} of {measured.count:,} test images")
    return predictions_of(measured, data.test, data.classes, data.name)


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
