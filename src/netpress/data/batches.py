"""The order of the images in an epoch, their normalization and their size."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def shuffled_batches(
    count: int,
    batch_size: int,
    generator: torch.Generator,
    drop_last: bool = False,
    balanced: Tensor | None = None,
) -> list[Tensor]:
    """The indices 0..count-1 in a random order, cut into batches: int64 tensors [batch_size] on the CPU.

    drop_last: leave out a last batch that is not full (unless it is the only one). The
    order is drawn on the generator's device. balanced: the images' labels, int64 [count] on the CPU; where they are
    given, the `count` indices are those that `draw_balanced` draws.
    """
    order = _shuffled(count, generator)
    if balanced is not None:
        order = draw_balanced(balanced, generator)[order]
    batches = list(order.split(batch_size))
    if drop_last and len(batches) > 1 and len(batches[-1]) < batch_size:
        batches.pop()
    return batches


def draw_balanced(labels: Tensor, generator: torch.Generator) -> Tensor:
    """As many indices as there are labels, each class as often as the others: int64 [count], not shuffled.

    Of two classes of 30 and 10 images each is drawn 20 times: 20 of the 30 once, and each of the 10 twice. labels:
    int64 [count] on the CPU. An image of a class is drawn at most once more than another of the same class; which
    are, and which classes have the indices that do not divide evenly, is random.
    """
    count, sizes = len(labels), torch.bincount(labels)  # [classes]
    present = sizes > 0
    quotas = torch.zeros_like(sizes)
    shares = torch.full((int(present.sum()),), count // max(1, int(present.sum())))
    shares[_shuffled(len(shares), generator)[: count - int(shares.sum())]] += 1
    quotas[present] = shares
    order = _shuffled(count, generator)
    order = order[labels[order].argsort(stable=True)]  # class by class, shuffled within each
    classes = labels[order]
    rank = torch.arange(count) - (sizes.cumsum(0) - sizes)[classes]  # place within the class
    whole, more = quotas // sizes.clamp(min=1), quotas % sizes.clamp(min=1)
    return order.repeat_interleave(whole[classes] + (rank < more[classes]))


def _shuffled(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator, device=generator.device).cpu()


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images / 255 - mean) / std as float32 [batch, channels, height, width], channels last in memory.

    images: uint8 [batch, channels, height, width]; mean and std: fractions of 255, one a
    channel. Computed as one multiplication and one addition a value.
    """
    scale, shift = scale_and_shift(mean, std, images.device)
    values = images.to(torch.float32, memory_format=torch.channels_last)
    return values.mul_(scale).add_(shift)


def scale_and_shift(
    mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """What `normalize` multiplies pixels of 0 to 255 by, and adds: float32 [1, channels, 1, 1] both."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, -1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, -1, 1, 1)
    return scale, shift


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
