"""The members of a sweep fitted to their limits: each takes its own values, but seeds alone make no difference.

[sweep.grid]
"limits.flash" = ["64K", "128K", "256K"]        # three networks, each the preferred one that fits
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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

    Members that differ in their seed alone share one, with which all of them fit: a mean is over equal networks. One
    that was begun in `place` keeps its own. Raises UserError, which names the member, where no combination keeps a
    member's limits.
    """
    alike: dict[str, list[Member]] = {}
    for member in sweep.members:
        if has_choice(member.recipe):
            alike.setdefault(repr(member.recipe.model_copy(update={"seed": 0, "name": "alike"})), []).append(member)
    choices: dict[str, Fitted] = {}
    for group in alike.values():
        choices |= _fit_alike(group, data, allow_import, place)
    members = (replace(one, recipe=choices[one.name].recipe) if one.name in choices else one for one in sweep.members)
    return replace(sweep, members=tuple(members)), choices


def _fit_alike(
    group: Sequence[Member], data: Path | None, allow_import: bool, place: SweepFolder | None
) -> dict[str, Fitted]:
    """The choice of each of some members that differ in their seed alone."""
    choices = {}
    for member in group:
        begun = None if place is None else find_begun(member.recipe, place.member(member.name))
        if begun is not None:
            choices[member.name] = begun
    first = group[0]
    try:
        values = next((one.values for one in choices.values()), None)
        if values is None:
            fitted = fit_recipe(first.recipe, data, allow_import, others=[other.recipe for other in group[1:]])
            choices[first.name], values = fitted, fitted.values
        for member in group:
            if member.name not in choices:
                choices[member.name] = Fitted(check_recipe(put_values(member.recipe.values, values)), values)
    except UserError as error:
        raise name_member(first, error) from None
    return choices
