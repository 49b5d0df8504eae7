"""At full rank a network in factors answers as it did, whatever its layers are, and however its factors were made."""

from typing import get_args

import pytest
from small_networks import answers, difference, head, measure, network_of, zoo
from torch import Tensor, nn

from netpress.compression.factorization.layers import find_candidates
from netpress.compression.factorization.truncation import Truncation
from netpress.models.factorized import Factorized
from netpress.network import Network
from netpress.scoring import trace_network

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch tells once that it copies

TRUNCATIONS = get_args(Truncation)
ZOO = {
    "c_efficientnet:tiny": {},
    "c_efficientnet:v1": {"image_size": 16},
    "densenet:nano": {"image_size": 16},
    "efficientnet:ex": {"width": 0.25, "depth": 0.25, "image_size": 16},
    "efficientnet:ex,head=linear": {"width": 0.25, "depth": 0.25, "image_size": 16},
    "pyramidnet:272": {"depth": 11, "alpha": 24.0, "image_size": 16},
    "resnet:18": {"width": 16, "image_size": 16},
    "wide_resnet:40-2": {"depth": 10, "image_size": 16},
}


def check(network: Network, most: float) -> None:
    measured = measure(network)
    assert not [part for part in network.module.modules() if isinstance(part, Factorized)]
    for truncation in TRUNCATIONS:
        changed = measured.cut(measured.full(), truncation)
        for ranking in measured.rankings:
            layer = changed.module.get_submodule(ranking.candidate.name)
            assert isinstance(layer, Factorized) and layer.ranks == layer.full_ranks
            for factor in layer.children():
                assert bool(factor.weight.any())  # type: ignore[operator, union-attr]
        assert difference(network, changed) < most, truncation
        assert float((answers(network) - answers(network)[:1]).abs().max()) > 0  # the images are told apart


@pytest.mark.slow
@pytest.mark.parametrize("text", ZOO)
def test_every_family_answers_as_before(text: str) -> None:
    network = zoo(text, **ZOO[text])
    layers = [part for part in network.module.modules() if type(part) in (nn.Conv2d, nn.Linear)]
    whole = [part for part in layers if isinstance(part, nn.Conv2d) and part.groups > 1]
    assert len(find_candidates(network).candidates) == len(layers) - len(whole)
    check(network, 1e-4)


class Tokens(nn.Module):
    """Pixels as tokens: [batch, channels, height, width] -> [batch, tokens, channels]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mT


class MeanOfTokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.layer(x).relu())
        return y


LAYERS = {
    "bias and padding": nn.Conv2d(3, 8, 3, padding=1),
    "more padding than needed": nn.Conv2d(3, 8, 3, padding=2),
    "stride 2": nn.Conv2d(3, 8, 3, stride=2, padding=1),
    "stride 3 that leaves pixels": nn.Conv2d(3, 8, 2, stride=3),
    "dilation": nn.Conv2d(3, 8, 3, padding=2, dilation=2),
    "same": nn.Conv2d(3, 8, 3, padding="same"),
    "same, even": nn.Conv2d(3, 8, (2, 4), padding="same"),
    "reflect": nn.Conv2d(3, 8, 3, padding=2, padding_mode="reflect"),
    "replicate, without bias": nn.Conv2d(3, 8, 3, padding=1, padding_mode="replicate", bias=False),
    "circular": nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"),
    "even": nn.Conv2d(3, 8, 4, padding=1, stride=2),
    "uneven sides": nn.Conv2d(3, 8, (3, 1), stride=(2, 1), padding=(1, 0)),
    "1x1 with stride": nn.Conv2d(3, 8, 1, stride=2),
    "1x1 with padding": nn.Conv2d(3, 8, 1, padding=1),
    "one window": nn.Conv2d(3, 8, 9),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_convolution_answers_as_before(name: str) -> None:
    check(network_of(LAYERS[name], nn.Hardswish(), nn.Conv2d(8, 5, 1), *head(5), size=9), 1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_of_tokens_answer_as_before(bias: bool) -> None:
    parts = [nn.Conv2d(3, 6, 3, padding=1), Tokens(), nn.Linear(6, 10, bias), nn.GELU(), MeanOfTokens()]
    check(network_of(*parts, nn.Linear(10, 4, bias), size=6), 1e-5)


def test_the_border_is_right_although_the_bias_comes_last() -> None:
    """Each pixel, not only the mean: in front of a padded core, a bias would be missing outside the image."""
    network = network_of(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), size=5, classes=100)
    network.module.get_submodule("0").bias.data.fill_(50)  # type: ignore[union-attr, operator]
    assert difference(network, measure(network, 20).cut({"0": (4, 3)})) < 1e-6


@pytest.mark.parametrize("name", LAYERS)
def test_costs_are_those_of_the_network_in_factors(name: str) -> None:
    """Weights and multiply-adds that selection reckons with, against a count of the finished network."""
    network = network_of(LAYERS[name], nn.ReLU(), nn.Conv2d(8, 5, 1, stride=2), *head(5), size=9)
    measured = measure(network)
    for state in (measured.full(), measured.share(0.7), {"0": (5, 2), "2": None, "5": (4, 3)}):
        changed = measured.cut(state)
        weights = operations = 0.0
        for ranking in measured.rankings:
            sides = state[ranking.candidate.name]
            if sides is None:
                weights += ranking.candidate.cost_now("parameters")
                operations += ranking.candidate.cost_now("operations")
            else:
                weights += ranking.candidate.cost(*sides, "parameters")
                operations += ranking.candidate.cost(*sides, "operations")
        assert weights == sum(weight.numel() for weight in changed.weights().values())
        counted = sum(
            operation.multiply_adds for operation in trace_network(changed).operations if operation.kind != "norm"
        )
        assert operations == pytest.approx(counted)


def test_what_stays_whole_is_said() -> None:
    shared = nn.Linear(5, 5)
    parts = [nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1, groups=2), nn.Conv2d(4, 1, 1)]
    network = network_of(
        *parts, nn.Conv2d(1, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), shared, shared, Twice(), size=9
    )
    found = find_candidates(network)
    assert [one.name for one in found.candidates] == ["0"]
    assert {name: reason for name, reason in found.left.items() if name in "1234"} == {
        "1": "depthwise",
        "2": "2 groups",
        "3": "one channel",
        "4": "one channel",
    }
    assert found.left["7"] == "its weights are another layer's too"
    assert found.left["9.layer"] == "used 2 times an image"
