"""Group convolutions of a DenseNet: each computes what block-diagonal weights do, and says which counts it can have."""

import pytest
import torch
from grouped import GROUPED, dense_twin, grouped_layers, grouped_network, images_for

from netpress.errors import UserError
from netpress.models.registry import parse_model

PLACES = {"stem": {"stem"}, "bottleneck1": {"conv1"}, "bottleneck2": {"conv2"}, "transition": {"conv"}}


@pytest.mark.parametrize("name", GROUPED)
def test_groups_are_block_diagonal_weights(name: str) -> None:
    network = grouped_network(name)
    ends = {place for place in GROUPED[name]["grouped"] for place in PLACES[place]}
    assert {layer.split(".")[-1] for layer in grouped_layers(network)} == ends
    assert {layer.groups for layer in grouped_layers(network).values()} == {GROUPED[name]["groups"]}
    twin, images = dense_twin(network), images_for(network)
    assert not grouped_layers(twin)
    with torch.no_grad():
        answers, expected = network.module(images), twin.module(images)
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-5)
    assert answers.std(0).max() > 2e-3  # the images are told apart


@pytest.mark.parametrize("name", GROUPED)
def test_gradients_are_those_of_block_diagonal_weights(name: str) -> None:
    network = grouped_network(name)
    twin, images = dense_twin(network), images_for(network)
    for module in (network.module, twin.module):
        module.train()
        module(images).square().sum().backward()
    for place, layer in grouped_layers(network).items():
        whole = twin.module.get_submodule(place).weight.grad
        rows, columns = layer.out_channels // layer.groups, layer.in_channels // layer.groups
        for group in range(layer.groups):
            part = slice(group * rows, (group + 1) * rows)
            expected = whole[part, group * columns : (group + 1) * columns]
            torch.testing.assert_close(layer.weight.grad[part], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nano,groups=2,grouped=stem", "stem convolution of 3 to 8 channels cannot have 2 groups, only 1$"),
        ("tiny,groups=2,grouped=stem", "stem convolution of 3 to 12 channels cannot have 2 groups, only 1 or 3$"),
        ("nano,groups=3,grouped=bottleneck1", "of 8 to 16 channels cannot have 3 groups, only 1, 2, 4 or 8$"),
        ("nano,groups=8,grouped=bottleneck2", "of 16 to 4 channels cannot have 8 groups, only 1, 2 or 4$"),
        ("nano,groups=5,grouped=transition", "of 32 to 16 channels cannot have 5 groups, only 1, 2, 4, 8 or 16$"),
        ('tiny,groups=2,grouped=["bottleneck1","stem"]', "the stem convolution"),
    ],
)
def test_a_count_that_cannot_be_is_refused_with_those_that_can(text: str, message: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=message):
        parse_model(f"densenet:{text}").build()


def test_the_counts_that_are_named_can_be() -> None:
    with torch.device("meta"):
        for text in ("tiny,groups=3,grouped=stem", "nano,groups=4,grouped=bottleneck2", "cifar,groups=3,grouped=stem"):
            parse_model(f"densenet:{text}").build()
