"""Which images of a data set train, which are set apart for validation, and which test."""

from torch import Tensor

from netpress.data.images import Divided, Source, draw_stratified
from netpress.data.settings import DataSettings


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


def divide_source(source: Source, settings: DataSettings, seed: int) -> Divided:
    """A published data set: its training images divided, its test as it is."""
    train, validation = divide(settings, source.train.labels, seed)
    return Divided(source.classes, source.train.take(train), source.train.take(validation), source.test)
