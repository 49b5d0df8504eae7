"""The plan of a chain: what each network would cost, with those that it learns from as they are planned themselves."""

from pathlib import Path
from typing import Any

from netpress.errors import UserError
from netpress.network import Library, Network
from netpress.recipe.schema import Recipe
from netpress.runs.planning import plan_network
from netpress.stage import stage_of


def plan_chain(recipe: Recipe, data: Path | None = None, allow_import: bool = False) -> dict[str, Any]:
    """The plan as plain values: each network with what `plan_network` says of it, in the order of the runs.

    Raises UserError, which names the network, for what a run would refuse: a teacher of other classes or another input
    size among it.
    """
    left: dict[str, Network] = {}
    networks = []
    for name, needs in recipe.needs.items():
        member = recipe.networks[name]
        weighs = any(_weighs(recipe, other) for other in _descendants(recipe, name))
        try:
            for other in needs:
                _check_same_classes(member, other, recipe.networks[other])
            planned = plan_network(member, data, Library(allow_import, left), weighs=weighs)
        except UserError as error:
            raise UserError(f"network {name}: {error}") from None
        left[name] = planned.network
        networks.append({**planned.values, "name": name, "needs": needs})
    epochs = sum(plan["epochs"] for plan in networks)
    images = sum(plan["epochs"] * plan["train_images"] for plan in networks)
    counted = f"{len(networks)} networks of {epochs:,} epochs in all, {images:,} images"
    summary = f"{recipe.name}: {counted}; the result is {recipe.result_name}"
    return {
        "name": recipe.name,
        "summary": summary,
        "result": recipe.result_name,
        "epochs": epochs,
        "networks": networks,
    }


def _check_same_classes(member: Recipe, other: str, needed: Recipe) -> None:
    """Raise UserError where the other network learns another data set, whose classes have other names."""
    ours, theirs = member.data.dataset, needed.data.dataset
    if ours != theirs and not member.data.classes_by_number:
        raise UserError(
            f"needs {other}, which learns the classes of {theirs}, not of {ours}; give both one data.dataset, or this "
            "one data.classes_by_number = true if the classes are the same under other names"
        )


def _descendants(recipe: Recipe, name: str) -> list[str]:
    """The networks that begin with this one, or with one of those."""
    children = [other for other, member in recipe.networks.items() if member.model_table.network == name]
    return [*children, *(far for child in children for far in _descendants(recipe, child))]


def _weighs(recipe: Recipe, name: str) -> bool:
    return any(stage_of(settings).weighs for settings in recipe.networks[name].stages)
