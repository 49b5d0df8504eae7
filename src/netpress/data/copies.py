"""Images that are there twice: equal in every pixel, within a part of a data set or in two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netpress.data.images import Images

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
    pixels = {name: part.images.cpu().contiguous().numpy() for name, part in parts.items()}
    labels = {name: part.labels.tolist() for name, part in parts.items()}
    places: dict[int, list[Place]] = {}
    for name, images in pixels.items():
        for index, image in enumerate(images):
            places.setdefault(hash(image.tobytes()), []).append((name, index))
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


def _equal(alike: Sequence[Place], pixels: Mapping[str, np.ndarray]) -> list[list[Place]]:
    """Places of one hash, in groups of equal pixels; those of one alone left out."""
    groups: list[list[Place]] = []
    for name, index in alike:
        image = pixels[name][index]
        for group in groups:
            part, first = group[0]
            if np.array_equal(pixels[part][first], image):
                group.append((name, index))
                break
        else:
            groups.append([(name, index)])
    return [group for group in groups if len(group) > 1]
