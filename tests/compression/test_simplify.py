"""The stage `simplify`: what computes nothing goes, and the answers stay."""

from pathlib import Path

import pytest
import torch
from integer_networks import context as quantizing
from integer_networks import experienced, images, logits

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
