"""A data set as a run uses it: training, validation and test images, and facts about them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from netpress.data.cifar import RELEASES, SIDE, read_cifar
from netpress.data.digits import read_digits
from netpress.data.folder import read_files
from netpress.data.images import Images, draw_stratified
from netpress.data.layout import File, Listing, labels_of, list_folder, refuse_single, take, warn_of_absent
from netpress.data.pixels import PixelRules
from netpress.data.record import DataRecord
from netpress.data.settings import DEFAULT_SIZE, DataSettings
from netpress.errors import UserError
from netpress.process.console import Console

_BLOCK = 2**21  # values summed at a time
SMALLEST = 4  # pixels: what a survey reads the digits at


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
    name, select_on = settings.dataset, settings.select_on
    classes, parts = (_read_folder if name == "folder" else _read_published)(settings, folder, seed, console)
    mean, std = channel_statistics(parts[0].images)
    checksum = _checksum(*parts)
    record = DataRecord(settings=settings.model_copy(update={"split_seed": None}), seed=seed, checksum=checksum)
    return Dataset(name, *parts, classes, mean, std, checksum, select_on, record)


Parts = tuple[Images, Images, Images]  # for training, validation, test


def _read_published(
    settings: DataSettings, folder: Path | None, seed: int, console: Console
) -> tuple[tuple[str, ...], Parts]:
    if settings.dataset == "digits":
        source = read_digits(settings.image_size or DEFAULT_SIZE)
    else:
        source = read_cifar(settings.dataset, folder or default_folder(), console)
    train, validation = divide(settings, source.train.labels, seed)
    return source.classes, (source.train.take(train), source.train.take(validation), source.test)


def _read_folder(
    settings: DataSettings, folder: Path | None, seed: int, console: Console
) -> tuple[tuple[str, ...], Parts]:
    """Divides the names of the files, then decodes each image into its place: no pixel is held twice."""
    listing, train, validation = _list(settings, folder, seed, console)
    rules = PixelRules(settings.image_size or DEFAULT_SIZE, settings.max_pixels, settings.background)
    first, second, third = read_files([train, validation, listing.test], listing.folder, rules, console)
    return listing.classes, (first, second, third)


def _list(
    settings: DataSettings, folder: Path | None, seed: int, console: Console
) -> tuple[Listing, list[File], list[File]]:
    """The files of a folder data set, and those of them for training and validation."""
    if folder is None:
        raise UserError('data.dataset: "folder" needs --data FOLDER, the folder with the images')
    listing = list_folder(folder, settings.test_fraction, seed, console)
    refuse_single(listing)
    labels = labels_of(listing.train)
    given = listing.validation
    if given is not None and settings.select_on == "test":
        console.warn(f'{folder}: select_on = "test" leaves the images for validation unused')
        given = []
    chosen, drawn = divide(settings, labels, seed, draws=given is None)
    train, validation = take(listing.train, chosen), take(listing.train, drawn) if given is None else given
    parts = {"validation": labels_of(validation), "test": labels_of(listing.test)}
    if settings.train_images is None:
        parts["training"] = labels[chosen]
    warn_of_absent(listing, parts, console)
    return listing, train, validation


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


@dataclass(frozen=True)
class Survey:
    """What is known of a data set without reading an image."""

    train_images: int
    """So many are trained on."""
    channels: int
    side: int
    """Pixels."""
    count: int
    """Classes."""
    classes: tuple[str, ...] | None
    """Their names; None where they are not known before the data set is read."""


def survey_dataset(settings: DataSettings, folder: Path | None, seed: int) -> Survey:
    """Counts of the data set, divided as `load_dataset` divides it. Raises the same UserErrors, and reads no image."""
    seed = seed if settings.split_seed is None else settings.split_seed
    side = settings.image_size or DEFAULT_SIZE
    if settings.dataset == "folder":
        listing, train, _ = _list(settings, folder, seed, Console(quiet=True))
        return Survey(len(train), 3, side, len(listing.classes), listing.classes)
    if settings.dataset == "digits":
        source = read_digits(SMALLEST)
        chosen, _ = divide(settings, source.train.labels, seed)
        return Survey(len(chosen), 3, side, len(source.classes), source.classes)
    release = RELEASES[settings.dataset]
    chosen, _ = divide(settings, torch.arange(release.train_images) % release.classes, seed)
    return Survey(len(chosen), 3, SIDE, release.classes, None)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images, as fractions of 255.

    The sums are whole numbers below 2^53, exact in float64, so every machine gets the same
    figures. A constant channel gets
    the deviation 1/255 rather than one that cannot be divided by.
    """
    count = images.shape[0] * images.shape[2] * images.shape[3]
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for block in images.split(max(1, _BLOCK // images[0].numel())):
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
