"""A data set as a run uses it: training, validation and test images, and facts about them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from netpress.console import Console
from netpress.data.cifar import read_cifar
from netpress.data.digits import read_digits
from netpress.data.folder import read_folder
from netpress.data.images import Images, Source, draw_stratified
from netpress.data.record import DataRecord
from netpress.data.settings import DEFAULT_SIZE, DataSettings
from netpress.errors import UserError

_BLOCK = 512  # images summed at a time


@dataclass(frozen=True)
class Dataset:
    """Everything a run knows of its images.

    mean, std: of each channel over the training images, as fractions of 255, rounded to
    4 digits (what papers print, so that equal figures mean equal inputs).
    checksum: SHA-256 over the pixels and labels of the three sets.
    """

    name: str
    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checksum: str
    select_on: str = "validation"
    record: DataRecord | None = None
    """What reads this data set again; None for one that was not read by `load_dataset`."""

    @property
    def selection(self) -> Images:
        """What selections look at: the validation images, or the test images where the recipe says so."""
        return self.test if self.select_on == "test" else self.validation


def default_folder() -> Path:
    """Where data sets are kept when no --data is given: ~/.cache/netpress, or below $XDG_CACHE_HOME."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "netpress"


def load_dataset(settings: DataSettings, folder: Path | None, seed: int, console: Console) -> Dataset:
    """Read the data set that `settings` names and divide it by `seed`, or by `settings.split_seed` where it is given.

    folder: where data lies (--data); for CIFAR the folder holding `cifar-100-python` or
    that folder itself, and the place to download to when it is absent. The validation
    images are drawn first and do not depend on `train_images`, so trials with different
    numbers of images are compared on the same ones. Raises UserError for a folder or
    settings that do not fit, Failure for damaged data.
    """
    seed = seed if settings.split_seed is None else settings.split_seed
    source = _read(settings, folder, seed, console)
    train, labels = source.train, source.train.labels
    select_test = settings.select_on == "test"
    held = 0 if select_test else max(1, round(len(labels) * settings.validation))
    validation, rest = draw_stratified(labels, held, seed, "validation")
    if settings.train_images is not None:
        if settings.train_images > len(rest):
            raise UserError(
                f"data.train_images: {settings.train_images:,} is more than the {len(rest):,} images there are "
                f"({len(labels):,} less {held:,} for validation)"
            )
        drawn, _ = draw_stratified(labels[rest], settings.train_images, seed, "train")
        rest = rest[drawn]
    if not len(rest):
        raise UserError(f"data.validation: {settings.validation} leaves no image to train on, of {len(labels):,}")
    parts = train.take(rest), train.take(validation), source.test
    mean, std = channel_statistics(parts[0].images)
    checksum = _checksum(*parts)
    record = DataRecord(settings=settings.model_copy(update={"split_seed": None}), seed=seed, checksum=checksum)
    return Dataset(settings.dataset, *parts, source.classes, mean, std, checksum, settings.select_on, record)


def _read(settings: DataSettings, folder: Path | None, seed: int, console: Console) -> Source:
    size = settings.image_size or DEFAULT_SIZE
    if settings.dataset == "digits":
        return read_digits(size)
    if settings.dataset == "folder":
        if folder is None:
            raise UserError('data.dataset: "folder" needs --data FOLDER, the folder with the images')
        return read_folder(folder, size, settings.test_fraction, seed, console)
    return read_cifar(settings.dataset, folder or default_folder(), console)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images, as fractions of 255.

    The sums are whole numbers below 2^53, exact in float64, so every machine gets the same
    figures. A constant channel gets
    the deviation 1/255 rather than one that cannot be divided by.
    """
    count = images.shape[0] * images.shape[2] * images.shape[3]
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for block in images.split(_BLOCK):
        values = block.transpose(0, 1).flatten(1).double()  # [channels, pixels]
        total += values.sum(1)
        squares += values.square_().sum(1)
    means = [int(value) / count for value in total]
    spreads = [max(1.0, (int(value) / count - mean**2) ** 0.5) for value, mean in zip(squares, means, strict=True)]
    return tuple(round(mean / 255, 4) for mean in means), tuple(round(spread / 255, 4) for spread in spreads)


def _checksum(*parts: Images) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(tuple(part.images.shape)).encode())
        digest.update(part.images.contiguous().numpy().data)
        digest.update(part.labels.contiguous().numpy().data)
    return digest.hexdigest()
