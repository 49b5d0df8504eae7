"""Setting the scales and zero points of quantized layers, from their weights and from training images.

Then correcting the biases, so that rounding does not move the means. `netpress.numerics.calibration` has the methods.
"""

from collections.abc import Container, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from netpress.data import Images, normalize
from netpress.errors import Failure
from netpress.numerics.calibration import AnyCalibration, Observer, calibrate_tensor
from netpress.numerics.formats import AnyFormat, Binary, Fixed, Integer, Ternary
from netpress.numerics.grid import round_scales
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import QuantizedLayer
from netpress.process.devices import generator_for

BATCH = 128
Part = TypeVar("Part")


def calibrate_weights(layers: Mapping[str, QuantizedLayer], method: AnyCalibration) -> None:
    """Set every weight scale from the weights themselves. Raises Failure, naming the layer, if they are not finite."""
    for name, layer in layers.items():
        format = layer.formats.weight
        if isinstance(format, Fixed | Integer | Ternary | Binary):
            assert layer.weight_scale is not None
            try:
                scale, _ = calibrate_tensor(layer.real_weight().detach().cpu(), format, method)
            except Failure as error:
                raise Failure(f"{name}.weight: {error}") from error
            layer.weight_scale.data.copy_(scale)


def keep_grids(module: nn.Module, layers: Mapping[str, QuantizedLayer]) -> set[str]:
    """Let new layers of integer arithmetic keep the scales and zero points that layers of `module` have, in place.

    These are layers that compute otherwise only outside the sums, or whose biases alone are stored otherwise: their
    integers stay what they are. Returns the names.
    """
    kept = set()
    for name, layer in layers.items():
        old = module.get_submodule(name)
        if not isinstance(old, QuantizedLayer) or layer.formats.arithmetic != "integer" or old.unit_rows:
            continue
        same = {"arithmetic": "integer", "bias": layer.formats.bias}
        if old.formats.model_copy(update=same) != layer.formats or old.formats == layer.formats:
            continue
        kept.add(name)
        for part in ("weight_scale", "input_scale", "input_zero_point"):
            values = getattr(old, part)
            if values is not None:
                getattr(layer, part).data.copy_(values)
    return kept


def keep_steps(module: nn.Module, layers: Mapping[str, QuantizedLayer]) -> tuple[set[str], set[str]]:
    """Let new layers keep the steps and zero points of those of `module`, in place, where their numbers are of the same
    kind and have as many bits, or more. Returns the names of those whose weights do, and of those whose inputs do.

    With n more bits a step is 2^n times finer, so that every value of before is one of the new. The scales of weights
    are rounded to how they are stored now.
    """
    weights, inputs = set(), set()
    for name, layer in layers.items():
        old = module.get_submodule(name)
        if not isinstance(old, QuantizedLayer) or old.unit_rows:
            continue
        weight, value = layer.formats.weight, layer.formats.input
        finer = finer_by(old.formats.weight, weight)
        if finer is not None and old.weight_scale is not None and layer.weight_scale is not None:
            layer.weight_scale.data.copy_(_rounded(old.weight_scale.detach() / 2**finer, weight))
            weights.add(name)
        finer = finer_by(old.formats.input, value)
        if finer is not None and old.input_scale is not None and layer.input_scale is not None:
            layer.input_scale.data.copy_(_rounded(old.input_scale.detach() / 2**finer, value))
            if old.input_zero_point is not None and layer.input_zero_point is not None:
                layer.input_zero_point.copy_(old.input_zero_point * 2**finer)
            inputs.add(name)
    return weights, inputs


def finer_by(before: AnyFormat, after: AnyFormat) -> int | None:
    """How many bits more `after` has; None where it has fewer, or numbers of another kind."""
    if isinstance(after, Integer) and isinstance(before, Integer) and after.bits >= before.bits:
        same = before.model_copy(update={"bits": after.bits, "scales": after.scales}) == after
        return after.bits - before.bits if same else None
    if isinstance(after, Fixed) and isinstance(before, Fixed):
        return after.bits - before.bits if after.bits >= before.bits else None
    if isinstance(after, Ternary | Binary) and isinstance(before, Ternary | Binary):
        return 0 if before.model_copy(update={"scales": after.scales}) == after else None
    return None


def _rounded(scale: Tensor, format: AnyFormat) -> Tensor:
    assert isinstance(format, Fixed | Integer | Ternary | Binary)
    return round_scales(scale, format)


def without(parts: Mapping[str, Part], names: Container[str]) -> dict[str, Part]:
    """Those of `parts` that `names` does not name."""
    return {name: part for name, part in parts.items() if name not in names}


@torch.inference_mode()
def watch_inputs(
    module: nn.Module,
    formats: Mapping[str, LayerFormats],
    images: Images,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    method: AnyCalibration,
    seed: int,
) -> dict[str, Observer]:
    """What enters each named layer while the float network sees the images.

    statistics: mean and standard deviation that normalise the images. Layers whose input stays in floats are
    not watched. The values that an observer looks at are drawn from a stream of its layer's own, by `seed` and name:
    a layer is calibrated alike whichever others are watched. Raises Failure, naming the layer, for values that are
    not finite.
    """
    batches = images.images.split(BATCH)
    observers = {
        name: Observer(method, len(batches), generator_for(seed, "quantize", "calibration", name))
        for name, chosen in formats.items()
        if isinstance(chosen.input, Fixed | Integer)
    }

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            try:
                observers[name].watch(inputs[0])
            except Failure as error:
                raise Failure(
                    f"calibration, {name}: what enters has {error}; is the network trained soundly?"
                ) from error

        return hook

    handles = [module.get_submodule(name).register_forward_pre_hook(watch(name)) for name in observers]
    training = module.training
    module.eval()
    device = next(module.parameters()).device
    try:
        for batch in batches:
            module(normalize(batch.to(device), *statistics))
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    return observers


def set_inputs(layers: Mapping[str, QuantizedLayer], observers: Mapping[str, Observer]) -> None:
    """Set every input scale and zero point from what was watched. Raises Failure for a layer that did not run."""
    for name, observer in observers.items():
        layer = layers[name]
        format = layer.formats.input
        assert isinstance(format, Fixed | Integer) and layer.input_scale is not None
        try:
            scale, zero_point = observer.grid(format)
        except Failure as error:
            floats = ' with arithmetic = "float16"' if layer.formats.arithmetic == "integer" else ""
            raise Failure(f'calibration, {name}: {error}; leave_out = ["{name}"]{floats} keeps it in floats') from error
        layer.input_scale.data.copy_(scale)
        if zero_point is not None and layer.input_zero_point is not None:
            layer.input_zero_point.copy_(zero_point)


@torch.inference_mode()
def correct_biases(
    original: nn.Module, quantized: nn.Module, layers: Mapping[str, QuantizedLayer], images: Tensor
) -> None:
    """Shift the biases so that every channel's mean is that of the float network, in place.

    Rounding moves means (Nagel et al. 2019, Data-Free Quantization, section 4.2; here measured on images, not
    derived). One pass: each layer is corrected before the next one runs, so the errors of earlier layers are seen.
    Layers without bias, or that run more than once, are left alone.
    images: normalised, [batch, channels, height, width].
    """
    means: dict[str, list[Tensor]] = {name: [] for name in layers}

    def note(name: str) -> Any:
        return lambda layer, inputs, output: means[name].append(_channel_means(output))

    def correct(name: str) -> Any:
        def hook(layer: QuantizedLayer, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if layer.bias is None or len(means[name]) != 1:
                return None
            shift = means[name][0] - _channel_means(output)
            layer.bias += shift
            return output + layer.spread(shift).to(output.dtype)

        return hook

    for module, hook in ((original, note), (quantized, correct)):
        handles = [module.get_submodule(name).register_forward_hook(hook(name)) for name in layers]
        training = module.training
        module.eval()
        try:
            module(images)
        finally:
            module.train(training)
            for handle in handles:
                handle.remove()


def _channel_means(output: Tensor) -> Tensor:
    """[batch, channels, height, width] or [batch, ..., channels] -> [channels]."""
    places = [0, 2, 3] if output.dim() == 4 else list(range(output.dim() - 1))
    return output.float().mean(places)
