"""A data set of one's own: a folder for each class, of PNG, JPEG or WebP images of any size."""

from collections.abc import Sequence
from pathlib import Path

import torch

from netpress.data.division import divide
from netpress.data.images import Images
from netpress.data.layout import File, Listing, labels_of, list_folder, refuse_single, take, warn_of_absent
from netpress.data.pixels import PixelRules, read_images
from netpress.data.settings import DATASETS, DEFAULT_SIZE, DatasetReader, DataSettings, Parts, Survey
from netpress.errors import Failure, UserError, some_of
from netpress.process.console import Console


def read_files(lists: Sequence[Sequence[File]], folder: Path, rules: PixelRules, console: Console) -> list[Images]:
    """The images of each list, each decoded into its place: nothing is held twice.

    All are read before complaining: Failure is one message that names the unreadable ones and why.
    """
    parts = [
        Images(
            torch.empty((len(files), 3, rules.size, rules.size), dtype=torch.uint8),
            labels_of(files),
            tuple(str(path.relative_to(folder)) for path, _ in files),
        )
        for files in lists
    ]
    paths = [path for files in lists for path, _ in files]
    targets = [target for part in parts for target in part.images.numpy()]
    names = [name for part in parts for name in part.names]
    problems, animated = [], []
    with console.progress("read images", len(paths)) as bar:
        for done, (reason, several) in enumerate(read_images(paths, targets, rules)):
            if reason is not None:
                problems.append(f"{names[done]} ({reason})")
            if several:
                animated.append(names[done])
            bar.update(done + 1)
    if problems:
        raise Failure(
            f"{folder}: {len(problems):,} of {len(paths):,} images cannot be read: {some_of(sorted(problems))}; "
            "replace or remove them"
        )
    if animated:
        console.warn(f"{folder}: of {some_of(animated)}, which hold several pictures, the first was taken")
    return parts


def _read(settings: DataSettings, folder: Path | None, seed: int, console: Console) -> tuple[tuple[str, ...], Parts]:
    """Divides the names of the files, then decodes each image into its place: no pixel is held twice."""
    listing, train, validation = _list(settings, folder, seed, console)
    parts = [train, validation, listing.test]
    first, second, third = read_files(parts, listing.folder, settings.pixel_rules(), console)
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
    apart = listing.validation
    if apart is not None and settings.select_on == "test":
        console.warn(f'{folder}: select_on = "test" leaves the images for validation unused')
        apart = []
    trained, drawn = divide(settings, labels, seed, draws=apart is None)
    train, validation = take(listing.train, trained), take(listing.train, drawn) if apart is None else apart
    parts = {"validation": labels_of(validation), "test": labels_of(listing.test)}
    if settings.train_images is None:
        parts["training"] = labels[trained]
    warn_of_absent(listing, parts, console)
    return listing, train, validation


def _survey(settings: DataSettings, folder: Path | None, seed: int) -> Survey:
    listing, train, _ = _list(settings, folder, seed, Console(quiet=True))
    side = settings.image_size or DEFAULT_SIZE
    return Survey(settings.dataset, len(train), 3, side, len(listing.classes), listing.classes)


DATASETS.add(
    "folder",
    DatasetReader("your own images: a folder a class, below train/ and test/ or with a test_fraction", _read, _survey),
)
