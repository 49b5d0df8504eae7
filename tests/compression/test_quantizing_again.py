"""A quantized network that is quantized again: what keeps its steps, and what it then answers."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import DataSettings, load_dataset
from netpress.network import Network, create
from netpress.numerics.layers import quantized_layers
from netpress.process.console import Console
from netpress.process.world import World
from netpress.settings import SettingsError, parse
from netpress.stage import Context

PARTS = ("weight_scale", "input_scale", "input_zero_point")


def formats(weights: int, inputs: int, **more: Any) -> dict[str, Any]:
    return {
        "arithmetic": "float16",
        "correct_biases": False,
        "weights": {"kind": "int", "bits": weights, "scale": "channel"},
        "inputs": {"kind": "int", "bits": inputs, "scale": "tensor", "signed": False, "zero_point": True},
        **more,
    }


@pytest.fixture
def context(tmp_path: Path) -> Context:
    data = load_dataset(DataSettings(train_images=64, image_size=16), None, 0, Console(quiet=True))
    return Context(tmp_path, World(torch.device("cpu")), 3, Console(quiet=True), data)


@pytest.fixture
def first(context: Context) -> Network:
    """A network of 5-bit weights and 6-bit inputs, whose steps are none that a calibration would find."""
    made = quantize(
        create("resnet", {"blocks": [1, 1], "width": 4, "image_size": 16}, seed=1), _settings(formats(5, 6)), context
    )
    for layer in quantized_layers(made.module).values():
        layer.input_scale.data.mul_(2.0)
    return made


def _settings(values: dict[str, Any]) -> QuantizeSettings:
    return parse(QuantizeSettings, values)


def _steps(network: Network) -> dict[str, Tensor]:
    layers = quantized_layers(network.module)
    return {f"{name}.{part}": getattr(layer, part).detach().clone() for name, layer in layers.items() for part in PARTS}


def _answers(network: Network, context: Context) -> Tensor:
    pixels = context.data.test.images[:32].float() / 255
    with torch.no_grad():
        return network.module.eval()(pixels)


@pytest.mark.parametrize(("weights", "inputs"), [(5, 6), (5, 8), (7, 6), (8, 8)])
def test_as_many_bits_or_more_keep_the_steps(weights: int, inputs: int, first: Network, context: Context) -> None:
    again = quantize(first, _settings(formats(weights, inputs)), context)
    answers_stay = torch.equal(_answers(again, context), _answers(first, context))
    assert answers_stay == (inputs == 6)  # what enters is rounded less by more bits
    before, after = _steps(first), _steps(again)
    for name, step in before.items():
        factor = 2.0 ** (weights - 5 if "weight" in name else inputs - 6)
        assert torch.equal(after[name], step * factor if "zero_point" in name else step / factor)


def test_fewer_bits_of_inputs_are_calibrated_anew_and_weights_keep_their_steps(
    first: Network, context: Context
) -> None:
    again = quantize(first, _settings(formats(5, 4)), context)
    before, after = _steps(first), _steps(again)
    assert all(torch.equal(step, after[name]) for name, step in before.items() if "weight_scale" in name)
    ratios = [float(after[name] / step) for name, step in before.items() if "input_scale" in name]
    assert all(ratio > 1 for ratio in ratios) and not all(ratio == 4 for ratio in ratios)


def test_narrower_scales_round_the_steps(first: Network, context: Context) -> None:
    narrow = {"kind": "minifloat", "exponent_bits": 4, "mantissa_bits": 2}
    again = quantize(first, _settings(formats(5, 6, scales=narrow)), context)
    before, after = _steps(first), _steps(again)
    assert all(torch.equal(step, after[name]) for name, step in before.items() if "input" in name)
    ratios = torch.cat([(after[name] / step).flatten() for name, step in before.items() if "weight_scale" in name])
    assert 0 < float((ratios - 1).abs().max()) <= 2**-3


def test_kept_formats_go_on_in_integers(context: Context) -> None:
    network = create("resnet", {"blocks": [1, 1], "width": 4, "image_size": 16}, seed=1)
    stem = {"layers": "stem", "weights": {"kind": "int", "bits": 7, "scale": "channel"}, "bias": {"kind": "float32"}}
    mixed = quantize(network, _settings(formats(5, 6, rules=[stem])), context)
    integers = quantize(mixed, _settings({"preset": "int8", "keep_formats": True, "correct_biases": False}), context)
    before, after = (quantized_layers(each.module) for each in (mixed, integers))
    assert [layer.formats for layer in after.values()] == [
        layer.formats.model_copy(update={"arithmetic": "integer"}) for layer in before.values()
    ]
    assert all(torch.equal(step, _steps(integers)[name]) for name, step in _steps(mixed).items())
    assert all(torch.equal(before[name].weight, layer.weight) for name, layer in after.items())
    fixed = {"bias": {"kind": "fixed", "bits": 10}, "bias_calibration": {"kind": "minmax"}}
    few = quantize(network, _settings(formats(5, 6, **fixed)), context)
    again = quantize(few, _settings({"preset": "int8", "keep_formats": True, "correct_biases": False}), context)
    biases = [[layer.bias for layer in quantized_layers(each.module).values()] for each in (few, again)]
    assert all(torch.equal(one, other) for one, other in zip(*biases, strict=True) if one is not None)
    wider = quantize(mixed, _settings({"keep_formats": True, "inputs": formats(5, 8)["inputs"]}), context)
    assert {layer.formats.input.bits for layer in quantized_layers(wider.module).values()} == {8}  # type: ignore[union-attr]
    assert {layer.formats.weight.bits for layer in quantized_layers(wider.module).values()} == {5, 7}  # type: ignore[union-attr]


def test_fixed_point_keeps_its_steps(context: Context) -> None:
    network = create("resnet", {"blocks": [1, 1], "width": 4, "image_size": 16}, seed=1)
    made = quantize(network, _settings({"preset": "fixed-9-12"}), context)
    layers = quantized_layers(made.module)
    for layer in layers.values():
        layer.input_scale.data.mul_(2.0)
    again = quantized_layers(quantize(made, _settings({"preset": "fixed-9-12"}), context).module)
    assert all(torch.equal(again[name].input_scale, layer.input_scale) for name, layer in layers.items())


def test_what_cannot_act_is_said(first: Network, context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    asked = formats(5, 6, weight_calibration={"kind": "minmax"})
    quantize(first, _settings(asked), dataclasses.replace(context, console=Console(stream=io.StringIO())))
    assert "weight_calibration: 7 layers keep their steps" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="keep_formats is for quantized networks"):
        _settings({"bits": "auto", "target_score": 1.0, "keep_formats": True})


def test_less_headroom_makes_a_unit_of_the_output_worth_half(first: Network, context: Context) -> None:
    def scales(**more: float) -> dict[str, Tensor]:
        made = quantize(first, _settings({"keep_formats": True, **more}), context)
        return {key: value for key, value in made.module.state_dict().items() if key.endswith(".output_scale")}

    wide, narrow, few = scales(), scales(headroom=1.0), scales(range_images=1)
    assert wide and all(torch.equal(narrow[key], scale / 2) for key, scale in wide.items())
    assert all(bool((few[key] <= scale).all()) for key, scale in wide.items())
    with pytest.raises(SettingsError, match="headroom"):
        _settings({"headroom": 0.5})
