"""Random changes of training images, a whole batch at a time, on the device where the images are."""

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor

from netpress.data.jitter import JitterSettings, jitter
from netpress.data.policies import PolicySet, find_policies
from netpress.data.resized_crop import ResizedCropSettings, crop_resized
from netpress.settings import Fraction, Settings, between

Level = Annotated[int, between(0, 255)]
Pixels = Annotated[int, between(0, 1024)]
MOST_POLICIES = 100
MOST_COPIES = 100


class AugmentSettings(Settings):
    """How training images are changed before the network sees them, in the order of these settings."""

    policy: str | tuple[str, ...] = "none"
    """`none`, `trivial` (TrivialAugment), `rand` (RandAugment), a shipped one (`netpress list policies`) or the path of
    a policy's JSON file; or several."""

    combine: Literal["mixed", "copies"] = "mixed"
    """Of several policies: `mixed` draws one for every image; `copies` passes over the images once under each of
    them, so that an epoch is as many times longer (what KAIST's code does with four)."""

    rand_operations: Annotated[int, between(1, 3)] = 2
    """How many operations `rand` runs in a row."""

    rand_level: Fraction = 0.3
    """How strong the operations of `rand` are, 0 (nothing) to 1."""

    jitter: JitterSettings | None = None
    """Random brightness, contrast and saturation; absent: not."""

    resized_crop: ResizedCropSettings | None = None
    """A random part, stretched to the image's size; absent: not. Usually in place of `crop`, which is then 0."""

    crop: Pixels = 4
    """Pad by this many pixels on each side, then cut out a window of the image's size at a random place; 0: not."""

    fill: Level | Literal["reflect"] = 0
    """The padding: a value from 0 (black) to 255, or `reflect`, the image itself mirrored at its border."""

    flip: bool = True
    """Mirror left and right with probability 1/2."""

    cutout: Pixels = 0
    """Side in pixels of a square around a random place that is filled, clipped at the border; 0: not."""

    cutout_fill: Level = 128
    """Value of the cutout square, 0 to 255."""

    copies: tuple["AugmentSettings", ...] | None = None
    """Several tables of the settings above: an epoch passes over the images once under each of them."""

    @model_validator(mode="after")
    def _copies_stand_alone(self) -> Self:
        if self.copies is None:
            return self
        if others := sorted(self.model_fields_set - {"copies"}):
            raise ValueError(f"copies: each has settings of its own; put {', '.join(others)} into the copies")
        if not 2 <= len(self.copies) <= MOST_COPIES:
            raise ValueError(f"copies: 2 to {MOST_COPIES} tables, not {len(self.copies):,}")
        for number, copy in enumerate(self.copies):
            if copy.passes > 1:
                raise ValueError(f"copies.{number}: holds copies itself; list them all in one place")
        return self

    @model_serializer(mode="wrap")
    def _say_no_more(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Beside copies nothing else counts, and what is absent is not written: settings that are read again are as they
        # were, and a training goes on from the state of a version that did not know them.
        values: dict[str, Any] = write(self)
        kept = ["copies"] if self.copies else list(values)
        return {name: values[name] for name in kept if values.get(name) is not None}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if isinstance(self.policy, tuple) and (not self.policy or "none" in self.policy):
            raise ValueError('policy: a list names at least one policy, and not "none"')
        if len(self.policies) > MOST_POLICIES:
            raise ValueError(f"policy: {len(self.policies):,} policies, more than {MOST_POLICIES}")
        if self.combine == "copies" and len(self.policies) < 2:
            raise ValueError('combine = "copies" needs several policies')
        return self

    @property
    def policies(self) -> tuple[str, ...]:
        """The names or paths of the policies; empty for none."""
        if isinstance(self.policy, tuple):
            return self.policy
        return () if self.policy == "none" else (self.policy,)

    @property
    def passes(self) -> int:
        """How many times an epoch passes over the training images."""
        if self.copies is not None:
            return len(self.copies)
        return len(self.policies) if self.combine == "copies" else 1

    @property
    def parts(self) -> dict[str, "AugmentSettings"]:
        """The tables that say what happens to an image, by where they stand below these: `copies.0.`, or nothing."""
        if self.copies is None:
            return {"": self}
        return {f"copies.{number}.": copy for number, copy in enumerate(self.copies)}

    def read_policies(self) -> PolicySet | None:
        """The policies, read and checked; None for none. Raises UserError: call it before a long run, too."""
        return find_policies(self.policies, self.rand_operations, self.rand_level) if self.policies else None


def augment(
    images: Tensor, settings: AugmentSettings, generator: torch.Generator, copy: Tensor | None = None
) -> Tensor:
    """Augment a batch: uint8 [batch, channels, height, width] in and out, on the images' device.

    Every image draws for itself. The input is not changed. All numbers are drawn on the
    generator's device, so a CPU generator gives the same images on every device.
    copy: int64 [batch], which of `settings.passes` passes each image belongs to; needed
    when there are several (of count * passes shuffled numbers, image = number % count and
    copy = number // count).
    """
    if settings.passes > 1 and copy is None:
        raise ValueError("several passes: say which copy each image belongs to")
    if settings.copies is None:
        return _change(images, settings, generator, copy if settings.combine == "copies" else None)
    assert copy is not None
    changed = torch.empty_like(images)
    for number, part in enumerate(settings.copies):
        taken = (copy == number).nonzero()[:, 0].to(images.device)
        if len(taken):
            changed[taken] = _change(images[taken], part, generator)
    return changed


def _change(
    images: Tensor, settings: AugmentSettings, generator: torch.Generator, policy: Tensor | None = None
) -> Tensor:
    """Run the transforms of one table. `policy`: int64 [batch], which policy each image is under; None draws it."""
    if (policies := settings.read_policies()) is not None:
        images = policies(images, generator, policy)
    if settings.jitter is not None:
        images = jitter(images, settings.jitter, generator)
    if settings.resized_crop is not None:
        images = crop_resized(images, settings.resized_crop, generator)
    if settings.crop or settings.flip:
        images = crop_and_flip(images, settings.crop, settings.fill, settings.flip, generator)
    if settings.cutout:
        images = cut_out(images, settings.cutout, settings.cutout_fill, generator)
    return images


def crop_and_flip(
    images: Tensor, padding: int, fill: int | Literal["reflect"], flip: bool, generator: torch.Generator
) -> Tensor:
    """A random window of each padded image, mirrored with probability 1/2 if `flip`; one gather for both.

    images: uint8 [batch, channels, height, width]. Same shape back. `fill` is the value of the padding, or "reflect",
    where it is the image mirrored at its border, whose pixels are not repeated (as torch's own padding reflects).
    """
    batch, channels, height, width = images.shape
    device = images.device
    offsets = _draw(2 * padding + 1, (batch, 2), generator).to(device)  # of the window in the padded image
    rows = torch.arange(height, device=device) + offsets[:, :1]  # [batch, height]
    columns = torch.arange(width, device=device).expand(batch, -1)
    if flip:
        mirrored = _draw(2, (batch, 1), generator).to(device)
        columns = torch.where(mirrored.bool(), width - 1 - columns, columns)
    columns = columns + offsets[:, 1:]  # [batch, width]
    if fill == "reflect":  # no pixel of the padding is made: a place outside is one inside
        padded, wide = images, width
        rows, columns = _reflect(rows - padding, height), _reflect(columns - padding, width)
    else:
        padded, wide = torch.nn.functional.pad(images, (padding,) * 4, value=fill), width + 2 * padding
    places = rows[:, :, None] * wide + columns[:, None, :]  # [batch, height, width]
    places = places.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, places).view(batch, channels, height, width)


def _reflect(places: Tensor, length: int) -> Tensor:
    """Each place outside 0 ... length - 1 mirrored at the nearer end, as often as that takes: -1 is 1."""
    period = max(1, 2 * (length - 1))
    places = places.remainder(period)
    return torch.minimum(places, period - places) if length > 1 else places


def cut_out(images: Tensor, size: int, fill: int, generator: torch.Generator) -> Tensor:
    """Fill a square of `size` pixels around a uniform place of each image (DeVries and Taylor 2017).

    images: uint8 [batch, channels, height, width], unchanged.
    """
    batch, _, height, width = images.shape
    inside = []
    for length in (height, width):
        start = _draw(length, (batch, 1), generator).to(images.device) - size // 2
        place = torch.arange(length, device=images.device)
        inside.append((place >= start) & (place < start + size))  # [batch, length]
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]  # [batch, 1, height, width]
    return images.masked_fill(square, fill)


def _draw(count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(count, shape, generator=generator, device=generator.device)
