"""The page of a run: one HTML file that any browser opens offline. Style, script, drawings and pictures stand in it."""

from pathlib import Path
from typing import Any

from netpress.files import atomic_write
from netpress.folders.run import RunFolder
from netpress.report.answers import Answers, read_answers
from netpress.report.board import AXIS, GATE, compare
from netpress.report.calibration import draw_calibration
from netpress.report.commands import list_commands
from netpress.report.compression import draw_compression
from netpress.report.confusion import WORST, draw_confusion, order_classes, tabulate_classes, tabulate_pairs
from netpress.report.curves import draw_charts
from netpress.report.facts import RunFacts, number, read_run
from netpress.report.images import (
    class_counts,
    describe_images,
    list_repeated,
    list_skipped,
    list_warnings,
    tabulate_counts,
    tell_totals,
)
from netpress.report.pictures import Examples, Picture, read_examples, read_mistakes
from netpress.report.stages import draw_stages, tabulate_stages, write_interval
from netpress.report.tables import (
    costs_nothing,
    describe_alive,
    describe_card,
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
from netpress.report.words import describe_data, describe_model, describe_stage

LONG = 16  # rows; longer tables are opened by who wants to read them


def make_report(run_folder: Path) -> Path:
    """Write the report.html of a run and return its path.

    A run that is not finished, or lacks a piece, gives a page that says so; so does one of an earlier version, which
    measured less. Raises UserError if the folder holds no run, Failure if the page cannot be written.
    """
    folder = RunFolder(Path(run_folder))
    atomic_write(folder.report, render(read_run(folder)))
    return folder.report


def render(run: RunFacts) -> str:
    """The page as HTML. Every text that comes from the run is escaped."""
    folder, answers = RunFolder(run.folder), read_answers(run.judgement)
    examples = read_examples(folder, run.problems)
    return find_template("page.html").render(
        run=run,
        score=run.score or {},
        summary=_summarise(run),
        style=read_parts("page.css", "plot.css"),
        script=read_parts("page.js"),
        number=number,
        long=LONG,
        commands=list_commands(run),
        charts=draw_charts(run.stages),
        compression=draw_compression(run.stages),
        steps={stage.name: tabulate_steps(stage) for stage in run.stages},
        **_images(run, examples),
        **_results(run, answers),
        **_mistakes(folder, answers, run.problems),
        **_costs(run),
        **_asked(run),
        board=compare(run),
        axis=AXIS,
        gate=GATE,
    )


def _images(run: RunFacts, examples: Examples | None) -> dict[str, Any]:
    """What goes in."""
    skipped, some_skipped = list_skipped(run.data)
    return {
        "examples": examples,
        "per_class": class_counts(run.data),
        "counts": tabulate_counts(run.data),
        "totals": tell_totals(run.data),
        "about_images": describe_images(run.data),
        "warnings": list_warnings(run.data),
        "skipped": skipped,
        "some_skipped": some_skipped,
        "repeated": list_repeated(run.data),
    }


def _results(run: RunFacts, answers: Answers) -> dict[str, Any]:
    """What came out, stage by stage."""
    data = run.recipe.get("data")
    select_on = data.get("select_on") if isinstance(data, dict) else None
    measured = [answers.stages[stage.name] for stage in run.stages if stage.name in answers.stages]
    final = measured[-1] if measured and run.finished else None
    return {
        "select_on": str(select_on or "selection"),
        "stages": tabulate_stages(run, answers.stages, str(select_on or "selection")),
        "path": draw_stages(measured),
        "interval": write_interval(final.interval) if final else "",
        "tested": final.images if final else None,
        "overall": _overall_sparsity(run),
    }


def _mistakes(folder: RunFolder, answers: Answers, problems: list[str]) -> dict[str, Any]:
    """Where the result is wrong."""
    order = order_classes(answers)
    pictures: list[Picture | None] = [*read_mistakes(folder, len(answers.mistakes), problems)]
    return {
        "answers": answers,
        "confusion": draw_confusion(answers),
        "pairs": tabulate_pairs(answers),
        "classes": tabulate_classes(answers, order[:WORST]) if order else None,
        "more_classes": tabulate_classes(answers, order[WORST:]) if order[WORST:] else None,
        "mistakes": list(zip(answers.mistakes, pictures or [None] * len(answers.mistakes), strict=True)),
        "calibration": None if answers.of_cosines else draw_calibration(answers.bins),
    }


def _costs(run: RunFacts) -> dict[str, Any]:
    """What the result stores, computes and needs."""
    score = run.score or {}
    layers, footprint = read_layers(run), read_footprint(score)
    free = [layer for layer in layers if costs_nothing(layer)]
    costly = [layer for layer in layers if not costs_nothing(layer)]
    return {
        "card": describe_card(score),
        "notes": list_notes(score),
        "beside": tabulate_beside(score),
        "kinds": tabulate_kinds(layers) if layers else None,
        "layers": tabulate_layers(costly) if costly else None,
        "free_layers": tabulate_layers(free) if free else None,
        "footprint": footprint,
        "alive": describe_alive(footprint),
        "memory": tabulate_memory(footprint),
        "ranks": tabulate_ranks(score),
    }


def _asked(run: RunFacts) -> dict[str, Any]:
    """The recipe in words."""
    tables = {name: run.recipe.get(name) for name in ("data", "model", "score", "limits", "beside")}
    data, model, score, limits, beside = (value if isinstance(value, dict) else {} for value in tables.values())
    asked = [
        ("data", describe_data(data, run.images)),
        ("model", [describe_model(model)] if model else []),
        *((stage.name, describe_stage(stage)) for stage in run.stages),
        ("score", [f"counted by the {score['convention']} convention"] if "convention" in score else []),
        ("beside", [", ".join(map(str, beside))] if beside else []),
        ("limits", [f"{name.replace('_', ' ')}: {value}" for name, value in limits.items()]),
    ]
    return {"asked": [(name, phrases) for name, phrases in asked if phrases]}


def _summarise(run: RunFacts) -> str:
    """Data, model and seed in a line."""
    model = run.recipe.get("model")
    parts = [describe_model(model)] if isinstance(model, dict) and model else []
    parts += [f"on {run.images}"] if run.images else []
    parts += [f"seed {run.recipe['seed']}"] if "seed" in run.recipe else []
    return " · ".join(parts)


def _overall_sparsity(run: RunFacts) -> float | None:
    """Of the last finished stage: what the final network is."""
    done = [stage for stage in run.stages if stage.state == "done"]
    return sparsity(done[-1].done) if done else None
