"""The `fold` stage: it calculates once what only weights go into, and compares the answers before and after.

Batch norms go into the layers before them (`netpress.network.edits.folding`; `netpress.tracing.foldable` finds them).
The directions of a cosine head are scaled to length 1 (`netpress.network.edits.directions`).
"""

from collections.abc import Sequence
from typing import Literal

import torch

from netpress.errors import Failure, UserError
from netpress.network import Network, copy
from netpress.network.edits.directions import FoldDirections, find_directions
from netpress.network.edits.folding import FoldNorms, Pair
from netpress.process.devices import generator_for
from netpress.settings import Positive, Settings
from netpress.stage import STAGES, Context, Outlook, Plan, PlanRow, Stage
from netpress.tracing.foldable import find_foldable_norms

IMAGES = 8  # random inputs in the check
NOTHING = (
    "nothing to fold: no batch norm follows a convolution or a linear layer directly, and there is no cosine head "
    "whose directions could be scaled; leave this stage out"
)


class FoldSettings(Settings):
    """Fold batch norms, and the lengths of a cosine head's directions, into weights: the same answers, less to do."""

    kind: Literal["fold"] = "fold"
    directions: bool = True
    """Scale the directions of a cosine head to length 1 for good, in place of before each use; its clamp goes too. The
    angle loss can train them no more."""
    tolerance: Positive = 1e-4
    """Largest difference of a logit on random inputs, as a share of the largest logit: rounding of float32."""


def fold(network: Network, settings: FoldSettings, context: Context) -> Network:
    """A folded copy of `network`, its masks as they were.

    Raises UserError if no norm can be folded or if a tensor in play has a number format already
    (folding would take it off its grid), Failure if the logits differ by more than the tolerance.
    """
    folded = copy(network)
    folded.module.cpu()
    pairs = find_foldable_norms(folded.module, folded.input.size)
    directions = find_directions(folded.module) if settings.directions else ()
    _check_formats(network, pairs, directions)
    if not pairs and not directions:
        raise UserError(f"{context.name}: {NOTHING}")
    before = _logits(folded, context.seed)
    _edit(folded, pairs, directions)
    after = _logits(folded, context.seed)
    difference = float((after - before).abs().max() / before.abs().max().clamp_min(1e-30))
    if not difference <= settings.tolerance:
        raise Failure(
            f"{context.name}: after folding, logits differ by {difference:.2g} of the largest, above the "
            f"tolerance of {settings.tolerance:g}; a norm with a running variance near 0 may be the cause"
        )
    context.truncate_log(0)  # where an interruption came after this line
    context.log({"folded": len(pairs), "directions": len(directions), "difference": difference})
    also = f", directions of {', '.join(directions)} scaled to length 1" if directions else ""
    context.console.say(f"{context.name}: {len(pairs)} norms folded{also}, logits differ by at most {difference:.1e}")
    return folded


def plan(outlook: Outlook, settings: FoldSettings) -> Plan:
    """One row for each norm that would go, and for each cosine layer that would be a linear one.

    Raises UserError where there is neither, or the network is quantized already.
    """
    outlook.refuse_quantized("folding", "fold before it, or let it fold")
    network = outlook.network
    pairs = find_foldable_norms(network.module, network.input.size)
    directions = find_directions(network.module) if settings.directions else ()
    if not pairs and not directions:
        raise UserError(NOTHING)
    rows: list[PlanRow] = [
        {"what": norm, "into": conv, "channels": network.module.get_submodule(norm).num_features, "epochs": 0}
        for conv, norm in pairs
    ]
    rows += [
        {"what": f"directions of {name}", "into": name, "channels": len(network.classes), "epochs": 0}
        for name in directions
    ]
    return Plan(rows, with_folds(network, pairs, directions))


def with_folds(network: Network, pairs: Sequence[Pair], directions: Sequence[str] = ()) -> Network:
    """A copy of `network` with these norms folded, these directions scaled: for plans, which look at its structure."""
    folded = copy(network)
    _edit(folded, pairs, directions)
    return folded


def _edit(network: Network, pairs: Sequence[Pair], directions: Sequence[str]) -> None:
    if pairs:
        network.edit(FoldNorms(pairs=tuple(pairs)))
    if directions:
        network.edit(FoldDirections(layers=tuple(directions)))


def _check_formats(network: Network, pairs: Sequence[Pair], directions: Sequence[str]) -> None:
    names = {name for pair in pairs for name in pair} | set(directions)
    for name in network.formats:
        if name in names or name.rpartition(".")[0] in names:
            raise UserError(
                f"{name} has a number format already, and folding would change its values; fold before the stage that "
                "gives formats"
            )


def _logits(network: Network, seed: int) -> torch.Tensor:
    """Answers to random inputs of the network's own size, [images, classes]."""
    generator = generator_for(seed, "fold")
    images = torch.randn(IMAGES, *network.input.size, generator=generator)
    training = network.module.training
    network.module.eval()
    with torch.inference_mode():
        logits: torch.Tensor = network.module(images).float()
    network.module.train(training)
    return logits


STAGES.add("fold", Stage(FoldSettings, fold, plan))
