"""A data set of one's own: a folder for each class, of PNG, JPEG or WebP images of any size."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from netpress.data.images import Images, Source
from netpress.data.layout import File, labels_of, list_folder
from netpress.data.pixels import AT_ONCE, Budget, PixelRules, Unreadable, read_image, strangers_files
from netpress.errors import Failure
from netpress.process.console import Console
from netpress.process.devices import available_cores

_SHOWN = 5  # images named in a message before it says how many more


def read_folder(folder: Path, size: int, test_fraction: float | None, seed: int, console: Console) -> Source:
    """The images under `folder`, resized to `size` x `size` pixels, 3 channels; classes in the order of their names.

    Either FOLDER/train/CLASS and FOLDER/test/CLASS, or FOLDER/CLASS with `test_fraction`
    of every class drawn for the test set by `seed`. Raises UserError where the folder is
    not laid out so, Failure with one message naming the images that cannot be read.
    """
    listing = list_folder(folder, test_fraction, seed, console)
    train, test = read_files([listing.train, listing.test], folder, PixelRules(size), console)
    return Source(train, test, listing.classes)


def read_files(lists: Sequence[Sequence[File]], folder: Path, rules: PixelRules, console: Console) -> list[Images]:
    """The images of each list, each decoded into its place: nothing is held twice.

    All are read before complaining: Failure is one message that names the unreadable ones and why.
    """
    parts = [
        Images(torch.empty((len(files), 3, rules.size, rules.size), dtype=torch.uint8), labels_of(files))
        for files in lists
    ]
    places = [
        (path, part.images.numpy()[place])
        for files, part in zip(lists, parts, strict=True)
        for place, (path, _) in enumerate(files)
    ]
    budget = Budget(AT_ONCE)

    def decode(entry: tuple[Path, np.ndarray]) -> tuple[str | None, bool]:
        path, target = entry
        try:
            target[...], several = read_image(path, rules, budget)
        except Unreadable as error:
            return str(error), False
        return None, several

    problems, animated = [], []
    title = "read images"
    with (
        strangers_files(),
        console.progress(title, len(places)) as bar,
        ThreadPoolExecutor(available_cores()) as pool,
    ):
        for done, (reason, several) in enumerate(pool.map(decode, places)):
            name = str(places[done][0].relative_to(folder))
            if reason is not None:
                problems.append(f"{name} ({reason})")
            if several:
                animated.append(name)
            bar.update(done + 1)
    if problems:
        raise Failure(
            f"{folder}: {len(problems):,} of {len(places):,} images cannot be read: {_some(sorted(problems))}; "
            "replace or remove them"
        )
    if animated:
        console.warn(f"{folder}: of {_some(animated)}, which hold several pictures, the first was taken")
    return parts


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
