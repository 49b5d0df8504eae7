"""Directions of a cosine head that are scaled to length 1 for good: same answers, masks and file; zeros stay zeros."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from netpress.errors import Failure
from netpress.models.blocks import CosineLinear, Normalize
from netpress.network import Network, create, load, save
from netpress.network.edits import replay
from netpress.network.edits.directions import FoldDirections, find_directions
from netpress.network.edits.quantizing import Quantize
from netpress.network.selection import used_weights
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import QuantizedLinear

HEAD = "classifier.cosine"
LENGTHS = torch.tensor([[1.0], [30.0], [0.05], [7.0]])


@pytest.fixture
def network() -> Network:
    """A small network whose four directions have lengths of all kinds, and some weights that do not exist."""
    settings = {"width": 0.1, "depth": 0.1, "cosine_features": 8, "image_size": 8, "classes": 4}
    network = create("efficientnet", settings, seed=5)
    mask = torch.rand(4, 8, generator=torch.Generator().manual_seed(1)) > 0.3
    network.masks[f"{HEAD}.weight"] = mask
    _weight(network).data.mul_(LENGTHS).mul_(mask)
    return network


def _weight(network: Network) -> Tensor:
    weight = network.module.get_submodule(HEAD).weight
    assert isinstance(weight, Tensor)
    return weight


def _images() -> Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def test_folded_directions_answer_the_same_and_come_back(network: Network, tmp_path: Path) -> None:
    before, mask, weight = network.module(_images()).detach(), network.masks[f"{HEAD}.weight"], _weight(network)
    assert find_directions(network.module) == (HEAD,)
    assert network.edit(FoldDirections(layers=(HEAD,))) == {}  # no mask ended
    layer = network.module.get_submodule(HEAD)
    assert type(layer) is nn.Linear and layer.bias is None and layer.weight is weight
    assert torch.equal(network.masks[f"{HEAD}.weight"], mask) and not bool(weight[~mask].any())
    assert weight.square().sum(1).tolist() == pytest.approx([1] * 4)
    assert torch.allclose(network.module(_images()), before, atol=1e-6)
    assert float(before.std()) > 0.01
    assert find_directions(network.module) == ()
    save(network, tmp_path / "folded.netpress")
    again = load(tmp_path / "folded.netpress")
    assert torch.equal(again.module(_images()), network.module(_images()))
    assert torch.equal(again.masks[f"{HEAD}.weight"], mask)


def test_a_cosine_layer_under_two_names_is_one_linear_layer_after() -> None:
    module = nn.Sequential(CosineLinear(4, 4), nn.ReLU())
    module.append(module[0])
    FoldDirections(layers=("0",)).apply(module)
    assert type(module[0]) is nn.Linear and module[2] is module[0]


@pytest.mark.parametrize("layers", [["classifier.embed"], [""], ["stem.conv"]])
def test_only_cosine_layers_have_directions(network: Network, layers: list[str]) -> None:
    weights = _weight(network).clone()
    with pytest.raises(Failure, match=r"fold_directions does not fit.* has no directions to scale"):
        replay(network.module, [{"kind": "fold_directions", "layers": [HEAD, *layers]}])
    assert torch.equal(_weight(network), weights) and type(network.module.get_submodule(HEAD)) is CosineLinear


def test_a_quantized_head_takes_the_directions(network: Network) -> None:
    expected = functional.normalize(_weight(network).detach(), dim=1)
    network.edit(Quantize.of({HEAD: LayerFormats()}))
    assert type(network.module.get_submodule(HEAD)) is QuantizedLinear
    assert torch.equal(_weight(network), expected)
    assert not bool(_weight(network)[~network.masks[f"{HEAD}.weight"]].any())


def test_a_head_whose_formats_do_not_fit_stays_as_it_was(network: Network) -> None:
    before = _weight(network).clone()
    with pytest.raises(TypeError, match="SiLU cannot be quantized"):
        network.edit(Quantize.of({HEAD: LayerFormats(), "stem.activation": LayerFormats()}))
    assert torch.equal(_weight(network), before)


def test_what_is_multiplied_with_are_the_directions_and_all_other_values(network: Network) -> None:
    used = used_weights(network.module)
    assert used.keys() == dict(network.module.named_parameters()).keys()
    for name, parameter in network.module.named_parameters():
        expected = functional.normalize(parameter, dim=1) if name == f"{HEAD}.weight" else parameter
        assert torch.equal(used[name], expected) and not used[name].requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_features_of_length_0_stay_0_in_either_arithmetic(dtype: torch.dtype) -> None:
    features = torch.tensor([[0.0] * 4, [3.0, 0.0, 4.0, 0.0], [1e-6] * 4]).to(dtype)
    scaled = Normalize()(features)
    assert scaled.dtype == dtype
    assert scaled[0].tolist() == [0] * 4
    assert scaled[1].tolist() == pytest.approx([0.6, 0, 0.8, 0], abs=1e-3)
    assert math.hypot(*scaled[2].tolist()) == pytest.approx(1, abs=0.05)
