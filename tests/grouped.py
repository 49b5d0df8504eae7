"""DenseNets with group convolutions at each place, and the same networks without groups: what several rooms try."""

import copy as copying
from typing import Any

import torch
from torch import nn

from netpress.network import Network, copy, create

FOUR = {"growth": 4, "blocks": [2, 2], "classes": 4, "image_size": 8}
SIX = FOUR | {"growth": 6}
GROUPED: dict[str, dict[str, Any]] = {
    "stem, a group a channel": SIX | {"groups": 3, "grouped": ["stem"]},
    "bottleneck1 in 2": FOUR | {"groups": 2, "grouped": ["bottleneck1"]},
    "bottleneck1 in 4": FOUR | {"groups": 4, "grouped": ["bottleneck1"]},
    "bottleneck1, a group a channel": FOUR
    | {"blocks": [1, 1], "reduction": 0.67, "groups": 8, "grouped": ["bottleneck1"]},
    "bottleneck2 in 2": FOUR | {"groups": 2, "grouped": ["bottleneck2"]},
    "bottleneck2 in 4": FOUR | {"groups": 4, "grouped": ["bottleneck2"]},
    "bottleneck2, a group a channel": FOUR | {"bottleneck": 1, "groups": 4, "grouped": ["bottleneck2"]},
    "transition in 2": FOUR | {"groups": 2, "grouped": ["transition"]},
    "transition in 4": FOUR | {"groups": 4, "grouped": ["transition"]},
    "transition, a group a channel": FOUR | {"reduction": 1.0, "groups": 16, "grouped": ["transition"]},
    "all but the stem in 2": FOUR | {"groups": 2, "grouped": ["bottleneck1", "bottleneck2", "transition"]},
    "all but the stem in 4": FOUR | {"groups": 4, "grouped": ["bottleneck1", "bottleneck2", "transition"]},
    "everywhere in 3": SIX | {"groups": 3, "grouped": ["stem", "bottleneck1", "bottleneck2", "transition"]},
}


def grouped_network(name: str) -> Network:
    """One of GROUPED, in evaluation mode, with norms that have seen something and biases that are not zero."""
    network = create("densenet", GROUPED[name], classes=tuple("abcd"), seed=3)
    generator = torch.Generator().manual_seed(6)
    for norm in (part for part in network.module.modules() if isinstance(part, nn.BatchNorm2d)):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(0, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.normal_(0, 0.1, generator=generator)
    classifier = network.module.get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    classifier.bias.data.normal_(0, 0.1, generator=generator)
    network.module.eval()
    return network


def grouped_layers(network: Network) -> dict[str, nn.Conv2d]:
    layers = network.module.named_modules()
    return {name: part for name, part in layers if isinstance(part, nn.Conv2d) and part.groups > 1}


def spread_out(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """[outputs, inputs / groups, ...] -> [outputs, inputs, ...] of a convolution that is not grouped: zeros between."""
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    whole = weight.new_zeros(weight.shape[0], columns * groups, *weight.shape[2:])
    for row in range(weight.shape[0]):
        first = row // rows * columns
        whole[row, first : first + columns] = weight[row]
    return whole


def dense_twin(network: Network) -> Network:
    """The same function without groups: block-diagonal weights, and everything else as it is."""
    values = {key: value for key, value in network.architecture.settings.items() if key not in ("groups", "grouped")}
    twin = create("densenet", values, classes=network.classes, seed=0)
    layers, state = grouped_layers(network), copy(network).module.state_dict()
    for name, layer in layers.items():
        state[f"{name}.weight"] = spread_out(state[f"{name}.weight"], layer.groups)
    twin.module.load_state_dict(state)
    twin.module.eval()
    return twin


def densified(module: nn.Module) -> nn.Module:
    """A copy of any module whose grouped convolutions are dense ones with block-diagonal weights."""
    whole = copying.deepcopy(module)
    for name, layer in list(whole.named_modules()):
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            dense = nn.Conv2d(
                *(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding),
                bias=layer.bias is not None,
            )
            dense.weight.data = spread_out(layer.weight.data, layer.groups)
            if layer.bias is not None and dense.bias is not None:
                dense.bias.data = layer.bias.data
            whole.set_submodule(name, dense)
    return whole


def images_for(network: Network, count: int = 4) -> torch.Tensor:
    return torch.randn(count, *network.input.size, generator=torch.Generator().manual_seed(4))
