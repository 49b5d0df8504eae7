"""The results of a sweep: read from the members' folders, and written as tables."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netpress.data.store import ImageCache
from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.files import atomic_write, read_object
from netpress.folders.chain import ChainFolder
from netpress.folders.run import RunFolder
from netpress.folders.sweep import SweepFolder
from netpress.network import load
from netpress.process.console import Console
from netpress.process.devices import choose_device
from netpress.report.sizes import read_sizes
from netpress.runs.beginning import load_run_data
from netpress.runs.chain.results import read_links
from netpress.runs.jobs import RunOptions
from netpress.runs.sweep.members import Member, SweepMembers, read_sweep
from netpress.runs.sweep.table import Row, SweepTable
from netpress.scoring import score


def report_sweep(folder: Path) -> Path:
    """Write the tables and the page of the sweep in `folder` again, from what its runs hold; the page's path.

    Raises UserError if the folder holds no sweep.
    """
    place = SweepFolder(folder)
    if not place.is_here:
        raise UserError(f"{folder}: holds no sweep")
    write_tables(read_sweep(str(place.recipe)), place, {})
    return place.page


def write_tables(sweep: SweepMembers, place: SweepFolder, failed: Mapping[str, str]) -> SweepTable:
    """Write the table of what the members came to so far, in its three forms; `failed` has messages by member."""
    every_stage, first = sweep.table.every_stage, sweep.members[0].recipe
    rows = [row for one in sweep.members for row in _read_rows(one, place.member(one.name), failed, every_stage)]
    dataset = (first.networks[first.result_name] if first.networks else first).data.dataset
    table = SweepTable(sweep.recipe.name, sweep.recipe.description, tuple(rows), dataset)
    atomic_write(place.csv, table.as_csv())
    atomic_write(place.markdown, table.as_markdown())
    atomic_write(place.page, table.as_page(sweep.recipe.text))
    return table


def _read_rows(member: Member, folder: RunFolder, failed: Mapping[str, str], every_stage: bool) -> list[Row]:
    """The rows of one member: what its stages left, where that was measured, then its result."""
    unfinished = f"failed: {failed[member.name]}" if member.name in failed else "not finished"
    unfinished = unfinished if folder.path.exists() else "not begun"

    def row(stage: str | None, figures: dict[str, Any], state: str) -> Row:
        return Row(member.name, member.variant, member.point, member.recipe.seed, stage, figures, state)

    if member.recipe.networks:
        networks = {link.name: dict(link.figures) for link in read_links(member.recipe, ChainFolder(folder.path), {})}
        result = networks.pop(member.recipe.result_name)
        rows = [row(name, figures, "done") for name, figures in networks.items() if every_stage and figures]
        if not folder.is_finished or not result:
            return [*rows, row(None, {}, unfinished)]
        result["seconds"] += sum(figures.get("seconds", 0) for figures in networks.values())
        return [*rows, row(member.recipe.result_name if every_stage else None, result, "done")]
    steps: dict[str, dict[str, Any]] = {}
    if folder.stage_figures.exists():
        steps = read_object(folder.stage_figures)
    rows = [row(stage, figures, "done") for stage, figures in steps.items()]
    if not folder.is_finished:
        return [*rows, row(None, {}, unfinished)]
    figures = folder.read_score()
    done = folder.read_summaries()
    figures |= {"seconds": sum(stage["seconds"] for stage in done), **read_sizes(figures)}
    if done and done[-1]["weights"]:
        figures["sparsity"] = 1 - done[-1]["nonzeros"] / done[-1]["weights"]
    last = folder.label(folder.networks()[-1]) if steps else None
    return [*rows, row(last, figures, "done")]


def measure_stages(member: Member, folder: RunFolder, options: RunOptions) -> None:
    """Measure what each stage before the last, and each round of a pruning, left; written down once.

    The networks of a chain have been measured.
    """
    if folder.stage_figures.exists() or member.recipe.networks:
        return
    recipe, dataset = member.recipe, None
    steps: dict[str, dict[str, Any]] = {}
    for path in folder.networks()[:-1]:
        network = load(path, allow_import=options.allow_import or recipe.model_table.own_class)
        if dataset is None:
            dataset = load_run_data(
                recipe.data, options.data, recipe.seed, network, Console(quiet=True), ImageCache(options.cache)
            )
        measured = evaluate(network, dataset.test, device=choose_device(options.device))
        card = score(network, settings=recipe.score)
        beside = {name: score(network, settings=settings) for name, settings in recipe.beside.items()}
        weights = network.weights().values()
        left = sum(int(weight.detach().count_nonzero()) for weight in weights)
        steps[folder.label(path)] = {
            "accuracy": measured.accuracy,
            "top5": measured.top5,
            "loss": measured.loss,
            "params": card.params,
            "operations": card.operations,
            "score": card.score,
            **({} if card.footprint is None else read_sizes({"footprint": card.footprint.totals()})),
            "sparsity": 1 - left / sum(weight.numel() for weight in weights),
            "beside": {
                name: {"params": other.params, "operations": other.operations, "score": other.score}
                for name, other in beside.items()
            },
        }
        options.console.say(f"{member.name}: {path.parent.name} left {measured.accuracy:.2%}, score {card.score:.5f}")
    atomic_write(folder.stage_figures, json.dumps(steps, indent=1))
