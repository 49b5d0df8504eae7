"""Whole networks in exact integers: equal to their simulation whatever they are made of, and what the command says."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from netpress import api
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset, DataSettings, Images, load_dataset
from netpress.evaluation import ExactEvaluation, evaluate_exactly, predict
from netpress.network import Architecture, InputSpec, Network, create, load, save
from netpress.network.edits.quantizing import Quantize
from netpress.numerics.claims import layer_sums
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import quantized_layers
from netpress.process.console import Console
from netpress.process.world import World
from netpress.program import exact_layers
from netpress.settings import parse
from netpress.stage import Context

pytestmark = pytest.mark.slow

Call = Callable[..., tuple[int, str, str]]


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * torch.sigmoid(gate)


class Block(nn.Module):
    """A convolution of any sort, perhaps with a norm, a gate and a shortcut."""

    def __init__(self, conv: nn.Conv2d, norm: bool, gate: bool, activation: str, residual: bool) -> None:
        super().__init__()
        channels = conv.out_channels
        self.conv = conv
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.gate = SqueezeExcite(channels) if gate else nn.Identity()
        self.activation = {"relu": nn.ReLU(), "hardswish": nn.Hardswish(), "silu": nn.SiLU()}[activation]
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(self.activation(self.norm(self.conv(x))))
        return x + y if self.residual else y


@st.composite
def blocks(draw: st.DrawFn) -> list[Block]:
    made, channels = [], 3
    for _ in range(draw(st.integers(1, 4))):
        sort = draw(st.sampled_from(["dense", "depthwise", "multiplied", "grouped", "pointwise", "same"]))
        if channels == 3 and sort == "grouped":
            sort = "dense"
        groups = {"depthwise": channels, "multiplied": channels, "grouped": 2}.get(sort, 1)
        outputs = {"depthwise": channels, "multiplied": 2 * channels}.get(sort, draw(st.sampled_from([4, 6])))
        kernel = 1 if sort == "pointwise" else draw(st.sampled_from([3, (3, 1)] if sort == "same" else [2, 3, (3, 1)]))
        stride = 1 if sort == "same" else draw(st.integers(1, 2))
        dilation = draw(st.integers(1, 2)) if sort in ("dense", "same") else 1
        padding = "same" if sort == "same" else draw(st.integers(dilation, 2))  # enough for maps of one place
        bias = draw(st.booleans())
        conv = nn.Conv2d(channels, outputs, kernel, stride, padding, dilation, groups, bias)  # type: ignore[arg-type]
        residual = sort == "same" and outputs == channels
        activation = draw(st.sampled_from(["relu", "hardswish", "silu"]))
        made.append(Block(conv, draw(st.booleans()), draw(st.booleans()), activation, residual))
        channels = outputs
    return made


def network_of(parts: list[Block], seed: int, zeros: float = 0.0) -> Network:
    """A network with random weights, `zeros` of them 0, for images of 3 x 9 x 9 of 4 classes."""
    channels = parts[-1].conv.out_channels
    module = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4))
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.4, generator=generator)
        if parameter.dim() > 1:
            parameter.data *= torch.rand(parameter.shape, generator=generator) >= zeros
    for norm in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    spec = InputSpec(3, 9, 9, (0.5,) * 3, (0.25,) * 3)
    return Network(module.eval(), Architecture("import", {}), spec, tuple("0123"))


def images(count: int, seed: int, size: int = 9) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(0, 4, (count,), generator=generator))


def context(folder: Path) -> Context:
    data = Dataset("random", images(8, 1), images(4, 2), images(6, 3), tuple("0123"), (0.5,) * 3, (0.25,) * 3, "")
    return Context(folder, World(torch.device("cpu")), 3, Console(quiet=True), data, name="quantize")


@settings(deadline=None, max_examples=25)
@given(
    parts=blocks(),
    preset=st.sampled_from(["fixed-9-12", "int8", "int6", "int4", "binary"]),
    arithmetic=st.sampled_from(["float16", "float32"]),
    zeros=st.sampled_from([0.0, 0.5]),
    last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_networks_are_their_simulation(
    parts: list[Block],
    preset: str,
    arithmetic: str,
    zeros: float,
    last: bool,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    network = network_of(parts, seed, zeros)
    if last:
        network.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    minmax = {"calibration": {"kind": "minmax"}, "weight_calibration": {"kind": "minmax"}}
    values = {"preset": preset, "arithmetic": arithmetic, **(minmax if preset != "fixed-9-12" else {})}
    folder = tmp_path_factory.mktemp("run")
    quantized = quantize(network, parse(QuantizeSettings, values), context(folder))
    measured = evaluate_exactly(quantized, images(6, 3))
    assert measured.largest_difference == 0  # sums below 2**24 leave no difference at all
    assert measured.equal_answers == 1
    assert measured.accuracy == measured.simulated_accuracy
    convolutions = [part for part in quantized.module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(measured.sums) == len(convolutions)
    for record in measured.sums.values():
        assert record.largest <= max(-record.lowest, record.highest)
        assert record.met_width <= record.needed_width <= record.claimed_width


def test_wide_sums_are_exact_where_floats_are_not() -> None:
    layer = nn.Linear(600, 1, bias=False)
    weight, value = {"kind": "fixed", "bits": 16}, {"kind": "fixed", "bits": 16}
    formats = parse(LayerFormats, {"weight": weight, "input": value, "arithmetic": "float32"})
    module = nn.Sequential(layer)
    Quantize.of({"0": formats}).apply(module)
    made = quantized_layers(module)["0"]
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(-(2**15), 2**15, (2, 600), generator=generator)
    made.weight.data = numbers[:1].float()
    module.eval()
    sums = layer_sums(module)
    with exact_layers(module, sums), torch.no_grad():
        answer = module(numbers[1:].float())
    by_hand = int((numbers[0] * numbers[1]).sum())
    assert abs(by_hand) > 2**24
    assert sums["0"].largest == abs(by_hand)
    assert answer.item() == float(torch.tensor(by_hand).float())


# --- the command and the API


@pytest.fixture(scope="module")
def digits() -> Dataset:
    chosen = parse(DataSettings, {"dataset": "digits", "image_size": 16})
    return load_dataset(chosen, None, 0, Console(quiet=True))


@pytest.fixture(scope="module")
def quantized(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Network:
    settings = {"widths": "tiny", "width_factor": 0.5, "classes": 10, "image_size": 16}
    network = create("c_efficientnet", settings, mean=digits.mean, std=digits.std, seed=1)
    network.facts["dataset"] = "digits"
    run = Context(
        tmp_path_factory.mktemp("run"), World(torch.device("cpu")), 3, Console(quiet=True), digits, name="quantize"
    )
    values = {"preset": "int8", "arithmetic": "float16", "calibration_images": 32, "calibration": {"kind": "minmax"}}
    return quantize(network, parse(QuantizeSettings, values), run)


def test_the_api_gives_both_and_the_sums(quantized: Network, digits: Dataset) -> None:
    measured = api.evaluate(quantized, exact=True)
    assert isinstance(measured, ExactEvaluation)
    plain = api.evaluate(quantized)
    assert not isinstance(plain, ExactEvaluation)
    assert (measured.accuracy, measured.count) == (plain.accuracy, plain.count)
    assert measured.top5 == pytest.approx(plain.top5)
    assert measured.loss == pytest.approx(plain.loss, abs=1e-5)
    assert measured.equal_answers == 1
    assert set(measured.sums) == set(quantized_layers(quantized.module))
    answers = predict(quantized, digits.test).argmax(1)
    assert measured.accuracy == float((answers == digits.test.labels).double().mean())


def test_the_command_shows_every_layers_accumulator(call: Call, quantized: Network, tmp_path: Path) -> None:
    save(quantized, tmp_path / "q.netpress")
    code, out, err = call("evaluate", "q.netpress", "--exact", "--json")
    assert code == 0, err
    figures = json.loads(out)
    assert figures["equal_answers"] == 1
    assert [layer["name"] for layer in figures["layers"]] == list(quantized_layers(quantized.module))
    for layer in figures["layers"]:
        assert 0 < layer["bits_met"] <= layer["bits_needed"] <= layer["bits_claimed"]
        assert 2 ** (layer["bits_met"] - 2) <= layer["largest_sum"] < 2 ** (layer["bits_met"] - 1)
    classes = json.loads(call("evaluate", "q.netpress", "--exact", "--per-class", "--json")[1])["classes"]
    right, images = (sum(row[key] for row in classes) for key in ("right", "images"))
    assert right / images == figures["accuracy"]
    code, out, _ = call("evaluate", "q.netpress", "--exact")
    assert code == 0
    assert "100.00% of the answers equal" in out
    assert "stem.conv" in out


def test_a_network_of_floats_has_nothing_to_run_exactly(call: Call, tmp_path: Path) -> None:
    network = create("c_efficientnet", {"widths": "tiny", "width_factor": 0.5, "classes": 10, "image_size": 16})
    network.facts["dataset"] = "digits"
    save(network, tmp_path / "f.netpress")
    code, _, err = call("evaluate", "f.netpress", "--exact")
    assert code == 2
    assert "no layer of this network computes with integers" in err


def test_claims_that_are_too_narrow_are_refused_by_score_and_evaluation(
    call: Call, quantized: Network, tmp_path: Path
) -> None:
    layers = quantized_layers(quantized.module)
    before = {name: layer.formats for name, layer in layers.items()}
    edits = list(quantized.architecture.edits)
    try:
        narrow = before["classifier"].model_copy(update={"accumulators": 12})
        layers["classifier"].formats = narrow
        edit = Quantize.of({**before, "classifier": narrow})
        quantized.architecture.edits[-1] = edit.model_dump(mode="json")
        save(quantized, tmp_path / "n.netpress")
    finally:
        layers["classifier"].formats = before["classifier"]
        quantized.architecture.edits[:] = edits
    assert quantized_layers(load(tmp_path / "n.netpress").module)["classifier"].formats.accumulators == 12
    code, _, err = call("score", "n.netpress")
    assert code == 2
    assert "classifier: sums of 12 bits are claimed" in " ".join(err.split())
    code, out, err = call("evaluate", "n.netpress", "--exact")
    assert code == 1
    assert "classifier claims 12 bits and needs" in " ".join(err.split())
    assert "accuracy" in out  # what was measured is shown all the same
    assert call("score", "n.netpress", "--accumulator", "tree")[0] == 0
