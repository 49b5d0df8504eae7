"""What a chain came to: read from its networks' folders, and written as a table and a page."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netpress.errors import UserError
from netpress.files import atomic_write
from netpress.folders.chain import ChainFolder
from netpress.folders.run import RunFolder
from netpress.recipe.reading import read_recipe
from netpress.recipe.schema import Recipe
from netpress.report.chain import Link, render_chain, tabulate
from netpress.report.sizes import SIZES, read_sizes
from netpress.report.tables import write_markdown


def report_chain(folder: Path) -> Path:
    """Write the table and the page of the chain in `folder` again, from what its runs hold; the page's path.

    Raises UserError if the folder holds no chain.
    """
    place = ChainFolder(folder)
    if not place.is_here:
        raise UserError(f"{folder}: holds no chain of networks")
    write_results(read_recipe(str(place.recipe)), place, {})
    return place.top.report


def write_results(recipe: Recipe, place: ChainFolder, failed: Mapping[str, str]) -> None:
    """Write what the networks came to so far; `failed` has messages by network."""
    links = read_links(recipe, place, failed)
    atomic_write(place.csv, _as_csv(links))
    atomic_write(
        place.top.report, render_chain(recipe.name, recipe.description, recipe.result_name, links, recipe.text)
    )


def as_markdown(recipe: Recipe, place: ChainFolder) -> str:
    """The table, for the terminal."""
    return write_markdown(tabulate(read_links(recipe, place, {})))


def read_links(recipe: Recipe, place: ChainFolder, failed: Mapping[str, str]) -> list[Link]:
    """Each network of the chain, in the order of the runs."""
    return [
        Link(
            name=name,
            needs=needs,
            description=recipe.networks[name].description,
            data=recipe.networks[name].data.dataset,
            state=_state(place, name, failed.get(name)),
            convention=recipe.networks[name].score.convention,
            figures=_figures(place.member(name)) if place.is_done(name) else {},
        )
        for name, needs in recipe.needs.items()
    ]


def _state(place: ChainFolder, name: str, failure: str | None) -> str:
    if failure is not None:
        return f"failed: {failure}"
    if place.is_done(name):
        return "done"
    return "not finished" if place.member(name).holds_run else "not begun"


def _figures(run: RunFolder) -> dict[str, Any]:
    """score.json, with the seconds that the stages took, the size of the file and the share of zeros."""
    done = run.read_summaries()
    figures = run.read_score() | {"seconds": sum(stage["seconds"] for stage in done)}
    figures |= read_sizes(figures)
    figures["file_bytes"] = run.network.stat().st_size
    if done and done[-1]["weights"]:
        figures["sparsity"] = 1 - done[-1]["nonzeros"] / done[-1]["weights"]
    return figures


COLUMNS = (
    *("accuracy", "top5", "loss", "params", "operations", "score", *SIZES),
    *("sparsity", "file_bytes", "seconds"),
)


def _as_csv(links: list[Link]) -> str:
    """One line a network, fractions as fractions; figures are empty where there are none yet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    beside = list(dict.fromkeys(name for link in links for name in link.beside))
    writer.writerow(["network", "begins_with", "taught_by", "state", *COLUMNS, *(f"score_{name}" for name in beside)])
    for link in links:
        figures = [link.figures.get(name, "") for name in COLUMNS]
        others = [link.beside[name]["score"] if name in link.beside else "" for name in beside]
        writer.writerow([link.name, link.begins_with or "", " ".join(link.teachers), link.state, *figures, *others])
    return text.getvalue()
