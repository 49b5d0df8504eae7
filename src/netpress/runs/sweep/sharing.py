"""What members of a sweep compute once: the stages, or the networks of a chain, that begin alike in several members.

The next member begins with copies of what the first one finished, as if it had been interrupted there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from netpress.folders.chain import ChainFolder
from netpress.folders.run import RunFolder
from netpress.folders.stage import StageFolder
from netpress.folders.sweep import SweepFolder
from netpress.process.console import Console
from netpress.recipe.networks import find_teachers
from netpress.recipe.schema import Recipe, resolve_again
from netpress.runs.sweep.members import Member
from netpress.settings import Settings
from netpress.stage import stage_name, stage_of


@dataclass(frozen=True)
class Trained:
    """What is trained in one folder: a member of one network, or one network of a member that is a chain."""

    member: Member
    network: str | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe of the one network."""
        return self.member.recipe.networks[self.network] if self.network is not None else self.member.recipe

    def folder(self, place: SweepFolder) -> RunFolder:
        run = place.member(self.member.name)
        return ChainFolder(run.path).member(self.network) if self.network is not None else run


def trained_by(member: Member) -> list[Trained]:
    """Of a chain each network, in an order in which they can be run; else the member itself."""
    recipe = member.recipe
    return [Trained(member, name) for name in recipe.needs] if recipe.networks else [Trained(member)]


def shared_stages(first: Recipe, second: Recipe) -> int:
    """How many stages at the beginning of the recipes of two networks give the same result: those may be run once."""
    return _count_shared(first, second, {}, {})


def shared_beginning(first: Trained, second: Trained) -> int:
    """`shared_stages`; networks of chains share no stage that begins with, or learns from, what only one chain has.

    Networks of two chains are the same where they have one name and share all their stages.
    """
    if first.network != second.network:
        return 0
    return _count_shared(first.recipe, second.recipe, first.member.recipe.networks, second.member.recipe.networks)


def _count_shared(one: Recipe, other: Recipe, ours: dict[str, Recipe], theirs: dict[str, Recipe]) -> int:
    """`ours` and `theirs` are the networks that names in the one recipe and in the other may stand for."""
    if (one.seed, one.data, one.model) != (other.seed, other.data, other.model):
        return 0

    def same(name: str | None) -> bool:
        if name in ours and name in theirs:
            first, second = ours[name], theirs[name]
            return len(first.stages) == len(second.stages) == _count_shared(first, second, ours, theirs)
        return name not in ours and name not in theirs

    def equal(settings: Settings, others: Settings) -> bool:
        counted = stage_of(settings).counts and one.score != other.score
        return settings == others and not counted and all(map(same, find_teachers(settings.model_dump(mode="json"))))

    if not same(one.model_table.network):
        return 0
    pairs: list[tuple[Settings, Settings]] = list(zip(one.stages, other.stages, strict=False))
    return next((place for place, pair in enumerate(pairs) if not equal(*pair)), len(pairs))


@dataclass(frozen=True)
class Shared:
    """That what one member trains begins with `count` stages of another's."""

    own: Trained
    origin: Trained
    count: int

    def __str__(self) -> str:
        """What is taken over, as 01-train; of a chain's network its name, which alone means all its stages."""
        stages = self.own.recipe.stages
        names = ", ".join(stage_name(place, stages[place]) for place in range(self.count))
        if self.own.network is None:
            return names
        return self.own.network if self.count == len(stages) else f"{self.own.network}/{names}"


def find_shared(member: Member, others: Sequence[Member]) -> list[Shared]:
    """Of each that `member` trains: with which of `others` it shares most stages, the first of equals, if any."""
    return [shared for own in trained_by(member) for shared in _find_most(own, others)]


def _find_most(own: Trained, others: Sequence[Member]) -> Iterator[Shared]:
    found = [Shared(own, other, shared_beginning(own, other)) for member in others for other in trained_by(member)]
    most = max(found, key=lambda shared: shared.count, default=None)
    if most is not None and most.count:
        yield most


def tell_shared(shared: Sequence[Shared]) -> str | None:
    """In words: `01-train of a`; of chains `teacher, pupil/01-train of a; other of b`."""
    by_origin: dict[str, list[str]] = {}
    for one in shared:
        by_origin.setdefault(one.origin.member.name, []).append(str(one))
    return "; ".join(f"{', '.join(parts)} of {name}" for name, parts in by_origin.items()) or None


def take_over(member: Member, members: Sequence[Member], place: SweepFolder, console: Console) -> None:
    """Begin what `member` trains and has not begun with copies of finished stages that another has in common with it.

    A chain's folder is claimed meanwhile, since its networks' folders lie in it.
    """
    others = [other for other in members if other is not member]
    if not member.recipe.networks:
        _take_over(Trained(member), others, place, console)
        return
    texts = {name: network.text for name, network in member.recipe.networks.items()}
    with ChainFolder(_path(member, place)).claimed(member.recipe.text, texts, resolve=resolve_again):
        for own in trained_by(member):
            _take_over(own, others, place, console)


def _path(member: Member, place: SweepFolder) -> Path:
    return place.member(member.name).path


def _take_over(own: Trained, others: Sequence[Member], place: SweepFolder, console: Console) -> None:
    folder = own.folder(place)
    if not folder.is_empty:
        return
    most: list[StageFolder] = []
    best = Shared(own, own, 0)
    for other in (other for member in others for other in trained_by(member)):
        count = shared_beginning(own, other)
        done = other.folder(place).finished_stages()[:count] if count else []
        if len(done) > len(most):
            most, best = done, Shared(own, other, len(done))
    if most:
        console.say(f"{own.member.name}: takes {best} from {best.origin.member.name}")
        folder.begin_with(most, best.origin.folder(place), own.recipe.text)
