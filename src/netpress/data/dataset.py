"""A data set as a run uses it: training, validation and test images, and facts about them."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from netpress.data.images import FileFacts, Images
from netpress.data.record import DataRecord
from netpress.data.settings import DATASETS, DatasetReader, DataSettings, Survey
from netpress.data.store import ImageCache
from netpress.data.stored import CHECKSUMS, Notes, Pixels, StoredPixels, byte_blocks, digests_of
from netpress.errors import UserError
from netpress.process.console import Console

_BLOCK = 2**21  # values summed at a time


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
    files: FileFacts | None = None
    """Of a folder: what its files were."""
    test_total: int | None = None
    """So many test images there are, where `test` has but some of them."""

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def side(self) -> int:
        """Pixels."""
        return self.train.images.shape[2]

    @property
    def count(self) -> int:
        """Classes."""
        return len(self.classes)

    @property
    def tested(self) -> str:
        """What the test images are, in words for figures."""
        if self.test_total is None:
            return "the test images"
        return f"{len(self.test):,} of the {self.test_total:,} test images (data.test_images)"

    @property
    def selection(self) -> Images:
        """What selections look at: the validation images, or the test images where the recipe says so."""
        return self.test if self.select_on == "test" else self.validation


def load_dataset(
    settings: DataSettings, folder: Path | None, seed: int, console: Console, cache: ImageCache | None = None
) -> Dataset:
    """Read the data set that `settings` names and divide it by `seed`, or by `settings.split_seed` where it is given.

    folder: where data lies (--data); for CIFAR the folder holding `cifar-100-python` or
    that folder itself, and the place to download to when it is absent. The validation
    images are drawn first and do not depend on `train_images`, so trials with different
    numbers of images are compared on the same ones. `cache` keeps decoded images where they are more than memory is to
    hold, by default below the user's cache folder. Raises UserError for a folder or
    settings that do not fit, Failure for damaged data.
    """
    seed = seed if settings.split_seed is None else settings.split_seed
    name, select_on = settings.dataset, settings.select_on
    reader = _reader_of(settings, folder)
    asked = settings, folder, seed, console
    divided = reader.read(*asked) if reader.read_through is None else reader.read_through(*asked, cache or ImageCache())
    parts = divided.train, divided.validation, divided.test
    mean, std = channel_statistics(parts[0].images)
    if divided.test_total is not None:
        console.say(f"{name}: tested on {len(divided.test):,} of the {divided.test_total:,} test images")
    checksum = checksum_of(*parts)
    record = DataRecord(settings=settings.model_copy(update={"split_seed": None}), seed=seed, checksum=checksum)
    return Dataset(
        name, *parts, divided.classes, mean, std, checksum, select_on, record, divided.files, divided.test_total
    )


def survey_dataset(settings: DataSettings, folder: Path | None, seed: int) -> Survey:
    """Counts of the data set, divided as `load_dataset` divides it. Raises the same UserErrors, and reads no image."""
    seed = seed if settings.split_seed is None else settings.split_seed
    return _reader_of(settings, folder).survey(settings, folder, seed)


def _reader_of(settings: DataSettings, folder: Path | None) -> DatasetReader:
    reader = DATASETS[settings.dataset]
    if reader.embedded and folder is not None:
        raise UserError(
            f"--data {folder}: {settings.dataset} come with netpress and are read from no folder; leave out --data, or "
            "name another data set: data.dataset in a recipe, --dataset for a network"
        )
    return reader


def channel_statistics(images: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images, as fractions of 255.

    The sums are whole numbers below 2^53, exact in float64, so every machine gets the same
    figures. A constant channel gets
    the deviation 1/255 rather than one that cannot be divided by.
    """
    count = images.shape[0] * images.shape[2] * images.shape[3]
    total, squares = images.sum_up() if isinstance(images, StoredPixels) else _sum_up(images)
    means = [int(value) / count for value in total]
    spreads = [max(1.0, (int(value) / count - mean**2) ** 0.5) for value, mean in zip(squares, means, strict=True)]
    return tuple(round(mean / 255, 4) for mean in means), tuple(round(spread / 255, 4) for spread in spreads)


def _sum_up(images: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of the values of each channel, and those of their squares: float64 [channels]."""
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for block in images.split(max(1, _BLOCK // images[0].numel())):
        values = block.transpose(0, 1).flatten(1).double()  # [channels, pixels]
        total += values.sum(1)
        squares += values.square_().sum(1)
    return total, squares


def checksum_of(*parts: Images) -> str:
    """SHA-256 over the pixels and labels of sets of images on the CPU.

    That of images in a file is noted beside it: it takes a pass over them all.
    """
    stored = [part.images for part in parts if isinstance(part.images, StoredPixels)]
    notes = Notes(stored[0].file.path.with_suffix(CHECKSUMS)) if len(stored) == len(parts) else None
    if notes is None:
        return _digest(parts, byte_blocks)
    identity = _digest(parts, digests_of)
    checksum = notes.read(identity)
    if checksum is None:
        checksum = _digest(parts, byte_blocks)
        notes.write(identity, checksum)
    return checksum


def _digest(parts: Sequence[Images], bytes_of: Callable[[Pixels], Iterable[memoryview]]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(tuple(part.images.shape)).encode())
        for block in bytes_of(part.images):
            digest.update(block)
        digest.update(part.labels.contiguous().numpy().data)
    return digest.hexdigest()
