"""The edit that folds batch norms into the layers that feed them.

In evaluation a batch norm calculates y = (x - mean) * gamma / sqrt(variance + eps) + beta, for each channel. Where x
comes from a convolution or a linear layer, and goes nowhere else, the factor can be multiplied into that layer's
weights, and the rest becomes its bias:

    {"kind": "fold_norms", "pairs": [["stem.conv", "stem.norm"], ...]}

Which norms these are is found by `netpress.tracing.foldable`. A norm that comes before its convolution (DenseNet,
PyramidNet's first), or after a sum or a concatenation, stays as it is.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from netpress.network.edits import EDITS, Edit, replace_module

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (*_CONVOLUTIONS, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

Pair = tuple[str, str]
"""Names of a layer and of the norm that follows it."""


class FoldNorms(Edit):
    """Fold norms into the layers before them: each layer has a bias then, and each norm is an `nn.Identity`.

    In evaluation the module computes the same up to rounding. Masked weights stay 0, because the factor acts on
    whole output channels.
    """

    kind: Literal["fold_norms"] = "fold_norms"
    pairs: tuple[Pair, ...]

    def apply(self, module: nn.Module) -> None:
        """See `Edit.apply`. Raises ValueError for a pair that is not a layer and a norm with running statistics."""
        pairs = [_parts(module, pair) for pair in self.pairs]
        scaled: set[int] = set()  # a weight of two layers is multiplied once
        for layer, norm in pairs:
            factor, shift = _factor_and_shift(norm)
            _multiply(layer, factor, shift, scaled)
        replaced = {id(norm) for _, norm in pairs}
        for name, part in list(module.named_modules(remove_duplicate=False)):
            if id(part) in replaced:
                replace_module(module, name, nn.Identity())


@torch.no_grad()
def merge_statistics(module: nn.Module) -> list[str]:
    """Bring every remaining batch norm's statistics into its own scale and shift, in place; returns their names.

    In evaluation the module computes the same up to rounding. The means become 0 and the variances 1, which
    takes no storage, so that a norm is two values a channel: what it is charged where it cannot be folded.
    A norm without scale and shift keeps its statistics.
    """
    norms = mergeable_norms(module)
    for norm in norms.values():
        assert norm.running_mean is not None and norm.running_var is not None
        factor = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
        norm.bias.copy_(norm.bias.double() - norm.running_mean.double() * factor)
        norm.weight.copy_(factor * (1 + norm.eps) ** 0.5)  # torch divides by sqrt(1 + eps) again
        norm.running_mean.zero_()
        norm.running_var.fill_(1)
    return list(norms)


def mergeable_norms(module: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The batch norms that have statistics, and a scale and a shift to bring them into."""
    return {
        name: norm
        for name, norm in module.named_modules()
        if isinstance(norm, nn.BatchNorm2d)
        and not any(one is None for one in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    }


def is_foldable(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether `FoldNorms` can fold this norm into this layer: torch's own kinds, with parameters and statistics."""
    if type(layer) not in _LAYERS or type(norm) not in _NORMS:  # a subclass may calculate something else
        return False
    assert isinstance(layer, _ConvNd | nn.Linear) and isinstance(norm, _BatchNorm)
    return (
        isinstance(layer._parameters.get("weight"), nn.Parameter)  # and not one calculated before each use
        and norm.running_mean is not None
        and norm.running_var is not None
        and _outputs(layer) == norm.num_features
    )


def _parts(module: nn.Module, pair: Pair) -> tuple[_ConvNd | nn.Linear, _BatchNorm]:
    layer, norm = (module.get_submodule(name) for name in pair)
    if not is_foldable(layer, norm):
        raise ValueError(f"{pair[1]} is not a norm that could be folded into {pair[0]}")
    assert isinstance(layer, _ConvNd | nn.Linear) and isinstance(norm, _BatchNorm)
    return layer, norm


def _outputs(layer: _ConvNd | nn.Linear) -> int:
    return layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features


def _factor_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """norm(x) = x * factor + shift; both [channels], in float64, so that folding itself costs no accuracy."""
    assert norm.running_mean is not None and norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * factor
    if norm.weight is not None:
        factor, shift = factor * norm.weight.double(), shift * norm.weight.double()
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return factor, shift


@torch.no_grad()
def _multiply(layer: _ConvNd | nn.Linear, factor: Tensor, shift: Tensor, scaled: set[int]) -> None:
    """Multiply the layer's outputs with `factor` and add `shift`, in its weight and bias, in place."""
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(_outputs(layer)))
        scaled.add(id(layer.bias))
        layer.bias.copy_(shift.to(layer.bias.dtype))
    elif id(layer.bias) not in scaled:
        scaled.add(id(layer.bias))
        layer.bias.copy_((shift + layer.bias.double() * factor).to(layer.bias.dtype))
    if id(layer.weight) in scaled:
        return
    scaled.add(id(layer.weight))
    weight = layer.weight.double()
    if isinstance(layer, _ConvTransposeNd):  # [inputs, outputs / groups, ...], the inputs of each group together
        grouped = weight.unflatten(0, (layer.groups, -1))
        by_output = factor.view(layer.groups, 1, -1, *[1] * len(layer.kernel_size))
        weight = (grouped * by_output).flatten(0, 1)
    else:  # [outputs, ...]
        weight = weight * factor.view(-1, *[1] * (weight.dim() - 1))
    layer.weight.copy_(weight.to(layer.weight.dtype))


EDITS.add("fold_norms", FoldNorms)
