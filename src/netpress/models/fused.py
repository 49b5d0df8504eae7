"""Widening in training on a CPU: pointwise convolution, norm and hard-swish as one autograd function.

Layer by layer, the wide tensor of an inverted residual's first three layers goes through memory ten times in a step,
and that takes longer than the arithmetic. But before the activation it is linear in the block's narrow
input, so that most of it need not be done on the wide tensor:

- Its mean and variance follow from the mean and the covariance of the input: var(w'x) = w' cov(x) w.
- Once they are known, the norm is multiplied into the weight, and one convolution gives the normalised values,
  with the activation applied on its way to memory. The same again, without, when they are needed in the backward pass.
- What the norm adds to the gradient is linear in the wide values too, and becomes a small matrix.

The results are those of the three modules up to rounding, and running statistics move as theirs do.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from netpress.models.blocks import ConvNorm

WORTHWHILE_BYTES = 12 << 20
"""Of the wide tensor; smaller ones stay in a processor's cache, where passing over them costs little."""

_ROWS = 4096  # summed in float32 at a time; the sums of these in float64

_aten = torch.ops.aten


def widen(link: ConvNorm, x: Tensor) -> Tensor:
    """link(x), fused where that is possible; x: [batch, channels, height, width].

    It is possible for a pointwise convolution to no fewer channels, a norm and hard-swish, torch's own modules and
    without hooks, in training on a CPU in float32. It is done where the result takes WORTHWHILE_BYTES.
    """
    if is_plain(x) and is_widening(link) and _bytes_of_result(link, x) >= WORTHWHILE_BYTES:
        parameters = (link.conv.weight, link.norm.weight, link.norm.bias)
        return _Widening.apply(x, link.norm, *parameters)
    return link(x)


def is_plain(x: Tensor) -> bool:
    return (
        isinstance(x, Tensor)  # and no symbol of torch.fx, by which norms are found that fold
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def is_widening(link: ConvNorm, pointwise: bool = True) -> bool:
    """Whether these are torch's own modules as `widen` needs them; with `pointwise` = False, whatever the kernel is."""
    conv = link.conv
    return (
        type(conv) is nn.Conv2d
        and (not pointwise or _is_pointwise(conv))
        and conv.out_channels >= conv.in_channels
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and conv.bias is None
        and is_norm(link.norm)
        and type(getattr(link, "activation", None)) is nn.Hardswish
        and not any(map(has_hooks, (link, *link)))
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


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)


def _bytes_of_result(link: ConvNorm, x: Tensor) -> int:
    return x.numel() // x.shape[1] * link.conv.out_channels * x.element_size()


def has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


@dataclass(frozen=True)
class FoldedNorm:
    """A norm multiplied into the matrix before it, from what is known of that matrix's input rows; all float32.

    matrix: [wide, narrow], as learned; factor, offset: [wide], what it is multiplied with and what is added then.
    mean, inverse: [wide], the values' mean and 1 / standard deviation; total [narrow], products [narrow, narrow] and
    count: sums over the input's rows.
    """

    matrix: Tensor
    factor: Tensor
    offset: Tensor
    mean: Tensor
    inverse: Tensor
    total: Tensor
    products: Tensor
    count: int

    @classmethod
    def over(
        cls, total: Tensor, products: Tensor, count: int, matrix: Tensor, norm: nn.BatchNorm2d, centred: bool = False
    ) -> "FoldedNorm":
        """Of `matrix` applied to `count` rows whose total and products are known in float64; running statistics move.

        With `centred`, of the matrix applied to these rows less their mean: what is subtracted later is nearer to zero.
        """
        wide = matrix.double()
        narrow_mean = total / count
        covariance = products / count - torch.outer(narrow_mean, narrow_mean)
        mean = (wide @ narrow_mean).float()
        variance = ((wide @ covariance) * wide).sum(1).clamp_(min=0).float()  # biased
        remember(norm, mean, variance, count)
        inverse = (variance + norm.eps).rsqrt()
        factor = norm.weight * inverse
        if centred:
            mean, total, products = torch.zeros_like(mean), torch.zeros_like(total), covariance * count
        offset = torch.addcmul(norm.bias, mean, factor, value=-1)
        return cls(matrix, factor, offset, mean, inverse, total.float(), products.float(), count)

    def folded(self) -> Tensor:
        """The matrix whose products, with the offset, are normalized: [wide, narrow]."""
        return self.matrix * self.factor[:, None]

    def backward(self, product: Tensor, for_shift: Tensor) -> "WideningGradients":
        """From what the gradient for the normalized values sums up to.

        product: [wide, narrow], its transpose times the rows; for_shift: [wide], its sum over all rows.
        """
        matrix, factor = self.matrix, self.factor
        for_scale = self.inverse * ((product * matrix).sum(1) - self.mean * for_shift)
        # The gradient for a wide value is factor * gradient + by_value * value + constant.
        by_value = factor * self.inverse * for_scale / -self.count
        constant = factor * for_shift / -self.count - by_value * self.mean
        for_matrix = product * factor[:, None]
        for_matrix += (matrix * by_value[:, None]) @ self.products
        for_matrix += torch.outer(constant, self.total)
        return WideningGradients(for_matrix, for_scale, matrix.t() @ (matrix * by_value[:, None]), constant @ matrix)


@dataclass(frozen=True)
class WideningGradients:
    """For the matrix [wide, narrow] and the norm's weight [wide]; to a row's gradient add row @ by_row + constant."""

    for_matrix: Tensor
    for_scale: Tensor
    by_row: Tensor
    constant: Tensor


class _Widening(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: nn.BatchNorm2d, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        rows = as_rows(x)
        ctx.norm = FoldedNorm.over(*_moments(rows), len(rows), weight.detach().flatten(1), norm)
        folded = ctx.norm.folded().view_as(weight)
        ctx.save_for_backward(x, folded)
        return _convolve_and_activate(x, folded, ctx.norm.offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, folded = ctx.saved_tensors
        rows = as_rows(x)
        normal = torch.conv2d(x, folded, ctx.norm.offset)
        # For the normalised values; what follows is linear.
        gradient = _aten.hardswish_backward(gradient.contiguous(memory_format=torch.channels_last), normal)
        del normal
        wide = as_rows(gradient)
        for_shift = torch.mm(wide.new_ones(1, len(wide)), wide)[0]
        found = ctx.norm.backward(torch.mm(rows.t(), wide).t(), for_shift)
        for_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            for_rows = torch.addmm(found.constant, rows, found.by_row)
            for_x = as_images(for_rows.addmm_(wide, folded.flatten(1)), x)
        return for_x, None, found.for_matrix.view_as(folded), found.for_scale, for_shift


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sum [columns] and sum of outer products [columns, columns] of float32 `rows`, in float64."""
    pieces = rows.split(_ROWS)
    products = torch.stack([piece.t() @ piece for piece in pieces]).sum(0, dtype=torch.float64)
    return torch.stack([piece.sum(0) for piece in pieces]).sum(0, dtype=torch.float64), products


def _convolve_and_activate(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """hardswish(conv(x)), applied before the result goes to memory where torch is built with oneDNN."""
    if torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled:
        fused = torch.ops.mkldnn._convolution_pointwise
        return fused(x, weight, bias, [0, 0], [1, 1], [1, 1], 1, "hardswish", [], "")
    return nn.functional.hardswish(torch.conv2d(x, weight, bias), inplace=True)


def remember(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics as the norm does itself, the variance unbiased."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (count / max(1, count - 1)), norm.momentum)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1


def as_rows(images: Tensor) -> Tensor:
    """[images, channels, height, width], channels last -> [images * height * width, channels], the same memory."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def as_images(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_rows`, for as many images of the same size as `like` has."""
    return rows.view(len(like), *like.shape[2:], -1).permute(0, 3, 1, 2)
