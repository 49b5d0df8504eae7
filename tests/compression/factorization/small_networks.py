"""What tests of factorization share: networks of any module with random values, images, measured layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netpress.compression.factorization.curvature import Curvature, layers_of, measure_curvature
from netpress.compression.factorization.layers import find_candidates
from netpress.compression.factorization.selection import Ranking, State
from netpress.compression.factorization.surgery import cut
from netpress.compression.factorization.truncation import Truncation
from netpress.data import Dataset, Images, normalize
from netpress.evaluation.accuracy import evaluation_mode
from netpress.models.registry import parse_model
from netpress.network import Architecture, InputSpec, Network, copy, create

CLASSES = 4


def images(count: int, size: int, seed: int = 1, classes: int = CLASSES, channels: int = 3) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(0, classes, (count,), generator=generator))


def dataset(size: int, classes: int = CLASSES) -> Dataset:
    parts = (images(count, size, seed, classes) for count, seed in ((24, 1), (8, 2), (8, 3)))
    return Dataset("random", *parts, tuple(map(str, range(classes))), (0.5,) * 3, (0.25,) * 3, "")


def randomize(module: nn.Module, seed: int, weights: bool = True) -> None:
    """Values that hide nothing: norms that are far from the identity, biases that are not 0."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters() if weights else ():
        parameter.data.normal_(0, 0.4, generator=generator)
    for norm in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(0, 0.3, generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.normal_(0, 0.3, generator=generator)


def network_of(*parts: nn.Module, size: int, seed: int = 0, channels: int = 3, classes: int = CLASSES) -> Network:
    """A network that is no family's: these modules one after the other, with random values."""
    module = nn.Sequential(*parts)
    randomize(module, seed)
    spec = InputSpec(channels, size, size, (0.5,) * channels, (0.25,) * channels)
    names = tuple(map(str, range(classes)))
    return Network(module.eval(), Architecture("import", {}), spec, names)


def head(channels: int, classes: int = CLASSES) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def zoo(text: str, seed: int = 3, **more: Any) -> Network:
    """A network of a family, with its initial weights and norms that are far from the identity."""
    model = parse_model(text)
    network = create(model.family.name, {**model.settings.model_dump(mode="json"), **more}, seed=seed)
    randomize(network.module, seed, weights=False)
    return network


def pixels_of(network: Network, count: int = 3, seed: int = 9) -> Tensor:
    """Normalized images for the network: [count, channels, height, width]."""
    spec = network.input
    return normalize(images(count, spec.height, seed, channels=spec.channels).images, spec.mean, spec.std)


def answers(network: Network, count: int = 3) -> Tensor:
    """The network's logits for some images, in evaluation: [count, classes]."""
    with evaluation_mode(network.module), torch.inference_mode():
        logits: Tensor = network.module(pixels_of(network, count))
    return logits


def difference(network: Network, other: Network) -> float:
    """The largest difference of logits, as a share of the largest logit."""
    one, two = answers(network), answers(other)
    return float((one - two).abs().max() / one.abs().max())


@dataclass
class Measured:
    """The layers of a network that can be factorized, with their curvature."""

    network: Network
    rankings: list[Ranking]
    curvatures: dict[str, Curvature]

    def full(self) -> State:
        """Every layer in factors that lose nothing."""
        return {one.candidate.name: one.candidate.sides for one in self.rankings}

    def share(self, share: float) -> State:
        """Every layer in factors with this share of its rows and columns."""
        return {name: (max(1, int(share * sides[0])), max(1, int(share * sides[1]))) for name, sides in self._sides()}

    def cut(self, state: State, truncation: Truncation = "weighted") -> Network:
        """A copy of the network in this state."""
        changed = copy(self.network)
        cut(changed, self.rankings, self.curvatures, state, truncation)
        return changed

    def _sides(self) -> list[tuple[str, tuple[int, int]]]:
        return [(one.candidate.name, one.candidate.sides) for one in self.rankings]


def measure(network: Network, count: int = 6, layers: str = "all") -> Measured:
    """Measure every layer that can be factorized on `count` random images."""
    found = find_candidates(network, layers).candidates
    given = images(count, network.input.height, 5, channels=network.input.channels)
    measured = measure_curvature(
        network,
        layers_of(network, [one.analysed for one in found]),
        given,
        1,
        frames={one.analysed: one.frame for one in found if one.frame is not None},
        batch_size=4,
    )
    curvatures = {one.name: measured[one.analysed] for one in found}
    rankings = [Ranking(one, curvatures[one.name].importance(one.weight)) for one in found]
    return Measured(network, rankings, curvatures)


def random_curvature(weight: Tensor, seed: int) -> Curvature:
    """A curvature that no network has: eigenvalues over three orders of magnitude, a diagonal apart from them."""
    generator = torch.Generator().manual_seed(seed)

    def factor(size: int) -> Tensor:
        matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
        scales = torch.logspace(-1.5, 1.5, size, dtype=torch.float64)
        matrix = torch.linalg.qr(matrix)[0] * scales.sqrt()
        return matrix @ matrix.T

    inputs, outputs = factor(weight.shape[1]), factor(weight.shape[0])
    diagonal = torch.rand(weight.shape, generator=generator).square()
    return Curvature(inputs, outputs, torch.linalg.eigh(inputs)[1], torch.linalg.eigh(outputs)[1], diagonal)


@contextmanager
def known_labels(labels: Tensor) -> Iterator[None]:
    """While this is open, the curvature's passes over images get these labels for drawn ones, over and over."""
    place = 0

    def draw(probabilities: Tensor, count: int, **more: Any) -> Tensor:
        nonlocal place
        assert count == 1 and torch.allclose(probabilities.sum(1), torch.ones(len(probabilities)))
        chosen = torch.arange(place, place + len(probabilities)) % len(labels)
        place += len(probabilities)
        return labels[chosen][:, None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "multinomial", draw)
        yield
