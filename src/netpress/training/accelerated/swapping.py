"""Modules that train faster, put in place of the plain ones and taken out again.

Only a module's class is swapped, and with it the forward pass: parameters, names, hooks and settings stay where they
are.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from netpress.training.accelerated.inverted_residual import AcceleratedInvertedResidual
from netpress.training.accelerated.plain import swapped
from netpress.training.accelerated.quantized import AcceleratedQuantizedConv2d, AcceleratedQuantizedLinear
from netpress.training.accelerated.widening import AcceleratedConvNorm

FASTER: dict[type[nn.Module], type[nn.Module]] = {
    faster.plain_class: faster
    for faster in (
        AcceleratedConvNorm,
        AcceleratedInvertedResidual,
        AcceleratedQuantizedConv2d,
        AcceleratedQuantizedLinear,
    )
}


@contextmanager
def accelerate(module: nn.Module) -> Iterator[None]:
    """Inside this context the parts of `module` that can train faster do; after it, however it ends, they are plain.

    Which way a part takes is decided at each call (see `conditions`): evaluation is torch's own, to the bit. Copies
    made inside are plain.
    """
    with swapped([module], FASTER):
        yield
