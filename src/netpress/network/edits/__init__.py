"""Edits change a network's structure, and a network's file lists them, so that the network can be built again.

    network.edit(FoldNorms(pairs=(("stem.conv", "stem.norm"),)))
    network.architecture.edits       [{"kind": "fold_norms", "pairs": [["stem.conv", "stem.norm"]]}]

`Network.edit` is the way to change the structure of a network. A file is read by building the family's module on the
meta device and replaying the edits on it (`replay`): the same code, on shapes.

A new kind of edit is a subclass of `Edit` in a file of its own, and `EDITS.add(kind, TheClass)`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from netpress.errors import Failure, quote
from netpress.registry import Registry
from netpress.settings import Settings, SettingsError, parse


class Edit(Settings):
    """One change of a module's structure: what to change in its fields, how in `apply`.

    The fields are what a network's file holds of it, and are validated as settings are: files may say anything.
    A subclass has a field `kind: Literal["name"] = "name"`.
    """

    def apply(self, module: nn.Module) -> None:
        """Change `module`, in place: shapes on the meta device, elsewhere values too.

        A parameter that goes on existing must stay the same `nn.Parameter`, wherever it goes: its mask and its format
        go with it. A new parameter has neither. Raise LookupError, TypeError, ValueError or AttributeError where the
        edit does not fit the module, before anything is changed.
        """
        raise NotImplementedError

    def joined(self, previous: "Edit") -> "Edit | None":
        """One edit that does what `previous` and then this one do, where there is one: a network lists that instead."""
        return None


EDITS: Registry[type[Edit]] = Registry(
    "edit",
    {
        "activate": "netpress.network.edits.activating",
        "factorize": "netpress.network.edits.factorizing",
        "fold_directions": "netpress.network.edits.directions",
        "fold_norms": "netpress.network.edits.folding",
        "narrow": "netpress.network.edits.narrowing",
        "quantize": "netpress.network.edits.quantizing",
        "remove": "netpress.network.edits.removing",
        "scale_norms": "netpress.network.edits.ranging",
    },
)


def replay(module: nn.Module, edits: Iterable[Mapping[str, Any]]) -> None:
    """Apply the edits that a file lists to `module`, in place and in order.

    Raises Failure for an edit that is unknown or does not fit.
    """
    for index, values in enumerate(edits):
        kind = str(values.get("kind", ""))
        if kind not in EDITS:
            names = ", ".join(sorted(EDITS))
            raise Failure(f"the edit {quote(kind)} is unknown; this version of netpress knows {names}")
        try:
            parse(EDITS[kind], values, f"edits.{index}").apply(module)
        except (AttributeError, LookupError, TypeError, ValueError, SettingsError) as error:
            raise Failure(f"the edit {kind} does not fit this network: {error}") from error


def replace_module(root: nn.Module, name: str, replacement: nn.Module) -> None:
    """Put `replacement` where `root` has the submodule `name`."""
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, replacement)
