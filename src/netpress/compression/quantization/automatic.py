"""The stage `quantize` chooses the widths of each layer, one for its weights and one for its inputs: `bits = "auto"`.

All layers begin at the largest width. Each step gives one layer narrower weights, narrower inputs or both: the step
that moves the answers least for each point of score that it saves. A measurement of the whole quantized network, of its
accuracy or its score, decides how many of these steps to take.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

from netpress.compression.quantization.assignment import choose_formats, trim_masks
from netpress.compression.quantization.post_training import put_layers, quantize_once
from netpress.compression.quantization.sensitivity import (
    Part,
    draw_images,
    folded,
    harms,
    measure_sensitivity,
    with_width,
    with_widths,
)
from netpress.compression.quantization.settings import FormatRule, QuantizeSettings
from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.network import Network, copy
from netpress.scoring import ScoreSettings, score_trace, trace_network
from netpress.stage import Context

Widths = tuple[int, int]
"""Bits of a layer's weights, and of its inputs."""
Move = tuple[str, Widths]
"""A layer and the widths that it is given."""
Harms = Mapping[str, Mapping[Part, Mapping[int, float]]]
"""What each layer costs: its weights and its inputs at each width."""


def choose_widths(network: Network, settings: QuantizeSettings, context: Context) -> QuantizeSettings:
    """The settings with rules that give each layer its width, in place of `bits`.

    With `target_accuracy`, the cheapest network on the way whose accuracy, quantized and not yet trained, is still that
    on `auto_images` of the images that the run selects on; with `target_score`, the first one whose score is that.
    Raises UserError where no choice among `widths` gets there, or nothing counts the score.
    """
    counting = context.score_settings
    if counting is None:
        raise UserError(f'{context.name}: bits = "auto" needs a run or `netpress apply`, which count the score')
    widths = sorted(settings.widths, reverse=True)
    start = folded(network, settings, context)
    parts: tuple[Part, ...] = ("weights", "inputs")
    table = harms(measure_sensitivity(start, settings, context, widths, settings.auto_images, parts))
    seen = draw_images(context, settings.auto_images)

    def quantized(settings: QuantizeSettings) -> Network:
        network = quantize_once(start, settings, context)
        trim_masks(network)
        return network

    moves = order_moves(table, _shares(start, settings, counting, widths))

    @functools.cache
    def accuracy(count: int) -> float:
        network = quantized(_with_moves(settings, table, moves[:count]))
        return evaluate(network, seen, device=context.device).accuracy

    @functools.cache
    def score(count: int) -> float:
        return sum(_layer_scores(quantized(_with_moves(settings, table, moves[:count])), counting).values())

    if settings.target_accuracy is not None:
        target = settings.target_accuracy
        if accuracy(0) < target:
            raise UserError(
                f"{context.name}: {widths[0]} bits in every layer give {accuracy(0):.2%}, below target_accuracy "
                f"{target:.2%}; lower it, or give wider widths"
            )
        count = _last(len(moves), lambda steps: accuracy(steps) >= target)
    else:
        assert settings.target_score is not None
        target = settings.target_score
        if score(len(moves)) > target:
            raise UserError(
                f"{context.name}: {widths[-1]} bits in every layer score {score(len(moves)):.6f}, above target_score "
                f"{target:.6f}; raise it, or give narrower widths"
            )
        count = 0 if score(0) <= target else _last(len(moves), lambda steps: score(steps) > target) + 1
    mixed = _with_moves(settings, table, moves[:count])
    given = _widths(table, moves[:count]).values()
    reached = f"{accuracy(count):.2%} before training, score {score(count):.6f}"
    weights, inputs = (_count_widths(bits) for bits in zip(*given, strict=True))
    context.console.say(f"{context.name}: weights of {weights}; inputs of {inputs}; {reached}")
    after = ("train", "learn", "falling", "falling_steps", "prune")
    return mixed.model_copy(update={name: getattr(settings, name) for name in after})


def _count_widths(given: Sequence[int]) -> str:
    """8 bits in 12 layers, 6 in 3."""
    counts = [(bits, given.count(bits)) for bits in sorted(set(given), reverse=True)]
    (bits, layers), *others = counts
    return ", ".join([f"{bits} bits in {layers} layers", *(f"{bits} in {layers}" for bits, layers in others)])


def _layer_scores(network: Network, counting: ScoreSettings) -> dict[str, float]:
    """What each operation adds to the network's score, by name."""
    traced = trace_network(network)
    return score_trace(traced, counting, network.formats, dataset=network.facts.get("dataset")).shares()


def _shares(
    start: Network, settings: QuantizeSettings, counting: ScoreSettings, widths: Sequence[int]
) -> dict[Widths, dict[str, float]]:
    """What each operation adds to the score where all layers have the same widths; which weights become 0 is not
    looked at.
    """
    shares = {}
    for weights in widths:
        for inputs in widths:
            network = copy(start)
            put_layers(network, choose_formats(network.module, with_widths(settings, weights, inputs)))
            shares[weights, inputs] = _layer_scores(network, counting)
    return shares


def order_moves(table: Harms, shares: Mapping[Widths, Mapping[str, float]]) -> list[Move]:
    """Steps from the widest formats to the narrowest, each the least harm for the score that it saves.

    shares: for each pair of widths, what each layer adds to the score if all have it. A step may skip widths, and may
    change weights and inputs together: a product is as wide as the wider of them. One that saves nothing is never
    taken, one that does no harm comes first, largest saving first.
    """
    widest = max(shares)
    at = dict.fromkeys(table, widest)
    moves: list[Move] = []
    steps = {layer: _best_step(table, shares, layer, widest) for layer in table}
    while any(steps.values()):
        _, _, (layer, given) = min(step for step in steps.values() if step is not None)
        at[layer] = given
        moves.append((layer, given))
        steps[layer] = _best_step(table, shares, layer, given)
    return moves


def _best_step(
    table: Harms, shares: Mapping[Widths, Mapping[str, float]], layer: str, now: Widths
) -> tuple[float, float, Move] | None:
    """The next step of one layer: harm for each point saved, the saving as a negative number, and the step."""

    def harm(given: Widths) -> float:
        return table[layer]["weights"][given[0]] + table[layer]["inputs"][given[1]]

    best: tuple[float, float, Move] | None = None
    for given, share in shares.items():
        saved = shares[now].get(layer, 0.0) - share.get(layer, 0.0)
        if given[0] > now[0] or given[1] > now[1] or saved <= 0:
            continue
        step = ((harm(given) - harm(now)) / saved, -saved, (layer, given))
        best = step if best is None else min(best, step)
    return best


def _widths(table: Harms, moves: Sequence[Move]) -> dict[str, Widths]:
    widest = max(max(each["weights"]) for each in table.values())
    return dict.fromkeys(table, (widest, widest)) | dict(moves)


def _with_moves(settings: QuantizeSettings, table: Harms, moves: Sequence[Move]) -> QuantizeSettings:
    """Settings that give each layer the widths it has after these moves."""
    given = _widths(table, moves)
    groups: dict[Widths, list[str]] = {}
    for layer, widths in given.items():
        groups.setdefault(widths, []).append(layer)
    rules = []
    for widths, layers in groups.items():
        formats = with_widths(settings, *widths)
        rules.append(FormatRule(layers=tuple(layers), weights=formats.weights, inputs=formats.inputs))
    widest = with_width(settings, max(max(each["weights"]) for each in table.values()))
    return widest.model_copy(update={"rules": tuple(rules)})


def _last(count: int, holds: Callable[[int], bool]) -> int:
    """The largest number of steps, 0 ... count, up to which `holds` seems to: true at 0, by halving."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
