"""Contact sheets: small pictures of many images in one PNG, side by side without a gap.

    draw_sheet(images, columns=6, side=32)     PNG of rows of 6 images

They show people what a network sees, and are bounded in bytes.
"""

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

SIDES = ((96, 8), (96, 6), (64, 8), (64, 6), (48, 8), (48, 6), (32, 8), (32, 6), (32, 4), (32, 3), (32, 2), (32, 1))
"""What is tried, the best first: pixels of an image's side at most, images a row."""
SMALLEST = (24, 1)
_SAMPLE = 16  # images, from whose bytes those of all are estimated


def draw_sheet(images: Tensor, columns: int, side: int) -> bytes:
    """A PNG with rows of `columns` images, each `side` pixels wide and high.

    images: uint8 [count, channels, height, width]. A last row that is not full ends black. Images of neither 1 nor 3
    channels are shown as the grey of their mean.
    """
    if images.shape[1] not in (1, 3):
        images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
    if images.shape[2:] != (side, side):
        small = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True, align_corners=False)
        images = small.round().clamp(0, 255).to(torch.uint8)
    missing = -len(images) % columns
    images = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
    rows = len(images) // columns
    # [rows, columns, channels, side, side] -> [rows, side, columns, side, channels]
    pixels = images.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
    pixels = pixels.reshape(rows * side, columns * side, -1).squeeze(-1)
    file = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(file, "png", optimize=True)
    return file.getvalue()


def choose_size(images: Tensor, rows: int, budget: int, choices: Sequence[tuple[int, int]] = SIDES) -> tuple[int, int]:
    """The side in pixels and the images a row of a sheet of `rows` rows that takes about `budget` bytes at most.

    images: some that it shows, uint8 [count, channels, height, width]; the bytes of all are estimated from the first.
    Images are never enlarged. Where no choice fits, SMALLEST is given.
    """
    whole = images.shape[2]
    sample = images[:_SAMPLE]
    each: dict[int, float] = {}
    for largest, columns in choices:
        side = min(largest, whole)
        if side not in each:
            each[side] = len(draw_sheet(sample, len(sample), side)) / len(sample)
        if each[side] * columns * rows <= budget:
            return side, columns
    return min(SMALLEST[0], whole), SMALLEST[1]
