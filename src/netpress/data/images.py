"""Labelled images as one uint8 tensor, and draws in which each class keeps its share."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from netpress.process.devices import generator_for


@dataclass(frozen=True)
class Images:
    """Images of one size with their classes."""

    images: Tensor  # uint8 [count, channels, height, width]
    labels: Tensor  # int64 [count]
    names: tuple[str, ...] = ()
    """Of images that are files: where each lies in the data set's folder. Empty for others, which are numbers."""

    def __len__(self) -> int:
        return self.labels.shape[0]

    def take(self, indices: Tensor) -> "Images":
        """The images at `indices` (int64, CPU), copied."""
        indices = indices.to(self.labels.device)
        names = tuple(self.names[index] for index in indices.tolist()) if self.names else ()
        return Images(self.images[indices], self.labels[indices], names)

    def to(self, device: torch.device | str) -> "Images":
        """The same images on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Source:
    """A data set as it was published: training images, test images, names of the classes."""

    train: Images
    test: Images
    classes: tuple[str, ...]


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
