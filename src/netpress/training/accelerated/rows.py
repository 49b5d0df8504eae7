"""Images as matrices: one row a pixel, one column a channel."""

import torch
from torch import Tensor


def as_rows(images: Tensor) -> Tensor:
    """[images, channels, height, width], channels last -> [images * height * width, channels], the same memory."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def as_images(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_rows`, for as many images of the same size as `like` has."""
    return rows.view(len(like), *like.shape[2:], -1).permute(0, 3, 1, 2)


def rows_of(images: Tensor) -> Tensor:
    """As `as_rows`, copied where channels are not last."""
    return as_rows(images.contiguous(memory_format=torch.channels_last))
