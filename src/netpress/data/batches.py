"""The order of the images in an epoch, their normalization and their size."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def shuffled_batches(count: int, batch_size: int, generator: torch.Generator, drop_last: bool = False) -> list[Tensor]:
    """The indices 0..count-1 in a random order, cut into batches: int64 tensors [batch_size] on the CPU.

    drop_last: leave out a last batch that is not full (unless it is the only one). The
    order is drawn on the generator's device.
    """
    order = torch.randperm(count, generator=generator, device=generator.device).cpu()
    batches = list(order.split(batch_size))
    if drop_last and len(batches) > 1 and len(batches[-1]) < batch_size:
        batches.pop()
    return batches


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images / 255 - mean) / std as float32 [batch, channels, height, width], channels last in memory.

    images: uint8 [batch, channels, height, width]; mean and std: fractions of 255, one a
    channel. Computed as one multiplication and one addition a value.
    """
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device).view(1, -1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images.device).view(1, -1, 1, 1)
    values = images.to(torch.float32, memory_format=torch.channels_last)
    return values.mul_(scale).add_(shift)


def shrink(images: Tensor, size: int | None) -> Tensor:
    """Images whose shorter side is `size` pixels; as they are where `size` is None or that side is no longer.

    images: float [batch, channels, height, width]. Each new pixel is a weighted mean of the old ones that it covers
    (bilinear with antialiasing), as Pillow reduces pictures.
    """
    shorter = min(images.shape[2:])
    if size is None or size >= shorter:
        return images
    height, width = (max(1, round(side * size / shorter)) for side in images.shape[2:])
    return functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
