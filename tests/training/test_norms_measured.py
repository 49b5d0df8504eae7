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
