"""Makes a picture square: stretched, cut or padded. Pillow does it, so that whoever deploys a network can do the same.

squash    image.resize((size, size), BILINEAR)                           everything is seen, proportions are not kept
crop      ImageOps.fit(image, (size, size), method=BILINEAR)             the middle square, as most papers crop
pad       ImageOps.pad(image, (size, size), method=BILINEAR, color=...)  everything is seen, between two bars
"""

from typing import Literal

from PIL import Image, ImageOps

ResizeMethod = Literal["squash", "crop", "pad"]
BILINEAR = Image.Resampling.BILINEAR  # averages in shrinking
ENOUGH = 2
"""A JPEG is decoded at a fraction of its size only where that leaves so many times the pixels that are needed."""


def make_square(image: Image.Image, size: int, method: ResizeMethod, background: int) -> Image.Image:
    """The picture as `size` x `size` pixels; `background` (0 to 255) is the grey of the bars."""
    if image.size == (size, size):
        return image
    if method == "crop":
        return ImageOps.fit(image, (size, size), method=BILINEAR)
    if method == "pad":
        colour = (background,) * len(image.getbands())
        return ImageOps.pad(image, (size, size), method=BILINEAR, color=colour if len(colour) > 1 else background)
    return image.resize((size, size), BILINEAR)


def resizes_columns_first() -> bool:
    """Whether this Pillow resizes tall pictures along their columns first (from 13 on), which rounds otherwise.

    Then: where the height falls, by more than twice what the width falls.
    """
    tall = Image.frombytes("L", (3, 64), bytes(7 * place * place % 251 for place in range(3 * 64)))
    return tall.resize((8, 8), BILINEAR).tobytes() == tall.resize((3, 8), BILINEAR).resize((8, 8), BILINEAR).tobytes()


def reduce_in_decoding(picture: Image.Image, size: int) -> None:
    """Let a JPEG that is not decoded yet be decoded at 1/2, 1/4 or 1/8 of its size, if that is large enough.

    libjpeg takes fewer of the frequencies of each block of 8 x 8 pixels. Other formats stay as they are.
    """
    picture.draft(None, (ENOUGH * size, ENOUGH * size))
