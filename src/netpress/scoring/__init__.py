"""What each counting convention charges for the operations of a network.

score(network).score                                the official rules
score(network, convention="kaist", mask="none")     those of one of the four solutions, with its options
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from netpress.models.registry import IMPORTED
from netpress.network import Network
from netpress.scoring.card import Counted, Row, ScoreCard, relative_score
from netpress.scoring.conventions import CONVENTIONS, ScoreSettings, choose_settings, conventions
from netpress.scoring.footprint import Footprint
from netpress.scoring.limits import Limits, Taken, check_limits, list_excess, list_taken
from netpress.scoring.memory import measure_footprint
from netpress.scoring.rules import Rule
from netpress.scoring.tracks import TRACKS, Track, choose_track
from netpress.scoring.verify import Verification, verify
from netpress.tracing.foreign import check_module
from netpress.tracing.operations import Operation, Stored, Trace
from netpress.tracing.trace import trace

__all__ = [
    "CONVENTIONS",
    "TRACKS",
    "Counted",
    "Footprint",
    "Limits",
    "Operation",
    "Row",
    "Rule",
    "ScoreCard",
    "ScoreSettings",
    "Stored",
    "Taken",
    "Trace",
    "Track",
    "Verification",
    "check_limits",
    "choose_settings",
    "conventions",
    "count_multiply_adds",
    "list_excess",
    "list_taken",
    "measure_footprint",
    "score",
    "score_trace",
    "trace",
    "trace_network",
    "verify",
]

MOST_KEPT = 16
_kept: dict[str, Trace] = {}  # traces of shapes, the one that was asked for last at the end


def score(
    network: Network | nn.Module | Path,
    input_size: tuple[int, ...] | None = None,
    convention: str | None = None,
    *,
    settings: ScoreSettings | None = None,
    accuracy: float | None = None,
    dataset: str | None = None,
    examples: Tensor | None = None,
    **options: Any,
) -> ScoreCard:
    """What `convention` says of a network, of any module, or of the ONNX file at a path.

    `input_size` is the shape of one example without the batch, by default the network's own or (3, 32, 32).
    `accuracy` (a fraction) and `dataset` are by default the network's facts. `examples` [count, *input_size]
    are for networks whose flow depends on their input. Options are those of the convention, over `settings`:
    score(network, weight_bits=4, activation_bits=4, accumulator="tree"). Raises UserError.
    """
    counting = choose_settings(convention, settings, options)
    network, input_size = countable(network, input_size)
    if isinstance(network, Path):
        from netpress.scoring.onnx import score_onnx

        return score_onnx(network, counting, input_size=input_size, accuracy=accuracy, dataset=dataset)
    facts: dict[str, Any] = {} if isinstance(network, nn.Module) else network.facts
    formats: dict[str, Any] = {} if isinstance(network, nn.Module) else network.formats
    traced = trace_network(network, input_size, examples=examples)
    accuracy = facts.get("accuracy") if accuracy is None else accuracy
    card = score_trace(traced, counting, formats, accuracy=accuracy, dataset=dataset or facts.get("dataset"))
    return replace(card, footprint=measure_footprint(traced, network if isinstance(network, Network) else None))


def countable(network: Any, input_size: tuple[int, ...] | None) -> tuple[Any, tuple[int, ...] | None]:
    """What of `network` is counted, and for which input: an exported program is a module with an input of its own.

    Raises UserError for what is neither a network, a module, nor the path of a file.
    """
    if type(network).__module__ == "torch.export.exported_program":  # which takes long to import
        inputs = [value for value in tree_leaves(network.example_inputs or ()) if isinstance(value, Tensor)]
        if input_size is None and len(inputs) == 1:
            input_size = tuple(inputs[0].shape[1:])
        return network.module(), input_size
    if not isinstance(network, nn.Module | Network | Path):
        check_module(network)
    return network, input_size


def trace_network(
    network: Network | nn.Module, input_size: tuple[int, ...] | None = None, *, examples: Tensor | None = None
) -> Trace:
    """The operations of a network (with its masks) or of any module, for its own input size or (3, 32, 32).

    A trace of shapes depends on how the network is built and nothing else, and plans ask for the same again and again:
    the last ones are kept.
    """
    if isinstance(network, nn.Module):
        if input_size is None and examples is not None:
            input_size = tuple(examples.shape[1:])
        return trace(network, input_size or (3, 32, 32), examples=examples)
    spec = network.input
    size = input_size or (spec.channels, spec.height, spec.width)
    structure = _structure(network, size) if examples is None else None
    if structure is None:
        patterns = network.whole_patterns()
        return trace(network.module, size, masks=network.masks, patterns=patterns, examples=examples)
    traced = _kept.pop(structure, None) or trace(network.module, size)
    _kept[structure] = traced  # now the last
    while len(_kept) > MOST_KEPT:
        del _kept[next(iter(_kept))]
    return traced


def _structure(network: Network, size: tuple[int, ...]) -> str | None:
    """All that a trace of this network depends on; None where that is more than how it is built."""
    architecture = network.architecture
    tensors = (*network.module.parameters(), *network.module.buffers())
    if network.masks or architecture.family == IMPORTED or not all(tensor.is_meta for tensor in tensors):
        return None
    formats = {name: repr(one) for name, one in network.formats.items()}
    return json.dumps([vars(architecture), formats, size], sort_keys=True)


def score_trace(
    traced: Trace,
    settings: ScoreSettings,
    formats: Mapping[str, Any] | None = None,
    *,
    accuracy: float | None = None,
    dataset: str | None = None,
) -> ScoreCard:
    """The score card of a trace that is already there; many conventions can count one trace."""
    convention = CONVENTIONS[settings.convention]
    counted = convention.count(traced, settings, formats or {})
    track, borrowed = choose_track(settings.track, settings.convention, dataset)
    alternatives = {
        choice: relative_score(params, operations, track)
        for choice, (params, operations) in counted.alternatives.items()
    }
    others = [f"score with {choice}: {figure:.7f}" for choice, figure in alternatives.items()]
    notes = (*counted.notes, *others, *([borrowed] if borrowed else []))
    card = ScoreCard(
        settings.convention,
        track,
        counted.rows,
        counted.rules,
        counted.assumed,
        notes,
        accuracy,
        counted.extra,
        counted.totals,
        alternatives,
        traced.in_factors,
    )
    return card if convention.print_lines is None else replace(card, printed=convention.print_lines(card))


def count_multiply_adds(module: nn.Module, input_size: tuple[int, ...]) -> int:
    """Multiply-adds of the dense network for one example: products of convolutions, linear layers and matrices."""
    return round(trace(module, input_size).multiply_adds)
