"""The stage `simplify`: what computes nothing goes, and the answers stay."""

import json
from pathlib import Path

import pytest
import torch
from integer_networks import QUICK, experienced, family, images, logits
from integer_networks import context as quantizing
from torch import nn

from netpress.compression.quantization.post_training import quantize_once
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.simplify import SimplifySettings, plan, simplify
from netpress.network import Network, create, load, save
from netpress.network.fingerprint import fingerprint
from netpress.process.console import Console
from netpress.process.world import World
from netpress.scoring import score
from netpress.settings import parse
from netpress.stage import Context, Outlook

RELEASED = {"widths": "tiny", "width_factor": 0.25, "classes": 10, "image_size": 8, "released": True}
GATES = ["blocks.1.squeeze_excite", "blocks.3.squeeze_excite"]


def released(**values: object) -> Network:
    return experienced(create("c_efficientnet", {**RELEASED, **values}, seed=4))


def run(network: Network, folder: Path) -> Network:
    return simplify(network, SimplifySettings(), Context(folder, World(torch.device("cpu")), 1, Console(quiet=True)))


def answers(network: Network) -> torch.Tensor:
    with torch.inference_mode():
        return network.module.eval()(torch.randn(3, *network.input.size, generator=torch.Generator().manual_seed(2)))


def test_gates_that_feed_nothing_go(tmp_path: Path) -> None:
    network = released()
    gated = "blocks.1.squeeze_excite.reduce.weight"
    network.masks[gated] = torch.zeros_like(dict(network.module.named_parameters())[gated], dtype=torch.bool)
    simple = run(network, tmp_path)
    assert simple.architecture.edits == [{"kind": "remove", "modules": GATES}]
    assert torch.equal(answers(simple), answers(network))
    assert score(simple).score < score(network).score
    assert not simple.masks and gated in network.masks
    save(simple, tmp_path / "simple.netpress")
    assert fingerprint(load(tmp_path / "simple.netpress")) == fingerprint(simple)
    planned = plan(Outlook(network), SimplifySettings())
    assert [row["what"] for row in planned.rows] == GATES
    assert planned.network.architecture == simple.architecture


def test_integers_answer_the_same_to_the_bit(tmp_path: Path) -> None:
    values = {"calibration_images": 8, "calibration": {"kind": "minmax"}, "fold": False}
    network = quantize_once(released(), parse(QuantizeSettings, values), quantizing(tmp_path))
    simple = run(network, tmp_path)
    assert simple.architecture.edits[-1] == {"kind": "remove", "modules": GATES}
    assert torch.equal(logits(simple, images(4, 5)), logits(network, images(4, 5)))
    assert not any(name.startswith(tuple(GATES)) for name in simple.formats)


@pytest.mark.parametrize("values", [{"released": False}, {"released": False, "squeeze_ratio": 0.0}])
def test_where_nothing_is_computed_in_vain_nothing_changes(values: dict[str, object], tmp_path: Path) -> None:
    network = released(**values)
    assert fingerprint(run(network, tmp_path)) == fingerprint(network)


@pytest.mark.parametrize("name", ["c_efficientnet", "cosine", "densenet", "pyramidnet", "wide_resnet"])
@pytest.mark.parametrize("integers", [False, True])
def test_channels_that_count_for_nothing_go_with_their_masks(name: str, integers: bool, tmp_path: Path) -> None:
    network = family(name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.weights().values():
            weight[torch.rand(len(weight), generator=generator) < 0.2] = 0
            if weight.shape[1] > 3:
                weight[:, torch.rand(weight.shape[1], generator=generator) < 0.3] = 0
        for norm in network.module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.bias.normal_(0, 0.1, generator=generator)
    if integers:
        network = quantize_once(network, parse(QuantizeSettings, {**QUICK, "fold": False}), quantizing(tmp_path))
    network.masks = {key: weight != 0 for key, weight in network.weights().items()}
    simple = run(network, tmp_path)  # which compares the answers, of integers to the last bit
    line = json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8"))
    assert line["channels"] > 0 and line["values"] > 0 and line["difference"] <= (0 if integers else 1e-6)
    assert score(simple).score < score(network).score
    for key, weight in simple.weights().items():
        whole = weight != 0 if integers else torch.ones_like(weight, dtype=torch.bool)  # a mask may not pay any more
        assert torch.equal(simple.masks.get(key, whole), weight != 0)
    assert fingerprint(run(simple, tmp_path)) == fingerprint(simple)
    save(simple, tmp_path / "simple.netpress")
    assert fingerprint(load(tmp_path / "simple.netpress")) == fingerprint(simple)


def test_blocks_that_add_zeros_go(tmp_path: Path) -> None:
    network = released(released=False)
    last = network.module.get_submodule("blocks.2.project.norm")
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    simple = run(network, tmp_path)
    assert {"kind": "remove", "modules": ["blocks.2"]} in simple.architecture.edits
    assert torch.allclose(answers(simple), answers(network), atol=1e-6)


def test_whole_blocks_of_masks_stay(tmp_path: Path) -> None:
    network = released(released=False)
    name = "blocks.2.project.conv.weight"
    weight = dict(network.module.named_parameters())[name]
    with torch.no_grad():
        weight[:, :4] = 0
    network.masks[name] = weight != 0
    network.patterns[name] = (1, 4)
    simple = run(network, tmp_path)
    assert fingerprint(simple) == fingerprint(network) and simple.whole_patterns() == {name: (1, 4)}
    network.patterns.clear()
    assert dict(run(network, tmp_path).module.named_parameters())[name].shape[1] == weight.shape[1] - 4
