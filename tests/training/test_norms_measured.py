"""Norm statistics measured anew: means over batches, computed by hand; nothing else moves."""

import pytest
import torch
from torch import Tensor

from netpress.data import Dataset, normalize
from netpress.network import Network, create
from netpress.training.norms import remeasure_norms


@pytest.fixture
def network() -> Network:
    settings = {"blocks": [1], "width": 4, "classes": 4, "image_size": 8}
    return create("resnet", settings, classes=tuple("abcd"), seed=3)


def test_statistics_are_means_over_whole_batches(network: Network, shades: Dataset) -> None:
    stem = network.module.get_submodule("stem.conv")
    others = {name: value.clone() for name, value in network.module.state_dict().items() if "running" not in name}
    momenta = [getattr(part, "momentum", None) for part in network.module.modules()]
    means: list[Tensor] = []
    variances: list[Tensor] = []
    for start in (0, 24):  # the last 16 of 64 images fill no batch
        pixels = normalize(shades.train.images[start : start + 24], network.input.mean, network.input.std)
        with torch.no_grad():
            values = stem(pixels).transpose(0, 1).flatten(1)
        means.append(values.mean(1))
        variances.append(values.var(1, unbiased=True))
    count = remeasure_norms(network, shades.train, batch_size=24, device=torch.device("cpu"))
    assert count == 3
    norm = network.module.get_submodule("stem.norm")
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0), rtol=1e-4, atol=1e-5)
    assert not any(part.training for part in network.module.modules())
    assert [getattr(part, "momentum", None) for part in network.module.modules()] == momenta
    after = network.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in others.items() if "num_batches" not in name)


def test_few_images_are_one_batch(network: Network, shades: Dataset) -> None:
    remeasure_norms(network, shades.train, batch_size=1000, device=torch.device("cpu"))
    assert int(network.module.get_submodule("stem.norm").num_batches_tracked) == 1


def test_images_one_by_one_go_in_pairs(shades: Dataset) -> None:
    """On a map of one pixel, a single image has no variance."""
    network = create("resnet", {"width": 4, "classes": 4, "image_size": 8}, classes=tuple("abcd"), seed=3)
    few = shades.train.take(torch.arange(6))
    remeasure_norms(network, few, batch_size=1, device=torch.device("cpu"))
    norms = [part for part in network.module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked or 0) for norm in norms} == {3}
    one = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    remeasure_norms(network, few, batch_size=2, device=torch.device("cpu"))
    for mean, norm in zip(one, norms, strict=True):
        assert norm.running_mean is not None and torch.equal(mean, norm.running_mean)
