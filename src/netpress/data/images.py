"""Labelled images, one uint8 tensor or a file in its place; and draws in which each class keeps its share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from netpress.data.stored import Pixels, StoredPixels
from netpress.process.devices import generator_for


@dataclass(frozen=True)
class Images:
    """Images of one size with their classes."""

    images: Pixels  # uint8 [count, channels, height, width]
    labels: Tensor  # int64 [count]
    names: tuple[str, ...] = ()
    """Of images that are files: where each lies in the data set's folder. Empty for others, which are numbers."""

    def __len__(self) -> int:
        return self.labels.shape[0]

    def take(self, indices: Tensor) -> "Images":
        """The images at `indices` (int64, CPU): copied, or where they lie in a file, left there."""
        indices = indices.to(self.labels.device)
        names = tuple(self.names[index] for index in indices.tolist()) if self.names else ()
        stored = isinstance(self.images, StoredPixels)
        return Images(self.images.take(indices) if stored else self.images[indices], self.labels[indices], names)

    def to(self, device: torch.device | str) -> "Images":
        """The same images on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Source:
    """A data set as it was published: training images, test images, names of the classes."""

    train: Images
    test: Images
    classes: tuple[str, ...]


@dataclass(frozen=True)
class FileFacts:
    """What the files of a data set were before they became images of one size. Paths are relative to its folder."""

    count: int = 0
    """Files that were looked at: images and others."""
    skipped: Sequence[tuple[str, str]] = ()
    """The path of each that is no image of the data set, and why in a few words."""
    sizes: Sequence[tuple[int, int]] = ()
    """Width and height of each image in pixels, turned as its EXIF says."""
    modes: Mapping[str, int] = field(default_factory=dict)
    """How many images have each of Pillow's modes: RGB, L (grey), P (palette), CMYK, I;16, ..."""


@dataclass(frozen=True)
class Divided:
    """A data set as its reader gives it: divided, the labels being places among `classes`."""

    classes: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    files: FileFacts | None = None
    """None where the images are no files."""
    test_total: int | None = None
    """So many test images there are, where `test` has but some of them."""


def draw_stratified(labels: Tensor, count: int, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Draw `count` images so that every class keeps its share; returns the indices (drawn, left), both ascending.

    Shares that are no whole number are rounded so that the total is exact: the largest
    remainders round up. Equal arguments give equal draws; with other classes beside it, a class has another draw.
    """
    sizes = torch.bincount(labels)  # [classes]
    shares = sizes.double() * count / max(1, len(labels))
    quotas = shares.floor().long()
    missing = count - int(quotas.sum())
    quotas[(shares - quotas).argsort(descending=True, stable=True)[:missing]] += 1
    order = torch.randperm(len(labels), generator=generator_for(seed, "data", purpose))
    order = order[labels[order].argsort(stable=True)]  # class by class, shuffled within each
    starts = sizes.cumsum(0) - sizes
    classes = labels[order]
    rank = torch.arange(len(labels)) - starts[classes]  # place within the class
    drawn = rank < quotas[classes]
    return order[drawn].sort().values, order[~drawn].sort().values
