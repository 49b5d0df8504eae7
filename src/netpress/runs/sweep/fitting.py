"""The members of a sweep fitted to their limits: each takes its own values, but seeds alone make no difference.

[sweep.grid]
"limits.flash" = ["64K", "128K", "256K"]        # three networks, each the preferred one that fits
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from netpress.errors import UserError
from netpress.folders.sweep import SweepFolder
from netpress.recipe.fitting import put_values
from netpress.recipe.schema import check_recipe
from netpress.runs.fitting import Fitted, find_begun, fit_recipe, has_choice
from netpress.runs.sweep.members import Member, SweepMembers, name_member


def fit_members(
    sweep: SweepMembers, data: Path | None, allow_import: bool, place: SweepFolder | None = None
) -> tuple[SweepMembers, dict[str, Fitted]]:
    """The sweep with every member's choice made, and the choices by the member's name, of those that have one.

    Members that differ in their seed alone share one: a mean is over equal networks. One that was begun in `place`
    keeps its own. Raises UserError, which names the member, where no combination keeps a member's limits.
    """
    members, choices = [], {}
    known: dict[str, Mapping[str, Any]] = {}
    for member in sweep.members:
        if not has_choice(member.recipe):
            members.append(member)
            continue
        alike = repr(member.recipe.model_copy(update={"seed": 0, "name": "alike"}))
        begun = None if place is None else find_begun(member.recipe, place.member(member.name))
        fitted = begun or _fit(member, known.get(alike), data, allow_import)
        known[alike] = fitted.values
        choices[member.name] = fitted
        members.append(replace(member, recipe=fitted.recipe))
    return replace(sweep, members=tuple(members)), choices


def _fit(member: Member, values: Mapping[str, Any] | None, data: Path | None, allow_import: bool) -> Fitted:
    """The member with these values, or with those that fit."""
    try:
        if values is None:
            return fit_recipe(member.recipe, data, allow_import)
        return Fitted(check_recipe(put_values(member.recipe.values, values)), values)
    except UserError as error:
        raise name_member(member, error) from None
