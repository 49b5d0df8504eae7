"""Where a network's tensors lie in memory, so that the bits of a training do not depend on where it came from."""

import torch
from torch import nn

from netpress.numerics.strided import keep_in_bounds


@torch.no_grad()
def lay_out(module: nn.Module, device: torch.device) -> None:
    """Move `module` to `device` with every tensor in fresh, aligned memory, four dimensions channels last.

    A tensor read from a file may lie anywhere and in another order, and kernels may then add in another order too.
    (In this layout oneDNN harms strided 1x1 convolutions of few channels: `netpress.numerics.strided`.)
    """
    keep_in_bounds(module).to(device)
    for tensor in [*module.parameters(), *module.buffers()]:
        layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
        tensor.data = tensor.data.clone(memory_format=layout)
