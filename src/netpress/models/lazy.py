"""Lazy layers, whose parameters get their shape at the first forward pass, are no network yet."""

from collections.abc import Iterator
from itertools import chain

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from netpress.errors import UserError


def _all(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(module.named_parameters(), module.named_buffers())


def check_initialized(module: nn.Module, where: str) -> None:
    """Raise UserError if a lazy layer does not know its shape yet."""
    for part in module.modules():
        if any(
            is_lazy(tensor)
            for kept in (part._parameters, part._buffers)
            for tensor in kept.values()
            if tensor is not None
        ):
            name = next(name for name, tensor in _all(module) if is_lazy(tensor))
            raise UserError(
                f"{where}: {name} of {type(module).__name__} has no shape yet, because its layer is lazy; "
                "run the module once on an example before, or say how many inputs the layer has"
            )
