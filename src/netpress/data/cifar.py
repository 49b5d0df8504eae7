"""CIFAR-10 and CIFAR-100, read from the "python version" files as published.

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009;
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netpress.data.division import divide, divide_source
from netpress.data.images import Divided, Images, Source
from netpress.data.pickles import read_arrays
from netpress.data.settings import DATASETS, DatasetReader, DataSettings, Survey
from netpress.errors import Failure
from netpress.files import cache_folder, download, sha256_of, unpack_tar
from netpress.process.console import Console

SIDE = 32  # pixels


@dataclass(frozen=True)
class Release:
    """One published data set: where it is and what its files are called."""

    name: str
    folder: str
    url: str
    sha256: str
    megabytes: int
    train_files: tuple[str, ...]
    test_file: str
    names_file: str
    labels_key: str
    names_key: str
    train_images: int
    classes: int


RELEASES = {
    "cifar10": Release(
        name="CIFAR-10",
        folder="cifar-10-batches-py",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        megabytes=170,
        train_files=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test_file="test_batch",
        names_file="batches.meta",
        labels_key="labels",
        names_key="label_names",
        train_images=50_000,
        classes=10,
    ),
    "cifar100": Release(
        name="CIFAR-100",
        folder="cifar-100-python",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        megabytes=169,
        train_files=("train",),
        test_file="test",
        names_file="meta",
        labels_key="fine_labels",
        names_key="fine_label_names",
        train_images=50_000,
        classes=100,
    ),
}


def read_cifar(name: str, folder: Path, console: Console) -> Source:
    """CIFAR `name` (a key of RELEASES) from `folder`, or from its usual subfolder; fetched there when it is absent.

    CIFAR-10 with fewer than its five training files is taken as it is, with a warning.
    Raises Failure for an incomplete, damaged or unreachable data set.
    """
    release = RELEASES[name]
    place = _find(release, folder) or _fetch(release, folder, console)
    present = [file for file in release.train_files if (place / file).is_file()]
    required = [release.test_file, release.names_file, *([] if present else release.train_files[:1])]
    if missing := [file for file in required if not (place / file).is_file()]:
        raise Failure(
            f"{place}: {release.name} is incomplete, {', '.join(missing)} missing; "
            "put the files there, or remove the folder and it is downloaded again"
        )
    classes = _read_names(place / release.names_file, release)
    parts = [_read_images(place / file, release) for file in present]
    train = Images(torch.cat([part.images[:] for part in parts]), torch.cat([part.labels for part in parts]))
    if len(train) < release.train_images:
        console.warn(
            f"{release.name}: {len(train):,} of the {release.train_images:,} published training images "
            f"are in {place} ({len(present)} of {len(release.train_files)} files)"
        )
    return Source(train, _read_images(place / release.test_file, release), classes)


def _find(release: Release, folder: Path) -> Path | None:
    if (folder / release.folder).is_dir():
        return folder / release.folder
    own_files = (*release.train_files, release.test_file)
    if (folder / release.names_file).is_file() or (folder.name == release.folder and folder.is_dir()):
        return folder if any((folder / file).exists() for file in own_files) else None
    return None


def _fetch(release: Release, folder: Path, console: Console) -> Path:
    own = folder / Path(release.url).name  # fetched by hand: used as it is, and left there
    if own.is_file() and sha256_of(own) == release.sha256:
        console.say(f"{release.name}: unpacking {own}")
        unpack_tar(own, folder)
        return folder / release.folder
    archive = folder / f".{own.name}"
    console.say(f"{release.name} is not in {folder}: downloading {release.url}")
    with console.progress(f"download {release.name} (MB)", release.megabytes) as bar:
        download(release.url, archive, release.sha256, lambda done, _: bar.update(done // 1_000_000))
    unpack_tar(archive, folder)
    archive.unlink()
    return folder / release.folder


def _read_names(path: Path, release: Release) -> tuple[str, ...]:
    names = read_arrays(path).get(release.names_key)
    if not isinstance(names, list) or len(names) != release.classes:
        raise Failure(f"{path}: holds no list of the {release.classes} class names of {release.name}")
    texts = tuple(name.decode("latin1") if isinstance(name, bytes) else name for name in names)
    if not all(isinstance(name, str) and name.isprintable() for name in texts) or len(set(texts)) != len(texts):
        raise Failure(f"{path}: the class names of {release.name} are no {release.classes} different texts")
    return texts


def _read_images(path: Path, release: Release) -> Images:
    content = read_arrays(path)
    images, labels = content.get("data"), _labels(content.get(release.labels_key))
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (3 * SIDE * SIDE,):
        raise Failure(f"{path}: holds no images of {release.name} (uint8, {3 * SIDE * SIDE} values each)")
    if labels is None or len(labels) != len(images) or not labels:
        raise Failure(f"{path}: holds no list of one class for each of its {len(images):,} images")
    if min(labels) < 0 or max(labels) >= release.classes:  # of any size, in Python
        raise Failure(f"{path}: has a class outside 0..{release.classes - 1}; the file is damaged")
    # Published channel by channel, row by row. The copy also makes the tensor writable.
    return Images(torch.from_numpy(images.reshape(-1, 3, SIDE, SIDE).copy()), torch.tensor(labels, dtype=torch.int64))


def _labels(values: Any) -> list[int] | None:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        return None
    return values


def _read(settings: DataSettings, folder: Path | None, seed: int, console: Console) -> Divided:
    return divide_source(read_cifar(settings.dataset, folder or cache_folder(), console), settings, seed)


def _survey(settings: DataSettings, folder: Path | None, seed: int) -> Survey:
    release = RELEASES[settings.dataset]
    train, _ = divide(settings, torch.arange(release.train_images) % release.classes, seed)
    return Survey(settings.dataset, len(train), 3, SIDE, release.classes, None)


def _is_here(release: Release, folder: Path | None) -> bool:
    return _find(release, folder or cache_folder()) is not None


for dataset, entry in RELEASES.items():
    photographs = f"60,000 photographs of {SIDE} x {SIDE} pixels, {entry.classes} classes (Krizhevsky 2009)"
    DATASETS.add(
        dataset,
        DatasetReader(f"{photographs}; downloaded when absent", _read, _survey, partial(_is_here, entry)),
    )
