"""Images that lie beside firmware, and the logits that it must give for them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from netpress.data import normalize
from netpress.data.pictures import list_pictures, read_blocks
from netpress.errors import UserError
from netpress.network import Network
from netpress.network.data import pixel_rules
from netpress.process.console import Console
from netpress.program import execute, lower
from netpress.program.integers import Restore


def draw_pattern(network: Network) -> Tensor:
    """The image that main.c draws where it is given none: uint8 [1, channels, height, width]."""
    channels, height, width = network.input.size
    value, values = 1, []
    for place in range(channels * height * width):
        value = (value * 1664525 + 1013904223) % 2**32
        values.append(((place >> 2) + (value >> 26)) % 256)
    pixels = torch.tensor(values, dtype=torch.uint8).view(height, width, channels)
    return pixels.permute(2, 0, 1)[None].contiguous()


def read_examples(network: Network, paths: Sequence[Path], console: Console) -> Tensor:
    """Images from files, as the network's training read its images: uint8 [images, channels, height, width].

    Raises UserError for one that cannot be read.
    """
    blocks = list(read_blocks(list_pictures(paths, console), pixel_rules(network), console))
    for block in blocks:
        for picture, problem in zip(block.pictures, block.problems, strict=True):
            if problem is not None:
                raise UserError(f"{picture.name}: {problem}")
    return torch.cat([block.pixels for block in blocks])


def integer_logits(network: Network, images: Tensor) -> Tensor:
    """The logits of the C for `images` [images, channels, height, width]: int32 [images, classes]."""
    program = lower(network)
    last = program.operations[-1]
    assert isinstance(last, Restore)
    with torch.inference_mode():
        logits = execute(program, normalize(images, network.input.mean, network.input.std))
    return (logits.double() / last.scale).round().int()


def raw_pixels(images: Tensor) -> bytes:
    """Images as [height][width][channel], one after the other."""
    return images.permute(0, 2, 3, 1).contiguous().numpy().tobytes()


def logit_lines(logits: Tensor) -> str:
    """A line of logits for each image, as main.c writes them."""
    return "".join(" ".join(map(str, row)) + "\n" for row in logits.tolist())
