"""Modules whose class is swapped for a time, and what they are otherwise."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import nn


class Swapped:
    """A faster class in place of the `plain_class`. A copy of the module is plain, whichever way it is copied."""

    plain_class: ClassVar[type[nn.Module]]

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        _, (_, *arguments), *state = reduced
        return _make, (self.plain_class, *arguments), *state


def _make(kind: type[nn.Module], *arguments: Any) -> nn.Module:
    """What `copyreg.__newobj__` does, which pickle lets make nothing but the object's own class."""
    made: nn.Module = kind.__new__(kind, *arguments)
    return made


def plain_type(module: nn.Module) -> type[nn.Module]:
    """The class of a module that may be swapped, outside of `accelerate`."""
    return module.plain_class if isinstance(module, Swapped) else type(module)


@contextmanager
def swapped(modules: Iterable[nn.Module], classes: Mapping[type[nn.Module], type[nn.Module]]) -> Iterator[None]:
    """Inside this context every part whose class `classes` has is of the class that stands there; after it, plain.

    The classes that stand there are `Swapped`.
    """
    parts = [part for module in modules for part in module.modules() if type(part) in classes]
    try:
        for part in parts:
            part.__class__ = classes[type(part)]
        yield
    finally:
        for part in parts:
            part.__class__ = plain_type(part)
