"""The stage `quantize` chooses the width of each layer: `bits = "auto"`.

All layers begin at the largest width. Each step gives one layer a narrower width: the step that costs the least
accuracy for each point of score that it saves. A measurement of the whole quantized network, of its accuracy or its
score, decides how many of these steps to take.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

from netpress.compression.quantization.assignment import trim_masks
from netpress.compression.quantization.post_training import quantize_once
from netpress.compression.quantization.sensitivity import (
    Sensitivity,
    draw_images,
    folded,
    measure_sensitivity,
    with_width,
)
from netpress.compression.quantization.settings import FormatRule, QuantizeSettings
from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.network import Network
from netpress.scoring import ScoreSettings, score_trace, trace_network
from netpress.stage import Context

Move = tuple[str, int]
"""A layer and the width that it is given."""


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
    table = measure_sensitivity(start, settings, context, widths, settings.auto_images)
    seen = draw_images(context, settings.auto_images)

    def quantized(settings: QuantizeSettings) -> Network:
        network = quantize_once(start, settings, context)
        trim_masks(network)
        return network

    shares = {bits: _layer_scores(quantized(with_width(settings, bits)), counting) for bits in widths}
    moves = order_moves(table, shares)

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
    bits = _widths(table, moves[:count])
    counts = {width: sum(1 for given in bits.values() if given == width) for width in widths}
    layers_of = ", ".join(f"{layers} of {width} bits" for width, layers in counts.items() if layers)
    reached = f"{accuracy(count):.2%} before training, score {score(count):.6f}"
    context.console.say(f"{context.name}: layers {layers_of}; {reached}")
    after = ("train", "learn", "falling", "falling_steps", "prune")
    return mixed.model_copy(update={name: getattr(settings, name) for name in after})


def _layer_scores(network: Network, counting: ScoreSettings) -> dict[str, float]:
    """What each operation adds to the network's score, by name."""
    traced = trace_network(network)
    return score_trace(traced, counting, network.formats, dataset=network.facts.get("dataset")).shares()


def order_moves(table: Sequence[Sensitivity], shares: Mapping[int, Mapping[str, float]]) -> list[Move]:
    """Steps from the widest formats to the narrowest, each the least harm for the score that it saves.

    shares: for each width, what each layer adds to the score if all have that width. A step may skip widths;
    one that saves nothing is never taken, one that does no harm comes first, largest saving first.
    """
    harm = {(row.layer, row.bits): row.harm for row in table}
    widths = sorted({row.bits for row in table}, reverse=True)
    at = dict.fromkeys((row.layer for row in table), widths[0])
    moves: list[Move] = []
    while True:
        best: tuple[float, float, Move] | None = None
        for layer, now in at.items():
            for bits in (width for width in widths if width < now):
                saved = shares[now].get(layer, 0.0) - shares[bits].get(layer, 0.0)
                if saved <= 0:
                    continue
                price = max(0.0, harm[layer, bits] - harm[layer, now]) / saved
                if best is None or (price, -saved) < best[:2]:
                    best = (price, -saved, (layer, bits))
        if best is None:
            return moves
        layer, bits = best[2]
        at[layer] = bits
        moves.append((layer, bits))


def _widths(table: Sequence[Sensitivity], moves: Sequence[Move]) -> dict[str, int]:
    widest = max(row.bits for row in table)
    return dict.fromkeys((row.layer for row in table), widest) | dict(moves)


def _with_moves(settings: QuantizeSettings, table: Sequence[Sensitivity], moves: Sequence[Move]) -> QuantizeSettings:
    """Settings that give each layer the width it has after these moves."""
    bits = _widths(table, moves)
    widest = with_width(settings, max(bits.values()))
    groups: dict[int, list[str]] = {}
    for layer, width in bits.items():
        groups.setdefault(width, []).append(layer)
    rules = []
    for width, layers in groups.items():
        formats = with_width(settings, width)
        rules.append(FormatRule(layers=tuple(layers), weights=formats.weights, inputs=formats.inputs))
    return widest.model_copy(update={"rules": tuple(rules)})


def _last(count: int, holds: Callable[[int], bool]) -> int:
    """The largest number of steps, 0 ... count, up to which `holds` seems to: true at 0, by halving."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
