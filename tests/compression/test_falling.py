"""Widths that fall while the network trains: each round has its formats, the steps follow, going on changes no bit."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import netpress.training.loop as loop
from netpress.compression.quantization.assignment import choose_formats
from netpress.compression.quantization.falling import FallingWidths, scale_steps, widened
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import plan, quantize
from netpress.data import Dataset
from netpress.errors import UserError
from netpress.evaluation import predict
from netpress.network import Network, load, save
from netpress.numerics.formats import Fixed, Integer
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import QuantizedLinear, quantized_layers
from netpress.process.console import Console
from netpress.process.world import World
from netpress.settings import SettingsError, parse
from netpress.stage import Context, Outlook

TRAIN: dict[str, Any] = {
    "epochs": 4,
    "rounds": 4,
    "batch_size": 32,
    "optimizer": {"kind": "adam", "learning_rate": 1e-3},
    "average": {"decay": 0.5},
    "keep": "best",
}
INT4 = {"preset": "int4", "falling": [8, 6, 5], "calibration_images": 32, "learn": ["weight_steps", "input_steps"]}


@pytest.fixture
def context(shades: Dataset, tmp_path: Path) -> Context:
    world = World(torch.device("cpu"))
    return Context(tmp_path, world, 1, Console(quiet=True), shades, save_every_seconds=0, name="01-quantize")


def settings_of(**values: Any) -> QuantizeSettings:
    return parse(QuantizeSettings, INT4 | {"train": TRAIN} | values, "stages.0")


@pytest.mark.parametrize("steps", ["scaled", "measured"])
def test_each_round_has_its_widths(
    steps: str, network: Network, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(falling_steps=steps)
    widths: list[set[int]] = []
    scales: list[float] = []
    real = loop._Training._run_epoch

    def run_epoch(self: Any, *arguments: Any) -> None:
        layers = quantized_layers(self.network.module)
        widths.append({layer.formats.weight.bits for layer in layers.values()})
        scale = layers["blocks.0.second.conv"].input_scale
        assert scale is not None
        scales.append(scale.detach().item())
        real(self, *arguments)

    monkeypatch.setattr(loop._Training, "_run_epoch", run_epoch)
    done = quantize(network, settings, context)
    assert widths == [{8}, {6, 8}, {5, 8}, {4, 8}]  # the first and the last layer stay at 8
    assert all(1.2 < later / earlier < 6 for earlier, later in itertools.pairwise(scales))
    lines = context.part("train").logged()
    assert [line["bits"] for line in lines] == [8, 6, 5, 4]
    assert ["accuracy_calibrated" in line for line in lines] == [False, True, True, True]
    formats = choose_formats(network.module, settings)
    assert {name: layer.formats for name, layer in quantized_layers(done.module).items()} == formats
    save(done, context.folder / "q.netpress")
    images = context.data.test
    assert torch.equal(predict(load(context.folder / "q.netpress"), images), predict(done, images))


@pytest.mark.parametrize(
    "stop_at", [1, 3, 4]
)  # of 8 saves: within the first width, the second, and right before the third
def test_going_on_gives_the_same_bits(
    stop_at: int, network: Network, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = quantize(network, settings_of(), context)
    again = tmp_path / "again"
    again.mkdir()
    other = Context(again, context.world, 1, context.console, context.dataset, save_every_seconds=0, name="01-quantize")
    real, saves = loop._Training._save, 0

    def save_state(self: Any) -> None:
        nonlocal saves
        real(self)
        saves += 1
        if saves == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Training, "_save", save_state)
    with pytest.raises(KeyboardInterrupt):
        quantize(network, settings_of(), other)
    result = quantize(network, settings_of(), other)
    assert saves == 8
    states = whole.module.state_dict(), result.module.state_dict()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert other.logged() == context.logged()


def test_scaled_steps_reach_as_far() -> None:
    wide = LayerFormats(weight=Integer(bits=8), input=Integer(bits=8, scale="tensor", signed=False, zero_point=True))
    narrow = wide.model_copy(update={"weight": Integer(bits=4), "input": wide.input.model_copy(update={"bits": 4})})
    layer = QuantizedLinear(3, 2, formats=wide)
    layer.weight_scale.data.fill_(0.5)  # type: ignore[union-attr]
    layer.input_scale.data.fill_(0.25)  # type: ignore[union-attr]
    layer.input_zero_point.fill_(51)  # type: ignore[union-attr]
    layer.formats = narrow
    scale_steps(layer, wide)
    assert layer.weight_scale.tolist() == pytest.approx([0.5 * 127 / 7] * 2, rel=1e-3)  # type: ignore[union-attr]
    assert float(layer.input_scale) == 0.25 * 17  # type: ignore[arg-type]
    assert float(layer.input_zero_point) == 3  # type: ignore[arg-type]
    fixed = LayerFormats(weight=Fixed(bits=9), input=Fixed(bits=9), arithmetic="float16")
    layer = QuantizedLinear(3, 2, formats=fixed)
    layer.formats = fixed.model_copy(update={"input": Fixed(bits=6)})
    scale_steps(layer, fixed)
    assert (float(layer.weight_scale), float(layer.input_scale)) == (1, 8)  # type: ignore[arg-type]


def test_wider_layers_stay() -> None:
    formats = {"a": LayerFormats(weight=Integer(bits=4)), "b": LayerFormats(weight=Fixed(bits=9))}
    wider = widened(formats, 6)
    assert (wider["a"].weight.bits, wider["a"].input.bits, wider["b"]) == (6, 8, formats["b"])
    assert widened(formats, 4) == formats


def test_the_plan_says_the_rounds_and_refuses_widths_that_are_none(network: Network) -> None:
    rows = plan(Outlook(network), settings_of()).rows
    assert rows[-4:] == [
        {"what": "round 1", "bits": 8, "epochs": 1},
        {"what": "round 2", "bits": 6, "epochs": 1},
        {"what": "round 3", "bits": 5, "epochs": 1},
        {"what": "round 4 on", "bits": 4, "epochs": 1},
    ]
    with pytest.raises(UserError, match="falling: 4 bits: no layer ends with fewer"):
        plan(Outlook(network), settings_of(falling=[8, 4]))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"falling": [6, 8]}, "must not rise"),
        ({"falling": [8, 7, 6, 5]}, "train.rounds must be 5 or more, not 4"),
        ({"train": None, "learn": ["weight_steps"]}, "falling needs a training"),
    ],
)
def test_what_falling_refuses(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        settings_of(**values)


def test_the_first_width_is_put_on(network: Network, context: Context) -> None:
    settings = settings_of()
    formats = choose_formats(network.module, settings)
    done = quantize(network, settings.model_copy(update={"train": None, "falling": ()}), context)
    part = FallingWidths(done, formats, settings, context)
    assert part.bits == 8 and part.figures() == {"bits": 8}
