"""What a recipe would do and cost, without running it: `netpress plan`, and the beginning of every run.

A plan trains nothing and opens no image. It makes the network, as shapes where that is enough, and asks each stage in
turn. A stage plans on the network that the stage before plans to leave: for the recipe fold, fold the second stage
finds nothing to fold. So a run refuses before it begins what it would otherwise refuse after hours.
"""

import math
from pathlib import Path
from typing import Any

from netpress.data import survey_dataset
from netpress.errors import UserError
from netpress.models.bounds import check_activations, check_answers
from netpress.models.registry import IMPORTED
from netpress.network import Network, create
from netpress.network.data import check_fit
from netpress.recipe.schema import Recipe
from netpress.runs.beginning import create_for, read_network, split_seed_of
from netpress.scoring import ScoreCard, score_trace, trace_network
from netpress.stage import Outlook, foresee, stage_of

MOST_WEIGHED = 2**25
"""Weights that a plan draws and ranks, all prunings together: 128 MB. Beyond, all tensors are taken to lose the same
share of what they have."""


def plan_recipe(recipe: Recipe, data: Path | None = None, allow_import: bool = False) -> dict[str, Any]:
    """The plan as plain values: the dense network's figures, then each stage with its rows.

    Of a folder it counts the files and opens none; of published data sets it knows what their authors state.
    Raises UserError for what a run would refuse, now or later.
    """
    if recipe.data.dataset == "folder" and data is None:
        raise UserError('data.dataset: "folder" needs --data FOLDER, the folder with the images')
    named = read_network(recipe, allow_import)
    survey = survey_dataset(recipe.data, data, split_seed_of(recipe.data, recipe.seed, named))
    images = survey.train_images
    # A new one as shapes: a weight drawn as 0 is no sparsity.
    network = named or create_for(survey, recipe.model_table, seed=recipe.seed, shapes=True)
    edits = tuple(network.architecture.edits)
    outlook = Outlook(_with_weights(recipe, network), images, edits, allow_import, recipe.score)
    plans = foresee(recipe.stages, outlook)
    traced = trace_network(network)
    if named is not None:
        check_fit(named, recipe.data, survey)
    check_activations(sum(math.prod(operation.output) for operation in traced.operations if operation.kind != "move"))
    if network.architecture.family == IMPORTED:
        check_answers(network.module, network.input.size, len(network.classes))
    dataset = network.facts.get("dataset")
    card = score_trace(traced, recipe.score, network.formats, dataset=dataset)
    beside = {
        name: score_trace(traced, other, network.formats, dataset=dataset) for name, other in recipe.beside.items()
    }
    scores = [(card, recipe.score.convention), *((other, name) for name, other in beside.items())]
    weights = sum(weight.numel() for weight in network.weights().values())
    epochs = sum(row.get("epochs", 0) or 0 for plan in plans.values() for row in plan.rows)
    summary = (
        f"{recipe.name}: {weights:,} weights, "
        f"dense score {', '.join(f'{counted.score:.5f} ({name})' for counted, name in scores)}; "
        f"{len(plans)} stages, {epochs:,} epochs of {images:,} images"
    )
    return {
        "name": recipe.name,
        "summary": summary,
        "weights": weights,
        "dense": _headline(card),
        "dense_beside": {name: _headline(other) for name, other in beside.items()},
        "train_images": images,
        "epochs": epochs,
        "stages": [{"name": name, "rows": plan.rows} for name, plan in plans.items()],
    }


def _headline(card: ScoreCard) -> dict[str, float]:
    return {"params": card.params, "operations": card.operations, "score": card.score}


def _with_weights(recipe: Recipe, network: Network) -> Network:
    """The network with its first weights, where it has none, a stage looks at them, and they are not too many."""
    parameters = list(network.module.parameters())
    weighed = sum(stage_of(settings).weighs for settings in recipe.stages)
    looks = weighed * sum(parameter.numel() for parameter in parameters)
    if not (0 < looks <= MOST_WEIGHED and any(parameter.is_meta for parameter in parameters)):
        return network
    architecture = network.architecture
    return create(architecture.family, architecture.settings, seed=recipe.seed)
