"""Convolutions and linear layers that compute with integers.

A quantized layer rounds its input to the integers q of a grid (scale s, zero point z). It multiplies them with integer
weights w and sums. Only then it returns to floats:

    y = (sum of w * q) * (s * s_w) + (bias - s * s_w * z * sum of w)

The second bracket is one constant a channel, so each output costs one multiplication and one addition. Padding is
z, which stands for 0. What is outside the sum is float32 or, in evaluation, really float16 (`arithmetic`).

In training and in ordinary evaluation float32 holds the integers, exactly up to 2**24. Where torch's float32 sums are
not exact, evaluation takes sums that are (`netpress.numerics.sums`). `netpress.program` turns these layers into integer
operations, for sums of any size.

The layers are subclasses of `nn.Conv2d` and `nn.Linear`. Their weights are floats on their grid, so other code reads
them as usual.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from netpress.numerics.accumulators import product_bits, sum_range, tree_width
from netpress.numerics.calibration import AnyCalibration, calibrate_tensor
from netpress.numerics.fixed_point import IntegerRescaling, TrainedRescaling
from netpress.numerics.formats import (
    AnyFormat,
    Binary,
    Fixed,
    Float16,
    GridFormat,
    Integer,
    Power,
    integer_range,
    scale_format,
    zero_point_format,
)
from netpress.numerics.layer_formats import LayerFormats, check_formats
from netpress.numerics.rescaling import Rescaling, safe_shifts
from netpress.numerics.rounding import dequantize, pass_through, quantize, scale_gradient, snap, stored_scale
from netpress.numerics.strided import keep_in_bounds
from netpress.numerics.sums import Window, convolution_sums, floats_sum_exactly, linear_sums

AnyRescaling = Rescaling | IntegerRescaling | TrainedRescaling
Scales = tuple[Tensor | None, Tensor | None]
"""Of the weights, [] or [outputs], and of the input, []."""


class QuantizedLayer(nn.Module):
    """What quantized convolutions and linear layers share. Not used alone."""

    formats: LayerFormats
    weight: Tensor
    bias: Any  # Tensor or None; torch's own two classes disagree about the annotation
    weight_scale: nn.Parameter | None  # [] or [outputs]
    input_scale: nn.Parameter | None  # []
    input_zero_point: Tensor | None  # [], a whole number
    output_scale: nn.Parameter | None  # [], a power of two: what a unit of a 16-bit output is worth
    plain: bool  # compute as the float layer that this was: for tracing and exports
    unit_rows = False
    """Whether each row of a linear layer's weight is scaled to length 1, before it is rounded and after: the directions
    of a cosine head, while they train. Freezing fixes them."""

    def set_formats(self, formats: LayerFormats) -> None:
        """Add the tensors that the formats need, still without meaning: scales 1, zero point 0."""
        check_formats(formats)
        self.formats = formats
        self.plain = False
        device, weight = self.weight.device, formats.weight
        self.weight_scale = self.input_scale = None
        if isinstance(weight, GridFormat):
            shape = (len(self.weight),) if weight.scale == "channel" else ()
            self.weight_scale = nn.Parameter(torch.ones(shape, device=device), requires_grad=False)
        if isinstance(formats.input, Fixed | Integer):
            self.input_scale = nn.Parameter(torch.ones((), device=device), requires_grad=False)
        integer = formats.arithmetic == "integer"
        self.output_scale = nn.Parameter(torch.ones((), device=device), requires_grad=False) if integer else None
        has_zero_point = isinstance(formats.input, Integer) and formats.input.zero_point
        self.register_buffer("input_zero_point", torch.zeros((), device=device) if has_zero_point else None)

    def tensor_formats(self) -> dict[str, AnyFormat]:
        """Formats of the layer's tensors by their names in it, and under `input` that of what enters."""
        formats: dict[str, AnyFormat] = {"weight": self.formats.weight, "input": self.formats.input}
        if self.bias is not None:
            formats["bias"] = self.formats.bias
        if isinstance(self.formats.weight, GridFormat):
            formats["weight_scale"] = scale_format(self.formats.weight)
        if isinstance(self.formats.input, Fixed | Integer):
            formats["input_scale"] = scale_format(self.formats.input)
        if isinstance(self.formats.input, Integer) and self.formats.input.zero_point:
            formats["input_zero_point"] = zero_point_format(self.formats.input)
        if self.output_scale is not None:
            formats["output_scale"] = Power()
        return formats

    def forward(self, x: Tensor) -> Tensor:
        if self.plain:
            return self.sum(x, self.real_weight(), self.bias)
        if self.training and isinstance(self.formats.weight, Binary) and not self.unit_rows:
            with torch.no_grad():
                self.weight.clamp_(-1, 1)  # BinaryConnect: weights beyond 1 would never come back
        with torch.autocast(x.device.type, enabled=False):  # narrower floats do not hold the integers
            scales = self.scales(x[0].numel())
            weight, values = self.stored_weight(scales[0]), self.stored_input(x, scales[1])
            # In training the sums stay centred, which saves a pass. In evaluation the zero point's share is in the
            # bias, as in a program; then simulation and exact integers round alike, and agree to the last bit.
            zero = None if self.training else self.zero_sums(weight)
            rescaling = self.rescaling(weight, scales, zero)
            if self.formats.integer and not self.training and not floats_sum_exactly(x.device):
                return rescaling.apply(self.exact_sum(values, weight))
            if self.input_zero_point is not None:
                values = values - self.input_zero_point
            sums = self.sum(values, weight, None)
            return rescaling.apply(sums if zero is None else sums + self.spread(zero))

    def sum(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's sums of products."""
        raise NotImplementedError

    def exact_sum(self, values: Tensor, weight: Tensor) -> Tensor:
        """The sums of stored integers, not centred and padded with the zero point, exact in whatever torch sums."""
        raise NotImplementedError

    def spread(self, per_channel: Tensor) -> Tensor:
        """[outputs] or [] -> the shape in which it meets the output."""
        raise NotImplementedError

    def scales(self, inputs: int = 1) -> Scales:
        """The scales of weights and input as they are stored; those that learn, with LSQ's gradient.

        inputs: values that enter for one image.
        """
        return (
            _learning(self.weight_scale, self.formats.weight, self.weight.numel()),
            _learning(self.input_scale, self.formats.input, inputs),
        )

    def real_weight(self) -> Tensor:
        """The weights as they are before rounding."""
        return functional.normalize(self.weight, dim=1) if self.unit_rows else self.weight

    def stored_weight(self, scale: Tensor | None) -> Tensor:
        """The weights as stored integers (in float32), or as floats of their format."""
        format = self.formats.weight
        if isinstance(format, GridFormat):
            assert scale is not None
            return quantize(self.real_weight(), format, scale)
        return _snap_straight(self.real_weight(), format)

    def unit_scale(self, weight: Tensor, scale: Tensor | None) -> Tensor | None:
        """The scale with which each row of stored integers has length 1, whatever step it was rounded with.

        weight: what `stored_weight` gives, `scale` its step. That stays where rows have none of their own.
        """
        format = self.formats.weight
        if scale is None or not scale.dim():
            return scale
        assert isinstance(format, GridFormat)
        lengths = weight.norm(dim=1)  # 1 at least, where a row is not all zeros
        return stored_scale(torch.where(lengths > 0, 1 / lengths.clamp(min=1), scale), format)

    def stored_input(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """The input as stored integers (in float32), or as floats of its format."""
        format = self.formats.input
        if isinstance(format, Fixed | Integer):
            assert scale is not None
            return quantize(x.float(), format, scale, self.input_zero_point)
        return _snap_straight(x.float(), format)

    def integers(self) -> Tensor:
        """The stored integers of the weights, as floats without gradient."""
        return self.stored_weight(self.scales()[0]).detach()

    def zero_sums(self, weight: Tensor) -> Tensor | None:
        """What the input's zero point adds to the sums of stored integers: [outputs]; None without a zero point."""
        return None if self.input_zero_point is None else weight.flatten(1).sum(1) * self.input_zero_point

    def rescaling(self, weight: Tensor, scales: Scales, zero: Tensor | None) -> AnyRescaling:
        """What makes the output of the sums. `zero`: what `zero_sums` says where the sums are not centred."""
        scale, of_weight = self.weight.new_ones(()), scales[0]
        for factor in (self.unit_scale(weight, of_weight) if self.unit_rows else of_weight, scales[1]):
            scale = scale if factor is None else scale * factor
        bias = self.bias if self.bias is not None else scale.new_zeros(())
        if self.output_scale is not None:
            return self._integer_rescaling(weight, scale, bias)
        if zero is not None:
            bias = bias - scale * zero
        if self.formats.arithmetic == "float32" or self.training:
            return Rescaling("float32", None, self.spread(scale), self.spread(bias))
        if not self.formats.integer:
            scaled = self.weight_scale is not None or self.input_scale is not None
            return Rescaling("float16", None, self.spread(scale).half() if scaled else None, self.spread(bias).half())
        low, high = integer_range(self.formats.input)  # type: ignore[arg-type]
        shift = safe_shifts(weight, max(-low, high))
        factor = self.spread(scale * shift).half()
        return Rescaling("float16", self.spread(shift), factor, self.spread(bias).half())

    def _integer_rescaling(self, weight: Tensor, scale: Tensor, bias: Tensor) -> AnyRescaling:
        assert self.output_scale is not None
        if self.training:
            zero = self.zero_sums(weight.detach())
            spread = None if zero is None else self.spread(zero)
            return TrainedRescaling(self.spread(scale), self.spread(bias), self.output_scale, spread)
        factor, bias = scale.double(), bias.double()
        if self.input_zero_point is not None:
            bias = bias - factor * weight.double().flatten(1).sum(1) * self.input_zero_point.double()
        return IntegerRescaling(self.spread(factor), self.spread(bias), self.output_scale)

    def sum_range(self) -> tuple[int, int]:
        """The least and the largest partial sum that any input could give; for layers that compute with integers."""
        return sum_range(self.integers(), self.formats.input)  # type: ignore[arg-type]

    def products(self) -> int:
        """Products in the largest of the layer's sums: weights that are not zero, of one output."""
        return int((self.weight != 0).flatten(1).sum(1).max())

    def claimed_width(self) -> int:
        """Bits of the accumulators that a score may charge: the adder tree's result, or the fixed width."""
        if self.formats.accumulators != "tree":
            return self.formats.accumulators
        return tree_width(self.products(), product_bits(self.formats.weight, self.formats.input))

    @torch.no_grad()
    def freeze(self, bias_calibration: AnyCalibration) -> None:
        """Put weights, bias and scales on the grids that they are stored on, in place. The outputs stay the same.

        bias_calibration: how the range of biases in fixed point is found.
        """
        weight_scale, input_scale = (None if scale is None else scale.detach() for scale in self.scales())
        stored = self.stored_weight(weight_scale)
        if self.unit_rows:
            weight_scale = self.unit_scale(stored, weight_scale)
        self.weight.copy_(stored if weight_scale is None else dequantize(stored, weight_scale))
        self.unit_rows = False
        if weight_scale is not None:
            self.weight_scale = nn.Parameter(weight_scale, requires_grad=False)
        if input_scale is not None:
            self.input_scale = nn.Parameter(input_scale, requires_grad=False)
        if self.bias is not None:
            self.bias.copy_(_snap_bias(self.bias, self.formats.bias, bias_calibration))


class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """A convolution over integers: [batch, inputs, height, width] -> [batch, outputs, ...], zero padding only."""

    def __init__(self, *arguments: Any, formats: LayerFormats, **settings: Any) -> None:
        nn.Conv2d.__init__(self, *arguments, **settings)
        if self.padding_mode != "zeros":
            raise ValueError(f"padding_mode {self.padding_mode!r} cannot be quantized; only zeros can")
        self.set_formats(formats)
        keep_in_bounds(self)

    def sum(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)

    def exact_sum(self, values: Tensor, weight: Tensor) -> Tensor:
        low, high = self.sum_range()
        zero = 0.0 if self.input_zero_point is None else float(self.input_zero_point)
        return convolution_sums(values, weight, Window.of(self), max(-low, high), zero)

    def spread(self, per_channel: Tensor) -> Tensor:
        return per_channel.reshape(-1, 1, 1) if per_channel.dim() else per_channel


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A linear layer over integers: [..., inputs] -> [..., outputs]."""

    def __init__(self, *arguments: Any, formats: LayerFormats, **settings: Any) -> None:
        nn.Linear.__init__(self, *arguments, **settings)
        self.set_formats(formats)

    def sum(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias)

    def exact_sum(self, values: Tensor, weight: Tensor) -> Tensor:
        return linear_sums(values, weight)

    def spread(self, per_channel: Tensor) -> Tensor:
        return per_channel


def quantized_like(layer: nn.Module, formats: LayerFormats) -> QuantizedLayer:
    """A quantized layer of the same shape that takes over `layer`'s own weight and bias.

    Raises TypeError for anything but `nn.Conv2d` and `nn.Linear` themselves: a subclass computes something else.
    """
    new: QuantizedLayer
    if type(layer) in (nn.Conv2d, QuantizedConv2d):
        assert isinstance(layer, nn.Conv2d)
        new = QuantizedConv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            device="meta",
            formats=formats,
        )
    elif type(layer) in (nn.Linear, QuantizedLinear):
        assert isinstance(layer, nn.Linear)
        bias = layer.bias is not None
        new = QuantizedLinear(layer.in_features, layer.out_features, bias, device="meta", formats=formats)
    else:
        raise TypeError(f"{type(layer).__name__} cannot be quantized, only Conv2d and Linear")
    new.weight, new.bias = layer.weight, layer.bias
    new.set_formats(formats)  # once more, on the weight's device
    return new.train(layer.training)


def quantized_layers(module: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantized layers of a module by name, in order of definition."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, QuantizedLayer)}


@contextmanager
def plain_layers(module: nn.Module) -> Iterator[None]:
    """Within, quantized layers compute as plain float convolutions and linear layers with their stored weights.

    For code that must see each as one operation: tracing, counting, exports.
    """
    layers = list(quantized_layers(module).values())
    for layer in layers:
        layer.plain = True
    try:
        yield
    finally:
        for layer in layers:
            layer.plain = False


def freeze(module: nn.Module, bias_calibration: AnyCalibration) -> None:
    """Freeze every quantized layer of the module: what its file will hold is what it computes with.

    bias_calibration: how the range of biases in fixed point is found.
    """
    for layer in quantized_layers(module).values():
        layer.freeze(bias_calibration)


def _learning(scale: nn.Parameter | None, format: AnyFormat, count: int) -> Tensor | None:
    if scale is None or not scale.requires_grad:
        return scale
    assert isinstance(format, GridFormat)
    slowed = scale_gradient(scale, count // max(1, scale.numel()), format)
    return stored_scale(slowed, format)


def _snap_straight(x: Tensor, format: AnyFormat) -> Tensor:
    if not isinstance(format, Float16):
        return x
    rounded = x.half().float()
    return pass_through(rounded, x) if x.requires_grad else rounded


def _snap_bias(bias: Tensor, format: AnyFormat, calibration: AnyCalibration) -> Tensor:
    if isinstance(format, Fixed):
        return snap(bias, format, calibrate_tensor(bias, format, calibration)[0])
    return snap(bias, format)
