"""A data set of one's own: a folder for each class, of PNG, JPEG or WebP images of any size."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import torch

from netpress.data.division import divide, divide_test
from netpress.data.images import Divided, FileFacts, Images
from netpress.data.layout import File, Listing, labels_of, list_folder, refuse_single, take, warn_of_absent
from netpress.data.pixels import PictureFacts, PixelRules, read_images
from netpress.data.settings import DATASETS, DEFAULT_SIZE, DatasetReader, DataSettings, Survey
from netpress.data.store import ImageCache, PixelStore
from netpress.data.stored import StoredPixels
from netpress.errors import Failure, UserError, some_of
from netpress.process.console import Console

FEW_UNREADABLE = 3
UNREADABLE_SHARE = 0.1
"""So many images that cannot be read are left out: a few, or that share of all. More mean that something is wrong."""


def read_folder(folder: Path, image_size: int, test_fraction: float | None, seed: int, console: Console) -> Divided:
    """All images of a folder, for training and for the test, with no settings but these; none set apart to select on.

    A run reads it as `load_dataset` does, by the settings of its [data] table.
    """
    settings = DataSettings(
        dataset="folder", image_size=image_size, test_fraction=test_fraction, validation=0.0, select_on="test"
    )
    return _read(settings, folder, seed, console)


def read_files(
    lists: Sequence[Sequence[File]], folder: Path, rules: PixelRules, console: Console, cache: ImageCache
) -> tuple[list[Images], FileFacts]:
    """The images of each list, and what the files were. Those of more bytes than memory is to hold lie in the cache.

    Those that cannot be read are left out, and the console is told which and why. Raises Failure, which names them
    too, where they are more than FEW_UNREADABLE and more than UNREADABLE_SHARE.
    """
    paths = [path for files in lists for path, _ in files]
    names = [path.relative_to(folder).as_posix() for path in paths]
    if len(paths) * rules.channels * rules.size**2 > cache.least:
        stored, said = PixelStore(cache, folder, rules).fill(paths, names, console)
        ends = list(accumulate(map(len, lists), initial=0))
        pixels = [stored.take(torch.arange(start, end)) for start, end in pairwise(ends)]
        parts = [
            Images(kept, labels_of(files), tuple(names[start : start + len(files)]))
            for kept, files, start in zip(pixels, lists, ends[:-1], strict=True)
        ]
    else:
        parts, said = _decode(lists, folder, rules, console)
    unread = [(name, facts) for name, facts in zip(names, said, strict=True) if isinstance(facts, str)]
    _tell_unreadable(unread, len(paths), folder, console)
    read = {name: facts for name, facts in zip(names, said, strict=True) if not isinstance(facts, str)}
    if animated := [name for name, facts in read.items() if facts.several]:
        console.warn(f"{folder}: of {some_of(animated)}, which hold several pictures, the first was taken")
    kept = [_without(part, {name for name, _ in unread}) for part in parts]
    sizes = [facts.size for facts in read.values()]
    return kept, FileFacts(len(paths), unread, sizes, Counter(facts.mode for facts in read.values()))


def _decode(
    lists: Sequence[Sequence[File]], folder: Path, rules: PixelRules, console: Console
) -> tuple[list[Images], list[PictureFacts | str]]:
    """The images of each list in memory, each decoded into its place: nothing is held twice; and what each file was."""
    pixels = [torch.empty((len(files), 3, rules.size, rules.size), dtype=torch.uint8) for files in lists]
    parts = [
        Images(part, labels_of(files), tuple(path.relative_to(folder).as_posix() for path, _ in files))
        for part, files in zip(pixels, lists, strict=True)
    ]
    paths = [path for files in lists for path, _ in files]
    targets = [target for part in pixels for target in part.numpy()]
    said: list[PictureFacts | str] = []
    with console.progress("read images", len(paths)) as bar:
        for facts in read_images(paths, targets, rules):
            said.append(facts)
            bar.update(len(said))
    return parts, said


def _tell_unreadable(unread: Sequence[tuple[str, str]], count: int, folder: Path, console: Console) -> None:
    if not unread:
        return
    which = some_of(sorted(f"{name} ({reason})" for name, reason in unread))
    if len(unread) > max(FEW_UNREADABLE, UNREADABLE_SHARE * count):
        raise Failure(f"{folder}: {len(unread):,} of {count:,} images cannot be read: {which}; replace or remove them")
    console.warn(f"{folder}: {len(unread):,} of {count:,} images cannot be read and were left out: {which}")


def _without(part: Images, names: Collection[str]) -> Images:
    """The part without the images of these names, its tensor moved together in place: nothing is held twice."""
    kept = [place for place, name in enumerate(part.names) if name not in names]
    if len(kept) == len(part):
        return part
    if isinstance(part.images, StoredPixels):
        return part.take(torch.tensor(kept, dtype=torch.int64))
    for place, origin in enumerate(kept):
        if place != origin:
            part.images[place] = part.images[origin]
    return Images(part.images[: len(kept)], part.labels[kept], tuple(part.names[place] for place in kept))


def _read(settings: DataSettings, folder: Path | None, seed: int, console: Console) -> Divided:
    return _read_through(settings, folder, seed, console, ImageCache())


def _read_through(
    settings: DataSettings, folder: Path | None, seed: int, console: Console, cache: ImageCache
) -> Divided:
    """Divides the names of the files, then decodes each image into its place: no pixel is held twice."""
    listing, train, validation = _list(settings, folder, seed, console)
    (first, second, third), facts = read_files(
        [train, validation, listing.test], listing.folder, settings.pixel_rules(), console, cache
    )
    left = {"training": first.labels, "validation": second.labels, "test": third.labels}
    lost = {
        name: labels
        for (name, labels), files in zip(left.items(), (train, validation, listing.test), strict=True)
        if len(labels) < len(files)
    }
    for name, labels in lost.items():
        if not len(labels):
            raise Failure(f"{listing.folder}: none of the images for {name} can be read; replace them")
    warn_of_absent(listing, lost, console)
    passed = [(path.relative_to(listing.folder).as_posix(), reason) for path, reason in listing.skipped]
    facts = replace(facts, count=facts.count + len(passed), skipped=[*facts.skipped, *passed])
    return Divided(listing.classes, first, second, third, facts, listing.test_total)


def _list(
    settings: DataSettings, folder: Path | None, seed: int, console: Console
) -> tuple[Listing, list[File], list[File]]:
    """The files of a folder data set, and those of them for training and validation."""
    if folder is None:
        raise UserError('data.dataset: "folder" needs --data FOLDER, the folder with the images')
    listing = list_folder(folder, settings.test_fraction, seed, console)
    refuse_single(listing)
    labels = labels_of(listing.train)
    apart = listing.validation
    if apart is not None and settings.select_on == "test":
        console.warn(f'{folder}: select_on = "test" leaves the images for validation unused')
        apart = []
    trained, drawn = divide(settings, labels, seed, draws=apart is None)
    train, validation = take(listing.train, trained), take(listing.train, drawn) if apart is None else apart
    test = take(listing.test, divide_test(settings, labels_of(listing.test), seed))
    parts = {"validation": labels_of(validation)}
    if settings.test_images is None:
        parts["test"] = labels_of(test)
    if settings.train_images is None:
        parts["training"] = labels[trained]
    warn_of_absent(listing, parts, console)
    total = len(listing.test) if settings.test_images is not None else None
    return replace(listing, test=test, test_total=total), train, validation


class _Silent(Console):
    """Of a survey, after which a run reads the same files and warns of them."""

    def warn(self, text: str) -> None:
        """Say nothing."""


def _survey(settings: DataSettings, folder: Path | None, seed: int) -> Survey:
    listing, train, _ = _list(settings, folder, seed, _Silent(quiet=True))
    side = settings.image_size or DEFAULT_SIZE
    return Survey(settings.dataset, len(train), 3, side, len(listing.classes), listing.classes)


DATASETS.add(
    "folder",
    DatasetReader(
        "your own images: a folder a class, below train/ and test/ or with a test_fraction",
        _read,
        _survey,
        read_through=_read_through,
    ),
)
