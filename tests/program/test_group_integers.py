"""Group convolutions in few bits: packed files, simulated and exact integers are those of block-diagonal weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from grouped import GROUPED, dense_twin, grouped_layers, grouped_network, images_for, spread_out
from torch.nn import functional

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset
from netpress.evaluation import evaluate_exactly
from netpress.network import Network, load, save
from netpress.numerics.layers import quantized_layers
from netpress.process.console import Console
from netpress.process.world import World
from netpress.program import execute, lower
from netpress.program.operations import Convolution
from netpress.settings import parse
from netpress.stage import Context

PRESETS = ["int8", "int4", "fixed-9-12", "half", "binary"]


def quantized(network: Network, preset: str, dataset: Dataset, folder: Path) -> Network:
    values: dict[str, Any] = {"preset": preset, "calibration_images": 16, "correct_biases": False}
    values["arithmetic"] = "float16"
    values |= {"calibration": {"kind": "minmax"}, "weight_calibration": {"kind": "minmax"}} if preset != "half" else {}
    context = Context(folder, World(torch.device("cpu")), 3, Console(quiet=True), dataset, name="quantize")
    return quantize(network, parse(QuantizeSettings, values), context)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", GROUPED)
def test_groups_in_few_bits(name: str, preset: str, shades: Dataset, tmp_path: Path) -> None:
    network = quantized(grouped_network(name), preset, shades, tmp_path)
    images = images_for(network)
    with torch.inference_mode():
        answers = network.module(images)
        program = lower(network)
        assert torch.equal(execute(program, images), answers)
    save(network, tmp_path / "a.netpress")
    packed = load(tmp_path / "a.netpress")
    with torch.inference_mode():
        assert torch.equal(packed.module(images), answers)
    if preset == "half":
        return
    measured = evaluate_exactly(packed, shades.test)
    assert measured.equal_answers == 1 and measured.largest_difference == 0
    assert measured.sums.keys() >= grouped_network_layers(name)
    sums_by_hand(program, images, name)


def grouped_network_layers(name: str) -> set[str]:
    return set(grouped_layers(grouped_network(name)))


def sums_by_hand(program: Any, images: torch.Tensor, name: str) -> None:
    """Each convolution in groups, as the program has it: the whole numbers that dense, block-diagonal weights give."""
    from netpress.program.execution import run

    values, seen = {program.input: images}, set()
    for operation in program.operations:
        inputs = [values[key] for key in operation.inputs]
        values[operation.output] = run(operation, inputs)
        if isinstance(operation, Convolution) and operation.window.groups > 1:
            padded = functional.pad(inputs[0], operation.window.padding, value=operation.padding_value).long()
            weight = spread_out(operation.weight.long(), operation.window.groups)
            expected = functional.conv2d(padded, weight, None, operation.window.stride)
            assert torch.equal(values[operation.output].long(), expected), operation.name
            seen.add(operation.layer)
    assert seen == grouped_network_layers(name)


@pytest.mark.parametrize("name", GROUPED)
def test_the_scales_and_answers_are_those_of_block_diagonal_weights(name: str, shades: Dataset, tmp_path: Path) -> None:
    """Zeros between groups change no largest weight of a channel, so not one scale."""
    network = grouped_network(name)
    ours = quantized(network, "int8", shades, tmp_path)
    whole = quantized(dense_twin(network), "int8", shades, tmp_path)
    theirs = quantized_layers(whole.module)
    for place, layer in quantized_layers(ours.module).items():
        torch.testing.assert_close(layer.weight_scale, theirs[place].weight_scale, rtol=1e-5, atol=0)
        torch.testing.assert_close(layer.input_scale, theirs[place].input_scale, rtol=1e-3, atol=0)
    images = images_for(network)
    with torch.inference_mode():
        found, expected = ours.module(images), whole.module(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.abs().max()))
