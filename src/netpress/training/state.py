"""What a training writes down so that it can go on, to the same bits, after an interruption.

No generator is among it: every step draws from generators made for that step alone.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from netpress.numerics.strided import keep_in_bounds


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under names that begin with `prefix` and a slash."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def section(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `prefixed` put under `prefix`."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Momentum and other buffers, named by the parameter's place: `3.momentum_buffer`."""
    return {
        f"{index}.{key}": value
        for index, parameter in enumerate(_parameters(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give a new optimizer the buffers of `optimizer_tensors`, laid out in memory like its parameters."""
    parameters = _parameters(optimizer)
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        fresh = torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor)
        optimizer.state[parameter][key] = fresh.detach().copy_(tensor)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@torch.no_grad()
def lay_out(module: nn.Module, device: torch.device) -> None:
    """Move `module` to `device` with every tensor in fresh, aligned memory, four dimensions channels last.

    A tensor read from a file may sit anywhere and in another order; kernels may then add in another
    order too. After this the bits of a training do not depend on where its network came from.
    (In this layout oneDNN harms strided 1x1 convolutions of few channels: `netpress.numerics.strided`.)
    """
    keep_in_bounds(module).to(device)
    for tensor in [*module.parameters(), *module.buffers()]:
        layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
        tensor.data = tensor.data.clone(memory_format=layout)
