"""How an exported file is compared with the network it came from."""

import torch
from torch import Tensor

from netpress.data import Images
from netpress.network import Network
from netpress.process.devices import generator_for

# What an export may be off by: share of equal answers, and a layer's relative error. Where values are rounded, one that
# lies between two integers may go either way in another order of adding, and layers after it spread the difference.
AGREEMENT, FAR = 0.99, 0.05
AGREEMENT_QUANTIZED, FAR_QUANTIZED = 0.95, 0.25


def random_images(network: Network, count: int = 64) -> Images:
    """Images of noise of the network's own size, the same at every call, with no meaningful labels."""
    generator = generator_for(0, "onnx")
    pixels = torch.randint(0, 256, (count, *network.input.size), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.zeros(count, dtype=torch.int64))


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Root mean square of the difference as a share of that of `ours`."""
    size = float(ours.double().square().mean().sqrt())
    return float((ours.double() - theirs.double()).square().mean().sqrt()) / max(size, 1e-12)
