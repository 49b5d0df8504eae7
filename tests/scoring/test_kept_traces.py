"""A trace of shapes is kept, and is never taken for that of a network which is counted otherwise."""

import torch

from netpress.network import Network, create
from netpress.network.edits.folding import FoldNorms
from netpress.scoring import MOST_KEPT, trace, trace_network
from netpress.tracing.foldable import find_foldable_norms

SETTINGS = {"blocks": [1], "width": 8, "classes": 4, "image_size": 8}


def shapes(**changes: object) -> Network:
    return create("resnet", SETTINGS | changes, shapes=True)


def test_equal_structures_are_traced_once():
    first = trace_network(shapes())
    assert trace_network(shapes()) is first
    assert first == trace(shapes().module, (3, 8, 8))


def test_whatever_changes_a_count_is_traced_anew():
    first = trace_network(shapes())
    narrow, folded, formatted, masked, real = shapes(width=4), shapes(), shapes(), shapes(), create("resnet", SETTINGS)
    folded.edit(FoldNorms(pairs=tuple(find_foldable_norms(folded.module, (3, 8, 8)))))
    formatted.other_formats = {"*": {"kind": "float16"}}
    name, weight = next(iter(masked.weights().items()))
    masked.masks = {name: torch.arange(weight.numel()).view(weight.shape) % 2 == 0}
    with torch.no_grad():
        next(iter(real.weights().values())).zero_()
    for network in (narrow, folded, masked, real):
        traced = trace_network(network)
        assert traced != first and traced == trace(network.module, (3, 8, 8), masks=network.masks)
    assert trace_network(formatted) is not first
    assert trace_network(shapes(), (3, 16, 16)).input_size == (3, 16, 16)
    assert trace_network(shapes()) is first
    assert trace_network(masked) is not trace_network(masked)


def test_only_the_last_ones_are_kept():
    first = trace_network(shapes())
    for width in range(1, MOST_KEPT + 1):
        trace_network(shapes(width=width if width < 8 else width + 1))
    assert trace_network(shapes()) is not first
