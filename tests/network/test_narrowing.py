"""The edit `narrow`: sizes in a file, on shapes as on values; what it refuses, it leaves as it was."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from netpress.errors import Failure
from netpress.network import build, create
from netpress.network.edits import replay
from netpress.network.edits.narrowing import Narrow, Sizes, sizes_of
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import quantized_like


def layers() -> nn.ModuleDict:
    torch.manual_seed(5)
    return nn.ModuleDict(
        {
            "conv": nn.Conv2d(4, 6, 3),
            "grouped": nn.Conv2d(8, 12, 1, groups=4, bias=False),
            "depthwise": nn.Conv2d(6, 6, 3, groups=6),
            "norm": nn.BatchNorm2d(6),
            "bare": nn.BatchNorm1d(6, affine=False),
            "linear": nn.Linear(5, 7),
            "pool": nn.MaxPool2d(2),
            "back": nn.ConvTranspose2d(4, 6, 3),
            "quantized": quantized_like(nn.Linear(5, 7), LayerFormats()),
        }
    )


NEW = {
    "conv": Sizes(3, 2),
    "grouped": Sizes(4, 8, 4),
    "depthwise": Sizes(5, 5, 5),
    "norm": Sizes(2, 2),
    "bare": Sizes(5, 5),
    "linear": Sizes(5, 3),
}


def test_every_layer_has_its_new_sizes_and_its_first_values() -> None:
    module, before = layers(), layers()
    Narrow.of(NEW).apply(module)
    for name, sizes in NEW.items():
        layer = module[name]
        assert sizes_of(layer) == sizes, name
        rows, columns = slice(sizes.outputs), slice(sizes.inputs // sizes.groups)
        for key, tensor in layer.state_dict().items():
            old = before[name].state_dict()[key]
            old = old[rows, columns] if old.dim() > 1 else old[rows] if old.dim() else old
            assert torch.equal(tensor, old), f"{name}.{key}"
    x = torch.randn(2, 4, 5, 5)
    assert module["conv"](x[:, :3]).shape == (2, 2, 3, 3)
    assert module["grouped"](x).shape == (2, 8, 5, 5)
    assert module["depthwise"](torch.randn(2, 5, 5, 5)).shape == (2, 5, 3, 3)
    assert module["bare"].eval()(torch.randn(2, 5)).shape == (2, 5)


def test_what_keeps_its_shape_keeps_its_parameter() -> None:
    module = layers()
    weight, bias = module["conv"].weight, module["conv"].bias
    Narrow.of({"conv": Sizes(3, 6)}).apply(module)
    assert module["conv"].bias is bias and module["conv"].weight is not weight
    assert module["conv"].weight.requires_grad


def test_shapes_change_as_values_do() -> None:
    shapes, values = layers().to("meta"), layers()
    for module in (shapes, values):
        Narrow.of(NEW).apply(module)
    found = {name: tensor.shape for name, tensor in shapes.state_dict().items()}
    assert found == {name: tensor.shape for name, tensor in values.state_dict().items()}
    assert all(parameter.is_meta for parameter in shapes.parameters())


@pytest.mark.parametrize(
    ("name", "sizes", "error", "message"),
    [
        ("conv", Sizes(5, 6), ValueError, "5 to 6 channels are more than the 4 to 6 there"),
        ("linear", Sizes(5, 8), ValueError, "5 to 8 channels are more"),
        ("grouped", Sizes(6, 12, 4), ValueError, "6 to 12 channels cannot have 4 groups"),
        ("grouped", Sizes(4, 12, 2), ValueError, "4 groups cannot become 2"),
        ("depthwise", Sizes(3, 6, 3), ValueError, "6 groups cannot become 3"),
        ("norm", Sizes(3, 4), ValueError, "a norm of 3 channels cannot give 4"),
        ("pool", Sizes(1, 1), TypeError, "MaxPool2d cannot be narrowed"),
        ("back", Sizes(3, 6), TypeError, "ConvTranspose2d cannot be narrowed"),
        ("quantized", Sizes(99, 7), ValueError, "99 to 7 channels are more"),
        ("absent", Sizes(1, 1), AttributeError, "absent"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(
    name: str, sizes: Sizes, error: type[Exception], message: str
) -> None:
    module, before = layers(), layers().state_dict()
    with pytest.raises(error, match=message):
        Narrow.of({"linear": Sizes(4, 6), name: sizes}).apply(module)
    assert {key: tensor.shape for key, tensor in module.state_dict().items()} == {
        key: tensor.shape for key, tensor in before.items()
    }


def test_equal_layers_are_listed_together() -> None:
    edit = Narrow.of({"a": Sizes(2, 2), "b": Sizes(3, 2), "c": Sizes(2, 2)})
    assert [group.layers for group in edit.groups] == [("a", "c"), ("b",)]


def test_an_architecture_with_it_is_built_on_shapes_and_a_wrong_one_is_refused() -> None:
    network = create("resnet", {"blocks": [1], "width": 8, "classes": 4, "image_size": 8})
    first, norm, second = "blocks.0.first.conv", "blocks.0.first.norm", "blocks.0.second.conv"
    for inside in (5, 3):
        network.edit(Narrow.of({first: Sizes(8, inside), norm: Sizes(inside, inside), second: Sizes(inside, 8)}))
    built = build(network.architecture)
    assert {name: tensor.shape for name, tensor in built.state_dict().items()} == {
        name: tensor.shape for name, tensor in network.module.state_dict().items()
    }
    assert built(torch.zeros(1, 3, 8, 8, device="meta")).shape == (1, 4)
    forged: list[dict[str, Any]] = copy.deepcopy(network.architecture.edits)
    forged[0]["groups"][0]["outputs"] = 10**9
    with pytest.raises(Failure, match=r"narrow does not fit this network: blocks\.0\.first\.conv"):
        replay(create("resnet", {"blocks": [1], "width": 8, "classes": 4, "image_size": 8}).module, forged)
