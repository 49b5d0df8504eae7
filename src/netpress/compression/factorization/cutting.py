"""One factorization of a network: curvature, ranks, factors, norms."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from netpress.compression.factorization.curvature import Curvature, layers_of, measure_curvature
from netpress.compression.factorization.layers import find_candidates
from netpress.compression.factorization.regrowth import Deleted, count_deleted
from netpress.compression.factorization.selection import Ranking, State, Way, find_way, first_step
from netpress.compression.factorization.settings import FactorizeSettings
from netpress.compression.factorization.sizes import Sizes
from netpress.compression.factorization.surgery import cut
from netpress.compression.factorization.targets import Aim, choose_step
from netpress.compression.gate import selection_accuracy
from netpress.data import Images
from netpress.errors import UserError
from netpress.models.factorized import Ranks
from netpress.network import Network, copy
from netpress.process.devices import generator_for
from netpress.stage import Context
from netpress.training.norms import remeasure_norms


@dataclass(frozen=True)
class Cut:
    """What a factorization did: the ranks of layers that it changed, and how many weights lost their masks."""

    rankings: Sequence[Ranking]
    state: State
    ranks: dict[str, Ranks]
    ended: dict[str, int]

    def deleted(self, before: Deleted | None, memory: float) -> Deleted:
        """What it deleted, averaged with what was deleted `before`."""
        return count_deleted(self.rankings, self.state, before, memory)


@dataclass(frozen=True)
class _Measured:
    """A network as it came, and what was measured of it."""

    network: Network
    rankings: Sequence[Ranking]
    curvatures: dict[str, Curvature]
    images: Images
    settings: FactorizeSettings
    context: Context

    def cut(self, network: Network, state: State) -> dict[str, int]:
        """Put `network`, a copy of the one measured, into a state: its structure, values and norms.

        Where the state changes no layer the network stays as it was.
        """
        ended = cut(network, self.rankings, self.curvatures, state, self.settings.truncation)
        if any(sides is not None for sides in state.values()):
            measure_norms(network, self.images, self.settings, self.context)
        return ended


def cut_network(network: Network, settings: FactorizeSettings, aim: Aim, context: Context) -> Cut:
    """Factorize the network once, in place, as far as the settings ask.

    Raises UserError for what no ranks reach; but where `aim.further`, it goes as far as it can.
    """
    network.module.to(context.device)
    try:
        found = find_candidates(network, settings.layers)
    except UserError:
        if aim.further:  # those that could be were, down to one row or column
            return Cut((), {}, {}, {})
        raise
    images = draw_images(settings, context)
    layers = layers_of(network, [one.analysed for one in found.candidates])
    context.console.say(f"{context.name}: the curvature of {len(layers)} layers on {len(images)} images")
    batches = -(-len(images) // settings.batch_size)
    with context.console.progress(f"{context.name} curvature", 2 * batches) as progress:
        measured = measure_curvature(
            network,
            layers,
            images,
            context.seed,
            frames={one.analysed: one.frame for one in found.candidates if one.frame is not None},
            batch_size=settings.batch_size,
            device=context.device,
            tell=progress.update,
        )
    curvatures = {one.name: measured[one.analysed] for one in found.candidates}
    rankings = [Ranking(one, curvatures[one.name].importance(one.weight)) for one in found.candidates]
    way = find_way(rankings, settings.selection)
    sizes = Sizes(network, rankings, context.score_settings)
    try:
        step = choose_step(way, rankings, aim, sizes)
    except UserError as error:
        raise UserError(f"{context.name}: {error}") from None
    whole = _Measured(network, rankings, curvatures, images, settings, context)
    if settings.gate is not None and settings.train is None:
        step = _stand_gate(way, step, whole, settings.gate)
    state = way.state(step)
    ended = whole.cut(network, state)
    return Cut(rankings, state, sizes.ranks(state), ended)


def _stand_gate(way: Way, most: int, whole: _Measured, gate: float) -> int:
    """The last step up to `most` at which the untrained network stays at the gate or above."""

    def falls(step: int) -> bool:
        changed = copy(whole.network)
        whole.cut(changed, way.state(step))
        accuracy = selection_accuracy(changed, whole.context)
        whole.context.console.say(f"{whole.context.name}: step {step:,} of {most:,} keeps {accuracy:.2%}")
        return accuracy < gate

    first = first_step(most, falls)
    return most if first is None else max(0, first - 1)


def draw_images(settings: FactorizeSettings, context: Context) -> Images:
    """The training images that curvature and norms are measured on, by the stage's seed, on its device."""
    train = context.data.train
    drawn = torch.randperm(len(train), generator=generator_for(context.seed, context.name, "images"))
    return train.take(drawn[: settings.images]).to(context.device)


def measure_norms(network: Network, images: Images, settings: FactorizeSettings, context: Context) -> None:
    """Measure the norms' statistics anew after a change of the network, in place."""
    remeasure_norms(network, images, batch_size=settings.batch_size, device=context.device)
