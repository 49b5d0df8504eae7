"""Programs: every family's gives its network's own bits, states its numbers, and refuses by name what it cannot say."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from integer_networks import experienced
from torch import Tensor, nn
from torch.nn import functional

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset, Images
from netpress.errors import UserError
from netpress.evaluation import evaluate_exactly
from netpress.network import Architecture, InputSpec, Network, create
from netpress.network.edits.quantizing import Quantize as QuantizeEdit
from netpress.numerics.claims import layer_sums
from netpress.numerics.formats import Float16, Integer
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import quantized_layers, quantized_like
from netpress.process.console import Console
from netpress.process.world import World
from netpress.program import exact_layers, execute, lower
from netpress.program.execution import calculate, run
from netpress.program.operations import (
    AdaptivePool,
    AveragePool,
    Convolution,
    IntegerSums,
    Linear,
    Operation,
    Program,
    Quantize,
    Rescale,
)
from netpress.settings import parse
from netpress.stage import Context

pytestmark = pytest.mark.slow

SIZE = 16
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "c_efficientnet": ("c_efficientnet", {"widths": "tiny", "width_factor": 0.5}),
    "released": ("c_efficientnet", {"widths": "tiny", "width_factor": 0.5, "released": True}),
    "shortcut": ("c_efficientnet", {"widths": "tiny", "width_factor": 0.5, "downsample": "shortcut"}),
    "efficientnet": ("efficientnet", {"width": 0.25, "depth": 0.3, "head": "linear"}),
    "cosine": ("efficientnet", {"width": 0.25, "depth": 0.3, "head": "cosine"}),
    "densenet": ("densenet", {"blocks": [1, 2], "growth": 4}),
    "pyramidnet": ("pyramidnet", {"depth": 20, "alpha": 8}),
    "resnet": ("resnet", {"width": 4, "blocks": [1, 1]}),
    "wide_resnet": ("wide_resnet", {"depth": 10, "width": 1}),
}
PRESETS = ["fixed-9-12", "int8", "int6", "int4", "half", "binary"]
HALF = parse(QuantizeSettings, {"preset": "int8", "arithmetic": "float16"})


def images(count: int, seed: int, size: int = SIZE) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(0, 10, (count,), generator=generator))


def floats(count: int, size: int = SIZE) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(4))


def context(folder: Path) -> Context:
    names, half = tuple("0123456789"), (0.5,) * 3
    data = Dataset("random", images(16, 1), images(4, 2), images(4, 3), names, half, half, "")
    return Context(folder, World(torch.device("cpu")), 3, Console(quiet=True), data, name="quantize")


@cache
def network_of(name: str) -> Network:
    """A small network of the family, with norms that have seen something."""
    family, settings = FAMILIES[name]
    return experienced(create(family, {"classes": 10, "image_size": SIZE, **settings}, seed=5))


def of_module(module: nn.Module, size: int = SIZE) -> Network:
    spec = InputSpec(3, size, size, (0.5,) * 3, (0.25,) * 3)
    return Network(module.eval(), Architecture("import", {}), spec, tuple("0123456789"))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", FAMILIES)
def test_programs_give_their_networks_own_bits(name: str, preset: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "preset": preset,
        "arithmetic": "float16",
        "calibration_images": 8,
        "calibration": {"kind": "minmax"},
        "correct_biases": False,
    }
    network = quantize(network_of(name), parse(QuantizeSettings, values), context(tmp_path))
    program, x = lower(network), floats(3)
    sums, layerwise = layer_sums(network.module), layer_sums(network.module)
    with torch.inference_mode():
        simulated = network.module(x)
        answer = execute(program, x, sums)
        with exact_layers(network.module, layerwise):
            assert torch.equal(network.module(x), answer)
        assert torch.equal(network.module(x), simulated)  # the layers are themselves again
    assert answer.dtype == simulated.dtype
    assert torch.equal(answer, simulated)  # sums below 2**24 leave no difference at all
    assert sums == layerwise
    ran = [operation for operation in program.operations if isinstance(operation, IntegerSums)]
    assert {operation.layer for operation in ran} == sums.keys()
    assert bool(sums) == (preset != "half")
    for operation in ran:
        record = sums[operation.layer]
        assert 0 < record.met_width <= operation.needed_bits == record.needed_width <= operation.accumulator_bits
        assert operation.accumulator_bits == record.claimed_width == program.buffers[operation.output].bits


def test_what_runs_for_nothing_stays(tmp_path: Path) -> None:
    network = network_of("released")
    gates = [name for name, part in network.module.named_modules() if name.endswith("squeeze_excite")]
    names = {operation.name for operation in lower(network).operations}
    assert gates and all(f"{gate}.sigmoid" in names for gate in gates)


def test_buffers_state_shapes_and_numbers_and_every_sum_is_by_hand(tmp_path: Path) -> None:
    network = quantize(network_of("resnet"), HALF, context(tmp_path))
    program = lower(network)
    layers = quantized_layers(network.module)
    values, count = {program.input: floats(2)}, 0
    for operation in program.operations:
        inputs = [values[name] for name in operation.inputs]
        made = values[operation.output] = run(operation, inputs).detach()
        buffer = program.buffers[operation.output]
        assert made.shape == (2, *buffer.shape)
        if buffer.kind == "float":
            assert buffer.number == {torch.float16: "float16", torch.float32: "float32"}[made.dtype]
            continue
        low = -(2 ** (buffer.bits - 1)) if buffer.signed else 0
        assert torch.equal(made, made.round()) and low <= made.min() and made.max() < low + 2**buffer.bits
        if isinstance(operation, Quantize):
            layer = layers[operation.name]
            assert layer.input_scale is not None and layer.input_zero_point is not None
            assert (buffer.scale, buffer.zero_point) == (float(layer.input_scale), int(layer.input_zero_point))
        if isinstance(operation, Convolution):
            window = operation.window
            padded = functional.pad(inputs[0], window.padding, value=operation.padding_value).long()
            whole = functional.conv2d(padded, operation.weight.long(), None, window.stride, groups=window.groups)
            assert torch.equal(made.long(), whole)
            count += 1
        if isinstance(operation, Linear):
            assert torch.equal(made.long(), inputs[0].long() @ operation.weight.long().t())
            count += 1
    assert count == len(layers)


def test_every_scale_is_a_constant_that_the_output_takes(tmp_path: Path) -> None:
    network = quantize(network_of("densenet"), parse(QuantizeSettings, {"preset": "fixed-9-12"}), context(tmp_path))
    program, x = lower(network), floats(2)
    before = execute(program, x)
    for layer in quantized_layers(network.module).values():
        assert layer.weight_scale is not None
        layer.weight_scale.data = layer.weight_scale * 2
    assert torch.equal(execute(program, x), before)  # the program no longer asks the module
    rescale = program.operations[-1]
    assert isinstance(rescale, Rescale)
    rescale.constants.bias.fill_(1000)
    assert execute(program, x).min() > 500


def test_a_program_prints_as_a_table(tmp_path: Path) -> None:
    network = quantize(network_of("c_efficientnet"), HALF, context(tmp_path))
    program = lower(network)
    lines = program.describe().split("\n")
    assert len(lines) == 1 + len(program.operations)
    assert lines[0].split() == ["operation", "output", "numbers", "shape", "accumulators", "inputs"]
    assert lines[1].split() == ["Quantize", "stem.conv.input", "uint8", "3x16x16", "image"]
    record = layer_sums(network.module)["stem.conv"]
    claim = [f"int{record.claimed_width}", "8x8x8", str(record.claimed_width), "bits,", str(record.needed_width)]
    assert lines[2].split() == ["Convolution", "stem.conv.sums", *claim, "needed", "stem.conv.input"]
    assert lines[3].split()[:3] == ["Rescale", "stem.conv", "float16"]
    assert lines[-1].split()[:4] == ["Rescale", "classifier", "float16", "10"]


def test_memory_is_given_back_after_the_last_read() -> None:
    program = lower(network_of("resnet"))
    ended = [name for names in program.last_reads for name in names]
    assert len(ended) == len(set(ended)) == len(program.buffers) - 1  # all but the logits
    for index, names in enumerate(program.last_reads):
        for later in program.operations[index + 1 :]:
            assert not set(names) & set(later.inputs)


def test_operations_in_another_order_are_no_program() -> None:
    program = lower(network_of("resnet"))
    first, second, *rest = program.operations
    with pytest.raises(ValueError, match="out of order"):
        Program(program.buffers, (second, first, *rest), program.input, program.output)
    with pytest.raises(ValueError, match="out of order"):
        Program(program.buffers, (first, first, second, *rest), program.input, program.output)
    with pytest.raises(ValueError, match="no operation writes"):
        Program(program.buffers, (first,), program.input, program.output)
    with pytest.raises(TypeError, match="nothing executes a Operation"):
        calculate(Operation("x", (), "y"))


# --- users' own modules


class Own(nn.Module):
    """A convolution, then what a test says."""

    def __init__(self, function: Callable[["Own", Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.wide, self.changing = nn.Conv2d(8, 4, 1), nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.transposed = nn.ConvTranspose2d(4, 4, 1)
        self.linear = nn.Linear(4, 10)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.function(self, self.first(x)).mean((2, 3)))


def shuffle(own: Own, x: Tensor) -> Tensor:
    groups = x.view(x.shape[0], 2, 2, x.size(2), x.size(3)).transpose(1, 2)
    return own.second(groups.reshape(x.size(0), 4, x.size(2), x.size(3)))


def assorted(own: Own, x: Tensor) -> Tensor:
    y = functional.leaky_relu(functional.max_pool2d(x, 3, 1, 1), 0.2) + 2.0
    y = torch.cat([y, x.clamp(-1.0, 1.0)], 1).permute(0, 1, 3, 2)
    y = own.wide(functional.gelu(y)) * torch.sigmoid(x)
    y += functional.avg_pool2d(x, 3, 1, 1)
    return functional.normalize(functional.pad(y, (1, 0, 2, 1)), dim=1)


def quantized_own(function: Callable[[Own, Tensor], Tensor], formats: LayerFormats | None = None) -> Network:
    torch.manual_seed(3)
    network = of_module(Own(function))
    chosen = formats or LayerFormats(arithmetic="float32")
    network.edit(QuantizeEdit.of({"first": chosen, "linear": chosen}))
    for layer in quantized_layers(network.module).values():
        for scale in (layer.weight_scale, layer.input_scale):
            if scale is not None:
                scale.data.fill_(2**-6)
        if layer.input_zero_point is not None:
            layer.input_zero_point.fill_(100)
    return network


MIXED = [
    LayerFormats(weight=Float16(), arithmetic="float32"),
    LayerFormats(input=Float16(), arithmetic="float32"),
    LayerFormats(weight=Float16(), input=Integer(bits=6, scale="tensor"), arithmetic="float32"),
]


@pytest.mark.parametrize("formats", [None, *MIXED])
@pytest.mark.parametrize("function", [shuffle, assorted, lambda own, x: own.changing(x) + 1])
def test_own_modules_are_lowered(function: Callable[[Own, Tensor], Tensor], formats: LayerFormats | None) -> None:
    network, x = quantized_own(function, formats), floats(5)
    with torch.inference_mode():
        assert torch.equal(execute(lower(network), x), network.module(x))
        assert len(execute(lower(network), x[:0])) == 0


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.linear = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.shared(self.shared(x).relu()).mean((2, 3)))


def test_a_layer_that_runs_twice_has_one_record() -> None:
    network, x = of_module(Twice()), floats(2)
    network.edit(QuantizeEdit.of({"shared": LayerFormats(arithmetic="float32")}))
    sums, alone = layer_sums(network.module), layer_sums(network.module)
    program = lower(network)
    with torch.inference_mode():
        assert torch.equal(execute(program, x, sums), network.module(x))
        with exact_layers(network.module, alone):
            network.module(x)
    assert sums == alone and sums.keys() == {"shared"}
    assert {"shared.sums", "shared 2.sums"} <= program.buffers.keys()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda own, x: own.transposed(x), "transposed: no operation stands for ConvTranspose2d"),
        (lambda own, x: own.norm(x), "norm: .* each batch's own statistics"),
        (lambda own, x: torch.fft.fft(x).real, "fft_fft: no operation stands for this function"),
        (lambda own, x: own.changing(x) + x, "add: reads first after changing has overwritten it"),
        (lambda own, x: x.mean(0, keepdim=True), "mean: .* over the images"),
        (lambda own, x: x.reshape(-1, 2, 16, 16), "reshape: .* images are joined"),
        (
            lambda own, x: x if x.sum() > 0 else -x,
            "Own: no program can be made of it, because its forward cannot be traced",
        ),
    ],
)
def test_what_has_no_operation_is_refused_by_name(function: Callable[[Own, Tensor], Tensor], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        lower(quantized_own(function))


def test_own_modules_without_a_program_are_evaluated_exactly_all_the_same() -> None:
    def early(own: Own, x: Tensor) -> Tensor:
        return own.changing(own.second(x)) if x.sum() > 0 else x + 1

    network = quantized_own(early)
    measured = evaluate_exactly(network, images(5, 3))
    assert measured.equal_answers == 1 and measured.largest_difference == 0
    assert {name for name, record in measured.sums.items() if record.largest} == {"first", "linear"}
    assert not any("forward" in vars(layer) for layer in quantized_layers(network.module).values())


def test_hooks_are_no_operations() -> None:
    network = quantized_own(shuffle)
    network.module.get_submodule("second").register_forward_hook(lambda layer, inputs, output: output + 1)
    with pytest.raises(UserError, match="second: hooks"):
        lower(network)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_pools_and_unequal_padding_are_torchs() -> None:
    layers = [
        nn.Conv2d(3, 4, (2, 4), padding="same"),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.MaxPool2d(2, 1, dilation=2),
        nn.AdaptiveAvgPool2d((1, 2)),
        nn.Flatten(),
        nn.Linear(8, 10),
    ]
    network, x = of_module(nn.Sequential(*layers)), floats(4)
    network.module[0] = quantized_like(network.module[0], LayerFormats(weight=Float16(), input=Float16())).eval()  # type: ignore
    network.module[5].half()  # type: ignore[index, operator]
    program = lower(network)
    with torch.inference_mode():
        assert torch.equal(execute(program, x), network.module(x))
    kinds = [type(operation) for operation in program.operations]
    assert AveragePool in kinds and AdaptivePool in kinds
    for one, other in pairwise(program.operations[1:]):
        assert other.inputs == (one.output,)
