"""What a run's networks say of the test images: each stage's, and all that can be told of the result's answers.

It is measured when all stages are done, so that no choice of the run rests on it, and written to `judgement.json`
stage by stage: what was measured of the same network is not measured again.

    {"images": 1000,
     "stages": {"01-train": {"right": 712, "images": 1000, "interval": [.683, .739], "flash_bytes": ..., ...}, ...},
     "classes": [{"name": "cat", "right": 71, "images": 100, "interval": [...]}, ...],
     "confusion": [[true class, given class, images], ...],        classes by number
     "calibration": {"error": .04, "bins": [...]},
     "mistakes": [{"image": "test/cat/3.jpg", "label": 0, "predicted": 1, "probability": .98}, ...]}
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from netpress.data import Dataset
from netpress.data.sheets import choose_size, draw_sheet
from netpress.errors import Failure
from netpress.evaluation import (
    Evaluation,
    accuracy_interval,
    calibrate,
    confusion_matrix,
    ends_in_cosines,
    evaluate,
    surest_mistakes,
)
from netpress.files import atomic_write
from netpress.folders.run import RunFolder
from netpress.network import Network, load, own_class
from netpress.recipe.schema import Recipe
from netpress.scoring import measure_footprint, score_trace, trace_network
from netpress.stage import Context

MOST_MISTAKES = 24
BUDGET = 120_000  # bytes of their sheet
ONE_ROW = tuple((side, MOST_MISTAKES) for side in (96, 64, 48, 32, 24))


def judge(run: RunFolder, recipe: Recipe, network: Network, measured: Evaluation, context: Context) -> None:
    """Measure what the stages left on the test images, and write what the result, `network`, makes of them.

    measured: of the result on all test images. Nothing is done where there are none. A stage whose network cannot be
    measured is told in a warning, and keeps no figures.
    """
    dataset = context.data
    if not measured.count:
        return
    *earlier, last = run.finished_stages()
    told: dict[str, Any] = {"images": measured.count, "stages": _kept(run, measured.count)}
    for folder in earlier:
        if folder.name in told["stages"]:
            continue
        try:
            left = load(folder.network, allow_import=own_class(network))
            found = evaluate(left, dataset.test, device=context.device)
        except Failure as failure:
            context.console.warn(f"{folder.name}: not measured on the test images: {failure}")
            continue
        context.console.say(f"{folder.name}: {found.accuracy:.2%} of the test images")
        told["stages"][folder.name] = {"network": _digest(folder.network), **_figures(left, found, recipe)}
        atomic_write(run.judgement, json.dumps(told))
    told["stages"][last.name] = {"network": _digest(last.network), **_figures(network, measured, recipe)}
    _draw_mistakes(run, measured, dataset)
    atomic_write(run.judgement, json.dumps(told | _answers(network, measured, dataset)))


def _kept(run: RunFolder, images: int) -> dict[str, Any]:
    """What an earlier call measured of the same networks on as many images."""
    before = run.read_judgement()
    stages = before.get("stages") if before.get("images") == images else None
    if not isinstance(stages, dict):
        return {}
    same = {folder.name: _digest(folder.network) for folder in run.finished_stages() if folder.network.exists()}
    return {
        name: figures
        for name, figures in stages.items()
        if isinstance(figures, dict) and name in same and figures.get("network") == same[name]
    }


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def _figures(network: Network, measured: Evaluation, recipe: Recipe) -> dict[str, Any]:
    """What a network reaches and costs."""
    traced = trace_network(network)
    card = score_trace(traced, recipe.score, network.formats)
    right = int((measured.predicted == measured.labels.cpu()).sum())
    return {
        "right": right,
        "images": measured.count,
        "interval": accuracy_interval(right, measured.count),
        "top5": measured.top5,
        "loss": measured.loss,
        **measure_footprint(traced, network).totals(),
        "params": card.params,
        "operations": card.operations,
        "score": card.score,
    }


def _answers(network: Network, measured: Evaluation, dataset: Dataset) -> dict[str, Any]:
    """What the result takes for what, how sure it is, and where it is wrong."""
    matrix = confusion_matrix(measured, dataset.count)
    pairs = matrix.nonzero()
    counts = matrix[pairs[:, 0], pairs[:, 1]]
    by_class = (column.tolist() for column in measured.by_class(dataset.count))
    return {
        "classes": [
            {"name": name, "right": right, "images": images, "interval": accuracy_interval(right, images)}
            for name, right, images in zip(dataset.classes, *by_class, strict=True)
        ],
        "confusion": [[*pair, count] for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)],
        "calibration": asdict(calibrate(measured)),
        "of_cosines": ends_in_cosines(network),
        "mistakes": [asdict(mistake) for mistake in surest_mistakes(measured, MOST_MISTAKES)],
    }


def _draw_mistakes(run: RunFolder, measured: Evaluation, dataset: Dataset) -> None:
    """A sheet of one row with the surest mistakes, in their order; none of a network that makes none."""
    places: dict[str | int, int] = {name: place for place, name in enumerate(measured.names)}
    mistakes = [places.get(one.image, one.image) for one in surest_mistakes(measured, MOST_MISTAKES)]
    if not mistakes:
        run.picture("mistakes").unlink(missing_ok=True)
        return
    images = dataset.test.images[[int(place) for place in mistakes]]
    side, _ = choose_size(images, 1, BUDGET, ONE_ROW)
    atomic_write(run.picture("mistakes"), draw_sheet(images, len(images), side))
