"""The plan of a sweep: what each member would do and cost. Nothing runs."""

from pathlib import Path
from typing import Any

from netpress.errors import UserError
from netpress.runs.recipes import plan_recipe
from netpress.runs.sweep.fitting import fit_members
from netpress.runs.sweep.members import Member, SweepMembers, name_member
from netpress.runs.sweep.sharing import find_shared, tell_shared


def plan_sweep(sweep: SweepMembers, data: Path | None = None, allow_import: bool = False) -> dict[str, Any]:
    """The plan as plain values: each member with what `plan_recipe` says of it. Runs nothing.

    Raises UserError, which names the member, where a stage does not fit the network.
    """
    sweep, choices = fit_members(sweep, data, allow_import)
    members = []
    for place, member in enumerate(sweep.members):
        planned = plan_member(member, data, allow_import)
        if member.name in choices:
            planned["fit"] = choices[member.name].as_json()
        members.append(
            {**planned, "name": member.name, "begins_with": tell_shared(find_shared(member, sweep.members[:place]))}
        )
    epochs = sum(plan["epochs"] for plan in members)
    trained = [plan for member in members for plan in member.get("networks", [member])]
    images = sum(plan["epochs"] * plan["train_images"] for plan in trained)
    shared = "; what they share is run once" if any(plan["begins_with"] for plan in members) else ""
    summary = f"{sweep.recipe.name}: {len(members)} runs of {epochs:,} epochs in all, {images:,} images{shared}"
    return {"name": sweep.recipe.name, "summary": summary, "members": members}


def plan_member(member: Member, data: Path | None, allow_import: bool = False) -> dict[str, Any]:
    """`plan_recipe` of one member; its errors name the member."""
    try:
        return plan_recipe(member.recipe, data, allow_import)
    except UserError as error:
        raise name_member(member, error) from None
