"""The edit that scales the directions of a cosine head to length 1 once, in place of before each use.

    {"kind": "fold_directions", "layers": ["classifier.cosine"]}

A `CosineLinear` divides each row of its weight by the row's length whenever it runs, so that training may give rows any
length. Once nothing trains any more, the quotient is stored instead, and the layer is an `nn.Linear` without bias. Its
answers are products of two vectors of length 1, so they are in [-1, 1] by themselves: the layer's clamp, which only
caught what rounding left beyond, goes too.
"""

from typing import Literal

import torch
from torch import nn

from netpress.models.blocks import CosineLinear
from netpress.network.edits import EDITS, Edit, replace_module


class FoldDirections(Edit):
    """Make each named cosine layer a linear one with the same weight, whose rows are scaled to length 1.

    The module computes the same up to rounding. Masked weights stay 0.
    """

    kind: Literal["fold_directions"] = "fold_directions"
    layers: tuple[str, ...]

    def apply(self, module: nn.Module) -> None:
        """See `Edit.apply`. Raises TypeError for a layer that is no `CosineLinear`, naming it."""
        found: list[CosineLinear] = []
        for name in self.layers:
            layer = module.get_submodule(name)
            if not name or type(layer) is not CosineLinear:
                raise TypeError(f"{name or 'the network itself'}: a {type(layer).__name__} has no directions to scale")
            found.append(layer)
        fixed = {id(layer): fixed_directions(layer) for layer in found}
        for layer in found:
            scale_directions(layer)
        for name, part in list(module.named_modules(remove_duplicate=False)):
            if id(part) in fixed:
                replace_module(module, name, fixed[id(part)])


def find_directions(module: nn.Module) -> tuple[str, ...]:
    """The cosine layers that `FoldDirections` can take, by name, in order of definition."""
    return tuple(name for name, layer in module.named_modules() if name and type(layer) is CosineLinear)


def fixed_directions(layer: CosineLinear) -> nn.Linear:
    """A linear layer with the very weight of `layer`, whose rows must be scaled by `scale_directions` yet."""
    linear = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    linear.weight = layer.weight
    return linear.train(layer.training)


@torch.no_grad()
def scale_directions(layer: CosineLinear) -> None:
    """Divide each row of the weight by its length, in place."""
    layer.weight.copy_(layer.directions())


EDITS.add("fold_directions", FoldDirections)
