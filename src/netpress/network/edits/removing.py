"""The edit that takes modules out of a network.

    {"kind": "remove", "modules": ["blocks.2.squeeze_excite"]}

An `nn.Identity` stands in the place of each, so that the forward pass that calls it goes on. Which modules may go says
`netpress.compression.simplification`: those whose results nothing uses, and those that answer what they are given.
"""

from typing import Literal

from torch import nn

from netpress.network.edits import EDITS, Edit, replace_module


class Remove(Edit):
    """Put an `nn.Identity` in the place of each named module; its parameters and their masks end."""

    kind: Literal["remove"] = "remove"
    modules: tuple[str, ...]

    def apply(self, module: nn.Module) -> None:
        """See `Edit.apply`. Raises ValueError for the network itself, AttributeError for what it does not have."""
        removed: set[int] = set()
        for name in self.modules:
            if not name:
                raise ValueError("the network itself cannot be removed from it")
            removed.add(id(module.get_submodule(name)))
        for name, part in list(module.named_modules(remove_duplicate=False)):
            if id(part) in removed and name:
                replace_module(module, name, nn.Identity().train(part.training))


EDITS.add("remove", Remove)
