"""What a look at a data set finds: how many images of each class, copies, leaks, and what is unlike the rest.

    findings = inspect(load_dataset(settings, folder, seed, console))
    findings.warnings        sentences: what is wrong, and what to do
    findings.as_json()       what a run keeps as data.json

Two images are copies where all their pixels are equal, as the network gets them: decoded and resized. Photographs that
were saved twice with other losses are none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from netpress.data.copies import Copies, Place, find_copies
from netpress.data.dataset import Dataset
from netpress.data.images import FileFacts, Images
from netpress.errors import some_of
from netpress.process.console import Console

PARTS = ("train", "validation", "test")
EXAMPLES = 20
"""So many files or pairs are kept of each finding."""
FEW = 10
"""Images of a class: with fewer to train on it is said to have too few."""
UNEVEN = 3.0
"""Classes are said to be uneven where the largest has so many times the images of the smallest."""
SMALL_SHARE = 0.1
"""It is said that images are enlarged where they are at least that share of all."""
MODES = {"L": "grey", "1": "black and white", "P": "palette", "CMYK": "CMYK", "RGBA": "transparent", "LA": "grey"}
"""Pillow's modes in words; all others are shown as they are."""


@dataclass(frozen=True)
class Findings:
    """What was found. Images of files are named by their path in the data set's folder, others as train[17]."""

    dataset: str
    classes: tuple[str, ...]
    counts: Mapping[str, Sequence[int]]
    """Of each part the images of each class."""
    image_size: tuple[int, int, int]
    """Channels, height and width of what the network gets."""
    files: FileFacts | None
    sizes: Mapping[str, tuple[int, int]] | None
    """Width and height of the smallest, the median and the largest file, by area. None where images are no files."""
    copies: Copies
    names: Mapping[str, Sequence[str]] = field(repr=False)
    warnings: Sequence[str] = ()

    def line(self) -> str:
        """The counts in one line."""
        train, validation, test = (sum(self.counts[part]) for part in PARTS)
        least, most = min(self.counts["train"]), max(self.counts["train"])
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        apart = f", {validation:,} for validation" if validation else ""
        skipped = f", {len(self.files.skipped):,} files left out" if self.files and self.files.skipped else ""
        return (
            f"data: {len(self.classes):,} classes; {train:,} images to train on ({each} a class){apart}, "
            f"{test:,} for the test{skipped}"
        )

    def tell(self, console: Console) -> None:
        """Say the counts, and warn of what is wrong."""
        console.say(self.line())
        for warning in self.warnings:
            console.warn(warning)

    def as_json(self) -> dict[str, Any]:
        """Plain values, as data.json has them (docs/data.md)."""
        files = self.files or FileFacts()
        return {
            "dataset": self.dataset,
            "classes": list(self.classes),
            "counts": {part: list(counts) for part, counts in self.counts.items()},
            "image_size": list(self.image_size),
            "files": self.files.count if self.files is not None else None,
            "skipped": {
                "count": len(files.skipped),
                "examples": [{"path": path, "reason": reason} for path, reason in files.skipped[:EXAMPLES]],
            },
            "sizes": {key: list(size) for key, size in self.sizes.items()} if self.sizes is not None else None,
            "modes": dict(sorted(files.modes.items(), key=lambda entry: -entry[1])),
            "duplicates": {
                "groups": len(self.copies.within),
                "images": sum(len(group) for group in self.copies.within),
                "examples": self._named(self.copies.within),
            },
            "across_parts": {
                "pairs": len(self.copies.leaks("test")),
                "examples": self._named(self.copies.leaks("test")),
                "validation_pairs": len(self.copies.leaks("validation")),
            },
            "two_classes": {
                "groups": len(self.copies.contradictions),
                "examples": self._named(self.copies.contradictions),
            },
            "warnings": list(self.warnings),
        }

    def _named(self, groups: Sequence[Sequence[Place]]) -> list[list[str]]:
        """The first two of each of the first groups, by name."""
        return [[self.name(place) for place in group[:2]] for group in groups[:EXAMPLES]]

    def name(self, place: Place) -> str:
        """What an image is called."""
        part, index = place
        names = self.names[part]
        return names[index] if names else f"{part}[{index}]"


def inspect(dataset: Dataset) -> Findings:
    """Look at every image of `dataset`: 60,000 of 32 x 32 pixels take a second. Raises nothing."""
    parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    files = dataset.files
    findings = Findings(
        dataset=dataset.name,
        classes=dataset.classes,
        counts={part: _counts(images, dataset.count) for part, images in parts.items()},
        image_size=(dataset.channels, dataset.side, dataset.side),
        files=files,
        sizes=_sizes(files.sizes) if files is not None and files.sizes else None,
        copies=find_copies(parts),
        names={part: images.names for part, images in parts.items()},
    )
    said = [*_say_counts(findings), *_say_copies(findings), *_say_files(findings)]
    return Findings(**{**findings.__dict__, "warnings": said})


def _counts(images: Images, classes: int) -> list[int]:
    counts: list[int] = torch.bincount(images.labels.cpu(), minlength=classes).tolist()
    return counts


def _sizes(sizes: Sequence[tuple[int, int]]) -> dict[str, tuple[int, int]]:
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return {"smallest": ordered[0], "median": ordered[len(ordered) // 2], "largest": ordered[-1]}


def _say_counts(found: Findings) -> Iterator[str]:
    train = found.counts["train"]
    named = list(zip(found.classes, train, strict=True))
    if few := [f"{name} ({count})" for name, count in named if count < FEW]:
        yield f"fewer than {FEW} images to train on: {some_of(few)}; add some, or leave the class out"
    (least, low), (most, high) = min(named, key=lambda entry: entry[1]), max(named, key=lambda entry: entry[1])
    if high >= UNEVEN * max(low, 1):
        yield (
            f"uneven classes: {high:,} images of {most} to train on, {low:,} of {least}, {high / max(low, 1):.0f} "
            "times as many; look at the accuracy of each class, and add images of the rare ones"
        )
    for part in ("validation", "test"):
        counts = found.counts[part]
        absent = [name for name, count in zip(found.classes, counts, strict=True) if not count]
        if absent and any(counts):
            yield f"no image for {part}: {some_of(absent)}; nobody will see how well these are told apart"


def _say_copies(found: Findings) -> Iterator[str]:
    copies = found.copies
    leaks, tested = copies.leaks("test"), sum(found.counts["test"])
    more = sum(len(group) - 1 for group in copies.within)
    if found.files is None:
        if copies.groups:
            yield (
                f"{found.dataset}: {len(leaks):,} of the {tested:,} test images are there to learn from too, {more:,} "
                f"images are copies of others in their part, {len(copies.contradictions):,} pictures stand in two "
                "classes; they are kept, as in published figures"
            )
        return
    if leaks:
        original, copy = map(found.name, leaks[0])
        yield (
            f"{len(leaks):,} of the {tested:,} test images are there to learn from too ({copy} is {original}), so that "
            "the accuracy will be told too high; remove them from one of the two"
        )
    if more:
        first, second = map(found.name, copies.within[0][:2])
        yield f"{more:,} images are copies of others in their part ({second} of {first}); remove them"
    if copies.contradictions:
        first, second = map(found.name, copies.contradictions[0][:2])
        yield (
            f"{len(copies.contradictions):,} pictures stand in two classes ({first} and {second}), and a network can "
            "be right on but one of the two; remove the wrong one"
        )


def _say_files(found: Findings) -> Iterator[str]:
    if found.files is None or found.sizes is None:
        return
    sizes, side = found.files.sizes, found.image_size[1]
    small = sum(1 for width, height in sizes if min(width, height) < side)
    if small >= SMALL_SHARE * len(sizes):
        width, height = found.sizes["median"]
        yield (
            f"{small:,} of {len(sizes):,} images are smaller than the network's {side} pixels and are enlarged "
            f"(the median is {width} x {height}); a smaller data.image_size costs less"
        )
    others = {mode: count for mode, count in found.files.modes.items() if mode != "RGB"}
    if others and len(found.files.modes) > 1:
        told = [f"{count:,} {MODES.get(mode, '16 bits' if '16' in mode else mode)}" for mode, count in others.items()]
        yield f"not all images are RGB, and are converted: {some_of(told)}"
