"""What a recipe would do and cost, found out without running it: `netpress plan`."""

from pathlib import Path
from typing import Any

from netpress.data import Survey, survey_dataset
from netpress.errors import UserError
from netpress.network import Network, create, resolve
from netpress.network_data import check_fit, split_seed_of
from netpress.recipe import Recipe, understand_model
from netpress.scoring import score
from netpress.stage import stages


def plan_recipe(recipe: Recipe, data: Path | None = None, allow_import: bool = False) -> dict[str, Any]:
    """The plan as plain values: the dense network's figures, then each stage with its rows.

    Of a folder it counts the files and opens none; of published data sets it knows what their authors state.
    Raises UserError where the data cannot be divided so, or a stage does not fit the network.
    """
    if recipe.data.dataset == "folder" and data is None:
        raise UserError('plan: data.dataset = "folder" needs --data FOLDER to count its classes and images')
    network = _read_network(recipe, allow_import)
    survey = survey_dataset(recipe.data, data, split_seed_of(recipe.data, recipe.seed, network))
    if network is not None:
        check_fit(network, recipe.data, survey)
    else:
        network = _create_network(recipe, survey)
    images = survey.train_images
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


def _read_network(recipe: Recipe, allow_import: bool) -> Network | None:
    table = understand_model(recipe.model)
    return resolve(table.network, allow_import=allow_import) if table.network is not None else None


def _create_network(recipe: Recipe, survey: Survey) -> Network:
    table = understand_model(recipe.model)
    assert table.family is not None
    measured = {"classes": survey.count, "channels": survey.channels, "image_size": survey.side}
    return create(table.family, measured | table.settings, seed=recipe.seed)
