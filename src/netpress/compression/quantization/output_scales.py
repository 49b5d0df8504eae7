"""Setting the scales of 16-bit values: what a unit of each layer's and each norm's output is worth.

Values of one chain (`netpress.program.chains`) share one scale, the finest power of two whose range holds what was met
on training images, and some headroom. A bit more or less matters: the learned steps of inputs may reach over a small
part of that range, and then rounding moves one value in some hundred to the next step. What is beyond the range
saturates, and costs accuracy silently: evaluation counts it.
"""

import math

import torch
from torch import Tensor

from netpress.errors import Failure
from netpress.network import Network
from netpress.numerics.fixed_point import FARTHEST, HIGH
from netpress.program.chains import Chain, find_chains
from netpress.program.lowering import lower, lower_floats

SPARE = 2  # bits by which a factor may grow in a training
BATCH = 16  # images whose values a processor's cache holds better than those of many


def set_output_scales(network: Network, pixels: Tensor, headroom: float) -> None:
    """Choose the output scales of layers and norms, in place, from normalised training images.

    headroom: the range as a multiple of the largest value met; rounded to a power of two it is up to twice as much.

    Raises UserError, naming the layer, for what integer arithmetic has no operation for, Failure for values that are
    not finite.
    """
    training = network.module.training
    network.module.eval()
    try:
        lower(network)  # what has no operation is refused before anything is measured
        for chain in find_chains(lower_floats(network), pixels.split(BATCH)):
            scale = 2.0 ** -choose_fraction(chain, headroom)
            for name in chain.members:
                output = network.module.get_submodule(name).output_scale
                assert isinstance(output, Tensor)
                with torch.no_grad():
                    output.fill_(scale)
    finally:
        network.module.train(training)


def choose_fraction(chain: Chain, headroom: float) -> int:
    """The fractional bits of a chain's 16-bit values."""
    if not math.isfinite(chain.largest):
        raise Failure(f"{min(chain.members)}: values are not finite (NaN or infinity)")
    finest = math.floor(math.log2(HIGH / (headroom * chain.largest))) if chain.largest else 15
    if chain.factor:  # a unit of the sums is not shifted farther to the left than shifts reach
        finest = min(finest, -FARTHEST[1] - SPARE - math.frexp(chain.factor)[1])
    return max(-100, min(100, finest))
