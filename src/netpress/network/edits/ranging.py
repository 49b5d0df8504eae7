"""Norms that stay in a network of integer arithmetic write values of a scale of their own.

    {"kind": "scale_norms", "norms": ["blocks.0.norm1", ...]}

Each gets a buffer `output_scale`, a power of two, as quantized layers have one.
"""

from typing import Literal

import torch
from torch import nn

from netpress.network.edits import EDITS, Edit

NORM_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d)


def unscaled_norms(module: nn.Module) -> tuple[str, ...]:
    """The names of the norms that have no scale of their own."""
    norms = ((name, part) for name, part in module.named_modules() if type(part) in NORM_KINDS)
    return tuple(name for name, norm in norms if not hasattr(norm, "output_scale"))


class ScaleNorms(Edit):
    """Give norms a buffer `output_scale`, 1 until it is set."""

    kind: Literal["scale_norms"] = "scale_norms"
    norms: tuple[str, ...]

    def apply(self, module: nn.Module) -> None:
        """See `Edit.apply`. Raises ValueError for what is no norm, or has a scale already."""
        unscaled = unscaled_norms(module)
        for name in self.norms:
            if name not in unscaled:
                raise ValueError(f"{name}: no batch norm that could get a scale")
        for name in self.norms:
            norm = module.get_submodule(name)
            device = next((tensor.device for tensor in norm.buffers()), None)
            norm.register_buffer("output_scale", torch.ones((), device=device))


EDITS.add("scale_norms", ScaleNorms)
