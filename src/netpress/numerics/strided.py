"""A way around an error of oneDNN: strided 1x1 convolutions of few channels, trained on a CPU.

The error is in oneDNN 3.12 (torch 2.13), on processors with AVX2 and without AVX-512. For the gradient of the weight it
copies the places that the stride keeps into memory for the input's channels, but writes eight channels. With fewer than
8 it writes beyond the end: one thread damages the heap, several threads also damage each other's sums, and gradients
are wrong. It concerns kernels of 1x1 with one group, no padding, channels last, and height and width that are multiples
of the stride. Forward passes, the other gradients and all other convolutions that were tried are right.

Here the layer takes the places first and convolves them without a stride: the same products and the same sums. Every
processor does so, so that all train alike. It happens only where a gradient will be asked for: counting, exports and
evaluation see one convolution.
"""

from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional

NARROW = 8  # channels of the input from which oneDNN is right


def keep_in_bounds(module: nn.Module) -> nn.Module:
    """Let every convolution within `module` that is of this kind calculate as above, and return the module.

    The layers stay what they are: types, tensors and names do not change.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and is_narrow_and_strided(layer):
            layer._conv_forward = MethodType(_conv_forward, layer)  # type: ignore[method-assign]
    return module


def is_narrow_and_strided(layer: nn.Conv2d) -> bool:
    """Whether the gradient of this convolution's weight is what oneDNN gets wrong."""
    return (
        layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.padding in ((0, 0), "valid")
        and layer.groups == 1
        and layer.in_channels < NARROW
        and type(layer)._conv_forward is nn.Conv2d._conv_forward  # and nobody's own calculation
    )


def _conv_forward(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """In the place of the layer's method of this name, by which a pickled layer finds its own again.

    x: [..., inputs, height, width].
    """
    trains = torch.is_grad_enabled() and weight.requires_grad
    if trains and x.device.type == "cpu" and not torch.compiler.is_exporting() and not torch.jit.is_tracing():
        return functional.conv2d(x[..., :: layer.stride[0], :: layer.stride[1]], weight, bias)
    return nn.Conv2d._conv_forward(layer, x, weight, bias)
