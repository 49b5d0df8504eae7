"""The edit that gives a network other activations.

    {"kind": "activate", "modules": ["stem.activation", ...], "function": "relu"}

A ReLU is one operation a value, a hard-swish five.
"""

from typing import Literal

from torch import nn

from netpress.network.edits import EDITS, Edit, replace_module
from netpress.settings import Positive

Function = Literal["relu", "clamp"]
REPLACEABLE: dict[type[nn.Module], str] = {
    nn.Hardswish: "hard_swish",
    nn.SiLU: "swish",
    nn.GELU: "gelu",
    nn.Mish: "mish",
    nn.ELU: "elu",
    nn.LeakyReLU: "leaky_relu",
    nn.ReLU6: "relu6",
    nn.ReLU: "relu",
}
"""Layers that the edit can replace, and what scoring calls their functions."""


class Activate(Edit):
    """Put a ReLU, or a clamp to [0, `highest`], in the place of each named activation."""

    kind: Literal["activate"] = "activate"
    modules: tuple[str, ...]
    function: Function
    highest: Positive = 6.0

    def apply(self, module: nn.Module) -> None:
        """See `Edit.apply`. Raises TypeError for a module that is no such activation, naming it."""
        replaced: set[int] = set()
        for name in self.modules:
            layer = module.get_submodule(name)
            if not name or type(layer) not in REPLACEABLE:
                kind = type(layer).__name__
                raise TypeError(f"{name or 'the network itself'}: a {kind} is no activation that can be replaced")
            replaced.add(id(layer))
        for name, part in list(module.named_modules(remove_duplicate=False)):
            if id(part) in replaced:
                replace_module(module, name, self._layer().train(part.training))

    def _layer(self) -> nn.Module:
        if self.function == "relu":
            return nn.ReLU()
        return nn.ReLU6() if self.highest == 6 else nn.Hardtanh(0.0, self.highest)


EDITS.add("activate", Activate)
