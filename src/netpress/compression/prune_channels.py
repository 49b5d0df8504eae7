"""The `prune_channels` stage: it removes whole channels, the least important ones, in rounds.

    02-prune_channels/metrics.jsonl            one line a finished round
                      round-1/metrics.jsonl    the round's training
                              network.netpress the round's result; a round that has it is never done again

Where `prune` leaves zeros in tensors of the old shapes, here tensors get smaller, and every computer is faster for it.
Which channels depend on one another says Torch-Pruning (extra `structured`), see `netpress.compression.channels`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction as Ratio
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from netpress.compression.channels.groups import find_groups, unreached
from netpress.compression.channels.importance import magnitudes, rank_units, taylor_terms
from netpress.compression.channels.removal import check_removal, narrow_network
from netpress.compression.channels.selection import Order, Scope, countable_channels, fewest, order_units
from netpress.compression.channels.structure import NOT_ASKED, ChannelGroup, on_shapes
from netpress.compression.gate import selection_accuracy
from netpress.data import Images
from netpress.errors import UserError
from netpress.folders.stage import NETWORK, round_name
from netpress.network import Network, copy, load, own_class, save
from netpress.network.edits.narrowing import sizes_of
from netpress.numerics.layers import quantized_layers
from netpress.process.devices import generator_for
from netpress.scoring import ScoreSettings, score
from netpress.settings import Count, Positive, Settings, Share, above, at_most, below
from netpress.stage import STAGES, Context, Outlook, Plan, PlanRow, Stage
from netpress.training import TrainSettings, run_training
from netpress.training.norms import remeasure_norms
from netpress.training.settings import MOST_ROUNDS
from netpress.training.train import check_real, plan_answers

Part = Annotated[float, above(0), below(1)]
TARGETS = ("keep", "compression", "score")


class PruneChannelsSettings(Settings):
    """Remove whole channels by importance, in rounds, each with its own training."""

    kind: Literal["prune_channels"] = "prune_channels"
    importance: Literal["magnitude", "taylor"] = "magnitude"
    """What a channel counts: the squares of the weights that go with it, or weight times gradient of the loss."""
    keep: Part | None = None
    """Target: the share that stays of all channels that can go. Give exactly one target."""
    compression: Part | None = None
    """Target: the share of the network's parameters, norms and biases included, that is gone."""
    score: Positive | None = None
    """Target: the largest score, by the run's convention."""
    scope: Scope = "global"
    """global ranks the channels of all layers together, layer takes equal shares of each."""
    layers: str | tuple[str, ...] = "all"
    """Which layers may lose outputs: a kind, a pattern of layer names, or a list. Depthwise ones follow."""
    layer_keep: Share = 0.1
    """Smallest share of a layer's channels that stays, whatever their rank; one stays in any case."""
    images: Count = 1024
    """Training images, drawn at random, whose gradients Taylor sums."""
    norm_images: Count = 2048
    """Training images, drawn at random, on which norm statistics are measured anew after each removal."""
    batch_size: Annotated[Count, at_most(2**20)] = 128
    """Images at a time, for gradients and norm statistics."""
    rounds: Annotated[Count, at_most(MOST_ROUNDS)] = 1
    """Rounds, which go to the target in equal steps."""
    train: TrainSettings | None = None
    """The training of each round; without it, the network stays as it was cut."""

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"one target is needed, keep, compression or score; {found}")
        return self

    @property
    def target(self) -> str:
        """The name of the target."""
        return next(name for name in TARGETS if getattr(self, name) is not None)


@dataclass(frozen=True)
class Goals:
    """What each round must bring the network to: `values[round]` or below, of what the target is about."""

    settings: PruneChannelsSettings
    values: tuple[Ratio, ...]
    parameters: int  # of the network that the stage is given
    counting: ScoreSettings | None

    def compression(self, parameters: int) -> float:
        """The share of the parameters that is gone."""
        return 1 - parameters / self.parameters


def prune_channels(network: Network, settings: PruneChannelsSettings, context: Context) -> Network:
    """Run the rounds that are not finished yet, and return the network after the last one.

    `network` is left as it was. Raises UserError for a quantized network, a layer pattern that matches nothing or
    nothing that can go, a target that cannot be reached, missing data or a missing package, Failure where the network
    without the channels does not compute what it should.
    """
    if quantized_layers(network.module):
        raise UserError(f"{context.name}: this network is quantized; remove channels before the stage that quantizes")
    if context.dataset is None and (settings.importance == "taylor" or settings.train is not None):
        what = 'importance = "taylor"' if settings.importance == "taylor" else "training"
        raise UserError(f"{context.name}: {what} needs training images; give --data DIR or a [data] table")
    original = copy(network)
    original.module.cpu()
    groups = find_groups(original, settings.layers)
    goals = _goals(original, groups, settings, context.score_settings)
    finished = 0
    while finished < settings.rounds and (context.folder / round_name(finished + 1) / NETWORK).exists():
        finished += 1
        context.part(round_name(finished)).clear_state()  # left over where the interruption came just before
    context.truncate_log(finished)
    if finished:
        context.console.say(f"{context.name}: {finished} of {settings.rounds} rounds are done already")
    _tell_whole(original, groups, context)
    current = original
    for number in range(1, settings.rounds + 1):
        file = context.folder / round_name(number) / NETWORK
        if number > finished:
            _run_round(number, current, goals, settings, context)
        if number >= finished:
            # Read back even when not resuming, so that an interruption changes no bit of what follows.
            current = load(file, allow_import=own_class(network))
    return current


def plan(outlook: Outlook, settings: PruneChannelsSettings) -> Plan:
    """A row for each round, one for each layer that may lose channels, and one for each that stays whole, with why.

    What a layer loses is an estimate, of equal shares; with scope "layer" it is what the stage does. Raises UserError
    as the stage would.
    """
    outlook.refuse_quantized("removing channels", "put it before")
    if settings.train is not None:
        check_real(outlook, settings.train)
    groups = find_groups(outlook.network, settings.layers)
    goals = _goals(outlook.network, groups, settings, outlook.score_settings)
    planned, rows = copy(outlook.network), []
    epochs = settings.train.epochs if settings.train else 0
    for number in range(1, settings.rounds + 1):
        now = find_groups(planned, settings.layers) if number > 1 else groups
        order = order_units(now, None, "layer", settings.layer_keep)
        narrow_network(planned, now, _first_to_go(planned, now, order, goals, number))
        rows.append(
            {
                "what": f"round {number}",
                "parameters": _parameters(planned),
                "compression": goals.compression(_parameters(planned)),
                "epochs": epochs,
                **plan_answers(outlook, (settings.train, epochs)),
            }
        )
    return Plan(rows + _layer_rows(outlook.network, planned, groups, settings), planned)


def _layer_rows(
    network: Network, planned: Network, groups: Sequence[ChannelGroup], settings: PruneChannelsSettings
) -> list[PlanRow]:
    note = {"estimated": True} if settings.scope == "global" else {}
    rows: list[PlanRow] = []
    for group in groups:
        for name in group.makers:
            before, after = (sizes_of(one.module.get_submodule(name)).outputs for one in (network, planned))
            row = {"what": name, "channels": before, "left": after}
            rows.append(row | ({"whole": group.whole} if group.whole else note))
    return rows + [{"what": name, "whole": NOT_REACHED} for name in unreached(network, groups)]


NOT_REACHED = "no dependencies of its channels are known"


def _tell_whole(network: Network, groups: Sequence[ChannelGroup], context: Context) -> None:
    """Say which layers stay whole, by reason."""
    reasons: dict[str, list[str]] = {}
    for group in groups:
        if group.whole:
            reasons.setdefault(group.whole, []).extend(group.makers)
    if left := unreached(network, groups):
        reasons[NOT_REACHED] = left
    for reason, names in reasons.items():
        listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        context.console.say(f"{context.name}: {listed}: whole, because {reason}")


def _run_round(number: int, network: Network, goals: Goals, settings: PruneChannelsSettings, context: Context) -> None:
    part = context.part(round_name(number))
    groups = find_groups(network, settings.layers)
    terms = _terms(network, number, settings, context)
    order = order_units(groups, rank_units(network.module, groups, terms), settings.scope, settings.layer_keep)
    narrowed = copy(network)
    kept = narrow_network(narrowed, groups, _first_to_go(network, groups, order, goals, number))
    check_removal(network, narrowed, kept, context.seed)
    line: dict[str, Any] = {"round": number, **_figures(narrowed, goals)}
    if context.dataset is not None:
        line["accuracy_before"] = selection_accuracy(network, context)
        if kept:
            images = _draw(settings.norm_images, "norms", number, context)
            remeasure_norms(narrowed, images, batch_size=settings.batch_size, device=context.device)
        line["accuracy_cut"] = selection_accuracy(narrowed, context)
    message = f"{context.name}: round {number} leaves {line['parameters']:,} of {goals.parameters:,} parameters"
    context.console.say(message + (f", accuracy {line['accuracy_cut']:.2%}" if "accuracy_cut" in line else ""))
    if settings.train is not None:
        trained = run_training(narrowed, settings.train, part)
        narrowed = trained.network
        line["accuracy_trained"] = trained.selection_accuracy
    # The line first: a round whose network is there has its line, and a line without one is cut off again.
    context.log(line)
    save(narrowed, part.folder / NETWORK)
    part.clear_state()


def _terms(network: Network, number: int, settings: PruneChannelsSettings, context: Context) -> dict[str, Tensor]:
    if settings.importance == "magnitude":
        return magnitudes(network)
    images = _draw(settings.images, "taylor", number, context)
    return taylor_terms(network, images, settings.batch_size, context.device)


def _draw(count: int, purpose: str, number: int, context: Context) -> Images:
    """Training images at random; all of them where they are no more."""
    train = context.data.train
    generator = generator_for(context.seed, "prune_channels", purpose, number)
    return train.take(torch.randperm(len(train), generator=generator)[:count])


def _figures(network: Network, goals: Goals) -> dict[str, Any]:
    parameters = _parameters(network)
    counted = score(network, settings=goals.counting).score
    return {"parameters": parameters, "compression": goals.compression(parameters), "score": counted}


def _goals(
    network: Network, groups: Sequence[ChannelGroup], settings: PruneChannelsSettings, counting: ScoreSettings | None
) -> Goals:
    """Where each round must bring the network. Raises UserError where no channel can go, or the target is met."""
    if all(group.whole for group in groups):
        # First those of layers that were asked for.
        ranked = sorted(groups, key=lambda group: group.whole.endswith(NOT_ASKED))
        raise UserError("no channel can go: " + "; ".join(f"{group.name}: {group.whole}" for group in ranked[:3]))
    parameters = _parameters(network)
    if settings.score is not None:
        start, end = Ratio(score(network, settings=counting).score), Ratio(settings.score)
        if start <= end:
            raise UserError(f"score = {settings.score:g}: the network's is {float(start):.6g} already; ask for less")
    elif settings.keep is not None:
        start = Ratio(countable_channels(groups))
        end = start * Ratio(repr(settings.keep))
    else:
        start = Ratio(parameters)
        end = start * (1 - Ratio(repr(settings.compression)))
    steps = range(1, settings.rounds + 1)
    values = tuple(start + (end - start) * Ratio(step, settings.rounds) for step in steps)
    return Goals(settings, values, parameters, counting)


def _first_to_go(
    network: Network, groups: Sequence[ChannelGroup], order: Order, goals: Goals, number: int
) -> list[Tensor]:
    """The fewest units, by group, that bring the network to the round's goal. Raises UserError where all do not."""
    measure = _measure(network, groups, order, goals)
    count = fewest(measure, goals.values[number - 1], len(order))
    if count is None:
        value, target = measure(len(order)), goals.settings.target
        reached = {
            "keep": f"{value:,} channels of {countable_channels(groups):,} are the fewest",
            "compression": f"{goals.compression(int(value)):.4f} is the most",
            "score": f"{float(value):.6g} is the least",
        }[target]
        raise UserError(
            f"{target} = {getattr(goals.settings, target):g} cannot be reached by removing channels: {reached} with "
            f"layer_keep = {goals.settings.layer_keep:g} and these layers; ask for less, or lower layer_keep"
        )
    return order.first(count, len(groups))


def _measure(network: Network, groups: Sequence[ChannelGroup], order: Order, goals: Goals) -> Callable[[int], float]:
    """What the target is about, as a function of how many units go."""
    shapes = replace(network, module=on_shapes(network.module))

    def cut(count: int) -> Network:
        narrowed = copy(shapes)
        narrow_network(narrowed, groups, order.first(count, len(groups)))
        return narrowed

    def channels_left(count: int) -> float:
        removed = order.first(count, len(groups))
        gone = sum(int(group.sizes[units].sum()) for group, units in zip(groups, removed, strict=True))
        return countable_channels(groups) - gone

    if goals.settings.target == "keep":
        return channels_left
    if goals.settings.target == "compression":
        return lambda count: _parameters(cut(count))
    return lambda count: score(cut(count), settings=goals.counting).score


def _parameters(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.module.parameters())


STAGES.add("prune_channels", Stage(PruneChannelsSettings, prune_channels, plan, counts=True))
