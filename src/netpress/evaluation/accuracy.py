"""How good a network is on a set of images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netpress.data import Images, normalize
from netpress.errors import Failure
from netpress.evaluation.ranking import rank_classes
from netpress.network import Network, check_finite


@dataclass(frozen=True)
class Evaluation:
    """Figures of one evaluation: fractions, and the mean cross-entropy."""

    accuracy: float
    """Share of images whose most likely class is right."""
    top5: float | None
    """Share of images whose class is among the five most likely; None where there are no more classes than five."""
    loss: float
    """Mean cross-entropy, in nats."""
    count: int
    """Images."""


def evaluate(
    network: Network, images: Images, batch_size: int | None = None, device: torch.device | str | None = None
) -> Evaluation:
    """Accuracy and loss of `network` on `images`, normalised as the network says.

    `device` moves the network there first; None leaves it where it is. `batch_size` is chosen for speed by default.
    Raises Failure for weights or answers that are not numbers.
    """
    check_finite(network)
    module = network.module
    if device is not None:
        module.to(device)
    measured = evaluate_module(module, images, network.input.mean, network.input.std, batch_size)
    check_answers(measured)
    return measured


def check_answers(measured: Evaluation) -> None:
    """Raise Failure where a network's answers are NaN: no class is most likely then, and any accuracy a fiction."""
    if math.isnan(measured.loss):
        raise Failure("the network answers NaN: its values grow beyond what its numbers hold")


@torch.inference_mode()
def evaluate_module(
    module: nn.Module,
    images: Images,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int | None = None,
) -> Evaluation:
    """Accuracy and loss of any module that maps [batch, channels, height, width] to logits [batch, classes]."""
    training = module.training
    module.eval()
    count = len(images.labels)
    figures = torch.zeros(3, dtype=torch.float64)
    classes = 0
    try:
        for logits, labels in _answers(module, images, mean, std, batch_size):
            classes = logits.shape[1]
            figures += _figures(logits.float(), labels).cpu()
    finally:
        module.train(training)
    right, right5, loss = (figures / max(1, count)).tolist()
    return Evaluation(right, right5 if classes > 5 else None, loss, count)


@torch.inference_mode()
def predict(network: Network, images: Images, batch_size: int | None = None) -> Tensor:
    """Logits of all images: [images, classes], on the CPU."""
    training = network.module.training
    network.module.eval()
    try:
        answers = _answers(network.module, images, network.input.mean, network.input.std, batch_size)
        return torch.cat([logits.float().cpu() for logits, _ in answers])
    finally:
        network.module.train(training)


def _answers(
    module: nn.Module, images: Images, mean: tuple[float, ...], std: tuple[float, ...], batch_size: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels, batch by batch, on the module's device."""
    device = next((tensor.device for tensor in module.parameters()), images.images.device)
    if batch_size is None:  # a CPU is fastest where activations stay small, a GPU where there is much to do at once
        batch_size = 64 if device.type == "cpu" else 512
    for pixels, labels in zip(images.images.split(batch_size), images.labels.split(batch_size), strict=True):
        yield module(normalize(pixels.to(device), mean, std)), labels.to(device)


def _figures(logits: Tensor, labels: Tensor) -> Tensor:
    """Images right, images right among the five most likely, summed cross-entropy: float64 [3]."""
    hits = rank_classes(logits, 5) == labels[:, None]  # [batch, 5]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([hits[:, 0].sum().double(), hits.sum().double(), loss.double()])
