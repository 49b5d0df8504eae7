"""What a recipe would do and cost, found out without running it: `netpress plan`."""

from pathlib import Path
from typing import Any

from netpress.console import Console
from netpress.data import DataSettings, load_dataset
from netpress.errors import UserError
from netpress.network import Network, create, resolve
from netpress.recipe import Recipe, understand_model
from netpress.scoring import score
from netpress.stage import stages

PUBLISHED = {  # data set -> training images, channels, side, classes: what its authors state
    "cifar10": (50_000, 3, 32, 10),
    "cifar100": (50_000, 3, 32, 100),
}


def plan_recipe(recipe: Recipe, data: Path | None = None, allow_import: bool = False) -> dict[str, Any]:
    """The plan as plain values: the dense network's figures, then each stage with its rows.

    Reads the data only where it must (a folder), or where it is embedded; otherwise counts with what
    the data set's authors state. Raises UserError where a stage does not fit the network.
    """
    images, channels, side, classes = _shape_of(recipe.data, data)
    if recipe.data.select_on == "validation":
        images -= max(1, round(images * recipe.data.validation))
    images = min(images, recipe.data.train_images or images)
    network = _network_of(recipe, channels, side, classes, allow_import)
    card = score(network, settings=recipe.score)
    known = stages()
    planned = []
    epochs = 0
    for index, settings in enumerate(recipe.stages):
        kind = settings.kind  # type: ignore[attr-defined]
        rows = known[kind].plan(network, settings)
        epochs += sum(row.get("epochs", 0) or 0 for row in rows)
        planned.append({"name": f"{index + 1:02d}-{kind}", "rows": rows})
    weights = sum(weight.numel() for weight in network.weights().values())
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
        "stages": planned,
    }


def _shape_of(settings: DataSettings, data: Path | None) -> tuple[int, int, int, int]:
    if settings.dataset in PUBLISHED:
        return PUBLISHED[settings.dataset]
    if settings.dataset == "folder" and data is None:
        raise UserError('plan: data.dataset = "folder" needs --data FOLDER to count its classes and images')
    dataset = load_dataset(settings.model_copy(update={"train_images": None}), data, 0, Console(quiet=True))
    count = len(dataset.train.labels) + len(dataset.validation.labels)
    return count, dataset.train.images.shape[1], dataset.train.images.shape[2], len(dataset.classes)


def _network_of(recipe: Recipe, channels: int, side: int, classes: int, allow_import: bool) -> Network:
    table = understand_model(recipe.model)
    if table.network is not None:
        return resolve(table.network, allow_import=allow_import)
    assert table.family is not None
    measured = {"classes": classes, "channels": channels, "image_size": side}
    return create(table.family, measured | table.settings, seed=recipe.seed)
