"""Widening in training on a CPU: pointwise convolution, norm and hard-swish, swish or ReLU as one autograd function.

Layer by layer, the wide tensor of an inverted residual's first three layers goes through memory ten times in a step,
and that takes longer than the arithmetic. But before the activation it is linear in the block's narrow
input, so that most of it need not be done on the wide tensor:

- Its mean and variance follow from the mean and the covariance of the input: var(w'x) = w' cov(x) w.
- Once they are known, the norm is multiplied into the weight, and one convolution gives the normalised values,
  with the activation applied on its way to memory. The same again, without, when they are needed in the backward pass.
- What the norm adds to the gradient is linear in the wide values too, and becomes a small matrix.

The results are those of the three modules up to rounding, and running statistics move as theirs do.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from netpress.models.blocks import ConvNorm
from netpress.training.accelerated.conditions import is_link, is_plain, is_pointwise
from netpress.training.accelerated.norms import FoldedNorm
from netpress.training.accelerated.plain import Swapped
from netpress.training.accelerated.rows import as_images, as_rows

WORTHWHILE_BYTES = 12 << 20
"""Of the wide tensor; smaller ones stay in a processor's cache, where passing over them costs little."""

_ROWS = 4096  # summed in float32 at a time; the sums of these in float64

_aten = torch.ops.aten

_ACTIVATIONS: dict[type[nn.Module], str] = {nn.Hardswish: "hardswish", nn.SiLU: "swish", nn.ReLU: "relu"}
"""Those that are known, and what oneDNN calls them."""


class AcceleratedConvNorm(Swapped, ConvNorm):
    """A `ConvNorm` whose modules run as one, where they can: [batch, channels, height, width] as `ConvNorm` has it.

    They can where it is a pointwise convolution to no fewer channels, a norm and hard-swish, swish or ReLU, in training
    on a CPU in float32; they do where the result takes WORTHWHILE_BYTES.
    """

    plain_class = ConvNorm

    def forward(self, x: Tensor) -> Tensor:
        if is_plain(x) and _is_known(self) and _bytes_of_result(self, x) >= WORTHWHILE_BYTES:
            return _Widening.apply(x, self, self.conv.weight, self.norm.weight, self.norm.bias)
        return super().forward(x)


def is_widening(link: nn.Module, activation: type[nn.Module]) -> bool:
    """Whether a link is a 1x1 convolution to no fewer channels without bias, a norm and `activation`."""
    return (
        is_link(link, activation)
        and isinstance(link, ConvNorm)
        and is_pointwise(link.conv)
        and link.conv.out_channels >= link.conv.in_channels
        and link.conv.bias is None
    )


def _is_known(link: ConvNorm) -> bool:
    return any(is_widening(link, activation) for activation in _ACTIVATIONS)


def _bytes_of_result(link: ConvNorm, x: Tensor) -> int:
    return x.numel() // x.shape[1] * link.conv.out_channels * x.element_size()


class _Widening(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, link: ConvNorm, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        rows = as_rows(x)
        ctx.norm = FoldedNorm.over(*_moments(rows), len(rows), weight.detach().flatten(1), link.norm)
        folded = ctx.norm.folded().view_as(weight)
        ctx.save_for_backward(x, folded)
        ctx.activation = type(link.activation)
        return _convolve_and_activate(x, folded, ctx.norm.offset, ctx.activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, folded = ctx.saved_tensors
        rows = as_rows(x)
        normal = torch.conv2d(x, folded, ctx.norm.offset)
        # For the normalised values; what follows is linear.
        gradient = _backward(ctx.activation, gradient.contiguous(memory_format=torch.channels_last), normal)
        del normal
        wide = as_rows(gradient)
        for_shift = torch.mm(wide.new_ones(1, len(wide)), wide)[0]
        found = ctx.norm.backward(torch.mm(rows.t(), wide).t(), for_shift)
        for_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            for_rows = torch.addmm(found.constant, rows, found.by_row)
            for_x = as_images(for_rows.addmm_(wide, folded.flatten(1)), x)
        return for_x, None, found.for_matrix.view_as(folded), found.for_scale, for_shift


def _backward(activation: type[nn.Module], gradient: Tensor, before: Tensor) -> Tensor:
    """The gradient for the values before an activation."""
    if activation is nn.ReLU:
        return _aten.threshold_backward(gradient, before, 0)
    slope = _aten.silu_backward if activation is nn.SiLU else _aten.hardswish_backward
    return slope(gradient, before)


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sum [columns] and sum of outer products [columns, columns] of float32 `rows`, in float64."""
    pieces = rows.split(_ROWS)
    products = torch.stack([piece.t() @ piece for piece in pieces]).sum(0, dtype=torch.float64)
    return torch.stack([piece.sum(0) for piece in pieces]).sum(0, dtype=torch.float64), products


def _convolve_and_activate(x: Tensor, weight: Tensor, bias: Tensor, activation: type[nn.Module]) -> Tensor:
    """An activation of conv(x), applied before the result goes to memory where torch is built with oneDNN."""
    if torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled:
        fused = torch.ops.mkldnn._convolution_pointwise
        return fused(x, weight, bias, [0, 0], [1, 1], [1, 1], 1, _ACTIVATIONS[activation], [], "")
    return activation(inplace=True)(torch.conv2d(x, weight, bias))
