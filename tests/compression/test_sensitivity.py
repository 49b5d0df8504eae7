"""Which layers take low widths badly, and widths chosen by that."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from netpress.cli import main
from netpress.compression.quantization.automatic import Harms, order_moves
from netpress.compression.quantization.post_training import quantize_once
from netpress.compression.quantization.sensitivity import (
    WORST,
    Sensitivity,
    folded,
    harms,
    measure_sensitivity,
    with_width,
    with_widths,
)
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import plan, quantize
from netpress.data import DataSettings, load_dataset
from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.evaluation.accuracy import collect_answers
from netpress.network import Network, create, load, save
from netpress.numerics.layers import quantized_layers
from netpress.process.console import Console
from netpress.process.world import World
from netpress.scoring import choose_settings, score
from netpress.settings import SettingsError, parse
from netpress.stage import Context, Outlook
from netpress.training import TrainSettings, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    data = load_dataset(DataSettings(image_size=8), None, 0, Console(quiet=True))
    folder = tmp_path_factory.mktemp("sensitivity")
    return Context(folder, World(torch.device("cpu")), 3, Console(quiet=True), data, score_settings=choose_settings())


@pytest.fixture(scope="module")
def network(context: Context) -> Network:
    """A network that tells digits apart."""
    channels = context.data.test.images.shape[1]
    made = create("resnet", {"blocks": [1, 1], "width": 4, "image_size": 8, "channels": channels}, seed=1)
    made.facts["dataset"] = "digits"
    settings = parse(TrainSettings, {"epochs": 6, "batch_size": 32, "augment": {"crop": 0, "flip": False}})
    trained = train(made, settings, context.part("train"))
    assert evaluate(trained, context.data.selection).accuracy > 0.7
    return trained


def scales_of(network: Network) -> dict[str, torch.Tensor]:
    """What calibration found for each layer's input: scale and zero point."""
    found = {}
    for name, layer in quantized_layers(network.module).items():
        if layer.input_scale is not None:  # layers that are left out compute in float16
            assert layer.input_zero_point is not None
            found[name] = torch.stack([layer.input_scale.detach(), layer.input_zero_point])
    return found


@pytest.mark.parametrize("calibration", ["mse", "percentile", "minmax", "sigma"])
def test_a_layer_is_calibrated_alike_whichever_others_are(calibration: str, network: Network, context: Context) -> None:
    start = folded(network, QuantizeSettings(), context)
    values = {"calibration": {"kind": calibration}, "correct_biases": False, "arithmetic": "float16"}
    together = scales_of(quantize_once(start, parse(QuantizeSettings, values), context))
    assert len(together) > 5
    for layer in together:
        others = [name for name in together if name != layer]
        alone = scales_of(quantize_once(start, parse(QuantizeSettings, {**values, "leave_out": others}), context))
        assert list(alone) == [layer] and torch.equal(alone[layer], together[layer])
        rest = scales_of(quantize_once(start, parse(QuantizeSettings, {**values, "leave_out": [layer]}), context))
        assert list(rest) == others
        assert all(torch.equal(rest[name], together[name]) for name in others)


def test_each_layer_is_measured_alone(network: Network, context: Context) -> None:
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    rows = measure_sensitivity(network, QuantizeSettings(), context, (8, 2), images=10_000)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.module.state_dict().items())
    layers = list(dict.fromkeys(row.layer for row in rows))
    assert [(row.layer, row.bits) for row in rows] == [(layer, bits) for layer in layers for bits in (8, 2)]
    assert max(abs(row.lost) for row in rows if row.bits == 8) < 0.05 < max(row.lost for row in rows)
    # The same by another way: the stage's own quantization with every other layer left out.
    floats = evaluate(network, context.data.selection)
    start = folded(network, QuantizeSettings(), context)
    among = {bits: scales_of(quantize_once(start, with_width(QuantizeSettings(), bits), context)) for bits in (8, 2)}
    for row in rows[1::4]:
        others = tuple(layer for layer in layers if layer != row.layer)
        values = {"leave_out": others, "correct_biases": False, "arithmetic": "float32"}
        one = quantize_once(start, with_width(parse(QuantizeSettings, values), row.bits), context)
        assert list(quantized_layers(one.module)) == [row.layer]
        assert torch.equal(scales_of(one)[row.layer], among[row.bits][row.layer])
        alone = evaluate(one, context.data.selection)
        assert row.accuracy == pytest.approx(alone.accuracy, abs=1e-9)
        assert row.lost == pytest.approx(floats.accuracy - alone.accuracy, abs=1e-9)
        assert row.loss == pytest.approx(alone.loss - floats.loss, abs=1e-4)
        answers = [collect_answers(each.module, each, context.data.selection) for each in (start, one)]
        first, second = (torch.log_softmax(each.double(), 1) for each in answers)
        assert row.divergence == pytest.approx(float((first.exp() * (first - second)).sum(1).mean()), abs=1e-5)


def test_weights_and_inputs_are_measured_apart(network: Network, context: Context) -> None:
    rows = measure_sensitivity(network, QuantizeSettings(), context, (3,), 200, parts=("weights", "inputs"))
    layers = list(dict.fromkeys(row.layer for row in rows))
    assert [(row.layer, row.part) for row in rows] == [(layer, part) for layer in layers for part in parts_of(rows)]
    start = folded(network, QuantizeSettings(), context)
    weights = quantize_once(start, with_widths(QuantizeSettings(arithmetic="float32"), 3, None), context)
    assert not scales_of(weights)  # what enters stays as it is


def parts_of(rows: list[Sensitivity]) -> list[str]:
    return list(dict.fromkeys(row.part for row in rows))


def test_steps_go_by_harm_for_what_is_saved() -> None:
    free = {8: 0.0, 6: 0.0, 4: 0.0}
    table: Harms = {
        "a": {"weights": {8: 0.0, 6: 0.01, 4: 0.40}, "inputs": free},
        "b": {"weights": {8: 0.0, 6: 0.02, 4: 0.03}, "inputs": free},
        "c": {"weights": free, "inputs": free},
    }
    shares = {
        (weights, inputs): {"a": float(weights), "b": 2.0 * weights, "c": 5.0}
        for weights in (8, 6, 4)
        for inputs in (8, 6, 4)
    }
    # b in one step to 4 bits: .03 for 8; a to 6 bits: .01 for 2; c saves nothing, and no narrower input saves anything.
    assert [(layer, weights) for layer, (weights, _) in order_moves(table, shares)] == [("b", 4), ("a", 6), ("a", 4)]


def test_a_step_narrows_weights_and_inputs_together_where_the_wider_is_what_costs() -> None:
    harm = {8: 0.0, 4: 0.1}
    shares = {(w, a): {"a": float(max(w, a))} for w in (8, 4) for a in (8, 4)}
    assert order_moves({"a": {"weights": harm, "inputs": harm}}, shares) == [("a", (4, 4))]
    apart = {(w, a): {"a": w + 3.0 * a} for w in (8, 4) for a in (8, 4)}
    assert order_moves({"a": {"weights": harm, "inputs": harm}}, apart) == [("a", (8, 4)), ("a", (4, 4))]


def test_a_narrower_width_never_harms_less() -> None:
    rows = [
        Sensitivity("a", 4, 0.9, 0.0, 0.0, 0.2, "weights"),
        Sensitivity("a", 6, 0.9, 0.0, 0.0, 0.3, "weights"),
        Sensitivity("a", 2, 0.9, 0.0, 0.0, math.nan, "weights"),
        Sensitivity("a", 8, 0.9, 0.0, 0.0, 0.1, "inputs"),
    ]
    assert harms(rows) == {"a": {"weights": {6: 0.3, 4: 0.3, 2: WORST}, "inputs": {8: 0.1}}}


def test_a_score_is_reached_with_least_harm(network: Network, context: Context) -> None:
    scores = {}
    for bits in (8, 3):
        fixed = {"weights": {"kind": "int", "bits": bits}, "correct_biases": False}
        fixed["inputs"] = {"kind": "int", "bits": bits, "scale": "tensor", "signed": False, "zero_point": True}
        scores[bits] = score(quantize(network, parse(QuantizeSettings, fixed), context)).score
    target = (scores[8] + scores[3]) / 2
    values = {"bits": "auto", "target_score": target, "widths": [8, 5, 3], "auto_images": 200}
    made = quantize(network, parse(QuantizeSettings, values), context)
    formats = [layer.formats for layer in quantized_layers(made.module).values()]
    widths = {(each.weight.bits, each.input.bits) for each in formats}  # type: ignore[union-attr]
    assert len(widths) > 1 and {bits for pair in widths for bits in pair} <= {8, 5, 3}
    assert any(weights != inputs for weights, inputs in widths)
    assert scores[3] < score(made).score <= target
    save(made, context.folder / "auto.netpress")
    assert score(load(context.folder / "auto.netpress")).score == score(made).score


def test_an_accuracy_is_kept(network: Network, context: Context) -> None:
    keep = evaluate(network, context.data.selection).accuracy - 0.03
    values = {"bits": "auto", "target_accuracy": keep, "widths": [8, 5, 4, 3, 2], "auto_images": 10_000}
    made = quantize(network, parse(QuantizeSettings, values), context)
    assert evaluate(made, context.data.selection).accuracy >= keep
    assert min(layer.formats.weight.bits for layer in quantized_layers(made.module).values()) < 8  # type: ignore[union-attr]
    eight = quantize(network, QuantizeSettings(), context)
    assert score(made).score < score(eight).score
    assert "one of 8, 5, 4, 3, 2 bits" in str(plan(Outlook(network), parse(QuantizeSettings, values)).rows)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"bits": "auto", "target_accuracy": 1.0, "widths": [2]},
            "2 bits in every layer give .*, below target_acc",
        ),
        ({"bits": "auto", "target_score": 1e-9}, "4 bits in every layer score .*, above target_score"),
        ({"bits": "auto", "target_score": 1.0, "preset": "half"}, "the preset half has others"),
    ],
)
def test_what_cannot_be_reached_is_said(values: dict, message: str, network: Network, context: Context) -> None:
    settings = parse(QuantizeSettings, {"auto_images": 50, **values})
    with pytest.raises(UserError, match=message):
        quantize(network, settings, context)


def test_settings_that_make_no_sense(network: Network, context: Context) -> None:
    for values, message in (
        ({"bits": "auto"}, "needs either target_accuracy or target_score"),
        ({"bits": "auto", "target_score": 1, "target_accuracy": 0.8}, "needs either target_accuracy or target_score"),
        ({"target_score": 1}, 'target_accuracy and target_score need bits = "auto"'),
    ):
        with pytest.raises(SettingsError, match=message):
            parse(QuantizeSettings, values)
    settings = parse(QuantizeSettings, {"bits": "auto", "target_score": 1})
    with pytest.raises(UserError, match="needs a run or `netpress apply`"):
        quantize(network, settings, dataclasses.replace(context, score_settings=None))
    with pytest.raises(UserError, match="this one is quantized already"):
        measure_sensitivity(quantize(network, QuantizeSettings(), context), QuantizeSettings(), context)


def test_the_command_prints_a_table(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(network, tmp_path / "net.netpress")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["netpress", "sensitivity", str(tmp_path / "net.netpress"), *words])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()  # type: ignore[return-value]

    code, out, _ = call("--widths", "8,3", "--images", "100", "--json")
    rows = json.loads(out)
    assert code == 0 and {row["bits"] for row in rows} == {8, 3}
    code, out, _ = call("--widths", "3", "--images", "100", "--csv")
    lines = out.strip().split("\n")
    assert code == 0 and lines[0] == "layer,part,bits,accuracy,lost,loss,divergence" and len(lines) == 1 + len(rows) / 2
    code, out, _ = call("--widths", "8", "--images", "50")
    assert code == 0 and "8 bits" in out and "of 50 images that are selected on" in out
    code, out, _ = call("--widths", "8", "--images", "50", "--apart")
    assert code == 0 and "weights, 8 bits" in out and "inputs, 8 bits" in out
    code, _, err = call("--widths", "8,many")
    assert code == 2 and "write whole numbers" in err
    assert call("--widths", "1")[0] == 2
