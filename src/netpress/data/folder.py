"""A data set of one's own: a folder for each class, of PNG, JPEG or WebP images of any size."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from netpress.console import Console
from netpress.data.images import Images, Source, draw_stratified
from netpress.devices import available_cores
from netpress.errors import Failure, UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_SHOWN = 5  # names listed in a message before it says how many more
_READ_ERRORS = (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError)


def read_folder(folder: Path, size: int, test_fraction: float | None, seed: int, console: Console) -> Source:
    """The images under `folder`, resized to `size` x `size` pixels, 3 channels; classes in the order of their names.

    Either FOLDER/train/CLASS and FOLDER/test/CLASS, or FOLDER/CLASS with `test_fraction`
    of every class drawn for the test set by `seed`. Raises UserError where the folder is
    not laid out so, Failure with one message naming the images that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; --data names the folder with the images")
    train, test = folder / "train", folder / "test"
    if train.is_dir() and test.is_dir():
        if test_fraction is not None:
            raise UserError(f"{folder}: has train/ and test/, so data.test_fraction must be left out")
        classes = _class_names(train)
        if unknown := [name for name in _class_names(test) if name not in classes]:
            raise UserError(f"{test}: the classes {_some(unknown)} are not in {train}")
        parts = _read_images([_list_files(place, classes, console) for place in (train, test)], size, folder, console)
        return Source(parts[0], parts[1], classes)
    if train.is_dir() or test.is_dir():
        if test.is_dir() or test_fraction is None:
            absent = train if test.is_dir() else test
            raise UserError(f"{absent}: no such folder; a data set has train/ and test/, or states data.test_fraction")
        folder = train
    if test_fraction is None:
        raise UserError(f"{folder}: has no train/ and test/; make them, or state data.test_fraction (such as 0.2)")
    classes = _class_names(folder)
    (whole,) = _read_images([_list_files(folder, classes, console)], size, folder, console)
    drawn, left = draw_stratified(whole.labels, max(1, round(len(whole) * test_fraction)), seed, "folder test")
    return Source(whole.take(left), whole.take(drawn), classes)


def has_test_folder(folder: Path) -> bool:
    """Whether the test images of the data set in `folder` are set apart there, in test/ beside train/."""
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{folder}: holds no class folders; put the images of each class into a folder of its name")
    return tuple(names)


def _list_files(folder: Path, classes: Sequence[str], console: Console) -> list[tuple[Path, int]]:
    """(file, class index) of every image below the class folders."""
    found: list[tuple[Path, int]] = []
    empty, others = [], 0
    for index, name in enumerate(classes):
        paths = sorted(path for path in (folder / name).rglob("*") if path.is_file() and path.name[0] != ".")
        images = [path for path in paths if path.suffix.lower() in SUFFIXES]
        others += len(paths) - len(images)
        found.extend((path, index) for path in images)
        if not images:
            empty.append(name)
    if empty:
        raise UserError(f"{folder}: no PNG, JPEG or WebP images of {_some(empty)}; add some or remove the class")
    if others:
        console.warn(f"{folder}: {others:,} files that are not PNG, JPEG or WebP were left out")
    return found


def _read_images(lists: list[list[tuple[Path, int]]], size: int, folder: Path, console: Console) -> list[Images]:
    """Decode all the lists before complaining, so that one message names every unreadable image."""
    parts, unreadable, done, total = [], [], 0, sum(map(len, lists))
    with console.progress("read images", total) as bar, ThreadPoolExecutor(available_cores()) as pool:
        for files in lists:
            pixels = np.empty((len(files), 3, size, size), np.uint8)
            paths = [path for path, _ in files]
            for place, image in enumerate(pool.map(lambda path: _read_image(path, size), paths)):
                if image is None:
                    unreadable.append(paths[place])
                else:
                    pixels[place] = image
                done += 1
                bar.update(done)
            labels = torch.tensor([label for _, label in files], dtype=torch.int64)
            parts.append(Images(torch.from_numpy(pixels), labels))
    if unreadable:
        names = _some([str(path.relative_to(folder)) for path in unreadable])
        raise Failure(
            f"{folder}: {len(unreadable):,} of {total:,} images cannot be read: {names}; replace or remove them"
        )
    return parts


def _read_image(path: Path, size: int) -> np.ndarray | None:
    """The image as uint8 [3, size, size], or None if it cannot be read. Its proportions are not kept."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)  # averages where it shrinks
        return np.asarray(image).transpose(2, 0, 1)
    except _READ_ERRORS:
        return None


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
