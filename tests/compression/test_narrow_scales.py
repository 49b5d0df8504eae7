"""Scales and biases of few bits through the stage: as many bits in the file as on the card, one answer everywhere."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from integer_networks import QUICK, context, family, images, logits

from netpress.compression.quantization.assignment import choose_formats
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantization.shared_scales import share_scales
from netpress.compression.quantize import quantize
from netpress.network import Network, load, save
from netpress.numerics.formats import Fixed, Float16, Integer, Minifloat
from netpress.numerics.layers import quantized_layers
from netpress.settings import parse

NARROW = {
    **QUICK,
    "scales": {"kind": "minifloat", "exponent_bits": 3, "mantissa_bits": 3},
    "bias": {"kind": "fixed", "bits": 8},
    "bias_calibration": {"kind": "mse"},
}


def _settings(**more: Any) -> QuantizeSettings:
    return parse(QuantizeSettings, {**NARROW, **more})


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return quantize(family("c_efficientnet"), _settings(), context(tmp_path_factory.mktemp("narrow")))


def test_the_cards_bits_are_the_files(narrow: Network, call: Callable[..., Any], tmp_path: Path) -> None:
    save(narrow, tmp_path / "q.netpress")
    found = json.loads(call("inspect", "q.netpress", "--json")[1])
    card = json.loads(call("score", "q.netpress", "--json")[1])
    assert found["tensor_bits"] - found["alignment_bits"] == card["storage_bits"] + card["mask_bits"]
    layers = {row["name"]: row for row in found["layers"]}
    scales = layers["stem.conv.weight_scale"]
    assert (scales["format"], scales["bits"]) == ("minifloat", 6)
    assert scales["tensor_bits"] - scales["alignment_bits"] == 6 * scales["values"] + 8
    again = load(tmp_path / "q.netpress")
    shown = images(4, seed=8)
    assert torch.equal(logits(again, shown), logits(narrow, shown))


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler called cc")
def test_c_gives_the_same_integers(narrow: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from netpress.export.c.calling import load_kernels

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shown = images(4, seed=8)
    assert torch.equal(load_kernels(narrow, ["-O1"]).real_logits(shown.images, 1), logits(narrow, shown))


def test_onnx_gives_the_same_integers(narrow: Network, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from netpress.export.onnx import export_exactly

    export_exactly(narrow, tmp_path / "net.onnx")
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    shown = images(4, seed=8)
    (found,) = session.run(None, {"images": shown.images.numpy()})
    assert torch.equal(torch.from_numpy(found).float(), logits(narrow, shown).float())


def test_rules_change_biases_and_scales_of_some_layers() -> None:
    rule = {"layers": "stem", "bias": {"kind": "float16"}, "scales": {"kind": "float16"}}
    chosen = choose_formats(family("c_efficientnet").module, _settings(preset="int6", rules=(rule,)))
    stem, other = chosen["stem.conv"], chosen["classifier"]
    assert stem.bias == Float16() and other.bias == Fixed(bits=8)
    assert isinstance(stem.weight, Integer) and isinstance(other.weight, Integer)
    assert stem.weight.scales == Float16()
    assert other.weight.scales == Minifloat(exponent_bits=3, mantissa_bits=3)  # of the preset's own rule, too


def test_one_scale_a_tensor_where_channels_are_alike() -> None:
    network = family("c_efficientnet")
    weight = network.module.get_submodule("stem.conv").weight
    other = network.module.get_submodule("classifier").weight
    with torch.no_grad():
        other.copy_(torch.where(torch.arange(len(other)).view(-1, 1) > 0, other / 100, other))
        weight.copy_(weight[:1].expand_as(weight))
    settings = _settings(tensor_scales=0.0)
    shared = share_scales(network.module, choose_formats(network.module, settings), settings)
    assert shared["stem.conv"].weight.scale == "tensor"
    assert shared["classifier"].weight.scale == "channel"
    loose = _settings(tensor_scales=1.0)
    every = share_scales(network.module, choose_formats(network.module, loose), loose)
    assert every["classifier"].weight.scale == "tensor"


def test_quantizing_again_keeps_inputs_and_for_biases_alone_all_integers(tmp_path: Path) -> None:
    first = quantize(family("c_efficientnet"), parse(QuantizeSettings, QUICK), context(tmp_path / "a"))
    biases = parse(QuantizeSettings, {**QUICK, "bias": {"kind": "fixed", "bits": 8}})
    for settings, same in ((biases, True), (_settings(), False)):
        second = quantize(first, settings, context(tmp_path / "b"))
        before, after = quantized_layers(first.module), quantized_layers(second.module)
        assert all(torch.equal(before[name].input_scale, layer.input_scale) for name, layer in after.items())
        assert all(torch.equal(before[name].weight, layer.weight) for name, layer in after.items()) == same
