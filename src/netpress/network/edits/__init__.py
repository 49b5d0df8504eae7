"""Edits of a network's structure, so that an edited network can be rebuilt from JSON.

An edit is a dict with a `kind` and what that kind needs. A stage that changes the
structure appends its edit to the network's architecture; rebuilding applies the edits
in order to the freshly built module, on shapes only, before the tensors are loaded.
"""

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from netpress.errors import Failure, quote
from netpress.settings import Settings, SettingsError, parse

Edit = dict[str, Any]
ApplyEdit = Callable[[nn.Module, Edit], nn.Module]

_BUILT_IN = {"fold_norms": "netpress.network.edits.folding", "quantize": "netpress.network.edits.quantizing"}
_EDITS: dict[str, tuple[ApplyEdit, type[Settings] | None]] = {}


def register_edit(kind: str, apply: ApplyEdit, settings: type[Settings] | None = None) -> None:
    """Make a kind of edit known. `apply` changes the module's structure in place, also on the meta device.

    `settings`, with a field `kind`, says what such an edit may hold: edits come from files, which may say anything.
    """
    if kind in _EDITS:
        raise ValueError(f"the edit {kind} is registered twice")
    _EDITS[kind] = apply, settings


def apply_edits(module: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """Replay `edits` in order on `module`, in place. Raises Failure for an edit that is unknown or does not fit."""
    for index, edit in enumerate(edits):
        kind = str(edit.get("kind", ""))
        if kind not in _EDITS and kind in _BUILT_IN:  # imported when first met: a network file must load by itself
            importlib.import_module(_BUILT_IN[kind])
        apply, settings = _EDITS.get(kind, (None, None))
        if apply is None:
            known = ", ".join(sorted(_EDITS.keys() | _BUILT_IN.keys()))
            raise Failure(f"the edit {quote(kind)} is unknown; this version of netpress knows {known}")
        try:
            if settings is not None:
                parse(settings, edit, f"edits.{index}")
            module = apply(module, edit)
        except (AttributeError, LookupError, TypeError, ValueError, SettingsError) as error:
            raise Failure(f"the edit {kind} does not fit this network: {error}") from error
    return module


def replace_module(root: nn.Module, name: str, replacement: nn.Module) -> None:
    """Put `replacement` where `root` has the submodule `name`."""
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, replacement)
