"""Lazy layers, whose parameters get their shape at the first forward pass, are no network yet."""

from torch import nn
from torch.nn.parameter import is_lazy

from netpress.errors import UserError


def check_initialized(module: nn.Module, where: str) -> None:
    """Raise UserError if a lazy layer does not know its shape yet."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise UserError(
                f"{where}: {name} of {type(module).__name__} has no shape yet, because its layer is lazy; "
                "run the module once on an example before, or say how many inputs the layer has"
            )
