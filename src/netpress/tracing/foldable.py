"""This module lists the norms of a module that can be folded into the layers before them.

    find_foldable_norms(network.module, network.input.size)     [("stem.conv", "stem.norm"), ...]

The score card counts a norm as folded where the flow of data allows it (`Trace.folded_norms`). The edit `FoldNorms`
takes these pairs. Card and edit agree on networks of torch's layers. A foreign module may calculate a norm by
functions, without layers: the card folds it too, but no edit can reach it.
"""

from torch import nn

from netpress.errors import UserError
from netpress.network.edits.folding import Pair, is_foldable
from netpress.tracing.operations import Shape, Trace
from netpress.tracing.trace import trace


def find_foldable_norms(module: nn.Module, input_size: Shape) -> list[Pair]:
    """Layers whose output goes only into one norm, each with that norm, in order of execution.

    Raises UserError if the module cannot be traced for an input of `input_size` [channels, height, width].
    """
    try:
        traced = trace(module, input_size)
    except UserError as error:
        raise UserError(
            f"{type(module).__name__}: its norms cannot be folded, because its forward cannot be traced: {error}"
        ) from error
    return foldable_pairs(module, traced)


def foldable_pairs(module: nn.Module, traced: Trace) -> list[Pair]:
    """As `find_foldable_norms`, from a trace of the module."""
    by_name = traced.by_name
    pairs = dict.fromkeys(
        (by_name[layer].module, by_name[norm].module) for norm, layer in traced.folded_norms().items()
    )
    parts = dict(module.named_modules())
    return [pair for pair in pairs if is_foldable(parts[pair[0]], parts[pair[1]])]
