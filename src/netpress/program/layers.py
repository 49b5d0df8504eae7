"""A quantized layer as operations: its input's integers, its sums, its output.

`lower` puts them into a program. Where a module's own forward cannot be lowered, `exact_layers` lets its quantized
layers alone compute by them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from netpress.errors import Failure
from netpress.numerics.claims import LayerSums
from netpress.numerics.fixed_point import TrainedRescaling
from netpress.numerics.formats import Fixed, Float16, Float32, Integer
from netpress.numerics.layers import QuantizedConv2d, QuantizedLayer, quantized_layers
from netpress.numerics.sums import Window
from netpress.program.execution import run
from netpress.program.operations import (
    Add,
    Cast,
    Convolution,
    FloatConvolution,
    FloatLinear,
    Linear,
    Operation,
    Quantize,
    Rescale,
)

EXACT = 2**53
"""Sums below it are exact in float64, in any order of adding."""


def layer_operations(layer: QuantizedLayer, name: str, source: str, output: str) -> list[Operation]:
    """What `layer`, called `name`, does with the buffer `source`: operations, the last of which writes `output`.

    Every constant is calculated here, once. Raises Failure for sums that could reach 2**53.
    """
    weight_scale, input_scale = (None if scale is None else scale.detach() for scale in layer.scales())
    weight = layer.stored_weight(weight_scale).detach()
    zero = layer.zero_sums(weight)
    rescaling = layer.rescaling(weight, (weight_scale, input_scale), zero)
    assert not isinstance(rescaling, TrainedRescaling)  # programs are of layers in evaluation
    values, sums = f"{output}.input", f"{output}.sums"
    operations: list[Operation] = [_enter(layer, name, source, values)]
    if layer.formats.integer:
        operations.append(_integer_sums(layer, name, weight, values, sums))
    else:
        operations += _float_sums(layer, name, weight, values, sums)
    return [*operations, Rescale(name, (operations[-1].output,), output, rescaling.detached())]


def _enter(layer: QuantizedLayer, name: str, source: str, values: str) -> Operation:
    format = layer.formats.input
    if isinstance(format, Fixed | Integer):
        assert layer.input_scale is not None
        scale = layer.scales()[1]
        assert scale is not None
        return Quantize(name, (source,), values, format, scale.detach(), layer.input_zero_point)
    assert isinstance(format, Float16 | Float32)  # `check_formats` refuses others
    return Cast(name, (source,), values, format)


def _integer_sums(layer: QuantizedLayer, name: str, weight: Tensor, values: str, sums: str) -> Operation:
    lowest, highest = layer.sum_range()
    if max(-lowest, highest) >= EXACT:
        raise Failure(f"{name}: its sums may reach {max(-lowest, highest)}, too large to be exact")
    bounds = (name, weight, lowest, highest, layer.claimed_width())
    if not isinstance(layer, QuantizedConv2d):
        return Linear(name, (values,), sums, *bounds)
    padding = 0.0 if layer.input_zero_point is None else float(layer.input_zero_point)
    return Convolution(name, (values,), sums, *bounds, Window.of(layer), padding)


def _float_sums(layer: QuantizedLayer, name: str, weight: Tensor, values: str, sums: str) -> list[Operation]:
    """Products of floats; integers that enter are centred before, and what that takes from the sums is added again."""
    zero, point = layer.zero_sums(weight), layer.input_zero_point
    centred, centred_sums = (values, sums) if zero is None else (f"{values}.centred", f"{sums}.centred")
    operation: Operation
    if isinstance(layer, QuantizedConv2d):
        operation = FloatConvolution(name, (centred,), centred_sums, weight, None, Window.of(layer))
    else:
        operation = FloatLinear(name, (centred,), centred_sums, weight, None)
    if zero is None or point is None:
        return [operation]
    before = Add(name, (values,), centred, -point)
    return [before, operation, Add(name, (centred_sums,), sums, layer.spread(zero))]


@contextmanager
def exact_layers(module: nn.Module, sums: Mapping[str, LayerSums]) -> Iterator[None]:
    """Within, every integer layer of `module` computes by its operations and records its accumulators in `sums`.

    For evaluation of modules that cannot be lowered as a whole. What is between the layers, and layers that are not
    integer, compute as always. Raises Failure for a layer whose sums could reach 2**53.
    """

    def forward(operations: list[Operation]) -> Callable[[Tensor], Tensor]:
        def walk(x: Tensor) -> Tensor:
            for operation in operations:
                x = run(operation, [x], sums)
            return x

        return walk

    layers = {name: layer for name, layer in quantized_layers(module).items() if layer.formats.integer}
    walks = {name: forward(layer_operations(layer, name, "input", name)) for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.forward = walks[name]  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.forward
