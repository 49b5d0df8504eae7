"""Blocks that several families share, and their initialization.

Everything is made of torch's own modules and plain operators (`x + y`, `x * gate`,
`torch.cat`, `functional.pad`), so that tracing, pruning, folding and quantizing see
each operation.
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and, if given, an activation: children `conv`, `norm`, `activation`.

    `padding` is one number for all four sides, or (before, after): left and above, right and below. Where these two
    differ, a child `pad` stands first. By default it keeps the resolution of an odd kernel at stride 1.
    """

    conv: nn.Conv2d
    norm: nn.BatchNorm2d

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
        bias: bool = False,
        momentum: float = 0.1,
        activation: nn.Module | None = None,
    ) -> None:
        padding = kernel // 2 if padding is None else padding
        before, after = (padding, padding) if isinstance(padding, int) else padding
        children: dict[str, nn.Module] = {}
        if before != after:
            children["pad"] = nn.ZeroPad2d((before, after, before, after))
        inside = before if before == after else 0
        children["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, inside, groups=groups, bias=bias)
        children["norm"] = nn.BatchNorm2d(outputs, momentum=momentum)
        if activation is not None:
            children["activation"] = activation
        super().__init__(OrderedDict(children))


class SqueezeExcite(nn.Sequential):
    """The gate of squeeze-and-excitation (Hu et al. 2017): one factor in (0, 1) for each channel.

    [batch, channels, height, width] -> [batch, channels, 1, 1]. The block that owns it multiplies.
    """

    def __init__(self, channels: int, squeezed: int, activation: nn.Module) -> None:
        super().__init__(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1),
                reduce=nn.Conv2d(channels, squeezed, 1),
                activation=activation,
                expand=nn.Conv2d(squeezed, channels, 1),
                sigmoid=nn.Sigmoid(),
            )
        )


class DropConnect(nn.Module):
    """In training, drop the whole branch of an image with probability `rate` and scale the others up to keep the mean.

    Stochastic depth (Huang et al. 2016) as EfficientNet has it. Like `nn.Dropout`, it draws from torch's
    default generator, which the training loop seeds at every step.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * self.draw(x)

    def draw(self, x: Tensor) -> Tensor:
        """What each image of x [batch, ...] is multiplied with in training, 0 or 1 / (1 - rate): [batch, 1, 1, 1]."""
        return functional.dropout(torch.ones_like(x[:, :1, :1, :1]), self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class CosineLinear(nn.Linear):
    """Cosines between a feature vector of length 1 and a learned direction for each class.

    [batch, features] -> [batch, classes], in [-1, 1]. `weight` is [classes, features], without bias; its rows may have
    any length, which only training sees.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.directions()).clamp(-1.0, 1.0)

    def directions(self) -> Tensor:
        """The rows of the weight, scaled to length 1: [classes, features]."""
        return functional.normalize(self.weight, dim=1)


SHORTEST = 2.0**-24
"""A vector shorter than this is divided by it: the smallest float16, so that 0 / 0 comes up in no arithmetic."""


class Normalize(nn.Module):
    """Scale each feature vector to length 1: [batch, features] -> [batch, features]. Zeros stay zeros."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1, eps=SHORTEST)


def head(
    channels: int,
    classes: int,
    *,
    norm: bool = False,
    dropout: float | None = None,
    classifier: nn.Module | None = None,
) -> dict[str, nn.Module]:
    """The last children of a network, by name: [batch, channels, height, width] -> [batch, classes].

    A norm and a ReLU where the blocks end without, the mean over all pixels, dropout where a rate is given, and a
    linear layer or another `classifier` of [batch, channels].
    """
    children: dict[str, nn.Module] = {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU()} if norm else {}
    children |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    if dropout is not None:
        children["dropout"] = nn.Dropout(dropout)
    children["classifier"] = nn.Linear(channels, classes) if classifier is None else classifier
    return children


def initialize(module: nn.Module, generator: torch.Generator, classifier_std: float | None = None) -> None:
    """Set every parameter and statistic as MobileNet code does, in place.

    Convolutions N(0, sqrt(2 / (k*k*c_out))) with bias 0 (also depthwise ones, whose n is then k*k*C and
    not the k*k of their fan), norms 1 and 0, linear layers N(0, `classifier_std`) with bias 0, or, without
    `classifier_std`, uniform in +-1/sqrt(features). Directions of a cosine head are random and of length 1.
    One stream for all layers, in their order: a network with another layer is another network from there on.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out), generator=generator)
            zero_bias(layer)
        elif isinstance(layer, CosineLinear):
            nn.init.normal_(layer.weight, generator=generator)
            with torch.no_grad():
                layer.weight.div_(layer.weight.norm(dim=1, keepdim=True))
        elif isinstance(layer, nn.Linear):
            if classifier_std is not None:
                nn.init.normal_(layer.weight, 0.0, classifier_std, generator=generator)
            else:
                bound = 1.0 / math.sqrt(layer.in_features)
                nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            zero_bias(layer)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()


def zero_bias(layer: nn.Conv2d | nn.Linear) -> None:
    """Set the layer's bias to 0, if it has one."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def round_channels(channels: float, divisor: int = 8) -> int:
    """`channels` rounded to a multiple of `divisor`, one more if that loses over a tenth (MobileNetV2's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding of an image `size` pixels wide or high: (before, after).

    It pads by what the last window needs, and the odd pixel goes after the image: at stride 2 on an even size a
    kernel of 3 gets none before and one after.
    """
    needed = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return needed // 2, needed - needed // 2
