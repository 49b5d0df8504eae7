"""What a look at a data set finds: how many images of each class, copies, leaks, and what is unlike the rest.

    findings = inspect(load_dataset(settings, folder, seed, console))
    findings.warnings        sentences: what is wrong, and what to do
    findings.as_json()       what a run keeps as data.json

Two images are copies where all their pixels are equal, as the network gets them: decoded and resized. Photographs that
were saved twice with other losses are none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
"""It is said that images are enlarged, or have other proportions, where they are at least that share of all."""
LONG, OBLONG = 1.5, 1.2
"""Times that an image is as long as it is short: it is said where half are LONG, or some are OBLONG either way."""
MODES = {
    "L": "grey",
    "1": "black and white",
    "P": "palette",
    "CMYK": "CMYK",
    "RGBA": "transparent",
    "LA": "transparent grey",
    "I;16": "grey of 16 bits",
}
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
    test_total: int | None
    """So many test images there are, where not all are used."""
    copies: Copies
    resize: str
    """How images become square: see the setting `resize`."""
    names: Mapping[str, Sequence[str]] = field(repr=False)
    warnings: Sequence[str] = ()
    """What is wrong, and what to do."""
    known: Sequence[str] = ()
    """What is wrong too, and was said while the images were read."""

    def line(self) -> str:
        """The counts in one line."""
        train, validation, test = (sum(self.counts[part]) for part in PARTS)
        least, most = min(self.counts["train"]), max(self.counts["train"])
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        apart = f", {validation:,} for validation" if validation else ""
        skipped = f", {_count(len(self.files.skipped), 'file')} left out" if self.files and self.files.skipped else ""
        return (
            f"data: {len(self.classes):,} classes; {train:,} images to train on ({each} a class){apart}, "
            f"{test:,}{f' of {self.test_total:,}' if self.test_total is not None else ''} for the test{skipped}"
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
            "test_images_of": self.test_total,
            "warnings": [*self.warnings, *self.known],
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
        test_total=dataset.test_total,
        copies=find_copies(parts),
        resize=dataset.record.settings.resize if dataset.record is not None else "squash",
        names={part: images.names for part, images in parts.items()},
    )
    said = [*_say_counts(findings), *_say_copies(findings), *_say_files(findings)]
    absent = list(_say_absent(findings))
    return replace(findings, warnings=said, known=absent) if files else replace(findings, warnings=[*said, *absent])


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
            "times as many; let a training pass over "
            'all equally often (sampling = "balanced"), and look at the accuracy of each class'
        )


def _say_absent(found: Findings) -> Iterator[str]:
    for part in ("validation", "test"):
        counts = found.counts[part]
        absent = [name for name, count in zip(found.classes, counts, strict=True) if not count]
        if absent and any(counts):
            yield f"no {part} image of {some_of(absent)}: nobody will see how well these are told apart"


def _say_copies(found: Findings) -> Iterator[str]:
    copies = found.copies
    leaks, tested = copies.leaks("test"), sum(found.counts["test"])
    more = sum(len(group) - 1 for group in copies.within)
    if found.files is None:
        counts = (
            (len(leaks), f"of the {tested:,} test images are there to learn from too"),
            (more, "images are copies of others in their part"),
            (len(copies.contradictions), "pictures stand in two classes"),
        )
        said = ", ".join(f"{count:,} {what}" for count, what in counts if count)
        if said:
            yield f"{found.dataset}: {said}; they are kept, as in published figures"
        return
    if leaks:
        original, copy = map(found.name, leaks[0])
        yield (
            f"to learn from and for the test at once: {len(leaks):,} of the {_count(tested, 'test image')} ({copy} is "
            f"{original}), so that the accuracy will be told too high; remove them from one of the two"
        )
    if more:
        first, second = map(found.name, copies.within[0][:2])
        yield (f"there twice in one part: {_count(more, 'image')} ({second} is {first}); remove the copies")
    if copies.contradictions:
        first, second = map(found.name, copies.contradictions[0][:2])
        yield (
            f"in two classes at once: {_count(len(copies.contradictions), 'picture')} ({first} and {second}), where a "
            "network can be right on but one; remove the wrong one"
        )


def _say_files(found: Findings) -> Iterator[str]:
    if found.files is None or found.sizes is None:
        return
    sizes, side = found.files.sizes, found.image_size[1]
    small = sum(1 for width, height in sizes if max(width, height) < side)
    if small >= SMALL_SHARE * len(sizes):
        width, height = found.sizes["median"]
        yield (
            f"{small:,} of {_count(len(sizes), 'image')} are smaller than the network's {side} pixels and are enlarged "
            f"(the median is {width} x {height}); a smaller data.image_size costs less"
        )
    if found.resize == "squash" and (told := _say_proportions(sizes)):
        yield f'{told}: data.resize = "squash" distorts them; "crop" and "pad" keep proportions'
    modes = found.files.modes
    others = [f"{count:,} {MODES.get(mode, mode)}" for mode, count in modes.items() if mode != "RGB"]
    if others and len(modes) > 1:
        yield f"not all images are RGB, and the others are converted: {some_of(others)}"


def _say_proportions(sizes: Sequence[tuple[int, int]]) -> str | None:
    """What is to be known of images that are far from square, or lie and stand; None where there is nothing."""
    ratios = sorted(max(size) / min(size) for size in sizes)
    median = ratios[len(ratios) // 2]
    lying = sum(1 for width, height in sizes if width >= OBLONG * height)
    standing = sum(1 for width, height in sizes if height >= OBLONG * width)
    if min(lying, standing) >= SMALL_SHARE * len(sizes):
        return f"{lying:,} images are wider than high, {standing:,} higher than wide"
    if median >= LONG:
        return f"half of the images are at least {median:.2g} times as long as they are short"
    return None


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
