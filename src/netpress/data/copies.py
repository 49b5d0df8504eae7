"""Images that are there twice: equal in every pixel, within a part of a data set or in two."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from netpress.data.images import Images
from netpress.data.stored import Pixels, StoredPixels

Place = tuple[str, int]
"""The part that an image is in, and its place there."""


@dataclass(frozen=True)
class Copies:
    """Groups of equal images. Places are in the order of the parts, and ascend."""

    groups: Sequence[Sequence[Place]] = ()
    """All of two or more."""
    within: Sequence[Sequence[Place]] = ()
    """Those of one part, of two or more."""
    contradictions: Sequence[Sequence[Place]] = ()
    """One image of each class, of groups that hold several classes."""

    def leaks(self, part: str) -> list[tuple[Place, Place]]:
        """Each image of `part` that an earlier part has too, with the first there: (earlier, in `part`)."""
        return [
            (group[0], place) for group in self.groups for place in group if place[0] == part and group[0][0] != part
        ]


def find_copies(parts: Mapping[str, Images]) -> Copies:
    """The equal images of all parts, whose images are of one size. Training comes first: what a leak is depends on it.

    Images are told apart by a hash of 64 bits, and those of equal hash by their pixels.
    """
    pixels = {name: part.images for name, part in parts.items()}
    labels = {name: part.labels.tolist() for name, part in parts.items()}
    places: dict[int, list[Place]] = {}
    for name, images in pixels.items():
        for index, number in enumerate(_hashes(images)):
            places.setdefault(number, []).append((name, index))
    groups: list[list[Place]] = []
    for alike in places.values():
        if len(alike) > 1:
            groups.extend(_equal(alike, pixels))
    within = [
        own for group in groups for name in parts if len(own := [place for place in group if place[0] == name]) > 1
    ]
    contradictions = []
    for group in groups:
        first = {labels[name][index]: (name, index) for name, index in reversed(group)}
        if len(first) > 1:
            contradictions.append(sorted(first.values(), key=group.index))
    return Copies(groups, within, contradictions)


def _hashes(images: Pixels) -> Iterator[int]:
    """The same number for equal images. Of those in a file it is of their SHA-256, and none is read."""
    if isinstance(images, StoredPixels):
        for digest in images.digests:
            yield int.from_bytes(digest[:8].tobytes(), "little")
    else:
        for image in images.cpu().contiguous().numpy():
            yield int.from_bytes(hashlib.sha256(image).digest()[:8], "little")


def _equal(alike: Sequence[Place], pixels: Mapping[str, Pixels]) -> list[list[Place]]:
    """Places of one hash, in groups of equal pixels; those of one alone left out."""
    groups: list[list[Place]] = []
    for name, index in alike:
        image = pixels[name][index].cpu()
        for group in groups:
            part, first = group[0]
            if torch.equal(pixels[part][first].cpu(), image):
                group.append((name, index))
                break
        else:
            groups.append([(name, index)])
    return [group for group in groups if len(group) > 1]
