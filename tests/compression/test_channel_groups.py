"""Which channels depend on one another, what they count, and what is left without them: against Torch-Pruning itself.

Its own surgery on a copy must give the same tensors; its own importance the same order; a loop over images the same
gradients.
"""

import copy
import re
from typing import Any

import pytest
import torch
from narrowable import NETWORKS, SMALL
from torch import Tensor, nn
from torch.nn import functional

from netpress.compression.channels.groups import find_groups
from netpress.compression.channels.importance import magnitudes, rank_units, taylor_terms
from netpress.compression.channels.removal import check_removal, narrow_network
from netpress.compression.channels.selection import order_units
from netpress.compression.channels.structure import ChannelGroup
from netpress.data import Dataset, normalize
from netpress.errors import Failure, UserError
from netpress.network import Architecture, InputSpec, Network, create
from netpress.network import copy as copied

pruning: Any = pytest.importorskip("torch_pruning")

RELEASED = ("c_efficientnet", {"widths": "v1", "width_factor": 0.25, "expansion": 3.0, "released": True, **SMALL})


def random_network(family: str, settings: dict[str, Any], seed: int = 3) -> Network:
    """With norms as after a training: no scale is 1, no mean 0."""
    network = create(family, settings, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for part in network.module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low in (
                (part.weight, 0.5),
                (part.bias, -0.5),
                (part.running_mean, -0.5),
                (part.running_var, 0.5),
            ):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return network


def halves(network: Network, groups: list[ChannelGroup]) -> list[Tensor]:
    """The units that go if each group loses half of its own by magnitude, ragged on purpose: no prefix of anything."""
    order = order_units(groups, rank_units(network.module, groups, magnitudes(network)), "layer", 0.5)
    return order.first(len(order), len(groups))


def prune_by_package(network: Network, groups: list[ChannelGroup], removed: list[Tensor]) -> nn.Module:
    module = copy.deepcopy(network.module)
    image = torch.zeros(1, *network.input.size)
    graph = pruning.DependencyGraph().build_dependency(module, image, forward_fn=lambda m, x: m(x) * 1, verbose=False)
    for group, units in zip(groups, removed, strict=True):
        channels = torch.isin(group.units, units).nonzero()[:, 0].tolist()
        if channels:
            root = module.get_submodule(group.name)
            function = graph.get_pruner_of_module(root).prune_out_channels
            graph.get_pruning_group(root, function, channels).prune()
    return module.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_what_stays_is_what_the_package_leaves(name: str) -> None:
    network = random_network(*NETWORKS[name])
    groups = find_groups(network)
    removed = halves(network, groups)
    assert sum(len(units) for units in removed) > 10
    expected = prune_by_package(network, groups, removed)
    narrowed = copied(network)
    kept = narrow_network(narrowed, groups, removed)
    ours, theirs = narrowed.module.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key
    images = torch.randn(2, *network.input.size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(narrowed.module(images), expected(images))
    assert check_removal(network, narrowed, kept, seed=1) < 1e-6


def test_gates_that_are_computed_and_thrown_away_are_narrowed_too() -> None:
    network = random_network(*RELEASED)
    groups = find_groups(network)
    narrowed = copied(network)
    kept = narrow_network(narrowed, groups, halves(network, groups))
    dead = [name for name, part in network.module.named_modules() if getattr(part, "gated", "") == "nothing"]
    assert dead and all(f"{name}.squeeze_excite.reduce" in kept for name in dead)
    assert check_removal(network, narrowed, kept, seed=1) < 1e-6


def test_padded_channels_stay_and_the_group_says_so() -> None:
    network = random_network(*NETWORKS["pyramidnet"])
    groups = find_groups(network)
    reasons = {maker: group.whole for group in groups for maker in group.makers}
    for name, layer in network.module.named_modules():
        if isinstance(layer, nn.Conv2d) and (name == "stem" or name.endswith("conv3")):
            assert reasons[name] == "a padding adds a fixed number of channels to them", name
        elif isinstance(layer, nn.Conv2d):
            assert reasons[name] == "", name
    assert reasons["classifier"] == "they are the network's answers"


def test_groups_of_a_convolution_lose_the_same_places() -> None:
    network = random_network(*NETWORKS["grouped densenet"])
    groups = {group.name: group for group in find_groups(network)}
    inner = groups["blocks.0.conv1"]  # 16 channels, which a convolution of 2 groups reads
    assert inner.units.tolist() == [*range(8), *range(8)]
    grown = groups["blocks.0.conv2"]  # 4 channels that it gives
    assert grown.units.tolist() == [0, 1, 0, 1]


def test_magnitudes_are_the_packages(shades: Dataset) -> None:
    network = random_network(*NETWORKS["resnet"])
    groups = find_groups(network)
    ours = rank_units(network.module, groups, magnitudes(network))
    module = copy.deepcopy(network.module)
    graph = pruning.DependencyGraph().build_dependency(module, torch.zeros(1, 3, 8, 8), verbose=False)
    score = pruning.importance.GroupMagnitudeImportance()
    for group, units in zip(groups, ours, strict=True):
        root = module.get_submodule(group.name)
        function = graph.get_pruner_of_module(root).prune_out_channels
        theirs = score(graph.get_pruning_group(root, function, list(range(group.count))))
        torch.testing.assert_close(units.float(), theirs, rtol=1e-4, atol=1e-6)


def test_taylor_is_a_loop_over_images_and_channels(shades: Dataset) -> None:
    network = random_network("resnet", {"blocks": [1], "width": 4, **SMALL})
    module = network.module
    summed: dict[str, Tensor] = {}
    for image, label in zip(shades.train.images, shades.train.labels, strict=True):
        module.zero_grad()
        pixels = normalize(image[None], network.input.mean, network.input.std)
        functional.cross_entropy(module(pixels), label[None]).backward()
        for name, weight in module.named_parameters():
            assert weight.grad is not None
            summed[name] = summed.get(name, torch.zeros_like(weight)) + weight.grad
    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    first, norm, second = (f"blocks.0.{part}.weight" for part in ("first.conv", "first.norm", "second.conv"))
    expected = []
    for channel in range(4):
        parts = [
            (weights[first][channel] * summed[first][channel]).abs().sum(),
            (weights[norm][channel] * summed[norm][channel]).abs(),
            (weights[second][:, channel] * summed[second][:, channel]).abs().sum(),
        ]
        expected.append(sum(float(part) for part in parts) / 3)
    module.zero_grad()
    for batch_size in (5, 64):
        terms = taylor_terms(network, shades.train, batch_size, torch.device("cpu"))
        groups = find_groups(network)
        ranked = dict(zip((group.name for group in groups), rank_units(module, groups, terms), strict=True))
        found = ranked["blocks.0.first.conv"]
        mean = sum(expected) / 4
        torch.testing.assert_close(found, torch.tensor([x / mean for x in expected]).double(), rtol=1e-4, atol=1e-6)
    assert all(weight.grad is None for weight in module.parameters())


def test_grouped_and_depthwise_inputs_count_where_they_are_read() -> None:
    network = random_network(*NETWORKS["grouped densenet"])
    groups = [group for group in find_groups(network) if group.name == "blocks.0.conv1"]
    (units,) = rank_units(network.module, groups, magnitudes(network))
    first, norm, second = (
        network.module.get_submodule(f"blocks.0.{name}").weight.detach().double() ** 2
        for name in ("conv1", "norm2", "conv2")
    )
    # conv2 [4, 8, 3, 3]: its rows 0 and 1 read channels 0 to 7, its rows 2 and 3 channels 8 to 15
    read = torch.stack([second[channel // 8 * 2 : channel // 8 * 2 + 2, channel % 8].sum() for channel in range(16)])
    channels = (first.flatten(1).sum(1) + norm + read) / 3
    channels /= channels.mean()
    torch.testing.assert_close(units, (channels[:8] + channels[8:]) / 2)


class Small(nn.Module):
    """Two convolutions with something between them that a subclass says."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.pool, self.flatten, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.pool(self.second(self.between(self.first(x)).relu()))))


class Fixed(Small):
    def between(self, x: Tensor) -> Tensor:
        return x.view(len(x), 8, 36).reshape(len(x), 8, 6, 6)


class Turned(Small):
    def between(self, x: Tensor) -> Tensor:
        return x.flip(1)


class Scaled(Small):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((8, 1, 1), 2.0))

    def between(self, x: Tensor) -> Tensor:
        return x * self.scale


class Tied(Small):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.again = nn.Conv2d(3, 8, 1)
        self.third = nn.Conv2d(8, 8, 1)
        self.fourth = nn.Conv2d(8, 8, 1)
        self.fourth.weight = self.third.weight

    def between(self, x: Tensor) -> Tensor:
        return self.fourth(self.third(self.again(x)))


class Normed(Small):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 8)

    def between(self, x: Tensor) -> Tensor:
        return self.norm(x)


def own(module: nn.Module) -> Network:
    spec = InputSpec(3, 8, 8, (0.5,) * 3, (0.5,) * 3)
    return Network(module.eval(), Architecture("import", {"target": "nowhere:Net"}), spec, tuple("abcd"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Fixed, "the forward pass fails without one of them"),
        (Scaled, "the forward pass uses a parameter of its own on them"),
        (Normed, r"norm \(GroupNorm\) cannot lose single channels"),
    ],
)
def test_what_fixes_a_number_of_channels_keeps_them(kind: type[nn.Module], reason: str) -> None:
    groups = {group.name: group for group in find_groups(own(kind()))}
    assert re.match(reason, groups["first"].whole)
    assert groups["second"].whole == ""


def test_layers_with_tensors_in_common_stay_whole() -> None:
    whole = {maker: group.whole for group in find_groups(own(Tied())) for maker in group.makers}
    assert "shares its tensors with another layer" in whole["third"]
    assert whole["second"] == ""


def test_channels_that_change_places_unseen_are_found_out() -> None:
    torch.manual_seed(1)
    network = own(Turned())
    groups = find_groups(network)
    narrowed = copied(network)
    kept = narrow_network(narrowed, groups, halves(network, groups))
    with pytest.raises(Failure, match="its forward pass mixes channels in a way that cannot be seen"):
        check_removal(network, narrowed, kept, seed=1)


def test_a_pattern_decides_whose_outputs_go() -> None:
    network = random_network(*NETWORKS["resnet"])
    groups = find_groups(network, ["blocks.*.first.conv"])
    free = {group.name for group in groups if not group.whole}
    assert free == {f"blocks.{index}.first.conv" for index in range(3)}
    whole = {group.name: group.whole for group in groups}
    assert "is not among the layers asked for" in whole["stem.conv"]
    with pytest.raises(UserError, match="'nothing': matches no layer"):
        find_groups(network, "nothing")
