"""Which values of its [fit] table a recipe with limits takes: the first combination, in order of preference, that fits.

    fitted = fit_recipe(read_recipe("mine.toml", ["limits.flash=256K"]), Path("images"))
    fitted.recipe.values["model"]["width"], fitted.told()

Everything is counted, nothing trained: each combination is planned on shapes, as `netpress plan` does, and what its
stages would leave is compared with the limits. What only a run can tell (how much `prune_to_gate` removes) counts as if
nothing came of it, so that what is chosen fits in any case. A combination that a run would refuse, such as one that
prunes whole layers away, is passed over, and that is told.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from netpress.data import Survey
from netpress.errors import UserError
from netpress.files import parse_toml, read_text
from netpress.folders.run import RunFolder
from netpress.network import Library, Network
from netpress.recipe.fitting import count_combinations, list_combinations, put_values, tell_values
from netpress.recipe.schema import Recipe, check_recipe
from netpress.runs.planning import Beginning, count_network, foresee_beginning
from netpress.scoring import Limits, Taken, list_taken
from netpress.scoring.memory import tensor_bytes
from netpress.stage import Plan, foresee

MARGINS = {"flash": 0.03, "score": 0.06}
"""By how much more the result may take than is foreseen, where training decides in which layers the zeros lie: after a
pruning that ranks all layers together. Measured: at most 2.3% and 5.2% in 17 runs (docs/log.md)."""


@dataclass(frozen=True)
class Combination:
    """One way to take a value of each list: its recipe, which has no [fit] table, and what that would take.

    `place` is that in the order of preference, from 1. `taken` has every limit; of several networks with limits the
    limits of each.
    """

    place: int
    values: Mapping[str, Any]
    recipe: Recipe
    taken: tuple[Taken, ...]

    @property
    def fits(self) -> bool:
        return all(taken.fits for taken in self.taken)


@dataclass(frozen=True)
class Fitted:
    """A recipe without a [fit] table, and the values that it took.

    `chosen` is None where nothing was counted: there was nothing to choose, or a run had begun with these values.
    `refused` tells, for each combination that was passed over because it cannot run, why.
    """

    recipe: Recipe
    values: Mapping[str, Any] = field(default_factory=dict)
    chosen: Combination | None = None
    combinations: int = 1
    refused: tuple[str, ...] = ()

    def told(self) -> str:
        """The choice in a line; nothing where there was none."""
        if self.chosen is None:
            return f"fit: {tell_values(self.values)}, as the run began" if self.values else ""
        place = f"number {self.chosen.place} of {self.combinations:,} in order of preference"
        text = f"fit: {tell_values(self.values)} ({place}): {', '.join(map(str, self.chosen.taken))}"
        return text + (f"; {len(self.refused)} before it cannot run, such as {self.refused[0]}" if self.refused else "")

    def as_json(self) -> dict[str, Any]:
        """The choice as plain values."""
        chosen = self.chosen
        return {
            "values": dict(self.values),
            "place": chosen and chosen.place,
            "combinations": self.combinations,
            "limits": [taken.as_json() for taken in chosen.taken] if chosen else [],
            "refused": list(self.refused),
        }


def fit_recipe(
    recipe: Recipe,
    data: Path | None = None,
    allow_import: bool = False,
    folder: Path | None = None,
    others: Sequence[Recipe] = (),
) -> Fitted:
    """The recipe with the choice made; as it is where it has no [fit] table, or no limits.

    A run that was begun in `folder` keeps its choice. `others` are recipes with the same table, such as those of other
    seeds, that must keep their limits with the same values. Raises UserError, which says by how much each limit is
    missed and what would fit, where no combination keeps all limits.
    """
    if not has_choice(recipe):
        return Fitted(recipe)
    begun = None if folder is None else find_begun(recipe, RunFolder(folder))
    if begun is not None:
        return begun
    refused: dict[str, str] = {}
    counted = []
    for combination in list_counted(recipe, data, allow_import, refused, until_missed=True):
        if combination.fits:
            combination = _count_others(combination, others, data, allow_import)
        if combination.fits:
            combinations = count_combinations(recipe.fit)
            return Fitted(combination.recipe, combination.values, combination, combinations, tuple(refused.values()))
        counted.append(combination)
    if not all(map(_is_whole, counted)):
        counted = list(list_counted(recipe, data, allow_import))
    raise UserError(_tell_failure(counted, tuple(refused.values())))


def _count_others(
    combination: Combination, others: Sequence[Recipe], data: Path | None, allow_import: bool
) -> Combination:
    """The combination with what it takes of the limits of the first of `others` that misses one, if any does."""
    for other in others:
        alone = other.model_copy(update={"fit": {path: (value,) for path, value in combination.values.items()}})
        for counted in list_counted(alone, data, allow_import):
            if not counted.fits:
                return replace(combination, taken=counted.taken)
    return combination


def _is_whole(combination: Combination) -> bool:
    """Whether what is taken of every limit is told."""
    own = combination.recipe
    limits = [one.limits for one in own.networks.values()] if own.networks else [own.limits]
    return len(combination.taken) == sum(len(one.model_dump(exclude_none=True)) for one in limits)


def has_choice(recipe: Recipe) -> bool:
    """Whether there are limits to keep and values to choose from."""
    return bool(recipe.fit) and recipe.limits != Limits()


def find_begun(recipe: Recipe, folder: RunFolder) -> Fitted | None:
    """The choice that the run in `folder` began with, if it is a run of this recipe with one of its combinations."""
    if not folder.holds_run:
        return None
    try:
        text = check_recipe(parse_toml(read_text(folder.recipe), "")).text
    except UserError:
        return None
    for values in list_combinations(recipe.fit):
        try:
            own = check_recipe(put_values(recipe.values, values))
        except UserError:
            continue
        if own.text == text:
            return Fitted(own, values)
    return None


def list_counted(
    recipe: Recipe,
    data: Path | None,
    allow_import: bool = False,
    refused: dict[str, str] | None = None,
    *,
    until_missed: bool = False,
) -> Iterator[Combination]:
    """Every combination that can run, counted, in order of preference; `refused` gets the reasons of the others.

    With `until_missed` what is taken is listed up to the first limit that is missed: flash needs no trace, which takes
    longest.
    """
    counter = _Counter(data, allow_import, until_missed)
    refused = {} if refused is None else refused
    for place, values in enumerate(list_combinations(recipe.fit), 1):
        told = tell_values(values)
        try:
            own = check_recipe(put_values(recipe.values, values))
            taken = counter.count(own)
        except UserError as error:
            refused[told] = f"{told}: {error}"
            continue
        yield Combination(place, values, own, taken)


@dataclass
class _Counter:
    """Counts what recipes would leave. Of recipes that begin alike each stage is planned once.

    Of every network it keeps the plans of the recipe before: combinations come in an order in which neighbours share
    most, and plans hold networks.
    """

    data: Path | None
    allow_import: bool
    until_missed: bool
    surveys: dict[str, Survey] = field(default_factory=dict)
    beginnings: dict[str, tuple[str, Beginning]] = field(default_factory=dict)
    before: dict[str, list[tuple[str, Plan]]] = field(default_factory=dict)

    def count(self, recipe: Recipe) -> tuple[Taken, ...]:
        """What the result takes of its limits, and each other network of a chain of its own. Raises UserError."""
        if not recipe.networks:
            return self._count("", recipe, {})[0]
        left: dict[str, Network] = {}
        taken: tuple[Taken, ...] = ()
        for name in recipe.needs:
            try:
                own, left[name] = self._count(name, recipe.networks[name], left)
            except UserError as error:
                raise UserError(f"network {name}: {error}") from None
            taken += own
        return taken

    def _count(self, name: str, recipe: Recipe, left: Mapping[str, Network]) -> tuple[tuple[Taken, ...], Network]:
        first = self._begin(name, recipe, left)
        begins = repr((recipe.seed, recipe.data, recipe.model, is_shapes(first.outlook.network)))
        keys = [f"{begins} {recipe.stages[:count]!r}" for count in range(1, len(recipe.stages) + 1)]
        # What a network of a chain begins with, or is taught by, may be another network of the same name.
        known = [] if left else list(self._shared(name, keys))
        plans = foresee(recipe.stages, first.outlook, known)
        self.before[name] = list(zip(keys, plans.values(), strict=True))
        network = list(plans.values())[-1].network
        estimated = any(row.get("estimated") for plan in plans.values() for row in plan.rows)
        return tuple(take(recipe, first.survey, network, estimated, self.until_missed)), network

    def _begin(self, name: str, recipe: Recipe, left: Mapping[str, Network]) -> Beginning:
        """What the recipe begins with; the same object where that before began alike."""
        kinds = [settings.kind for settings in recipe.stages]  # type: ignore[attr-defined]
        told, key = repr(recipe.data), repr((recipe.seed, recipe.data, recipe.model, kinds))
        before = self.beginnings.get(name)
        if left or before is None or before[0] != key:
            library = Library(self.allow_import, left)
            first = foresee_beginning(recipe, self.data, library, survey=self.surveys.get(told))
            self.surveys[told] = first.survey
            before = self.beginnings[name] = (key, first)
        return before[1]

    def _shared(self, name: str, keys: Sequence[str]) -> Iterator[Plan]:
        """The plans of the stages before that recipes with these keys have in common with the one before."""
        for key, (before, plan) in zip(keys, self.before.get(name, ()), strict=False):
            if key != before:
                return
            yield plan


def take(
    recipe: Recipe, survey: Survey, network: Network, estimated: bool, until_missed: bool = False
) -> Iterator[Taken]:
    """What the network takes of each limit; `until_missed` as for `list_counted`.

    `estimated` says that training decides in which layers weights are removed.
    """
    limits, margins = recipe.limits, MARGINS if estimated else {}
    if limits.flash is not None:
        flash = Taken("flash", limits.flash, sum(tensor_bytes(network).values()), margins.get("flash", 0.0))
        yield flash
        if until_missed and not flash.fits:
            return
    rest = limits.model_copy(update={"flash": None})
    if rest != Limits():
        for taken in list_taken(rest, count_network(recipe, survey, network)):
            yield replace(taken, margin=margins.get(taken.name, 0.0))


def is_shapes(network: Network) -> bool:
    """Whether the network has no values."""
    return any(parameter.is_meta for parameter in network.module.parameters())


def _tell_failure(counted: Sequence[Combination], refused: Sequence[str]) -> str:
    """By how much each limit is missed at least, with which values, and which limit would do."""
    if not counted:
        return f"fit: none of the {len(refused)} combinations can run, such as {refused[0]}"
    lines = [f"fit: none of the {len(counted) + len(refused):,} combinations keeps all limits"]
    limits = range(len(counted[0].taken))
    least = [_least(counted, place) for place in limits]
    beyond = [place for place in limits if not least[place].taken[place].fits]
    if not beyond:  # each limit is kept by some: what is the least where the others are kept?
        lines[0] += ", although each one is kept by some"
        for place in limits:
            keep_others = [one for one in counted if all(t.fits for i, t in enumerate(one.taken) if i != place)]
            if keep_others:
                least[place] = _least(keep_others, place)
                beyond.append(place)
    between = " where the others are kept" if "although" in lines[0] else ""
    lines += [_tell_least(least[place], place, between) for place in beyond]
    if refused:
        lines.append(f"{len(refused)} combinations cannot run, such as {refused[0]}")
    lines.append("raise a limit, or name smaller values in [fit]")
    return "\n".join(lines)


def _least(counted: Sequence[Combination], place: int) -> Combination:
    """Which takes least of the limit at `place`; of equals, the first."""
    return min(counted, key=lambda one: one.taken[place].most)


def _tell_least(combination: Combination, place: int, between: str) -> str:
    taken = combination.taken[place]
    # Rounded up: what is said to fit must fit.
    enough = f"{math.ceil(taken.most * 1e6) / 1e6:.6f}" if taken.name == "score" else f"{taken.most:.0f}"
    return (
        f"limits.{taken.name}: the least{between} is {taken}, {taken.excess}, with {tell_values(combination.values)}; "
        f"--{taken.name} {enough} would fit"
    )
