"""How good a network is on a set of images."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netpress.data import Images, normalize
from netpress.errors import Failure
from netpress.evaluation.ranking import probabilities_of, rank_classes
from netpress.network import Network, check_finite

NO_ANSWER = "the network answers NaN: its values grow beyond what its numbers hold"


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
    predicted: Tensor = field(repr=False, compare=False)
    """The most likely class of each image: int64 [images], on the CPU."""
    labels: Tensor = field(repr=False, compare=False)
    """The class that it is of: int64 [images]."""
    probabilities: Tensor = field(repr=False, compare=False)
    """How likely the network takes the most likely class for, 0 to 1: float64 [images], on the CPU."""
    names: tuple[str, ...] = field(default=(), kw_only=True, repr=False, compare=False)
    """Of images that are files, where each lies in the data set's folder; empty for others."""

    def by_class(self, classes: int) -> tuple[Tensor, Tensor]:
        """Images right and images of each of so many classes: int64 [classes] both."""
        return count_by_class(self.predicted, self.labels, classes)


def count_by_class(predicted: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Images right and images of each class, of int64 [images] both: int64 [classes] both."""
    labels = labels.to(predicted.device)
    right = torch.bincount(labels[predicted == labels], minlength=classes)
    return right, torch.bincount(labels, minlength=classes)


def evaluate(
    network: Network,
    images: Images,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    scale: float = 1.0,
) -> Evaluation:
    """Accuracy and loss of `network` on `images`, normalised as the network says.

    `device` moves the network there first; None leaves it where it is. `batch_size` is chosen for speed by default.
    `scale` multiplies the logits before the softmax that gives the probabilities; the loss is that of the logits.
    Raises Failure for weights or answers that are not numbers.
    """
    place(network, device)
    measured = evaluate_module(network.module, images, network.input.mean, network.input.std, batch_size, scale)
    check_answers(measured)
    return measured


def place(network: Network, device: torch.device | str | None) -> None:
    """Move the network to `device`, unless that is None. Raises Failure for weights that are not numbers."""
    check_finite(network)
    if device is not None:
        network.module.to(device)


def check_answers(measured: Evaluation) -> None:
    """Raise Failure where a network's answers are NaN: no class is most likely then, and any accuracy a fiction."""
    if math.isnan(measured.loss):
        raise Failure(NO_ANSWER)


@torch.inference_mode()
def evaluate_module(
    module: nn.Module,
    images: Images,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int | None = None,
    scale: float = 1.0,
) -> Evaluation:
    """Accuracy and loss of any module that maps [batch, channels, height, width] to logits [batch, classes]."""
    count = len(images.labels)
    figures = torch.zeros(3, dtype=torch.float64)
    classes = 0
    predicted, probabilities = [], []
    with evaluation_mode(module):
        for pixels, labels in _batches(images, mean, std, _device_of(module, images), batch_size):
            logits = module(pixels)
            classes = logits.shape[1]
            best, sure, batch = _figures(logits.float(), labels, scale)
            figures += batch.cpu()
            predicted.append(best)
            probabilities.append(sure)
    right, right5, loss = (figures / max(1, count)).tolist()
    top5 = right5 if classes > 5 else None
    answers, sure = torch.cat(predicted).cpu(), torch.cat(probabilities).cpu()
    return Evaluation(right, top5, loss, count, answers, images.labels, sure, names=images.names)


def predict(network: Network, images: Images, batch_size: int | None = None) -> Tensor:
    """Logits of all images: [images, classes], on the CPU."""
    return collect_answers(network.module, network, images, batch_size)


@torch.inference_mode()
def collect_answers(
    answer: Callable[[Tensor], Tensor], network: Network, images: Images, batch_size: int | None = None
) -> Tensor:
    """What `answer` says of all images, as logits [images, classes] on the CPU.

    answer: the network's module or what stands for it, from normalised [batch, channels, height, width] to logits.
    """
    with evaluation_mode(network.module):
        device = _device_of(network.module, images)
        batches = _batches(images, network.input.mean, network.input.std, device, batch_size)
        return torch.cat([answer(pixels).float().cpu() for pixels, _ in batches])


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Within, the module is in evaluation mode; after, in the mode in which it was."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _device_of(module: nn.Module, images: Images) -> torch.device:
    return next((tensor.device for tensor in module.parameters()), images.images.device)


def _batches(
    images: Images, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, batch_size: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images and their labels, batch by batch, on the device."""
    if batch_size is None:  # a CPU is fastest where activations stay small, a GPU where there is much to do at once
        batch_size = 64 if device.type == "cpu" else 512
    for pixels, labels in zip(images.images.split(batch_size), images.labels.split(batch_size), strict=True):
        yield normalize(pixels.to(device), mean, std), labels.to(device)


def _figures(logits: Tensor, labels: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """The most likely classes, int64 [batch], and their probabilities, float64 [batch]; and of the batch, as float64
    [3], how many images are right and how many right among the five most likely, and the summed cross-entropy.
    """
    ranks = rank_classes(logits, 5)
    hits = ranks == labels[:, None]  # [batch, 5]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    sure = probabilities_of(logits, scale).gather(1, ranks[:, :1])[:, 0]
    return ranks[:, 0], sure, torch.stack([hits[:, 0].sum().double(), hits.sum().double(), loss.double()])
