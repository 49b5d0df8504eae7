"""Which images of a data set train, which are set apart for validation, and which test."""

import torch
from torch import Tensor

from netpress.data.images import Divided, Source, draw_stratified
from netpress.data.settings import DataSettings
from netpress.errors import UserError


def divide(settings: DataSettings, labels: Tensor, seed: int, draws: bool = True) -> tuple[Tensor, Tensor]:
    """Which of the training images, whose classes are `labels`, train and which validate: two int64 index tensors.

    draws: False where validation images lie apart, so that none is drawn. Raises UserError where too few are left.
    """
    _, held = settings.divide(len(labels), draws)
    validation, rest = draw_stratified(labels, held, seed, "validation")
    if settings.train_images is not None:
        drawn, _ = draw_stratified(labels[rest], settings.train_images, seed, "train")
        rest = rest[drawn]
    return rest, validation


def divide_test(settings: DataSettings, labels: Tensor, seed: int) -> Tensor:
    """Which of the test images, whose classes are `labels`, are used: an int64 index tensor. Raises UserError."""
    count = settings.test_images
    if count is None:
        return torch.arange(len(labels))
    if count > len(labels):
        raise UserError(f"data.test_images: {count:,} is more than the {len(labels):,} images there are for the test")
    return draw_stratified(labels, count, seed, "test images")[0]


def divide_source(source: Source, settings: DataSettings, seed: int) -> Divided:
    """A published data set: its training images divided, its test as it is."""
    train, validation = divide(settings, source.train.labels, seed)
    test, total = source.test, None
    if settings.test_images is not None:
        test, total = test.take(divide_test(settings, test.labels, seed)), len(test)
    return Divided(source.classes, source.train.take(train), source.train.take(validation), test, test_total=total)
