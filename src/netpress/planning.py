"""What a recipe would do and cost, found out without running it: `netpress plan`, and the beginning of every run.

Nothing is trained and no pixel looked at: the network is made as shapes where that is enough, and each stage is asked
with what the stages before it would leave. So what is refused here is refused before anything has run for hours.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.console import Console
from netpress.data import DataSettings, load_dataset
from netpress.data.dataset import Dataset
from netpress.data.digits import TEST_IMAGES
from netpress.data.settings import DEFAULT_SIZE
from netpress.errors import UserError
from netpress.models.bounds import MOST_ACTIVATIONS, check_answers
from netpress.models.registry import IMPORTED
from netpress.network import Network, create, resolve
from netpress.recipe import ModelTable, Recipe, understand_model
from netpress.scoring import Trace, score_trace, trace_network
from netpress.stage import Outlook, foresee, stage_of

MOST_WEIGHED = 2**25
"""Weights that a plan draws and ranks, all prunings together: 128 MB. Beyond, all tensors are taken to lose the same
share of what they have."""


@dataclass(frozen=True)
class DataShape:
    """What a data set holds, without its pixels."""

    name: str
    images: int
    """Training images, those for validation among them."""
    channels: int
    side: int
    classes: int


PUBLISHED = {  # what their authors state, and what comes with netpress
    "cifar10": DataShape("cifar10", 50_000, 3, 32, 10),
    "cifar100": DataShape("cifar100", 50_000, 3, 32, 100),
    "digits": DataShape("digits", 1797 - TEST_IMAGES, 3, DEFAULT_SIZE, 10),
}


def plan_recipe(
    recipe: Recipe, data: Path | None = None, allow_import: bool = False, shape: DataShape | None = None
) -> dict[str, Any]:
    """The plan as plain values: the dense network's figures, then each stage with its rows.

    `shape` is that of the data where it has been read already. Otherwise data is read only where it must be (a
    folder), and counted by what is known of it. Raises UserError for what a run would refuse, now or later.
    """
    shape = shape or shape_of(recipe.data, data)
    images, _ = recipe.data.divide(shape.images)
    network = _network_of(recipe, shape, allow_import)  # shapes, where it is new: a weight drawn as 0 is no sparsity
    traced = trace_network(network)
    _check_activations(traced)
    if network.architecture.family == IMPORTED:
        check_answers(network.module, network.input.size, len(network.classes))
    card = score_trace(traced, recipe.score, network.formats, dataset=network.facts.get("dataset"))
    weights = sum(weight.numel() for weight in network.weights().values())
    outlook = Outlook(_with_weights(recipe, network), images, tuple(network.architecture.edits), allow_import)
    planned = foresee(recipe.stages, outlook)
    epochs = sum(row.get("epochs", 0) or 0 for _, rows in planned for row in rows)
    summary = (
        f"{recipe.name}: {weights:,} weights, dense score {card.score:.5f} ({recipe.score.convention}); "
        f"{len(planned)} stages, {epochs:,} epochs of {images:,} images"
    )
    return {
        "name": recipe.name,
        "summary": summary,
        "weights": weights,
        "dense": {"params": card.params, "operations": card.operations, "score": card.score},
        "train_images": images,
        "epochs": epochs,
        "stages": [{"name": name, "rows": rows} for name, rows in planned],
    }


def shape_of(settings: DataSettings, data: Path | None) -> DataShape:
    """What the data set that `settings` name holds. Raises UserError for a folder that --data does not name."""
    if settings.dataset in PUBLISHED:
        known = PUBLISHED[settings.dataset]
        return DataShape(known.name, known.images, known.channels, settings.image_size or known.side, known.classes)
    if data is None:
        raise UserError('plan: data.dataset = "folder" needs --data FOLDER to count its classes and images')
    return shape_of_dataset(
        load_dataset(settings.model_copy(update={"train_images": None}), data, 0, Console(quiet=True))
    )


def shape_of_dataset(dataset: Dataset) -> DataShape:
    """The shape of a data set that has been read."""
    count = len(dataset.train.labels) + len(dataset.validation.labels)
    channels, side = dataset.train.images.shape[1:3]
    return DataShape(dataset.name, count, channels, side, len(dataset.classes))


def fit_model(table: ModelTable, shape: DataShape) -> dict[str, Any]:
    """The settings of a new network for data of this shape. Raises UserError where the recipe's own contradict it."""
    measured = {"classes": shape.classes, "channels": shape.channels, "image_size": shape.side}
    for key, value in measured.items():
        if table.settings.get(key, value) != value:
            raise UserError(f"model.{key}: the recipe says {table.settings[key]}, {shape.name} has {value}")
    return {**table.settings, **measured}


def _network_of(recipe: Recipe, shape: DataShape, allow_import: bool) -> Network:
    table = understand_model(recipe.model)
    if table.network is not None:
        network = resolve(table.network, allow_import=allow_import)
        size = (shape.channels, shape.side, shape.side)
        if network.input.size != size or len(network.classes) != shape.classes:
            raise UserError(
                f"model.network: {table.network} maps images of {network.input.size} (channels, height, width) to "
                f"{len(network.classes)} classes; {shape.name} has images of {size} and {shape.classes} classes"
            )
        return network
    assert table.family is not None
    return create(table.family, fit_model(table, shape), seed=recipe.seed, shapes=True)


def _with_weights(recipe: Recipe, network: Network) -> Network:
    """The network with its first weights, where it has none, a stage looks at them, and they are not too many."""
    parameters = list(network.module.parameters())
    weighed = sum(stage_of(settings).weighs for settings in recipe.stages)
    looks = weighed * sum(parameter.numel() for parameter in parameters)
    if not (0 < looks <= MOST_WEIGHED and any(parameter.is_meta for parameter in parameters)):
        return network
    architecture = network.architecture
    return create(architecture.family, architecture.settings, seed=recipe.seed)


def _check_activations(traced: Trace) -> None:
    values = sum(math.prod(operation.output) for operation in traced.operations if operation.kind != "move")
    if values > MOST_ACTIVATIONS:
        raise UserError(
            f"model: one image leaves {values:,} values on its way through this network, more than the "
            f"{MOST_ACTIVATIONS:,} that netpress works with; choose a smaller network or smaller images"
        )
