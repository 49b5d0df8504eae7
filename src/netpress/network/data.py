"""The images that belong to a network: the same split as in its training, the classes in its order.

    dataset = load_data(network, Path("cifar"), selects=True, console=console)

An accuracy on images that the network was trained on is not true. So a network's file records which images it was
made with, and how they were divided (`Network.data`), and whatever reads images for the network divides them alike.
A user who wants another split, or other images, must ask for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from netpress.data import DATASETS, DataRecord, Dataset, DataSettings, Survey, has_test_folder, load_dataset
from netpress.data.pixels import PixelRules
from netpress.data.record import BEFORE
from netpress.data.store import ImageCache
from netpress.errors import UserError
from netpress.network import Network
from netpress.process.console import Console
from netpress.settings import parse

ASK = "data.split_seed"
_SPLIT = ("validation", "select_on", "test_fraction")  # what decides, with the seed, which images are apart
_WARNING = "the images are not divided as this network knows them: those set apart may have been training images"
_OF_PIXELS = ("resize", "background", "max_pixels", "reduced_decoding")  # what decides how one image is read
_SHOWN = 5  # classes named in a message


def load_data(
    network: Network,
    folder: Path | None,
    dataset: str | None = None,
    changes: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    selects: bool = False,
    console: Console,
    cache: ImageCache | None = None,
) -> Dataset:
    """The images of `dataset` (by default those the network was made with), as the network takes them.

    Settings and seed are those of the network's record, if it is of this data set, with `changes` (of a [data] table)
    on top; else the settings' defaults and `seed`. selects: training or validation images are used, not only those
    for the test. The classes are in the network's order. `cache` as for `load_dataset`. Raises UserError where images
    or split are not the network's own and `changes` does not ask for that by `split_seed`, or where classes or sizes
    do not fit.
    """
    changes = dict(changes or {})
    name = dataset or changes.get("dataset") or dataset_of(network) or ("folder" if folder else None)
    if name is None:
        raise UserError("this network does not say what it was trained on; name it with --dataset")
    record = network.data if network.data is not None and network.data.settings.dataset == name else None
    settings = parse(DataSettings, _known_settings(network, name, record, folder) | changes, "data")
    if record is None:
        loaded = load_dataset(settings, folder, seed, console, cache)
    else:
        loaded = load_dataset(settings, folder, record.seed, console, cache)
        drawn = selects or settings.test_fraction is not None
        if drawn and settings.split_seed is None:
            check_same(record, loaded, folder, console, asked=bool(changes.keys() & set(_SPLIT)), cache=cache)
        elif drawn and loaded.record != record:
            console.warn(_WARNING)
    return matched(network, loaded, settings.classes_by_number)


def pixel_rules(network: Network, changes: Mapping[str, Any] | None = None) -> PixelRules:
    """How a new image is read for `network`: as those that it was made with, of its size and in its colours.

    Where its file does not say how those were read (CIFAR's were no files), a `folder` is read so by default. `changes`
    of the [data] table come on top. Raises UserError for changes of anything but the reading of one image, and for a
    network of neither 1 nor 3 channels.
    """
    for key in changes or {}:
        if key not in _OF_PIXELS:
            *others, last = (f"data.{name}" for name in _OF_PIXELS)
            allowed = f"{', '.join(others)} and {last}"
            raise UserError(f"--set data.{key}: changes nothing in how one image is read; {allowed} do")
    channels, side, _ = network.input.size
    if channels not in (1, 3):
        raise UserError(f"the network takes {channels} channels, and an image has 1 (grey) or 3 (red, green, blue)")
    settings = parse(DataSettings, {**_known_of_files(network), **(changes or {})}, "data")
    return replace(settings.pixel_rules(), size=side, channels=channels)


def known_rules(network: Network) -> PixelRules:
    """The rules of `pixel_rules` without changes, whatever channels the network takes. Raises nothing."""
    rules = parse(DataSettings, _known_of_files(network), "data").pixel_rules()
    return replace(rules, size=network.input.height, channels=network.input.channels)


def _known_of_files(network: Network) -> dict[str, Any]:
    record = network.data if network.data is not None and network.data.settings.dataset == "folder" else None
    return record.settings.model_dump(mode="json", exclude_none=True) if record else {"dataset": "folder", **BEFORE}


def load_data_at_hand(
    network: Network,
    folder: Path | None,
    dataset: str | None,
    changes: Mapping[str, Any],
    *,
    seed: int = 0,
    selects: bool = False,
    console: Console,
    cache: ImageCache | None = None,
) -> Dataset | None:
    """As `load_data`, for who can do without: None where no data is named and the network's own must be fetched.

    Raises UserError where there are `changes`, and no data that they could change.
    """
    own = dataset_of(network)
    embedded = own is not None and own in DATASETS and DATASETS[own].embedded
    if folder is not None or dataset is not None or "dataset" in changes or embedded:
        return load_data(network, folder, dataset, changes, seed=seed, selects=selects, console=console, cache=cache)
    if changes:
        keys = ", ".join(f"data.{key}" for key in changes)
        raise UserError(f"{keys}: changes nothing, since no data is read; name it with --data or --dataset")
    return None


def adopt(network: Network, dataset: Dataset) -> None:
    """Write down in `network` that it is made with `dataset` from here on, and name its classes if they have no names.

    Raises nothing: `dataset` was matched with the network before.
    """
    if is_unnamed(network):
        network.classes = dataset.classes
    network.data = dataset.record


def dataset_of(network: Network) -> str | None:
    """The name of the data set that the network was made with; None where its file does not say."""
    if network.data is not None:
        return network.data.settings.dataset
    name = network.facts.get("dataset")
    return name if isinstance(name, str) else None


def _known_settings(network: Network, name: str, record: DataRecord | None, folder: Path | None) -> dict[str, Any]:
    if record is None:
        return {"dataset": name} | ({} if name.startswith("cifar") else {"image_size": network.input.height})
    values = record.settings.model_dump(mode="json", exclude_none=True)
    if folder is not None and has_test_folder(folder):  # another folder, with test images of its own
        values.pop("test_fraction", None)
    return values


def binding_record(network: Network, settings: DataSettings) -> DataRecord | None:
    """How a run that begins with `network` must divide its images; None where they are others, or a split is asked for.

    Raises UserError where `settings` would select on images that the network was trained on, and do not ask for it.
    """
    record = network.data
    if record is None or settings.split_seed is not None or record.settings.dataset != settings.dataset:
        return None
    if key := _other_split(record.settings, settings):
        then, now = getattr(record.settings, key), getattr(settings, key)
        raise UserError(
            f"data.{key}: {now}, but the network to begin with was trained with {then}, so that images would be "
            f"selected on that it was trained on; say {then}, or ask for another split with {ASK}"
        )
    return record


def check_same(
    record: DataRecord,
    loaded: Dataset,
    folder: Path | None,
    console: Console,
    asked: bool = False,
    cache: ImageCache | None = None,
) -> None:
    """Raise UserError unless `loaded` holds the images of the record, divided so; only warn if that was `asked` for."""
    assert loaded.record is not None
    same = loaded.checksum == record.checksum
    if _other_split(record.settings, loaded.record.settings) is not None:
        if asked:
            console.warn(_WARNING)
            return
    elif loaded.record.settings != record.settings:  # fewer images, say, or of another size
        if loaded.name != "folder":
            return
        same = _checksum_of(record, folder, cache) == record.checksum
    if not same:
        where = f"{folder}: " if folder is not None else ""
        raise UserError(
            f"{where}these are not the images that the network was trained with, so that some of those apart may have "
            f"been training images; give the same --data, or ask for a split of its own with {ASK} (--set {ASK}=0)"
        )


def _checksum_of(record: DataRecord, folder: Path | None, cache: ImageCache | None) -> str:
    return load_dataset(record.settings, folder, record.seed, Console(quiet=True), cache).checksum


def _other_split(then: DataSettings, now: DataSettings) -> str | None:
    """The setting by which `now` sets other images apart than `then` did; None where no training image was set apart.

    With select_on = "test" no training image is, so that only the test images count.
    """
    if then.test_fraction != now.test_fraction:
        return "test_fraction"
    if now.select_on == "test":
        return None
    return next((key for key in _SPLIT if getattr(then, key) != getattr(now, key)), None)


def matched(network: Network, dataset: Dataset, by_number: bool = False) -> Dataset:
    """`dataset` with its labels in the order of the network's classes, which are matched by name.

    by_number: the n-th class of one is the n-th of the other, whatever they are called. Raises UserError unless the
    network takes the images and has these classes.
    """
    places = class_places(network, dataset.classes, dataset.name, by_number)
    _check_size(network, tuple(dataset.test.images.shape[1:]), dataset.name)
    if places is None:
        return dataset
    order = torch.tensor(places)
    parts = {
        part: replace(images, labels=order[images.labels])
        for part, images in (("train", dataset.train), ("validation", dataset.validation), ("test", dataset.test))
    }
    return replace(dataset, **parts, classes=network.classes)  # type: ignore[arg-type]


def check_fit(network: Network, settings: DataSettings, survey: Survey) -> None:
    """Raise UserError as `binding_record` does, and as `matched` will, for a data set that was not read yet."""
    binding_record(network, settings)
    names = survey.classes
    if names is None and len(network.classes) == survey.count:
        names = network.classes  # they are told when they are read
    class_places(network, names or (), settings.dataset, settings.classes_by_number)
    _check_size(network, (survey.channels, survey.side, survey.side), settings.dataset)


def _check_size(network: Network, size: tuple[int, ...], name: str) -> None:
    if network.input.size != size:
        raise UserError(
            f"the network takes images of {network.input.size} (channels, height, width), {name} has {size}"
        )


def class_places(network: Network, names: Sequence[str], whose: str, by_number: bool = False) -> list[int] | None:
    """The place of each of `names` among the network's classes; None where each is in its own place.

    A network whose classes have but numbers, and that was trained on nothing, is matched by number; so are all with
    `by_number`. Raises UserError, which says both lists, where they are not the same classes.
    """
    ours = network.classes
    if len(ours) != len(names):
        raise UserError(
            f"the network tells {len(ours)} classes apart ({_some(ours)}), {whose} has {len(names)} ({_some(names)})"
        )
    if by_number or tuple(names) == ours or is_unnamed(network):
        return None
    if sorted(names) != sorted(ours) or len(set(ours)) != len(ours):
        lost = [name for name in ours if name not in set(names)]
        other = [name for name in names if name not in set(ours)]
        raise UserError(
            f"classes are matched by name: the network has {_some(lost or ours)}, {whose} {_some(other or names)}; "
            "rename them, or say --classes-by-number (data.classes_by_number = true) if the first means the first"
        )
    return [ours.index(name) for name in names]


def is_unnamed(network: Network) -> bool:
    """Whether the network's classes are but numbered: a new one that has seen no data."""
    return dataset_of(network) is None and network.classes == tuple(str(index) for index in range(len(network.classes)))


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(name[:40] for name in names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
