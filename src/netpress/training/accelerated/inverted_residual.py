"""A whole inverted residual in training on a CPU as one autograd function.

With compiled kernels (netpress.native) the values inside a block, several times wider than what goes in and out, pass
through memory once, between the depthwise convolution and its norm. Norms become a factor and an offset for each
channel: the first from the moments of the narrow input, the others from sums taken while values are made. The gate's
input follows from such sums too, so that gating is another factor.
A gate that stands before narrowing needs a pass of its own for its input, and one more for its gradient.
The results are those of the modules up to rounding, and running statistics move as theirs do.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from netpress.models.blocks import ConvNorm, DropConnect, SqueezeExcite
from netpress.models.inverted_residual import InvertedResidual
from netpress.native import blocks
from netpress.native.blocks import LARGEST_KERNEL, pad, padded
from netpress.native.library import available
from netpress.training.accelerated.conditions import has_hooks, is_link, is_plain, is_pointwise
from netpress.training.accelerated.norms import FoldedNorm, SummedNorm
from netpress.training.accelerated.plain import Swapped
from netpress.training.accelerated.rows import as_images, as_rows, rows_of
from netpress.training.accelerated.widening import is_widening

_ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.Hardswish, nn.SiLU, nn.ReLU)  # in the order of blocks.ACTIVATIONS


class AcceleratedInvertedResidual(Swapped, InvertedResidual):
    """An inverted residual whose modules run as one, where `is_fusable` says that they can."""

    plain_class = InvertedResidual

    def forward(self, x: Tensor) -> Tensor:
        if not is_fusable(self, x):
            return super().forward(x)
        kept = isinstance(self.shortcut, nn.Identity)
        added = None if kept or self.shortcut is None else self.shortcut(x)
        return _Inverted.apply(x, added, self, kept, *_parameters(self))


def is_fusable(block: InvertedResidual, x: Tensor) -> bool:
    """Whether the kernels know everything that block(x) does, for x [batch, inputs, height, width].

    They know torch's own modules as C-EfficientNet and EfficientNet have them, without hooks, in training on a CPU in
    float32.
    """
    return (
        is_plain(x)
        and available()
        and _fits(block, x)
        and (block.gated == "nothing" or _gate_fits(block.squeeze_excite))
        and not any(map(has_hooks, _called(block)))
    )


def _fits(block: InvertedResidual, x: Tensor) -> bool:
    expand, depthwise, project = block.expand, block.depthwise, block.project
    activation = depthwise._modules.get("activation")
    if (
        expand is None
        or activation is None
        or type(activation) not in _ACTIVATIONS
        or not is_widening(expand, type(activation))
        or not is_link(depthwise, type(activation), children=("pad",))
        or not is_link(project, None)
    ):
        return False
    conv, last = depthwise.conv, project.conv
    kernel, stride, padding = conv.kernel_size, conv.stride, _padding(depthwise)
    return (
        conv.groups == conv.in_channels == conv.out_channels == expand.conv.out_channels
        and conv.bias is None
        and kernel[0] == kernel[1] <= LARGEST_KERNEL
        and stride[0] == stride[1]
        and padding is not None
        and padding[0] <= padding[1] < kernel[0]
        and min(x.shape[2:]) + sum(padding) >= kernel[0]
        and is_pointwise(last)
        and type(block.drop_connect) in (DropConnect, type(None))
        and _count(_shape_of(block, x)) > 1  # torch's norms refuse a single value
    )


def _padding(depthwise: ConvNorm) -> tuple[int, int] | None:
    """How many zeros are before the image and after it, in both directions; None where these differ."""
    pad, own = depthwise._modules.get("pad"), depthwise.conv.padding
    if pad is None:
        return (int(own[0]), int(own[0])) if own[0] == own[1] else None
    if type(pad) is not nn.ZeroPad2d or own != (0, 0):
        return None
    left, right, above, below = pad.padding
    return (left, right) if (left, right) == (above, below) else None


def _gate_fits(gate: nn.Module | None) -> bool:
    """Whether a gate is computed from means alone. What its other layers are does not matter: they are called."""
    return gate is None or (
        type(gate) is SqueezeExcite and type(gate[0]) is nn.AdaptiveAvgPool2d and gate[0].output_size == 1
    )


def _called(block: InvertedResidual) -> list[nn.Module]:
    """Modules whose hooks would not run, beside those of links."""
    gate, shortcut = block.squeeze_excite, block.shortcut
    gates = [] if gate is None else [*gate.modules()] if block.gated == "nothing" else [gate, gate[0]]
    others = [block.drop_connect, shortcut if isinstance(shortcut, nn.Identity) else None]
    return [*gates, *(module for module in others if module is not None)]


def _gate_of(block: InvertedResidual) -> SqueezeExcite | None:
    return None if block.gated == "nothing" else block.squeeze_excite


def _parameters(block: InvertedResidual) -> list[Tensor]:
    links = [link for link in (block.expand, block.depthwise, block.project) if link is not None]
    layers = [p for link in links for p in (link.conv.weight, link.norm.weight, link.norm.bias)]
    bias, gate = block.project.conv.bias, _gate_of(block)
    return [*layers, *([] if bias is None else [bias]), *([] if gate is None else gate.parameters())]


class _Gate:
    """Squeeze-and-excitation from pooled values that are known already, with its own backward pass."""

    def __init__(self, gate: SqueezeExcite, pooled: Tensor) -> None:
        """pooled: [images, channels]"""
        with torch.enable_grad():
            self.pooled = pooled[:, :, None, None].requires_grad_()
            self.values = self.pooled
            for layer in list(gate)[1:]:
                self.values = layer(self.values)
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
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, block: InvertedResidual, kept: bool, *_parameters: Tensor
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        rows = as_rows(x)
        shape = _shape_of(block, x)
        expand, depthwise, project = block.expand, block.depthwise, block.project
        assert expand is not None
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
        second = SummedNorm.of(depthwise.norm, sums, count)

        gate: _Gate | None = None
        inside: Tensor | None = None  # the gate's factors, if it stands there
        if (gating := _gate_of(block)) is not None and block.gated == "inside":
            pooled = shape.squeeze(middle, second.factor, second.offset).mul_(shape.images / count).float()
            gate = _Gate(gating, pooled[:, : len(matrix)])
            inside = pad(gate.factors)
        turned = pad(project.conv.weight.detach().flatten(1))  # [outputs, inside]
        narrowed, totals, sums = shape.narrow(middle, second.factor, second.offset, pad(turned.t()), inside)
        third = SummedNorm.of(project.norm, sums, count, project.conv.bias)

        # How far each image's mean is from that of all, [images, outputs padded].
        away = totals.mul_(shape.images / count).sub_(sums[0] / count).float()
        factor, offset = third.factor.expand_as(away), third.offset.expand_as(away)
        if gating is not None and inside is None:
            gate = _Gate(gating, torch.addcmul(third.shift, away, third.factor)[:, : shape.outputs])
            factors = pad(gate.factors)
            factor, offset = factors * factor, factors * offset
        drawn: Tensor | None = None  # what drop connect multiplies with, [images, 1]
        if block.drop_connect is not None:
            drawn = block.drop_connect.draw(x).flatten(1)
            factor, offset = drawn * factor, drawn * offset
        through = rows if kept else None if added is None else rows_of(added)
        y = shape.finish(narrowed, factor.contiguous(), offset.contiguous(), through)

        ctx.save_for_backward(x, middle, narrowed, turned, away, inside, drawn, *matrices)
        ctx.shape, ctx.norms, ctx.gate, ctx.kept = shape, (first, second, third), gate, kept
        ctx.has_bias = project.conv.bias is not None
        return y.view(shape.images, shape.out_height, shape.out_width, -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, middle, narrowed, turned, away, inside, drawn, *matrices = ctx.saved_tensors
        shape: blocks.InvertedResidual = ctx.shape
        first, second, third = ctx.norms
        wide, outputs, pixels = len(first.matrix), shape.outputs, shape.out_height * shape.out_width
        rows, given = as_rows(x), rows_of(gradient)

        totals, against = shape.finish_backward(given, narrowed, third.mean).float()  # [images, outputs padded] each
        if drawn is not None:
            totals, against = totals * drawn, against * drawn
        parts = third.factor.expand_as(away), torch.zeros_like(away)
        for_gate: list[Tensor | None] = []
        if ctx.gate is not None and inside is None:
            factors = pad(ctx.gate.factors)
            for_factors = torch.addcmul(totals * third.shift, against, third.factor)
            for_pooled, for_gate = ctx.gate.backward(for_factors[:, :outputs])
            for_pooled = pad(for_pooled)
            totals = torch.addcmul(for_pooled, totals, factors)
            against = torch.addcmul(for_pooled * away, against, factors)
            parts = factors * third.factor, for_pooled * third.factor / pixels
        for_third_shift = totals.sum(0)
        for_third, by_value, constant = third.backward(for_third_shift, against.sum(0))
        by_gradient = parts[0].contiguous() if drawn is None else parts[0] * drawn
        for_values = by_gradient, by_value, parts[1] + constant
        narrowing = given, narrowed, for_values, turned, middle, (second.factor, second.offset, second.mean)
        if inside is None:
            back, for_turned, sums = shape.narrow_backward(*narrowing)
        else:
            back, for_turned, sums, for_gate = _through_gate(shape, narrowing, inside, ctx.gate)

        assert for_turned is not None
        for_second_shift, against = sums.float()
        for_second, by_value, constant = second.backward(for_second_shift, against)
        for_values = second.factor, by_value, constant
        for_rows, product, total, for_depthwise = shape.widen_backward(back, middle, for_values, rows, *matrices)

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
            for_turned[:, :wide, None, None],
            for_third[:outputs],
            for_third_shift[:outputs],
            *([torch.zeros_like(third.shift[:outputs])] if ctx.has_bias else []),  # the norm takes it away again
            *for_gate,
        )


_Norms = tuple[Tensor, Tensor, Tensor]


def _through_gate(
    shape: blocks.InvertedResidual,
    narrowing: tuple[Tensor, Tensor, _Norms, Tensor, Tensor, _Norms],
    inside: Tensor,
    gate: _Gate,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor | None]]:
    """What `narrow_backward` gives where a gate with factors `inside` stands before it; then its parameters' gradients.

    narrowing: the arguments of `narrow_backward`.
    """
    for_factors, for_narrow = shape.gate_backward(*narrowing, inside)
    for_pooled, for_gate = gate.backward(for_factors.float()[:, : gate.factors.shape[1]].contiguous())
    back, _, sums = shape.narrow_backward(*narrowing, (inside, pad(for_pooled) / (shape.out_height * shape.out_width)))
    return back, for_narrow, sums, for_gate


def _shape_of(block: InvertedResidual, x: Tensor) -> blocks.InvertedResidual:
    conv = block.depthwise.conv
    images, inputs, height, width = x.shape
    inside = padded(conv.out_channels)
    padding = _padding(block.depthwise)
    assert padding is not None, "asked for where the kernels fit"
    before, after = padding
    return blocks.InvertedResidual(
        images=images,
        height=height,
        width=width,
        inputs=inputs,
        inside=inside,
        outputs=block.project.conv.out_channels,
        kernel=conv.kernel_size[0],
        stride=conv.stride[0],
        padding=before,
        padding_more=after - before,
        activation=_ACTIVATIONS.index(type(block.depthwise.activation)),
    )


def _count(shape: blocks.InvertedResidual) -> int:
    """Values of each channel inside, after the depthwise convolution."""
    return shape.images * shape.out_height * shape.out_width
