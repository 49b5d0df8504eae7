"""Running statistics of batch norms in the first steps of a training.

A norm's running mean and variance start at 0 and 1 and forget slowly. With the momentum of .01 that C-EfficientNet
uses, 64% of the start is left after 44 steps; after 200 steps they are a mean over weights that are long gone, which
an evaluation cannot use. So at first they look back over a tenth of the steps so far, until that is longer than their
own memory, as in polynomial-decay averaging (Shamir and Zhang 2013): the momentum of step n (from 0) is
max(its own, 10 / (n + 10)). A momentum of .01 is unchanged after step 990.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

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
