"""Resized crop: a random part of each image, stretched to the image's own size (Szegedy et al. 2015, section 6)."""

from typing import Annotated, Self

import torch
from pydantic import model_validator
from torch import Tensor

from netpress.settings import OpenFraction, Settings, between

Ratio = Annotated[float, between(0.01, 100)]
TRIES = 10  # before the crop lies in the centre
_BITS = 22  # of the fixed point in which Pillow weighs pixels


class ResizedCropSettings(Settings):
    """Which part of each image is cut out and stretched to the whole size."""

    scale: tuple[OpenFraction, OpenFraction] = (0.08, 1.0)
    """Smallest and largest share of the image's area, drawn evenly."""

    ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)
    """Smallest and largest width divided by height, drawn evenly on a logarithmic scale."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"{name}: {low} is above {high}; give the smaller end first")
        return self


def crop_resized(images: Tensor, settings: ResizedCropSettings, generator: torch.Generator) -> Tensor:
    """Cut out a random part of each image and stretch it: uint8 [batch, channels, height, width], unchanged.

    Same shape back. All numbers are drawn on the generator's device.
    """
    boxes = draw_boxes(len(images), images.shape[2], images.shape[3], settings, generator)
    return resize_boxes(images, boxes.to(images.device))


def draw_boxes(
    batch: int, height: int, width: int, settings: ResizedCropSettings, generator: torch.Generator
) -> Tensor:
    """Left, top, width and height of a part of each image, in pixels: int64 [batch, 4].

    Area and ratio are drawn up to `TRIES` times, until the part fits the image. Where none does, it is the largest part
    in the centre whose ratio is allowed.
    """
    numbers = torch.rand(batch, 2 * TRIES + 2, generator=generator, device=generator.device, dtype=torch.float64)
    shares, ratios = numbers[:, :TRIES], numbers[:, TRIES : 2 * TRIES]  # [batch, tries]
    area = height * width * (settings.scale[0] + shares * (settings.scale[1] - settings.scale[0]))
    low, high = torch.tensor(settings.ratio, dtype=torch.float64).log().tolist()
    ratio = (low + ratios * (high - low)).exp()
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)  # of equals, the first
    sizes = torch.stack([widths.gather(1, first), heights.gather(1, first)], 2)[:, 0]  # [batch, 2]
    whole = torch.tensor([width, height], dtype=torch.float64, device=numbers.device)
    free = whole - sizes + 1
    places = torch.minimum((numbers[:, 2 * TRIES :] * free).floor(), free - 1)
    drawn = torch.cat([places, sizes], 1).long()
    centre = torch.tensor(_centre(height, width, settings), device=numbers.device)
    return torch.where(fits.any(1, keepdim=True), drawn, centre)


def _centre(height: int, width: int, settings: ResizedCropSettings) -> tuple[int, int, int, int]:
    low, high = settings.ratio
    wide, high_up = width, height
    if width / height < low:
        high_up = max(1, round(width / low))
    elif width / height > high:
        wide = max(1, round(height * high))
    return (width - wide) // 2, (height - high_up) // 2, wide, high_up


def resize_boxes(images: Tensor, boxes: Tensor) -> Tensor:
    """Each image's box (left, top, width, height, in pixels and within the image), stretched to the image's size.

    images: uint8 [batch, channels, height, width], unchanged; boxes: int64 [batch, 4]. Same shape back. Bilinear in
    Pillow's 22 bits of fixed point, columns first, so that the result is that of its `crop` and `resize`.
    """
    columns = _stretch(images.transpose(2, 3), boxes[:, 0], boxes[:, 2]).transpose(2, 3)
    return _stretch(columns, boxes[:, 1], boxes[:, 3])


def _stretch(images: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Rows `starts` to `starts + lengths` of each image, stretched to the whole height; starts, lengths: [batch]."""
    batch, channels, height, width = images.shape
    lengths = lengths[:, None]
    # A part is never larger than the image, so each new row lies between two old ones.
    centres = torch.arange(height, dtype=torch.float64, device=images.device) + 0.5
    centres = centres * (lengths.double() / height)  # [batch, height]
    above = (centres - 0.5).floor().long().clamp(min=0)
    below = above + 1
    first, second = (1 - (row - centres + 0.5).abs() for row in (above, below))
    second = second.clamp(min=0) * (below < lengths)
    total = first + second
    rows = images.reshape(-1, width)  # whole rows are copied: several times faster than a gather of single pixels
    planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1) * height
    summed = torch.full((batch, channels, height, width), 1 << (_BITS - 1), dtype=torch.int32, device=images.device)
    for row, weight in ((above, first), (below, second)):
        places = planes + (starts[:, None] + torch.minimum(row, lengths - 1))[:, None]  # [batch, channels, height]
        fixed = (weight / total * (1 << _BITS) + 0.5).int()[:, None, :, None]
        # Sums stay below 256 * 2^22, in int32.
        summed.addcmul_(rows.index_select(0, places.flatten()).view(summed.shape).int(), fixed)
    return summed.bitwise_right_shift_(_BITS).to(torch.uint8)
