"""Running statistics of batch norms: in the first steps of a training, and measured anew after surgery.

A norm's running mean and variance start at 0 and 1 and forget slowly. With the momentum of .01 that C-EfficientNet
uses, 64% of the start is left after 44 steps; after 200 steps they are a mean over weights that are long gone, which
an evaluation cannot use. So at first they look back over a tenth of the steps so far, until that is longer than their
own memory, as in polynomial-decay averaging (Shamir and Zhang 2013): the momentum of step n (from 0) is
max(its own, 10 / (n + 10)). A momentum of .01 is unchanged after step 990.
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from netpress.data import Images, normalize
from netpress.network import Network
from netpress.training.part import Part

WINDOW = 10  # the statistics are a mean over about 1 / WINDOW of the steps so far


class NormWarmup(Part):
    """Sets the momentum of a module's norms for one training, and sets it back at the end."""

    def __init__(self, module: nn.Module) -> None:
        self.norms: list[tuple[_BatchNorm, float]] = [
            (norm, norm.momentum)
            for norm in module.modules()
            if isinstance(norm, _BatchNorm) and norm.momentum and norm.track_running_stats
        ]
        self.steps = max((WINDOW / momentum for _, momentum in self.norms), default=0.0)

    def begin_step(self, step: int) -> None:
        if step <= self.steps + 1:
            for norm, momentum in self.norms:
                norm.momentum = max(momentum, WINDOW / (step + WINDOW))

    def close(self) -> None:
        """The norms' own momenta again."""
        for norm, momentum in self.norms:
            norm.momentum = momentum


@torch.no_grad()
def remeasure_norms(network: Network, images: Images, *, batch_size: int, device: torch.device) -> int:
    """Measure the running statistics of all norms anew, in place, as means over batches; returns how many there are.

    Norms are in training mode meanwhile, everything else in evaluation mode, so nothing is random. A last batch that
    is not full is left out, as long as there is another one: it would count as much as the others. Batches are of two
    images at least, as one has no variance on a map of one pixel. The network is in evaluation mode afterwards, on
    `device`.
    """
    batch_size = max(2, batch_size)
    module = network.module.to(device).eval()
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # a mean over all batches
    try:
        for batch in images.images.split(batch_size) if norms else ():
            if len(batch) == min(batch_size, len(images)):
                module(normalize(batch.to(device), network.input.mean, network.input.std))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
    return len(norms)
