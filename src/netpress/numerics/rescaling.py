"""From a layer's sums of products to its output: a scale and a bias, in the layer's own arithmetic.

    y = (sum of w * q) * (s * s_w) + (bias - s * s_w * z * sum of w)

The sums are those of stored integers q, which include the zero point z. The bias takes it out again. So each output
costs one multiplication and one addition.

In float16 a sum is first divided by a power of two, one a channel. This keeps the sum and its scale within float16's
normal range.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

Arithmetic = Literal["float16", "float32", "integer"]
"""integer: 16-bit integers with one rescale (`netpress.numerics.fixed_point`)."""


@dataclass(frozen=True)
class Rescaling:
    """The constants of one layer, in the shape in which they meet its sums: [outputs, 1, 1], [outputs] or []."""

    arithmetic: Arithmetic
    shift: Tensor | None
    """Powers of two that the sums are divided by before they are rounded to float16; None for no division."""
    factor: Tensor | None
    """What is multiplied then; None where values and weights have no scales."""
    bias: Tensor
    """What is added last."""

    def apply(self, sums: Tensor) -> Tensor:
        """The outputs for `sums` of the layer, in `arithmetic`."""
        values = sums if self.shift is None else sums / self.shift
        values = values.half() if self.arithmetic == "float16" else values.float()
        values = values if self.factor is None else values * self.factor
        return values + self.bias

    def detached(self) -> Self:
        """The same constants without gradients."""
        shift, factor = (None if tensor is None else tensor.detach() for tensor in (self.shift, self.factor))
        return replace(self, shift=shift, factor=factor, bias=self.bias.detach())


def safe_shifts(weight: Tensor, largest: int) -> Tensor:
    """The powers of two that bring the largest possible sum of each channel to 2**8: [outputs].

    Both factors are then within float16's normal range. weight: stored integers; `largest`: magnitude of an input.
    """
    bound = weight.abs().flatten(1).sum(1).clamp(min=1) * largest
    return torch.exp2(torch.ceil(torch.log2(bound)) - 8)
