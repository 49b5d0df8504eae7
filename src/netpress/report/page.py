"""The page of a run: one HTML file that any browser opens offline. Style, script and drawings stand inside it."""

from pathlib import Path

from netpress.files import atomic_write
from netpress.folders.run import RunFolder
from netpress.report.board import AXIS, GATE, compare
from netpress.report.compression import draw_compression
from netpress.report.curves import draw_charts
from netpress.report.facts import RunFacts, number, read_run
from netpress.report.figures import label, plain
from netpress.report.tables import (
    describe_alive,
    describe_card,
    describe_stage,
    flatten,
    list_notes,
    read_footprint,
    read_layers,
    sparsity,
    tabulate_beside,
    tabulate_kinds,
    tabulate_layers,
    tabulate_memory,
    tabulate_ranks,
    tabulate_steps,
)
from netpress.report.templates import find_template, read_parts


def make_report(run_folder: Path) -> Path:
    """Write the report.html of a run and return its path.

    A run that is not finished, or lacks a piece, gives a page that says so. Raises UserError
    if the folder holds no run, Failure if the page cannot be written.
    """
    folder = RunFolder(Path(run_folder))
    atomic_write(folder.report, render(read_run(folder)))
    return folder.report


def render(run: RunFacts) -> str:
    """The page as HTML. Every text that comes from the run is escaped."""
    layers, footprint = read_layers(run), read_footprint(run.score or {})
    return find_template("page.html").render(
        run=run,
        score=run.score or {},
        summary=_summarise(run),
        style=read_parts("page.css", "plot.css"),
        script=read_parts("page.js"),
        asked=[(room, flatten(table)) for room, table in _rooms(run)],
        describe_stage=describe_stage,
        sparsity=sparsity,
        steps={stage.name: tabulate_steps(stage) for stage in run.stages},
        compression=draw_compression(run.stages),
        charts=draw_charts(run.stages),
        card=describe_card(run.score or {}),
        notes=list_notes(run.score or {}),
        beside=tabulate_beside(run.score or {}),
        kinds=tabulate_kinds(layers) if layers else None,
        layers=tabulate_layers(layers) if layers else None,
        footprint=footprint,
        alive=describe_alive(footprint),
        memory=tabulate_memory(footprint),
        ranks=tabulate_ranks(run.score or {}),
        overall=_overall_sparsity(run),
        board=compare(run),
        axis=AXIS,
        gate=GATE,
        number=number,
    )


def _rooms(run: RunFacts) -> list[tuple[str, dict[str, object]]]:
    """The recipe's tables besides its stages."""
    tables = [(name, run.recipe.get(name)) for name in ("data", "model", "score", "beside", "limits")]
    return [(name, table) for name, table in tables if isinstance(table, dict)]


def _summarise(run: RunFacts) -> str:
    """Data, model and seed in a line."""
    tables = dict(_rooms(run))
    model = dict(tables.get("model", {}))
    name = model.pop("family", model.pop("network", None))
    settings = ", ".join(f"{label(path)} {plain(value)}" for path, value in flatten(model))
    parts = [f"{plain(name)} ({settings})" if settings else plain(name)] if name is not None else []
    parts += [f"on {run.images}"] if run.images else []
    parts += [f"seed {plain(run.recipe['seed'])}"] if "seed" in run.recipe else []
    return " · ".join(parts)


def _overall_sparsity(run: RunFacts) -> float | None:
    """Of the last finished stage: what the final network is."""
    done = [stage for stage in run.stages if stage.state == "done"]
    return sparsity(done[-1].done) if done else None
