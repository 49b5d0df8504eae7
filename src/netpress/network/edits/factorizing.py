"""The edit that puts layers into factors, and that gives layers in factors other ranks.

    {"kind": "factorize", "layers": [["blocks.0.conv2", [24, 16]], ["classifier", [12]]]}

`netpress.models.factorized` says what the factors and their ranks are. The new weights are 0: whoever edits fills them
(`netpress.compression.factorization`).
"""

from collections.abc import Mapping
from typing import Literal, Self

from torch import nn

from netpress.models.factorized import Factorized, Ranks, factorized
from netpress.network.edits import EDITS, Edit, replace_module


class Factorize(Edit):
    """Give each named layer, in factors already or not, factors of these ranks."""

    kind: Literal["factorize"] = "factorize"
    layers: tuple[tuple[str, Ranks], ...]

    @classmethod
    def of(cls, ranks: Mapping[str, Ranks]) -> Self:
        """The edit that gives each named layer these ranks."""
        return cls(layers=tuple(ranks.items()))

    def apply(self, module: nn.Module) -> None:
        """See `Edit.apply`. Raises TypeError for what is no plain convolution or linear layer, or a factor already,
        ValueError for ranks that it cannot have, both naming it.
        """
        new: dict[str, nn.Module] = {}
        for name, ranks in self.layers:
            layer = module.get_submodule(name)
            if not name or type(layer) not in (nn.Conv2d, nn.Linear, Factorized):
                raise TypeError(f"{name or 'the network itself'}: a {type(layer).__name__} has no factors")
            if isinstance(module.get_submodule(name.rpartition(".")[0]), Factorized):
                raise TypeError(f"{name}: a factor itself; name the layer that it is part of")
            try:
                new[name] = factorized(layer, ranks)  # type: ignore[arg-type]
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        for name, layer in new.items():
            replace_module(module, name, layer)

    def joined(self, previous: Edit) -> Edit | None:
        """Ranks given twice in a row are those given last."""
        if not isinstance(previous, Factorize):
            return None
        return Factorize.of(dict(previous.layers) | dict(self.layers))


EDITS.add("factorize", Factorize)
