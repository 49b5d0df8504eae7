"""The stage `activations`, and what a ReLU costs before quantizers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from integer_networks import QUICK, experienced, images, logits
from integer_networks import context as quantizing
from torch import nn

from netpress.compression.activations import ActivationsSettings, activations, plan
from netpress.compression.quantization.post_training import quantize_once
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.errors import UserError
from netpress.network import Network, create, load, save
from netpress.network.fingerprint import fingerprint
from netpress.scoring import ScoreCard, score
from netpress.settings import parse
from netpress.stage import Outlook

TINY = {"widths": "tiny", "width_factor": 0.25, "classes": 10, "image_size": 8}


def network() -> Network:
    return experienced(create("c_efficientnet", TINY, seed=4))


def run(start: Network, folder: Path, **values: Any) -> Network:
    settings = parse(ActivationsSettings, {"norm_images": 4, **values})
    return activations(start, settings, quantizing(folder))


def quantized(start: Network, folder: Path) -> Network:
    return quantize_once(start, parse(QuantizeSettings, {**QUICK, "fold": False}), quantizing(folder))


def kinds(module: nn.Module) -> dict[str, type[nn.Module]]:
    names = ("activation",)
    return {name: type(part) for name, part in module.named_modules() if name.endswith(names)}


@pytest.mark.parametrize(
    "values, kind", [({}, nn.ReLU), ({"to": "clamp"}, nn.ReLU6), ({"to": "clamp", "highest": 4.0}, nn.Hardtanh)]
)
def test_all_activations_are_replaced_and_stored(values: dict[str, Any], kind: type[nn.Module], tmp_path: Path) -> None:
    start = network()
    changed = run(start, tmp_path, **values)
    assert set(kinds(changed.module).values()) == {kind} and set(kinds(start.module).values()) == {nn.Hardswish}
    save(changed, tmp_path / "changed.netpress")
    again = load(tmp_path / "changed.netpress")
    assert fingerprint(again) == fingerprint(changed)
    shown = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.module.eval()(shown), changed.module.eval()(shown))
    planned = plan(Outlook(start), parse(ActivationsSettings, values))
    assert planned.network.architecture == changed.architecture and len(planned.rows) == len(kinds(start.module))


def test_where_takes_kinds_of_layers_and_names(tmp_path: Path) -> None:
    by_layer = kinds(run(network(), tmp_path, where=["depthwise", "stem.activation"]).module)
    replaced = {name for name, kind in by_layer.items() if kind is nn.ReLU}
    assert replaced == {name for name in by_layer if "depthwise" in name} | {"stem.activation"}
    with pytest.raises(UserError, match=r"where: 'classifier'"):
        run(network(), tmp_path, where="classifier")
    with pytest.raises(UserError, match="where: 'nowhere'"):
        run(network(), tmp_path, where="nowhere")
    with pytest.raises(UserError, match="no gelu"):
        run(network(), tmp_path, replaces=["gelu"])


def test_a_relu_before_unsigned_quantizers_costs_least_and_does_nothing(tmp_path: Path) -> None:
    """The quantized network answers the same without its ReLUs; they are counted all the same."""
    hard_swish, relu = (quantized(one, tmp_path) for one in (network(), run(network(), tmp_path)))
    with pytest.raises(UserError, match="quantized"):
        run(relu, tmp_path)
    assert score(relu).operations < score(hard_swish).operations
    names = [name for name in kinds(relu.module) if name != "stem.activation"]  # which the first shortcut reads too
    assert all(0 < costs(score(relu), name) < costs(score(hard_swish), name) for name in names)
    expected = logits(relu, images(4, 5))
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(relu.module.get_submodule(parent), child, nn.Identity())
    assert torch.equal(logits(relu, images(4, 5)), expected)


def costs(card: ScoreCard, name: str) -> float:
    return sum(row.operations for row in card.rows if row.name == name)


def test_a_function_cannot_be_replaced(tmp_path: Path) -> None:
    class Functional(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.hardswish(x).flatten(1)

    start = replace(network(), module=Functional())
    with pytest.raises(UserError, match="called as a function"):
        run(start, tmp_path)
