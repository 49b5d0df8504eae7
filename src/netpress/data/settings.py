"""What a recipe's [data] table may say, and which data sets it may name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from netpress.data.images import Divided
from netpress.data.pixels import AT_ONCE, PixelRules
from netpress.data.resizing import ResizeMethod
from netpress.data.store import ImageCache
from netpress.errors import UserError, quote
from netpress.process.console import Console
from netpress.registry import Registry
from netpress.settings import Count, Settings, above, between

DATASETS = Registry["DatasetReader"](
    "data set",
    {
        "digits": "netpress.data.digits",
        "cifar10": "netpress.data.cifar",
        "cifar100": "netpress.data.cifar",
        "folder": "netpress.data.folder",
    },
)
"""Every data set that a recipe may name, with the file that reads it."""


def _registered(name: str) -> str:
    if name not in DATASETS:
        *others, last = (repr(other) for other in DATASETS)
        raise ValueError(f"{quote(name)} is not one of {', '.join(others)} or {last}")
    return name


LARGEST_DIGITS = 256  # pixels; the 1,797 images then take 353 MB

OpenFraction = Annotated[float, above(0), between(0, 0.9)]


class DataSettings(Settings):
    """Which images to learn from, and how they are divided."""

    dataset: Annotated[str, AfterValidator(_registered)] = "digits"
    """`digits`, `cifar10`, `cifar100` or `folder`. The digits come with netpress; the others are read from the folder
    named by --data."""

    train_images: Count | None = None
    """Train on this many images only, every class keeping its share (for trials). Validation and test stay whole."""

    test_images: Count | None = None
    """Test on this many of the test images only, every class keeping its share (for trials). The network's file
    records it, so that later commands test on the same ones."""

    validation: Annotated[float, between(0, 0.9)] = 0.1
    """Share of the training images set apart to select on; the same images for every seed-equal run."""

    split_seed: Annotated[int, between(0, 2**63)] | None = None
    """Decides which images are for validation, and for the test of a `folder` without test/. If absent, the seed that
    divided them for the network that [model] names, else the run's. Given, that network may know another split."""

    select_on: Literal["validation", "test"] = "validation"
    """What selections in a run look at. With `test`, as some papers did, no image is set apart for validation."""

    classes_by_number: bool = False
    """Whether the n-th class here is the n-th of a network that is read from a file; else they are matched by name."""

    image_size: Annotated[int, between(4, 1024)] | None = None
    """Side of the square images in pixels, for `digits` and `folder` (32 if not given). CIFAR is 32."""

    background: Annotated[int, between(0, 255)] = 0
    """Of a `folder`: the grey, 0 (black) to 255, on which transparent places of an image lie. Black is also what `crop`
    pads with, unless its `fill` says otherwise."""

    resize: ResizeMethod = "squash"
    """Of a `folder`: how an image becomes square. `squash` stretches it, so that everything is seen and no pixel is
    wasted, but its proportions are not kept; `crop` takes the square in its middle; `pad` puts bars of the `background`
    beside it."""

    reduced_decoding: bool = True
    """Of a `folder`: whether a JPEG of at least 4 times `image_size` on both sides is decoded at 1/2, 1/4 or 1/8 of its
    size, and then resized. Photographs of 12 million pixels are read 3 times as fast."""

    max_pixels: Count = AT_ONCE
    """Of a `folder`: the most pixels of one image. Larger ones are refused before they are decoded."""

    test_fraction: OpenFraction | None = None
    """For a `folder` without test/: the share of each class that becomes the test set. If absent, a run takes 0.2 of
    such a folder, and says so."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.select_on == "validation" and self.validation == 0:
            raise ValueError('validation = 0 leaves nothing to select on: give a share, or select_on = "test"')
        if self.dataset == "digits" and (self.image_size or 0) > LARGEST_DIGITS:
            raise ValueError(f"image_size = {self.image_size}: digits are enlarged to {LARGEST_DIGITS} pixels at most")
        if self.image_size not in (None, 32) and self.dataset.startswith("cifar"):
            raise ValueError(f"image_size = {self.image_size}: {self.dataset} has images of 32 pixels")
        if self.test_fraction is not None and self.dataset != "folder":
            raise ValueError(f"test_fraction: {self.dataset} comes with its own test images; only a folder needs it")
        for key in ("resize", "reduced_decoding", "background", "max_pixels"):
            if self.dataset != "folder" and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: changes nothing in {self.dataset}, only in a folder")
        return self

    def pixel_rules(self) -> PixelRules:
        """How image files are read: for every part of a data set, and for what is asked of a network later."""
        return PixelRules(
            self.image_size or DEFAULT_SIZE,
            self.max_pixels,
            self.background,
            resize=self.resize,
            reduced_decoding=self.reduced_decoding,
        )

    def divide(self, count: int, draws: bool = True) -> tuple[int, int]:
        """How many of `count` images train, and how many are set apart for validation.

        draws: False where validation images lie apart, so that none is drawn. Raises UserError where too few are left.
        """
        held = max(1, round(count * self.validation)) if draws and self.select_on == "validation" else 0
        left = count - held
        if left <= 0:
            raise UserError(f"data.validation: {self.validation} leaves no image to train on, of {count:,}")
        if self.train_images is not None and self.train_images > left:
            raise UserError(
                f"data.train_images: {self.train_images:,} is more than the {left:,} images there are "
                f"({count:,} less {held:,} for validation)"
            )
        return self.train_images or left, held


DEFAULT_SIZE = 32  # pixels, where image_size is not given


@dataclass(frozen=True)
class Survey:
    """What is known of a data set without reading an image."""

    name: str
    train_images: int
    """So many are trained on."""
    channels: int
    side: int
    """Pixels."""
    count: int
    """Classes."""
    classes: tuple[str, ...] | None
    """Their names; None where they are not known before the data set is read."""


@dataclass(frozen=True)
class DatasetReader:
    """A data set under a name in DATASETS: one line about it, and two functions.

    `read(settings, folder, seed, console)` gives the images, divided; `survey(settings, folder, seed)` counts without
    reading an image. Both raise UserError for a folder or settings that do not fit.
    """

    description: str
    read: Callable[[DataSettings, Path | None, int, Console], Divided]
    survey: Callable[[DataSettings, Path | None, int], Survey]
    is_here: Callable[[Path | None], bool] = lambda folder: True
    """Whether the data set can be read from the folder without fetching it."""
    read_through: Callable[[DataSettings, Path | None, int, Console, ImageCache], Divided] | None = None
    """As `read`, for images that may lie in a cache where they are many; None for those that memory always holds."""
    embedded: bool = False
    """Whether it comes with netpress, so that it is read from no folder."""
