"""Which operation stands for a layer or a function of torch's.

A rule takes a call's arguments, in which tensors are buffers. It returns a `Call`, a buffer that is passed on as it is,
or a constant. It raises NoOperation for arguments that no operation stands for.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from netpress.numerics.sums import Window
from netpress.program.operations import (
    Activation,
    AdaptivePool,
    Add,
    AveragePool,
    BatchNorm,
    Buffer,
    Concatenate,
    FloatConvolution,
    FloatLinear,
    MaximumPool,
    Mean,
    Multiply,
    Operation,
    Pad,
    Permute,
    Reshape,
    UnitLength,
)


class NoOperation(Exception):
    """No operation stands for this call, and why."""


@dataclass(frozen=True)
class Call:
    """An operation to add: its class, the buffers that it reads, and its own fields."""

    kind: type[Operation]
    inputs: tuple[Buffer, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    in_place: bool = False
    """Whether the call writes over what it reads first."""


class _Batch:
    """How many images there are: any number, so nothing is calculated with it."""


BATCH = _Batch()


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise NoOperation(reason)


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def _axis(axis: int, x: Buffer) -> int:
    """An axis of the batch, counted from the front."""
    return axis % (len(x.shape) + 1)


# --- functions


def _activation(function: str, *names: str) -> Callable[..., Call]:
    """The rule of an activation whose further arguments are called `names`."""

    def rule(x: Buffer, *values: Any, inplace: bool = False, **options: Any) -> Call:
        arguments = dict(zip(names, values, strict=False)) | options
        unknown = arguments.keys() - set(names)
        _require(not unknown and len(values) <= len(names), "it is given arguments that nobody knows")
        numbers = all(isinstance(value, int | float | str) for value in arguments.values())
        _require(numbers, "its arguments are not plain numbers")
        return Call(Activation, (x,), {"function": function, "arguments": tuple(arguments.items())}, inplace)

    return rule


def _combine(kind: type[Operation], in_place: bool = False) -> Callable[..., Call]:
    """The rule of a sum or a product of two things, of which one may be a constant."""

    def rule(x: Any, y: Any) -> Call:
        both = tuple(value for value in (x, y) if isinstance(value, Buffer))
        if len(both) == 2:
            return Call(kind, both, in_place=in_place)
        constant = y if isinstance(x, Buffer) else x
        _require(
            isinstance(constant, Tensor | int | float), f"{type(constant).__name__} is no constant to calculate with"
        )
        _require(not in_place or isinstance(x, Buffer), "a constant is changed in place")
        return Call(kind, both, {"constant": constant}, in_place)

    return rule


def _average_pool(
    x: Buffer,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Call:
    _require(divisor_override is None, "it divides by another number than its values")
    places = {"kernel": _pair(kernel_size), "stride": _pair(stride or kernel_size), "padding": _pair(padding)}
    return Call(AveragePool, (x,), {**places, "ceil_mode": ceil_mode, "counts_padding": count_include_pad})


def _maximum_pool(
    x: Buffer,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Call:
    _require(not return_indices, "it returns indices too")
    places = {"kernel": _pair(kernel_size), "stride": _pair(stride or kernel_size), "padding": _pair(padding)}
    return Call(MaximumPool, (x,), {**places, "dilation": _pair(dilation), "ceil_mode": ceil_mode})


def _adaptive_pool(x: Buffer, output_size: Any) -> Call:
    size = (output_size, output_size) if isinstance(output_size, int) or output_size is None else tuple(output_size)
    return Call(AdaptivePool, (x,), {"size": size})


def _mean(x: Buffer, dim: int | Sequence[int], keepdim: bool = False) -> Call:
    axes = tuple(_axis(axis, x) for axis in ((dim,) if isinstance(dim, int) else dim))
    _require(0 not in axes, "it is taken over the images")
    return Call(Mean, (x,), {"axes": axes, "keeps_axes": keepdim})


def _concatenate(tensors: Sequence[Any], dim: int = 0) -> Call:
    _require(all(isinstance(part, Buffer) for part in tensors), "some of it is a constant")
    axis = _axis(dim, tensors[0])
    _require(axis != 0, "images are put beside images")
    return Call(Concatenate, tuple(tensors), {"axis": axis})


def _pad(x: Buffer, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Call:
    _require(mode == "constant", f"it pads by {mode}")
    _require(len(pad) <= 2 * len(x.shape), "images are padded with images")
    return Call(Pad, (x,), {"widths": tuple(pad), "value": value or 0.0})


def _flatten(x: Buffer, start_dim: int = 0, end_dim: int = -1) -> Call:
    start, end = _axis(start_dim, x) - 1, _axis(end_dim, x)
    _require(start >= 0, "images are joined")
    shape = (*x.shape[:start], torch.Size(x.shape[start:end]).numel(), *x.shape[end:])
    return Call(Reshape, (x,), {"shape": shape})


def _reshape(x: Buffer, *shape: Any) -> Call:
    first, *rest = shape[0] if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape
    given = all(isinstance(length, int) for length in rest)
    _require(given and (first is BATCH or (first == -1 and -1 not in rest)), "images are joined or divided")
    total, product = torch.Size(x.shape).numel(), 1
    for length in rest:
        product *= length if length != -1 else 1
    free = rest.count(-1)
    _require(free <= 1 and product > 0 and (total % product == 0 if free else total == product), "images are joined")
    return Call(Reshape, (x,), {"shape": tuple(total // product if length == -1 else length for length in rest)})


def _permute(x: Buffer, *dims: Any) -> Call:
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    axes = tuple(_axis(axis, x) for axis in order)
    _require(axes[0] == 0, "images are no longer the first axis")
    return Call(Permute, (x,), {"order": axes})


def _transpose(x: Buffer, dim0: int, dim1: int) -> Call:
    order = list(range(len(x.shape) + 1))
    one, other = _axis(dim0, x), _axis(dim1, x)
    order[one], order[other] = other, one
    return _permute(x, *order)


def _unit_length(x: Buffer, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Call:
    axis = _axis(dim, x)
    _require(out is None, "it writes into another tensor")
    _require(p == 2 and axis != 0, "it is no length of a vector of an image")
    return Call(UnitLength, (x,), {"axis": axis, "epsilon": eps})


def _linear(x: Any, weight: Any, bias: Any = None) -> Call:
    _require(isinstance(x, Buffer) and isinstance(weight, Tensor), "it multiplies values with values")
    _require(bias is None or isinstance(bias, Tensor), "its bias is no constant")
    return Call(FloatLinear, (x,), {"weight": weight, "bias": bias})


def _dropout(x: Buffer, p: float = 0.5, training: bool = True, inplace: bool = False) -> Buffer:
    _require(not training, "it draws at random in evaluation, too")
    return x


def _size(x: Buffer, dim: int | None = None) -> Any:
    sizes = (BATCH, *x.shape)
    return sizes if dim is None else sizes[dim]


def _get(x: Buffer, name: str) -> Any:
    _require(name == "shape", f"it asks for {name}")
    return _size(x)


_CLAMP = _activation("clamp", "min", "max")
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    functional.relu: _activation("relu"),
    torch.relu: _activation("relu"),
    functional.relu6: _activation("relu6"),
    functional.leaky_relu: _activation("leaky_relu", "negative_slope"),
    functional.elu: _activation("elu", "alpha"),
    functional.gelu: _activation("gelu", "approximate"),
    functional.silu: _activation("silu"),
    functional.mish: _activation("mish"),
    functional.hardswish: _activation("hardswish"),
    functional.hardsigmoid: _activation("hardsigmoid"),
    functional.hardtanh: _activation("hardtanh", "min_val", "max_val"),
    functional.sigmoid: _activation("sigmoid"),
    torch.sigmoid: _activation("sigmoid"),
    functional.tanh: _activation("tanh"),
    torch.tanh: _activation("tanh"),
    torch.clamp: _CLAMP,
    operator.add: _combine(Add),
    operator.iadd: _combine(Add, in_place=True),
    torch.add: _combine(Add),
    operator.mul: _combine(Multiply),
    operator.imul: _combine(Multiply, in_place=True),
    torch.mul: _combine(Multiply),
    functional.avg_pool2d: _average_pool,
    functional.max_pool2d: _maximum_pool,
    functional.adaptive_avg_pool2d: _adaptive_pool,
    torch.mean: _mean,
    torch.cat: _concatenate,
    functional.pad: _pad,
    torch.flatten: _flatten,
    torch.reshape: _reshape,
    torch.permute: _permute,
    torch.transpose: _transpose,
    functional.normalize: _unit_length,
    functional.linear: _linear,
    functional.dropout: _dropout,
    getattr: _get,
}
METHODS: dict[str, Callable[..., Any]] = {
    "relu": _activation("relu"),
    "sigmoid": _activation("sigmoid"),
    "tanh": _activation("tanh"),
    "clamp": _CLAMP,
    "add": _combine(Add),
    "mul": _combine(Multiply),
    "mean": _mean,
    "flatten": _flatten,
    "reshape": _reshape,
    "view": _reshape,
    "permute": _permute,
    "transpose": _transpose,
    "size": _size,
}

# --- layers


def _from_layer(rule: Callable[..., Call], *names: str) -> Callable[[Any, Buffer], Call]:
    """The rule of a layer that calls a function with its own attributes `names`."""
    return lambda layer, x: rule(x, **{name: getattr(layer, name) for name in names})


def _convolution(layer: Any, x: Buffer) -> Call:
    _require(layer.padding_mode == "zeros", f"it pads by {layer.padding_mode}")
    _require(len(x.shape) == 3, "its input is no image")
    return Call(
        FloatConvolution, (x,), {"weight": layer.weight.detach(), "bias": _bias(layer), "window": Window.of(layer)}
    )


def _bias(layer: Any) -> Tensor | None:
    return None if layer.bias is None else layer.bias.detach()


def _batch_norm(layer: Any, x: Buffer) -> Call:
    _require(layer.running_mean is not None, "it normalises by each batch's own statistics")
    statistics = {"mean": layer.running_mean, "variance": layer.running_var, "bias": _bias(layer)}
    weight = None if layer.weight is None else layer.weight.detach()
    scale = getattr(layer, "output_scale", None)
    return Call(BatchNorm, (x,), {**statistics, "weight": weight, "epsilon": layer.eps, "scale": scale})


PASSED_ON: tuple[type[nn.Module], ...] = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
"""Layers that change nothing in evaluation."""
_POOLS = ("kernel_size", "stride", "padding", "ceil_mode")
MODULES: dict[type[nn.Module], Callable[[Any, Buffer], Call]] = {
    nn.ReLU: _from_layer(_activation("relu"), "inplace"),
    nn.ReLU6: _from_layer(_activation("relu6"), "inplace"),
    nn.LeakyReLU: _from_layer(_activation("leaky_relu", "negative_slope"), "negative_slope", "inplace"),
    nn.ELU: _from_layer(_activation("elu", "alpha"), "alpha", "inplace"),
    nn.GELU: _from_layer(_activation("gelu", "approximate"), "approximate"),
    nn.SiLU: _from_layer(_activation("silu"), "inplace"),
    nn.Mish: _from_layer(_activation("mish"), "inplace"),
    nn.Hardswish: _from_layer(_activation("hardswish"), "inplace"),
    nn.Hardsigmoid: _from_layer(_activation("hardsigmoid"), "inplace"),
    nn.Hardtanh: _from_layer(_activation("hardtanh", "min_val", "max_val"), "min_val", "max_val", "inplace"),
    nn.Sigmoid: _from_layer(_activation("sigmoid")),
    nn.Tanh: _from_layer(_activation("tanh")),
    nn.AvgPool2d: _from_layer(_average_pool, *_POOLS, "count_include_pad", "divisor_override"),
    nn.MaxPool2d: _from_layer(_maximum_pool, *_POOLS, "dilation", "return_indices"),
    nn.AdaptiveAvgPool2d: _from_layer(_adaptive_pool, "output_size"),
    nn.ZeroPad2d: lambda layer, x: _pad(x, layer.padding),
    nn.Flatten: _from_layer(_flatten, "start_dim", "end_dim"),
    nn.Conv2d: _convolution,
    nn.Linear: lambda layer, x: _linear(x, layer.weight.detach(), _bias(layer)),
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
}
