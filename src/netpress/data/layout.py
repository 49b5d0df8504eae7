"""Lists the images in a folder of one's own: the class of each, and which are for validation or for the test.

    photos/train/cat/1.jpg        or        photos/cat/1.jpg
    photos/test/cat/2.jpg                   photos/dog/2.jpg

The same rules hold at every depth. A name that begins with a dot is skipped. A link is followed, to a file or to a
folder, unless the folder holds the link itself or was read for this class before. No image is opened here.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from netpress.data.images import draw_stratified
from netpress.errors import Failure, UserError, some_of
from netpress.process.console import Console

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_PARTS = {"train": "train", "test": "test", "val": "validation", "valid": "validation", "validation": "validation"}

File = tuple[Path, int]  # and the number of its class
Skipped = tuple[Path, str]  # and why, in a few words
HIDDEN, OTHER, LOOSE = "hidden", "no PNG, JPEG or WebP", "beside the class folders"


@dataclass(frozen=True)
class Listing:
    """The image files of a data set, divided as the folder says, or its test drawn from it."""

    folder: Path
    classes: tuple[str, ...]
    places: tuple[Path, ...]
    """The folder of each class, of the training images."""
    train: list[File]
    test: list[File]
    validation: list[File] | None
    """What lies in a folder for validation; None where there is none, and some of `train` are to be drawn."""
    skipped: Sequence[Skipped] = ()
    """What lies in the folder too, and is no image of the data set."""
    test_total: int | None = None
    """So many test images lie there, where `test` has but some of them."""


def list_folder(folder: Path, test_fraction: float | None, seed: int, console: Console) -> Listing:
    """The files of FOLDER/train/CLASS and FOLDER/test/CLASS, or of FOLDER/CLASS with a share drawn for the test.

    Beside train/ may stand val/, valid/ or validation/. Names of these are taken in small and capital letters; classes
    are in the order of their names. Raises UserError, in one sentence, for a folder that is not laid out so.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; --data names the folder with the images")
    skipped: list[Skipped] = []
    parts = find_parts(folder, console, skipped)
    train, test = parts.get("train"), parts.get("test")
    if train and test and test_fraction is not None:
        raise UserError(f"{folder}: has train/ and test/, so data.test_fraction must be left out")
    if parts and (train is None or (test is None and test_fraction is None)):
        absent = folder / ("train" if train is None else "test")
        raise UserError(f"{absent}: no such folder; a data set has train/ and test/, or states data.test_fraction")
    if not parts and test_fraction is None:
        _refuse_unclear(folder)
        raise UserError(f"{folder}: has no train/ and test/; make them, or state data.test_fraction (such as 0.2)")
    place = train or folder
    named = _class_folders(place)
    classes, places = tuple(named), tuple(named.values())
    apart = {part: _files_of(path, named, console, skipped) for part, path in parts.items() if part != "train"}
    files = _list_files(place, named, console, skipped)
    _warn_of_loose(place, console, skipped)
    if "test" in apart:
        return Listing(folder, classes, places, files, apart["test"], apart.get("validation"), skipped)
    assert test_fraction is not None
    labels = labels_of(files)
    _refuse_few(place, classes, labels)
    drawn, left = draw_stratified(labels, max(1, round(len(files) * test_fraction)), seed, "folder test")
    return Listing(folder, classes, places, take(files, left), take(files, drawn), apart.get("validation"), skipped)


def find_parts(folder: Path, console: Console | None = None, skipped: list[Skipped] | None = None) -> dict[str, Path]:
    """Where `folder` is divided, its train, test and validation folders; {} where its folders are the classes.

    A folder of such a name that holds no folders, like the others, is a class. Raises UserError where that is not
    clear. The console is told what is left out, and `skipped` gets it.
    """
    parts: dict[str, list[Path]] = {}
    others = []
    for path in _visible_folders(folder):
        part = _PARTS.get(path.name.casefold())
        parts.setdefault(part, []).append(path) if part else others.append(path)
    several = [path for paths in parts.values() for path in paths]
    if not several or not any(_visible_folders(path) for path in several):
        return {}  # nothing of such names, or classes that happen to be called so
    for paths in parts.values():
        if len(paths) > 1:
            raise UserError(f"{folder}: has {some_of([path.name for path in paths])} for the same part; keep one")
    if others and not {"train", "test"} <= parts.keys():
        raise UserError(
            f"{folder}: {some_of([path.name for path in several])} holds folders, and stands beside "
            f"{some_of([path.name for path in others])}; a data set has train/ and test/ with a folder a class in each,"
            " or one folder a class: rename the one that is a class, or move it"
        )
    if others and console is not None:
        console.warn(f"{folder}: {some_of([path.name for path in others])} beside train/ and test/ was left out")
    if skipped is not None:
        skipped.extend((path, "beside train/ and test/") for path in others)
    return {part: paths[0] for part, paths in parts.items()}


def lacks_test(folder: Path) -> bool:
    """Whether `folder` holds class folders, or train/ with them, and plainly nothing for the test."""
    try:
        if not folder.is_dir():
            return False
        parts = find_parts(folder)
        if not parts:
            return not any(path.name.casefold() in _PARTS for path in _visible_folders(folder))
    except (UserError, Failure):
        return False  # whoever reads it says what is wrong
    return "train" in parts and "test" not in parts


def has_test_folder(folder: Path) -> bool:
    """Whether the test images of the data set in `folder` are set apart there, in test/ beside train/."""
    try:
        return folder.is_dir() and {"train", "test"} <= find_parts(folder).keys()
    except UserError:
        return False


def labels_of(files: Sequence[File]) -> Tensor:
    """The classes of the files: int64 [files]."""
    return torch.tensor([label for _, label in files], dtype=torch.int64)


def take(files: Sequence[File], indices: Tensor) -> list[File]:
    """The files at `indices`."""
    return [files[index] for index in indices.tolist()]


def warn_of_absent(listing: Listing, parts: dict[str, Tensor], console: Console) -> None:
    """Refuse a class without an image to train on, and warn of those without one in another part.

    parts: the labels of each part. Raises UserError.
    """
    for part, labels in parts.items():
        counts = torch.bincount(labels, minlength=len(listing.classes)).tolist()
        absent = [name for name, count in zip(listing.classes, counts, strict=True) if not count]
        if absent and part == "training":
            raise UserError(
                f"{listing.folder}: too few images of {some_of(absent)}: none is left to train on; add some, or remove "
                "the class"
            )
        if absent and len(labels):
            console.warn(f"{listing.folder}: no image of {some_of(absent)} among the {part} images")


def _files_of(place: Path, named: dict[str, Path], console: Console, skipped: list[Skipped]) -> list[File]:
    """The files of a part beside train/: its classes are among those of `named`, by name."""
    own = _class_folders(place)
    if unknown := [name for name in own if name not in named]:
        raise UserError(f"{place}: the classes {some_of(unknown)} are not in {next(iter(named.values())).parent}")
    _warn_of_loose(place, console, skipped)
    validation = _PARTS[place.name.casefold()] == "validation"
    return _list_files(place, {name: own.get(name) for name in named}, console, skipped, required=not validation)


def _visible_folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise Failure(f"{folder}: cannot be opened ({error.strerror or error})") from error


def _class_folders(folder: Path) -> dict[str, Path]:
    """Name of each class -> its folder, in the order of the folders' names; the names composed (NFC), as on no Mac."""
    named: dict[str, Path] = {}
    for path in _visible_folders(folder):
        name = unicodedata.normalize("NFC", path.name)
        if not name.isprintable():
            raise UserError(f"{folder}: the name of the class folder {path.name!a} is no plain text; rename it")
        if name in named:
            raise UserError(f"{folder}: two class folders are called {name}, written in two ways; rename one")
        named[name] = path
    if not named:
        raise UserError(f"{folder}: holds no class folders; put the images of each class into a folder of its name")
    return named


def refuse_single(listing: Listing) -> None:
    """Refuse one class alone, and folders that are data sets: --data was one folder too high. Raises UserError."""
    for path in listing.places:
        if has_test_folder(path):
            raise UserError(f"{path}: is a data set of its own, with train/ and test/; give --data {path}")
    if len(listing.places) == 1:
        (path,) = listing.places
        inside = [folder.name for folder in _visible_folders(path)]
        hint = f"; if its folders {some_of(inside)} are the classes, give --data {path}" if len(inside) > 1 else ""
        raise UserError(f"{path.parent}: holds one class, {path.name}, and a network tells two or more apart{hint}")


def _refuse_few(place: Path, classes: Sequence[str], labels: Tensor) -> None:
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    if few := [name for name, count in zip(classes, counts, strict=True) if count < 2]:
        raise UserError(
            f"{place}: one image of {some_of(few)} is too few to divide into training and test; add some, or remove "
            "the class"
        )


def _refuse_unclear(folder: Path) -> None:
    if len(parts := [path for path in _visible_folders(folder) if path.name.casefold() in _PARTS]) > 1:
        raise UserError(
            f"{parts[0]}: holds no class folders; put the images of each class into a folder of its name, or, where "
            f"{some_of([path.name for path in parts])} are classes, state data.test_fraction"
        )


def _warn_of_loose(place: Path, console: Console, skipped: list[Skipped]) -> None:
    loose = sorted(entry for entry in place.iterdir() if _is_image(entry) and not entry.is_dir())
    skipped.extend((path, LOOSE) for path in loose)
    if loose:
        console.warn(f"{place}: {len(loose):,} images beside the class folders were left out")


def _list_files(
    place: Path, named: Mapping[str, Path | None], console: Console, skipped: list[Skipped], required: bool = True
) -> list[File]:
    """Every image below the class folders, class by class, by name; of no class may be none where `required`."""
    files: list[File] = []
    empty, others = [], 0
    for index, (name, folder) in enumerate(named.items()):
        hidden: list[Path] = []
        above = {_identity(place), _identity(place.parent)}
        paths = sorted(_walk(folder, above, hidden)) if folder is not None else []
        images = [path for path in paths if _is_image(path)]
        others += len(paths) - len(images)
        skipped.extend((path, HIDDEN) for path in sorted(hidden))
        skipped.extend((path, OTHER) for path in paths if not _is_image(path))
        files.extend((path, index) for path in images)
        if not images:
            empty.append(name)
    if empty and (required or not files):
        raise UserError(f"{place}: no PNG, JPEG or WebP images of {some_of(empty)}; add some or remove the class")
    if others:
        what = "1 file that is" if others == 1 else f"{others:,} files that are"
        console.warn(f"{place}: {what} not PNG, JPEG or WebP {'was' if others == 1 else 'were'} left out")
    return files


def images_below(folder: Path) -> tuple[list[Path], int]:
    """The image files in `folder` at any depth, found as those of a class are, and how many other files lie there.

    Sorted by path. Raises Failure for a folder that cannot be opened.
    """
    paths = sorted(_walk(folder, set()))
    images = [path for path in paths if _is_image(path)]
    return images, len(paths) - len(images)


def _is_image(path: Path) -> bool:
    """By its name; links that lead nowhere count, so that they are told, and pipes and devices do not."""
    if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
        return False
    return path.is_file() or (path.is_symlink() and not path.exists())


def _walk(folder: Path, seen: set[tuple[int, int]], hidden: list[Path] | None = None) -> Iterator[Path]:
    """What lies in `folder` at any depth and is no folder, every folder once; `hidden` gets hidden names."""
    waiting = [folder]
    links: list[Path] = []  # links last, so that what they lead to is found in its own place first
    while waiting or links:
        place = (waiting or links).pop()
        if _identity(place) in seen:
            continue
        seen.add(_identity(place))
        try:
            entries = sorted(place.iterdir())
        except OSError as error:
            raise Failure(f"{place}: cannot be opened ({error.strerror or error})") from error
        for entry in entries:
            if entry.name.startswith("."):
                if hidden is not None:
                    hidden.append(entry)
            elif entry.is_dir():
                (links if entry.is_symlink() else waiting).append(entry)
            else:
                yield entry


def _identity(folder: Path) -> tuple[int, int]:
    facts = folder.stat()
    return facts.st_dev, facts.st_ino
