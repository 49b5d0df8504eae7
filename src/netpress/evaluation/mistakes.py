"""What a network takes for what: all answers counted, the pairs confused most, and the surest mistakes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from netpress.evaluation.accuracy import Evaluation


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another; classes by their number."""

    label: int
    predicted: int
    images: int
    of: int
    """Images of the true class."""


@dataclass(frozen=True)
class Mistake:
    """An image whose answer is wrong; classes by their number."""

    image: str | int
    """Where it lies in the data set's folder; of images that are no files, their number among the test images."""
    label: int
    predicted: int
    probability: float
    """Of the class predicted."""


def confusion_matrix(measured: Evaluation, classes: int) -> Tensor:
    """How many images of each class (rows) were taken for each (columns): int64 [classes, classes]."""
    pairs = measured.labels.cpu() * classes + measured.predicted.cpu()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def most_confused(matrix: Tensor, most: int) -> list[Confusion]:
    """The `most` pairs of different classes with most images, of equal ones the first; pairs without any left out.

    matrix: as `confusion_matrix` gives it.
    """
    wrong = matrix.clone().fill_diagonal_(0).flatten()
    order = wrong.argsort(descending=True, stable=True)[:most]
    classes, of = len(matrix), matrix.sum(1).tolist()
    rows = [
        (index // classes, index % classes, count)
        for index, count in zip(order.tolist(), wrong[order].tolist(), strict=True)
    ]
    return [Confusion(label, predicted, count, of[label]) for label, predicted, count in rows if count]


def surest_mistakes(measured: Evaluation, most: int) -> list[Mistake]:
    """The `most` wrong answers that the network gave the highest probability, the surest first; of equal the first."""
    labels = measured.labels.cpu()
    wrong = (measured.predicted != labels).nonzero()[:, 0]
    order = wrong[measured.probabilities[wrong].argsort(descending=True, stable=True)][:most]
    values = (column[order].tolist() for column in (labels, measured.predicted, measured.probabilities))
    names = measured.names or range(measured.count)
    return [Mistake(names[index], *row) for index, row in zip(order.tolist(), zip(*values, strict=True), strict=True)]
