"""What a network takes on a device: by hand, against its file, and for known networks."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from netpress.compression.masks import add_masks
from netpress.network import Network, copy, create, inspect_file, load, resolve, save
from netpress.process.console import write_bytes
from netpress.runs.apply import apply_stage
from netpress.scoring import Footprint, measure_footprint, score, trace, trace_network
from netpress.scoring.footprint import write_count
from netpress.scoring.memory import tensor_bytes

ROOT = Path(__file__).parents[2]
KIB = 1024
Call = Callable[..., tuple[int, str, str]]


def footprint_of(network: Network) -> Footprint:
    return measure_footprint(trace_network(network), network)


class Small(nn.Module):
    """A grouped convolution, a residual and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.last = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        x = self.grouped(x) + x
        return self.last(x.mean((2, 3)))


def test_a_module_by_hand() -> None:
    measured = measure_footprint(trace(Small(), (3, 10, 10)))
    image, maps = 3 * 100 * 4, 8 * 100 * 4
    assert [need.bytes for need in measured.needs] == [image + maps, 2 * maps, 3 * maps, maps + 32, 32 + 20]
    assert measured.peak.name == "add" and measured.ram_bytes == 3 * maps
    assert dict(measured.alive) == {"first": maps, "grouped": maps, "add": maps}
    assert measured.flash_bytes == 4 * (8 * 27 + 8 * 18 + 8 + 40 + 5)
    assert measured.multiply_adds == measured.nonzero_multiply_adds == 100 * 8 * 27 + 100 * 8 * 18 + 40


def test_a_module_of_half_floats_stores_half_as_much() -> None:
    assert score(Small().half(), (3, 10, 10)).footprint.flash_bytes == 2 * (8 * 27 + 8 * 18 + 8 + 40 + 5)  # type: ignore[union-attr]


def test_pruned_weights_leave_fewer_multiply_adds() -> None:
    module = Small()
    with torch.no_grad():
        module.first.weight[:, :, 0] = 0
    measured = measure_footprint(trace(module, (3, 10, 10)))
    assert measured.multiply_adds - measured.nonzero_multiply_adds == 100 * 8 * 9


@pytest.mark.parametrize(
    ("model", "peak", "where", "multiply_adds"),
    [
        # A norm in front of a block: joined maps, their norm and ReLU, 28 channels of 32 x 32 each.
        ("densenet:nano", 3 * 28 * 32 * 32 * 4, "blocks.5.relu1", 14_075_136),
        # The residual of 32 channels, and 96 channels twice.
        ("c_efficientnet:v1", (32 + 2 * 96) * 32 * 32 * 4, "blocks.0.expand.norm", 37_338_192),
    ],
)
def test_known_networks(model: str, peak: int, where: str, multiply_adds: int) -> None:
    network = resolve(model)
    measured = footprint_of(network)
    assert (measured.ram_bytes, measured.peak.name, measured.multiply_adds) == (peak, where, multiply_adds)
    counters = sum(1 for name in network.module.state_dict() if name.endswith("num_batches_tracked"))
    values = sum(tensor.numel() for tensor in network.module.state_dict().values()) - counters
    assert measured.flash_bytes == 4 * values  # statistics of norms among them, although all are still 0 and 1


def test_kaist_int_as_shipped() -> None:
    """8 bits and 16: hard-swish reads 16 bits and gives the next convolution its 8 bits; a mask a weight."""
    path = ROOT / "networks" / "kaist-int" / "network.netpress"
    measured = footprint_of(load(path))
    assert measured.flash_bytes * 8 == inspect_file(path)["tensor_bits"] == 2_089_248
    maps = 96 * 32 * 32
    assert measured.peak.name == "blocks.0.expand.activation"
    assert dict(measured.alive) == {
        "stem.activation": 32 * 32 * 32 * 2,  # read by the convolution and by the residual: 16 bits
        "blocks.0.expand.conv": maps * 2,
        "blocks.0.expand.activation": maps,  # read by the depthwise convolution alone: 8 bits
    }
    assert (measured.multiply_adds, measured.nonzero_multiply_adds) == (37_331_888, 15_575_091)


def test_the_image_has_the_width_that_the_first_layer_reads() -> None:
    network = load(ROOT / "networks" / "kaist-int" / "network.netpress")
    first = footprint_of(network).needs[0]
    assert first.bytes == 3 * 32 * 32 + 32 * 32 * 32 * 2


# --- flash is what the file holds


@pytest.fixture(scope="module")
def pruned() -> Network:
    network = create("densenet", {"blocks": [1, 1], "growth": 4, "classes": 10, "image_size": 16}, seed=5)
    generator = torch.Generator().manual_seed(1)
    add_masks(
        network, {name: torch.rand(one.shape, generator=generator) < 0.37 for name, one in network.weights().items()}
    )
    return network


QUANTIZED = ["preset=fixed-9-12", "preset=int6", "preset=half", "preset=binary", "weights.kind=ternary"]


@pytest.mark.parametrize("formats", QUANTIZED)
def test_flash_is_what_the_file_holds(formats: str, pruned: Network, tmp_path: Path) -> None:
    """Masks, packed integers, scales, zero points, statistics and counters, as `netpress inspect` counts them."""
    out = tmp_path / "small.netpress"
    network = apply_stage("quantize", pruned, out, [formats, "calibration_images=16"], dataset="digits")
    assert footprint_of(network).flash_bytes * 8 == inspect_file(out)["tensor_bits"]
    rows = {row["name"]: row["tensor_bits"] for row in inspect_file(out)["layers"]}
    assert {name: size * 8 for name, size in tensor_bytes(network).items()} == rows


def test_flash_of_floats_is_what_the_file_holds(pruned: Network, tmp_path: Path) -> None:
    network = copy(pruned)
    network.facts["accuracy"] = 0.5  # not a new one: equal statistics take no bytes
    save(network, tmp_path / "a.netpress")
    assert footprint_of(network).flash_bytes * 8 == inspect_file(tmp_path / "a.netpress")["tensor_bits"]


class Twice(nn.Module):
    """Two layers that read one map, and one that reads the first's alone."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 1)
        self.two = nn.Conv2d(3, 4, 1)
        self.three = nn.Conv2d(4, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = image * 2
        return torch.cat([self.three(self.one(x)), self.two(x)], 1)


def test_a_value_is_as_narrow_as_its_only_reader_takes_it() -> None:
    formats = {f"{name}.input": {"kind": "int", "bits": 5, "scale": "tensor"} for name in ("one", "two", "three")}
    traced = trace(Twice(), (3, 10, 10))
    needs = {
        need.name: need.bytes for need in measure_footprint(traced, formats=formats | {"*": {"kind": "float16"}}).needs
    }
    x, first, third = 300 * 2, 400 * 5 // 8, 400 * 2  # x is read by two layers, each with a scale of its own
    assert needs["mul"] == 300 * 2 + x
    assert needs["one"] == x + first
    assert needs["three"] == x + first + third
    assert needs["two"] == x + third + 400 * 2


# --- how it is told


def test_the_card_carries_it_and_every_figure_is_plain(call: Call) -> None:
    code, out, _ = call("score", "densenet:nano", "--json")
    told = json.loads(out)["footprint"]
    assert code == 0 and told["ram_bytes"] == max(one["bytes"] for one in told["operations"]) == 344_064
    assert sum(one["bytes"] for one in told["alive"]) == told["ram_bytes"]
    assert told["ram_at"] == "blocks.5.relu1" and told["multiply_adds"] == told["nonzero_multiply_adds"] == 14_075_136
    assert told["flash_bytes"] == 518_344


def test_score_prints_it_with_units(call: Call) -> None:
    _, out, _ = call("score", "densenet:nano")
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert "506.2 KiB" in lines["flash"] and "336.0 KiB" in lines["RAM"] and "14.1 M multiply-adds" in lines["products"]
    assert "blocks.5.relu1 112.0 KiB" in lines["RAM"]
    _, out, _ = call("score", "densenet:nano", "densenet:tiny")
    assert out.splitlines()[0].endswith("flash      RAM        multiply adds  by nonzeros  convention")


def test_units() -> None:
    assert [write_bytes(size) for size in (0, 1023, 1024, 266_848, 3 * KIB**2, 5 * KIB**3)] == [
        *("0 B", "1,023 B", "1.0 KiB", "260.6 KiB", "3.00 MiB", "5.00 GiB")
    ]
    assert [write_count(count) for count in (0, 999, 1500, 15_579_137, 2e9)] == ["0", "999", "1.5 k", "15.6 M", "2.0 G"]


def test_memory_is_printed_operation_by_operation(call: Call) -> None:
    code, out, _ = call("score", "densenet:nano", "--memory")
    lines = out.splitlines()
    assert code == 0 and lines[0].split() == ["operation", "kind", "result", "alive", "bytes"]
    rows = {line.split()[0]: line.split() for line in lines[1 : lines.index("")]}
    needs = footprint_of(resolve("densenet:nano")).needs
    assert {name: int(row[3].replace(",", "")) for name, row in rows.items()} == {n.name: n.bytes for n in needs}
    assert [name for name, row in rows.items() if row[-1] == "peak"] == ["blocks.5.relu1"]
    code, _, err = call("score", "densenet:nano", "--memory", "--json")
    assert code == 2 and "--json and --memory exclude each other" in err
