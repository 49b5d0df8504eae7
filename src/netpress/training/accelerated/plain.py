"""What a swapped module is otherwise."""

from typing import Any, ClassVar

from torch import nn


class Swapped:
    """A faster class in place of the `plain` one. A copy of the module is plain, whichever way it is copied."""

    plain: ClassVar[type[nn.Module]]

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        _, (_, *arguments), *state = reduced
        return _make, (self.plain, *arguments), *state


def _make(kind: type[nn.Module], *arguments: Any) -> nn.Module:
    """What `copyreg.__newobj__` does, which pickle lets make nothing but the object's own class."""
    made: nn.Module = kind.__new__(kind, *arguments)
    return made


def plain_type(module: nn.Module) -> type[nn.Module]:
    """The class of a module that may be swapped, outside of `accelerate`."""
    return module.plain if isinstance(module, Swapped) else type(module)
