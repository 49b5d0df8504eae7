"""What the recipe of one network would do and cost, without running it: `netpress plan`, and before every run.

A plan trains nothing and opens no image. It makes the network, as shapes where that is enough, and asks each stage in
turn. A stage plans on the network that the stage before plans to leave: for the recipe fold, fold the second stage
finds nothing to fold. So a run refuses before it begins what it would otherwise refuse after hours.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from netpress.data import DataSettings, Survey, survey_dataset
from netpress.errors import UserError
from netpress.models.bounds import check_activations, check_answers
from netpress.models.registry import IMPORTED
from netpress.network import FILES, Library, Network, create
from netpress.network.data import check_fit
from netpress.recipe.fitting import suggest_table
from netpress.recipe.schema import Recipe
from netpress.runs.beginning import create_for, read_network, settle_test, split_seed_of
from netpress.scoring import ScoreCard, check_limits, measure_footprint, score_trace, trace_network
from netpress.stage import Outlook, Plan, foresee, stage_of
from netpress.tracing import Trace

MOST_WEIGHED = 2**25
"""Weights that a plan draws and ranks, all prunings together: 128 MB. Beyond, all tensors are taken to lose the same
share of what they have."""


@dataclass(frozen=True)
class Planned:
    """The plan of one network: plain values for people, and what the stages would leave, for whoever builds on it."""

    values: dict[str, Any]
    network: Network


@dataclass(frozen=True)
class Beginning:
    """What a run would begin with, before any image is read: `outlook` is what its first stage plans on.

    `network` is the one that the recipe names, or a new one as shapes.
    """

    data: DataSettings
    survey: Survey
    named: Network | None
    network: Network
    outlook: Outlook


def foresee_beginning(
    recipe: Recipe, data: Path | None, library: Library = FILES, *, weighs: bool = False, survey: Survey | None = None
) -> Beginning:
    """What the recipe of one network begins with; `weighs` as for `plan_network`.

    `survey` is what is known of its images, where the caller has asked already.
    Raises UserError where there are no such images or no such network.
    """
    if recipe.data.dataset == "folder" and data is None:
        raise UserError('data.dataset: "folder" needs --data FOLDER, the folder with the images')
    named = read_network(recipe, library)
    settings = settle_test(recipe.data, data, named)
    survey = survey or survey_dataset(settings, data, split_seed_of(settings, recipe.seed, named))
    # A new one as shapes: a weight drawn as 0 is no sparsity.
    network = named or create_for(survey, recipe.model_table, seed=recipe.seed, shapes=True)
    edits = tuple(network.architecture.edits)
    beginning = _with_weights(recipe, network, weighs)
    outlook = Outlook(beginning, survey.train_images, edits, library, recipe.score)
    return Beginning(settings, survey, named, network, outlook)


def plan_network(
    recipe: Recipe, data: Path | None = None, library: Library = FILES, *, weighs: bool = False
) -> Planned:
    """The plan of a recipe of one network: the dense network's figures, then each stage with its rows.

    `weighs` says that what comes after looks at weights. Of a folder it counts the files and opens none; of published
    data sets it knows what their authors state. Raises UserError for what a run would refuse, now or later.
    """
    first = foresee_beginning(recipe, data, library, weighs=weighs)
    network, survey = first.network, first.survey
    plans = foresee(recipe.stages, first.outlook)
    traced = trace_network(network)
    if first.named is not None:
        check_fit(first.named, first.data, survey)
    check_activations(sum(math.prod(operation.output) for operation in traced.operations if operation.kind != "move"))
    if network.architecture.family == IMPORTED:
        check_answers(network.module, network.input.size, len(network.classes))
    cards = _count_each(recipe, survey, network, traced, plans)
    beside = {
        name: score_trace(traced, settings, network.formats, dataset=survey.name)
        for name, settings in recipe.beside.items()
    }
    left = list(plans.values())[-1].network
    try:
        check_limits(recipe.limits, cards[-1], left, _undecided(plans))
    except UserError as error:
        raise UserError(f"{error}\n{suggest_table(recipe.values)}") from None
    values = _tell(recipe, network, survey.train_images, plans, cards, beside)
    return Planned(values, left)


def count_network(recipe: Recipe, survey: Survey, network: Network, traced: Trace | None = None) -> ScoreCard:
    """What a network, of which there may be shapes alone, scores by the recipe's convention, with its footprint."""
    traced = traced or trace_network(network)
    card = score_trace(traced, recipe.score, network.formats, dataset=survey.name)
    return replace(card, footprint=measure_footprint(traced, network))


def _count_each(
    recipe: Recipe, survey: Survey, network: Network, traced: Trace, plans: Mapping[str, Plan]
) -> list[ScoreCard]:
    """The card of the first network, and of what each stage would leave."""
    counted = [(network, count_network(recipe, survey, network, traced))]
    for plan in plans.values():
        before, card = counted[-1]
        if plan.network is not before:
            card = count_network(recipe, survey, plan.network)
        counted.append((plan.network, card))
    return [card for _, card in counted]


def _undecided(plans: Mapping[str, Plan]) -> list[str]:
    """Which of the limits only the run itself can tell to be kept."""
    return sorted({name for plan in plans.values() for name in plan.undecided})


def _tell(
    recipe: Recipe,
    network: Network,
    images: int,
    plans: Mapping[str, Plan],
    cards: list[ScoreCard],
    beside: Mapping[str, ScoreCard],
) -> dict[str, Any]:
    """The plan as plain values: `cards` as `_count_each` gives them, `beside` further ones of the first network."""
    weights = sum(weight.numel() for weight in network.weights().values())
    epochs = sum(row.get("epochs", 0) or 0 for plan in plans.values() for row in plan.rows)
    dense = {recipe.score.convention: cards[0], **beside}
    footprints = [card.footprint.totals() for card in cards if card.footprint is not None]
    summary = (
        f"{recipe.name}: {weights:,} weights, "
        f"dense score {', '.join(f'{card.score:.5f} ({name})' for name, card in dense.items())}; "
        f"{len(plans)} stages, {epochs:,} epochs of {images:,} images"
    )
    return {
        "name": recipe.name,
        "summary": summary,
        "weights": weights,
        "dense": _headline(cards[0]),
        "dense_beside": {name: _headline(other) for name, other in beside.items()},
        "train_images": images,
        "epochs": epochs,
        "stages": [
            {
                "name": name,
                "rows": plan.rows,
                "footprint": footprint,
                "score": card.score,
                "undecided": list(plan.undecided),
            }
            for (name, plan), card, footprint in zip(plans.items(), cards[1:], footprints[1:], strict=True)
        ],
        "footprint": footprints[0],
        "limits": recipe.limits.model_dump(exclude_none=True),
    }


def _headline(card: ScoreCard) -> dict[str, float]:
    return {"params": card.params, "operations": card.operations, "score": card.score}


def _with_weights(recipe: Recipe, network: Network, weighs: bool) -> Network:
    """The network with its first weights, where it has none, somebody looks at them, and they are not too many."""
    parameters = list(network.module.parameters())
    weighed = weighs + sum(stage_of(settings).weighs for settings in recipe.stages)
    looks = weighed * sum(parameter.numel() for parameter in parameters)
    if not (0 < looks <= MOST_WEIGHED and any(parameter.is_meta for parameter in parameters)):
        return network
    architecture = network.architecture
    if architecture.edits:
        return network  # another network of the recipe left it; it has what weights its own plan gave it
    return create(architecture.family, architecture.settings, seed=recipe.seed)
