"""A whole inverted residual in training on a CPU as one autograd function.

With compiled kernels (netpress.native) the values inside a block, several times wider than what goes in and out, pass
through memory once, between the depthwise convolution and its norm. Norms become a factor and an offset for each
channel: the first from the moments of the narrow input (netpress.models.fused), the others from sums
taken while values are made. The gate's input follows from such sums too, so that gating is another factor.
The results are those of the modules up to rounding, and running statistics move as theirs do.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from netpress.models.blocks import ConvNorm, SqueezeExcite
from netpress.models.fused import FoldedNorm, as_images, as_rows, has_hooks, is_norm, is_plain, is_widening, remember
from netpress.native.blocks import LARGEST_KERNEL, InvertedResidual, pad, padded
from netpress.native.library import available


@dataclass(frozen=True)
class Branch:
    """The layers of an inverted residual between its input and its sum, and what is added there.

    gate: multiplies the narrowed values, from their own means. shortcut: a module for the input, or None for no sum.
    """

    expand: ConvNorm
    depthwise: ConvNorm
    project: ConvNorm
    gate: SqueezeExcite | None
    shortcut: nn.Module | None

    def is_fusable(self, x: Tensor) -> bool:
        """Whether `invert` takes it for x [batch, channels, height, width]: torch's own modules as C-EfficientNet has
        them, without hooks, in training on a CPU in float32, where there are kernels."""
        return is_plain(x) and available() and self._fits(x) and not any(map(has_hooks, self._called()))

    def _fits(self, x: Tensor) -> bool:
        conv, last = self.depthwise.conv, self.project.conv
        if type(conv) is not nn.Conv2d:  # an edit of the network's structure may have put something else there
            return False
        kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
        return (
            is_widening(self.expand)
            and is_widening(self.depthwise, pointwise=False)
            and conv.groups == conv.in_channels == conv.out_channels == self.expand.conv.out_channels
            and kernel[0] == kernel[1] <= LARGEST_KERNEL
            and stride[0] == stride[1]
            and padding in [(side, side) for side in range(kernel[0])]
            and min(x.shape[2:]) + 2 * int(padding[0]) >= kernel[0]
            and type(last) is nn.Conv2d
            and (last.kernel_size, last.stride, last.padding, last.groups) == ((1, 1), (1, 1), (0, 0), 1)
            and last.bias is None
            and len(self.project) == 2
            and is_norm(self.project.norm)
            and _count(_shape_of(self, x)) > 1  # torch's norms refuse a single value
        )

    def _called(self) -> list[nn.Module]:
        """Modules whose hooks would not run."""
        links = [self.project, *self.project]
        if self.gate is not None:
            links += [self.gate, self.gate[0]]
        return [*links, self.shortcut] if isinstance(self.shortcut, nn.Identity) else links

    def parameters(self) -> list[Tensor]:
        links = (self.expand, self.depthwise, self.project)
        layers = [p for link in links for p in (link.conv.weight, link.norm.weight, link.norm.bias)]
        return layers if self.gate is None else [*layers, *self.gate.parameters()]


def invert(branch: Branch, x: Tensor) -> Tensor:
    """project(depthwise(expand(x))), gated, and the shortcut added; for a branch that `is_fusable`."""
    kept = isinstance(branch.shortcut, nn.Identity)
    added = None if kept or branch.shortcut is None else branch.shortcut(x)
    return _Inverted.apply(x, added, branch, kept, *branch.parameters())


@dataclass(frozen=True)
class _Norm:
    """A norm over values that a pass made, all [channels] and padded; `count` values a channel."""

    factor: Tensor
    offset: Tensor
    shift: Tensor
    mean: Tensor
    inverse: Tensor
    count: int

    @classmethod
    def of(cls, norm: nn.BatchNorm2d, sums: Tensor, count: int) -> "_Norm":
        """From the sums of the values and of their squares, float64 [2, channels]; running statistics move."""
        exact, squares = sums / count
        mean = exact.float()
        variance = (squares - exact * exact).clamp_(min=0).float()  # biased
        channels = norm.num_features
        remember(norm, mean[:channels], variance[:channels], count)
        inverse = (variance + norm.eps).rsqrt()
        factor, shift = pad(norm.weight) * inverse, pad(norm.bias)
        return cls(factor, torch.addcmul(shift, mean, factor, value=-1), shift, mean, inverse, count)

    def backward(self, for_shift: Tensor, against: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From the sums of the gradient and of gradient * (value - mean): the gradient for the norm's weight, and what
        the value and 1 are multiplied with, beside gradient * factor, to give the gradient for the value."""
        for_scale = against * self.inverse
        by_value = self.factor * self.inverse * for_scale / -self.count
        return for_scale, by_value, self.factor * for_shift / -self.count - by_value * self.mean


class _Gate:
    """Squeeze-and-excitation from pooled values that are known already, with its own backward pass."""

    def __init__(self, gate: SqueezeExcite, pooled: Tensor) -> None:
        """pooled: [images, channels]"""
        with torch.enable_grad():
            self.pooled = pooled[:, :, None, None].requires_grad_()
            self.values = gate.excite(self.pooled)
        self.factors = self.values.detach().flatten(1)  # [images, channels]
        self.parameters = list(gate.parameters())

    def backward(self, gradient: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """For the factors [images, channels]: gradients for the pooled values, the same shape, and the parameters."""
        learned = [parameter for parameter in self.parameters if parameter.requires_grad]
        found = torch.autograd.grad(
            self.values, [self.pooled, *learned], gradient.view_as(self.values), retain_graph=True
        )
        others = iter(found[1:])
        return found[0].flatten(1), [next(others) if p.requires_grad else None for p in self.parameters]


class _Inverted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, branch: Branch, kept: bool, *_parameters: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        rows = as_rows(x)
        shape = _shape_of(branch, x)
        expand, depthwise, project = branch.expand, branch.depthwise, branch.project
        sums = shape.moments(rows)[:, : shape.inputs]
        matrix = expand.conv.weight.detach().flatten(1)
        first = FoldedNorm.over(sums[0], sums[1:], len(rows), matrix, expand.norm, centred=True)
        matrices = (
            pad((sums[0] / len(rows)).float()),
            pad(first.folded().t()),
            pad(first.offset),
            pad(depthwise.conv.weight.detach().flatten(1).t()),
        )

        middle, sums = shape.widen(rows, *matrices)
        count = _count(shape)
        second = _Norm.of(depthwise.norm, sums, count)

        turned = pad(project.conv.weight.detach().flatten(1))  # [outputs, inside]
        narrowed, totals, sums = shape.narrow(middle, second.factor, second.offset, pad(turned.t()))
        third = _Norm.of(project.norm, sums, count)

        # How far each image's mean is from that of all, [images, outputs padded].
        away = totals.mul_(shape.images / count).sub_(sums[0] / count).float()
        gate: _Gate | None = None
        factor, offset = third.factor.expand_as(away), third.offset.expand_as(away)
        if branch.gate is not None:
            gate = _Gate(branch.gate, torch.addcmul(third.shift, away, third.factor)[:, : shape.outputs])
            factors = pad(gate.factors)
            factor, offset = factors * factor, factors * offset
        through = rows if kept else None if added is None else _rows_of(added)
        y = shape.finish(narrowed, factor.contiguous(), offset.contiguous(), through)

        ctx.save_for_backward(x, middle, narrowed, turned, away, *matrices)
        ctx.shape, ctx.norms, ctx.gate, ctx.kept = shape, (first, second, third), gate, kept
        return y.view(shape.images, shape.out_height, shape.out_width, -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, middle, narrowed, turned, away, *matrices = ctx.saved_tensors
        shape: InvertedResidual = ctx.shape
        first, second, third = ctx.norms
        wide, outputs, pixels = len(first.matrix), shape.outputs, shape.out_height * shape.out_width
        rows, given = as_rows(x), _rows_of(gradient)

        totals, against = shape.finish_backward(given, narrowed, third.mean).float()  # [images, outputs padded] each
        parts = third.factor.expand_as(away), torch.zeros_like(away)
        for_gate: list[Tensor | None] = []
        if ctx.gate is not None:
            factors = pad(ctx.gate.factors)
            for_factors = torch.addcmul(totals * third.shift, against, third.factor)
            for_pooled, for_gate = ctx.gate.backward(for_factors[:, :outputs])
            for_pooled = pad(for_pooled)
            totals = torch.addcmul(for_pooled, totals, factors)
            against = torch.addcmul(for_pooled * away, against, factors)
            parts = factors * third.factor, for_pooled * third.factor / pixels
        for_third_shift = totals.sum(0)
        for_third, by_value, constant = third.backward(for_third_shift, against.sum(0))
        back, for_narrow, sums = shape.narrow_backward(
            given,
            narrowed,
            (parts[0].contiguous(), by_value, parts[1] + constant),
            turned,
            middle,
            (second.factor, second.offset, second.mean),
        )

        for_second_shift, against = sums.float()
        for_second, by_value, constant = second.backward(for_second_shift, against)
        norm = second.factor, by_value, constant
        for_rows, product, total, for_depthwise = shape.widen_backward(back, middle, norm, rows, *matrices)

        for_first_shift = total[:wide].float()
        found = first.backward(product.t()[:wide], for_first_shift)
        constant = found.constant - matrices[0][: shape.inputs] @ found.by_row  # for rows less their mean
        shape.input_backward(for_rows, rows, pad(found.by_row), pad(constant), given if ctx.kept else None)
        return (
            as_images(for_rows, x),
            gradient if ctx.needs_input_grad[1] else None,
            None,
            None,
            found.for_matrix[:, :, None, None],
            found.for_scale,
            for_first_shift,
            for_depthwise.t()[:wide].reshape(wide, 1, shape.kernel, shape.kernel),
            for_second[:wide],
            for_second_shift[:wide],
            for_narrow[:, :wide, None, None],
            for_third[:outputs],
            for_third_shift[:outputs],
            *for_gate,
        )


def _shape_of(branch: Branch, x: Tensor) -> InvertedResidual:
    conv = branch.depthwise.conv
    images, inputs, height, width = x.shape
    inside = padded(conv.out_channels)
    return InvertedResidual(
        images=images,
        height=height,
        width=width,
        inputs=inputs,
        inside=inside,
        outputs=branch.project.conv.out_channels,
        kernel=conv.kernel_size[0],
        stride=conv.stride[0],
        padding=int(conv.padding[0]),
    )


def _count(shape: InvertedResidual) -> int:
    """Values of each channel inside, after the depthwise convolution."""
    return shape.images * shape.out_height * shape.out_width


def _rows_of(images: Tensor) -> Tensor:
    return as_rows(images.contiguous(memory_format=torch.channels_last))
