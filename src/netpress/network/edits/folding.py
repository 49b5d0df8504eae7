"""Folding batch norms into the convolutions that feed them.

At inference a batch norm is y = (x - mean) * gamma / sqrt(variance + eps) + beta per
channel. Where x is the output of a convolution and goes nowhere else, the factor can be
multiplied into the convolution's weights and the rest into its bias. A norm that comes
before its convolution (DenseNet, PyramidNet's first), or after a sum or a concatenation,
stays as it is.
"""

from typing import Literal

import torch
from torch import fx, nn

from netpress.errors import UserError
from netpress.network.edits import Edit, register_edit, replace_module
from netpress.settings import Settings

Pair = tuple[str, str]  # names of a convolution and of the norm that follows it


def find_foldable_norms(module: nn.Module) -> list[Pair]:
    """The convolutions whose output goes only into one batch norm, each with that norm, in order of execution.

    Both must run exactly once in a forward pass, and the norm must have running statistics. The module is
    traced symbolically; raises UserError if its forward cannot be (its flow depends on values of tensors).
    """
    training = module.training
    try:
        graph = fx.Tracer().trace(module.eval())
    except Exception as error:  # whatever the user's own forward raises when it is given symbols
        raise UserError(
            f"{type(module).__name__}: its norms cannot be folded, because its forward cannot be traced: {error}"
        ) from error
    finally:
        module.train(training)
    modules = dict(module.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    # By module, not by name: one module may be known under two names.
    uses: dict[int, int] = {}
    for node in calls:
        part = modules[str(node.target)]
        uses[id(part)] = uses.get(id(part), 0) + 1
    read_elsewhere = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    pairs = []
    for node in calls:
        norm = modules[str(node.target)]
        source = node.args[0] if node.args else None
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        conv = modules[str(source.target)]
        alone = len(source.users) == 1 and uses[id(conv)] == 1 and uses[id(norm)] == 1
        names = {str(source.target), str(node.target)}
        if (
            isinstance(conv, nn.Conv2d)
            and alone
            and not names & read_elsewhere
            and norm.running_var is not None
            and conv.out_channels == norm.num_features
        ):
            pairs.append((str(source.target), str(node.target)))
    return pairs


def fold_norms(module: nn.Module) -> list[Pair]:
    """Fold every foldable norm, in place, and return what was folded.

    In evaluation the module computes the same up to rounding; each folded norm has become an `nn.Identity`
    and its convolution has a bias. Masked weights stay 0, because the factor acts per output channel.
    Record it as `folding_edit(pairs)`.
    """
    pairs = find_foldable_norms(module)
    with torch.no_grad():
        for conv_name, norm_name in pairs:
            conv, norm = _parts(module, (conv_name, norm_name))
            assert norm.running_mean is not None and norm.running_var is not None
            # In float64, so that folding itself costs no accuracy.
            factor = (norm.running_var.double() + norm.eps).rsqrt()  # [out_channels]
            shift = -norm.running_mean.double() * factor
            if norm.weight is not None:
                factor, shift = factor * norm.weight.double(), shift * norm.weight.double()
            if norm.bias is not None:
                shift = shift + norm.bias.double()
            if conv.bias is not None:
                shift = shift + conv.bias.double() * factor
            dtype = conv.weight.dtype
            weight = (conv.weight.double() * factor[:, None, None, None]).to(dtype)
            _drop_norm(module, conv_name, norm_name)
            assert conv.bias is not None
            conv.weight.copy_(weight)
            conv.bias.copy_(shift.to(dtype))
    return pairs


@torch.no_grad()
def merge_statistics(module: nn.Module) -> list[str]:
    """Bring every remaining batch norm's statistics into its own scale and shift, in place; returns their names.

    In evaluation the module computes the same up to rounding. The means become 0 and the variances 1, which
    takes no storage, so that a norm is two values a channel: what it is charged where it cannot be folded.
    A norm without scale and shift keeps its statistics.
    """
    merged = []
    for name, norm in module.named_modules():
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
            continue
        if norm.weight is None or norm.bias is None:
            continue
        factor = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
        norm.bias.copy_(norm.bias.double() - norm.running_mean.double() * factor)
        norm.weight.copy_(factor * (1 + norm.eps) ** 0.5)  # torch divides by sqrt(1 + eps) again
        norm.running_mean.zero_()
        norm.running_var.fill_(1)
        merged.append(name)
    return merged


class FoldingEdit(Settings):
    """What the edit of a folding holds."""

    kind: Literal["fold_norms"]
    pairs: tuple[tuple[str, str], ...]


def folding_edit(pairs: list[Pair]) -> Edit:
    """The edit that does to a rebuilt module's structure what `fold_norms` did."""
    return {"kind": "fold_norms", "pairs": [list(pair) for pair in pairs]}


def _replay(module: nn.Module, edit: Edit) -> nn.Module:
    for conv_name, norm_name in edit["pairs"]:
        _parts(module, (conv_name, norm_name))
        _drop_norm(module, conv_name, norm_name)
    return module


def _parts(module: nn.Module, pair: Pair) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv, norm = (module.get_submodule(name) for name in pair)
    if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
        raise ValueError(f"{pair[0]} and {pair[1]} are not a convolution and a batch norm")
    return conv, norm


def _drop_norm(module: nn.Module, conv_name: str, norm_name: str) -> None:
    conv = module.get_submodule(conv_name)
    assert isinstance(conv, nn.Conv2d)
    if conv.bias is None:
        conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))
    replace_module(module, norm_name, nn.Identity())


register_edit("fold_norms", _replay, FoldingEdit)
