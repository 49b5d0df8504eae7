"""What must hold before torch's own modules may be left out, so that nobody sees a difference.

A layer is only taken where it is exactly what the faster code knows: a class of torch's own, in training, without
hooks. An edited block, a quantized layer or a module that somebody watches stays with torch.
"""

import torch
from torch import Tensor, nn

from netpress.models.blocks import ConvNorm
from netpress.training.accelerated.plain import plain_type


def is_plain(x: Tensor) -> bool:
    """Whether x is a float32 tensor on a CPU, and its gradient is wanted."""
    return (
        isinstance(x, Tensor)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks, which would not run where it is not called."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def is_norm(norm: nn.Module) -> bool:
    """Whether this is torch's batch norm, in training, with everything that it can have."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
    )


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution looks at one pixel at a time, and at all its channels."""
    return (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)


def is_link(link: nn.Module, activation: type[nn.Module] | None, children: tuple[str, ...] = ()) -> bool:
    """Whether this is a `ConvNorm` as it was built: torch's convolution, norm and, if given, `activation`, unwatched.

    children: the names of those that may come first.
    """
    if not isinstance(link, ConvNorm) or plain_type(link) is not ConvNorm:
        return False
    names = [name for name in link._modules if name not in children]
    conv = link._modules.get("conv")
    return (
        names == ["conv", "norm", *(["activation"] if activation else [])]
        and type(conv) is nn.Conv2d
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and is_norm(link.norm)
        and (activation is None or type(link.activation) is activation)
        and not any(map(has_hooks, (link, *link)))
    )
