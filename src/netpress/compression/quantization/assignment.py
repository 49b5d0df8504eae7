"""Which layer gets which formats, and what else of the network is rounded and masked for its file."""

from typing import Any

from torch import nn

from netpress.compression.quantization.settings import PRESETS, FormatRule, QuantizeSettings
from netpress.errors import UserError
from netpress.models.blocks import CosineLinear
from netpress.network import Network
from netpress.network.formats import REST, brief
from netpress.network.selection import kinds_of, layers_with_weights, select
from netpress.numerics.block_masks import cheapest_mask
from netpress.numerics.formats import (
    AnyFormat,
    Binary,
    Float16,
    Integer,
    Minifloat,
    Power,
    Ternary,
    parse_format,
)
from netpress.numerics.layer_formats import LayerFormats, check_formats
from netpress.numerics.layers import QuantizedConv2d, QuantizedLinear, quantized_layers

QUANTIZABLE = (nn.Conv2d, nn.Linear, CosineLinear, QuantizedConv2d, QuantizedLinear)


def choose_formats(module: nn.Module, settings: QuantizeSettings) -> dict[str, LayerFormats]:
    """The formats of every layer that will be quantized, by name, in order of definition.

    Layers that are left out have float16 formats if that is the arithmetic, else none.
    Raises UserError for a pattern that matches nothing, a layer that cannot be quantized and is not left out,
    formats that a layer cannot have, or where no layer is left.
    """
    preset = PRESETS[settings.preset]
    left_out = {name for name, _ in select(module, settings.leave_out, "leave_out")} if settings.leave_out else set()
    chosen: dict[str, LayerFormats] = {}
    general = LayerFormats(
        weight=_with_scales(settings.weights or preset.weights, settings.scales),
        input=settings.inputs or preset.inputs,
        bias=settings.bias or preset.bias,
        arithmetic=settings.arithmetic or preset.arithmetic,
        accumulators=settings.accumulators,
    )
    kept = quantized_layers(module).keys() if settings.keep_formats else ()
    for name, layer in layers_with_weights(module):
        if name in left_out:
            continue
        if type(layer) not in QUANTIZABLE:
            kind, out = type(layer).__name__, f'leave_out = ["{name}"] and arithmetic = "float32"'
            raise UserError(f"{name}: {kind} cannot be quantized; keep it in floats with {out}")
        chosen[name] = _kept(layer, general, settings) if name in kept else general
    if not chosen:
        raise UserError("leave_out: no layer is left to quantize")
    present = kinds_of(module)
    for rule in preset.rules:
        if rule.layers in present:
            wider = rule.model_copy(
                update={
                    "weights": None if settings.weights else rule.weights,
                    "inputs": None if settings.inputs else rule.inputs,
                    "scales": settings.scales,
                }
            )
            _apply(wider, [name for name in present[str(rule.layers)] if name not in kept], chosen)
    for index, rule in enumerate(settings.rules):
        names = [name for name, _ in select(module, rule.layers, f"rules.{index}.layers")]
        scales = rule.scales or (settings.scales if rule.weights is not None else None)
        _apply(rule.model_copy(update={"scales": scales}), names, chosen)
    if general.arithmetic != "float32":
        chosen |= {name: _half(name, module.get_submodule(name), general) for name in sorted(left_out)}
    for name, formats in chosen.items():
        try:
            check_formats(formats)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
    return chosen


def _kept(layer: nn.Module, general: LayerFormats, settings: QuantizeSettings) -> LayerFormats:
    """The formats that a quantized layer has, but for what the settings name."""
    assert isinstance(layer, QuantizedConv2d | QuantizedLinear)
    named = {"weight": settings.weights, "input": settings.inputs, "bias": settings.bias}
    own = {part: getattr(layer.formats, part) for part, format in named.items() if format is None}
    formats = general.model_copy(update=own)
    return formats.model_copy(update={"weight": _with_scales(formats.weight, settings.scales)})


def _half(name: str, layer: nn.Module, general: LayerFormats) -> LayerFormats:
    """Formats of a layer left in floats: what enters it are float16 numbers, so it computes with such."""
    if general.arithmetic == "integer":
        raise UserError(
            f'leave_out: {name} would stay in floats, and arithmetic = "integer" has none; give it integers by rules, '
            'or choose arithmetic = "float16"'
        )
    if type(layer) not in QUANTIZABLE:
        kind = type(layer).__name__
        raise UserError(
            f'{name}: {kind} computes in float32, so what is between the layers must too: arithmetic = "float32"'
        )
    return LayerFormats(weight=Float16(), input=Float16(), arithmetic="float16")


def _apply(rule: FormatRule, names: list[str], chosen: dict[str, LayerFormats]) -> None:
    changes = {"weight": rule.weights, "input": rule.inputs, "bias": rule.bias}
    update = {key: value for key, value in changes.items() if value is not None}
    for name in names:
        if name in chosen:
            formats = chosen[name].model_copy(update=update)
            weight = _with_scales(formats.weight, rule.scales)
            chosen[name] = formats.model_copy(update={"weight": weight})


def _with_scales(weight: AnyFormat, scales: Float16 | Minifloat | None) -> AnyFormat:
    """The format of weights with scales of that format, where it has any that can be."""
    if scales is None or not isinstance(weight, Integer | Ternary | Binary):
        return weight
    return weight.model_copy(update={"scales": scales})


def round_others(network: Network) -> None:
    """Round what no quantized layer owns to float16, in place, unless the layers compute in float32; note the formats.

    So the other tensors become float16 numbers, or powers of two where they are scales. Under `*` stands what all other
    values are: float16 numbers too, or integers of 16 bits.
    """
    network.other_formats = {}
    arithmetics = {layer.formats.arithmetic for layer in quantized_layers(network.module).values()}
    if not arithmetics - {"float32"}:
        return
    rest = Integer(bits=16, scale="none") if "integer" in arithmetics else Float16()
    half, owned = brief(Float16()), network.formats
    network.other_formats[REST] = brief(rest)
    for name, tensor in network.module.state_dict().items():
        if name not in owned and tensor.is_floating_point():
            if name.endswith(".output_scale"):
                network.other_formats[name] = brief(Power())
                continue
            tensor.copy_(tensor.half())
            network.other_formats[name] = half


def trim_masks(network: Network) -> None:
    """Leave in the masks only what storage gains by, and add those that it would gain by, in place.

    A weight that was rounded to zero no longer exists, but inside a block that does it is stored as long as the mask by
    blocks is the cheaper one; a tensor whose mask would cost more bits than the zeros that it saves is stored whole
    (MSUNet, 2019).
    """
    formats = network.formats
    for name, weight in network.weights().items():
        exists = (weight.detach() != 0).cpu()
        network.masks.pop(name, None)
        format = parse_format(formats.get(name, {"kind": "float32"}), f"formats.{name}")
        mask, pattern = cheapest_mask(exists, network.patterns.pop(name, None), format)
        if mask is not None:
            network.masks[name] = mask
        if pattern is not None:
            network.patterns[name] = pattern


def describe(format: Any) -> str:
    """A format in a word or two: `int 8 channel`, `fixed 9`, `float16`."""
    if format.kind in ("float16", "float32"):
        return str(format.kind)
    spread = " per channel" if getattr(format, "scale", "") == "channel" and format.kind != "fixed" else ""
    bits = "" if format.kind in ("ternary", "binary") else f" {format.bits} bits"
    return f"{format.kind}{bits}{spread}"
