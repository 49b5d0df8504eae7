"""The tables of an evaluation that `netpress evaluate` shows on demand, as rows of plain values."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from netpress.cli.options import print_csv, print_table
from netpress.errors import visible

if TYPE_CHECKING:
    from netpress.evaluation import Evaluation

Rows = list[dict[str, Any]]

LARGEST_MATRIX = 12  # classes: what a terminal is wide enough for
PAIRS = 10
_PERCENT = ("accuracy", "probability")


def class_rows(measured: "Evaluation", names: Sequence[str]) -> Rows:
    """A row a class that has images, the least accurate first."""
    right, images = (counts.tolist() for counts in measured.by_class(len(names)))
    rows = [
        {"class": name, "images": images[place], "right": right[place], "accuracy": right[place] / images[place]}
        for place, name in enumerate(names)
        if images[place]
    ]
    return sorted(rows, key=lambda row: row["accuracy"])


def matrix_rows(measured: "Evaluation", names: Sequence[str]) -> Rows:
    """A row for each true class, with the images that were taken for each class."""
    from netpress.evaluation import confusion_matrix

    matrix = confusion_matrix(measured, len(names)).tolist()
    corner = "true / predicted"  # no class of a folder is called so: a slash parts folders
    return [{corner: name, **dict(zip(names, row, strict=True))} for name, row in zip(names, matrix, strict=True)]


def pair_rows(measured: "Evaluation", names: Sequence[str]) -> Rows:
    """The classes that are confused most: a row for each pair."""
    from netpress.evaluation import confusion_matrix, most_confused

    return [
        {
            "class": names[pair.label],
            "taken_for": names[pair.predicted],
            "images": pair.images,
            "of": pair.of,
        }
        for pair in most_confused(confusion_matrix(measured, len(names)), PAIRS)
    ]


def bin_rows(measured: "Evaluation") -> Rows:
    """A row for each bin of the calibration."""
    from netpress.evaluation import calibrate

    return [vars(bin) for bin in calibrate(measured).bins]


def mistake_rows(measured: "Evaluation", names: Sequence[str], most: int) -> Rows:
    """The surest mistakes: a row for each."""
    from netpress.evaluation import surest_mistakes

    return [
        {
            "image": mistake.image,
            "class": names[mistake.label],
            "predicted": names[mistake.predicted],
            "probability": mistake.probability,
        }
        for mistake in surest_mistakes(measured, most)
    ]


def wanted_tables(
    measured: "Evaluation",
    names: Sequence[str],
    per_class: bool,
    confusion: bool,
    calibration: bool,
    mistakes: int | None,
) -> dict[str, Rows]:
    """The tables asked for, under the names that they have in JSON."""
    tables = {}
    if per_class:
        tables["classes"] = class_rows(measured, names)
    if confusion:
        tables["confusion"] = matrix_rows(measured, names)
        tables["most_confused"] = pair_rows(measured, names)
    if calibration:
        tables["calibration"] = bin_rows(measured)
    if mistakes is not None:
        tables["mistakes"] = mistake_rows(measured, names, mistakes)
    return tables


def tables_as_json(tables: dict[str, Rows], names: Sequence[str]) -> dict[str, Any]:
    """The tables as plain values; the matrix as a list of lists, in the order of its classes."""
    told: dict[str, Any] = dict(tables)
    if rows := tables.get("confusion"):
        told["confusion"] = {"classes": list(names), "matrix": [[row[name] for name in names] for row in rows]}
    return told


def print_tables(tables: dict[str, Rows]) -> None:
    """Print the tables for people, an empty line after each; a matrix of many classes only as its worst pairs."""
    for name, rows in tables.items():
        if name == "confusion" and len(rows) > LARGEST_MATRIX:
            print(f"confusion of {len(rows)} classes: --csv and --json give it whole")
            continue
        if not rows:
            print(visible(f"{name.replace('_', ' ')}: none"))
        print_table([_for_people(row) for row in rows])
        print()


def print_as_csv(tables: dict[str, Rows]) -> None:
    """Print the first of the tables as CSV."""
    rows = next(iter(tables.values()))
    columns = list(rows[0]) if rows else ["image", "class", "predicted", "probability"]  # no mistake at all
    print_csv(rows, columns)


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    shares = {key: "" if row[key] is None else f"{row[key]:.2%}" for key in _PERCENT if key in row}
    return {key: f"{value:.3f}" if key in ("above", "up_to") else value for key, value in (row | shares).items()}
