"""Each node of an ONNX graph gets a path of its own among the modules of the torch module.

A node called `/layer1/conv/Conv`, for example, becomes the module `layer1.conv.Conv`.
"""

import re
from collections.abc import Sequence

from torch import nn


class Places:
    """Paths among modules, each given to one node; those that are `reserved` are given to none."""

    def __init__(self, reserved: Sequence[str]) -> None:
        self.reserved = frozenset(reserved)
        self.taken: set[str] = set()
        self.above: set[str] = set()
        self.numbers: dict[str, int] = {}

    def take(self, text: str) -> str:
        """A free path for a node that is called `text`."""
        parts = [re.sub(r"[^\w-]", "_", word) for word in re.split(r"[./:]+", text) if word]
        parts = [f"{word}_" if hasattr(nn.Module, word) or word in self.reserved else word for word in parts] or [
            "node"
        ]
        unique, plain = ".".join(parts), "_".join(parts)
        # No place may lie within another: a step has no steps below it.
        while unique in self.taken or unique in self.above or any(one in self.taken for one in _above(unique)):
            self.numbers[plain] = self.numbers.get(plain, 1) + 1
            unique = f"{plain}_{self.numbers[plain]}"
        self.taken.add(unique)
        self.above.update(_above(unique))
        return unique


def _above(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]
