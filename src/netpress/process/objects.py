"""Objects that processes of one run hand each other: tensors, plain values, modules and settings.

They come over a connection, so they are read by torch's reader of weights, which makes tensors and plain values alone
and calls nothing. To it are added the classes of torch.nn and of a few rooms of ours that a message names, made without
their `__init__`. Whatever else a message names, a function of ours included, is refused before anything is made.
"""

import importlib
import io
from typing import Any

import torch

from netpress.errors import Failure

ROOMS = ("torch.nn.", *(f"netpress.{room}." for room in ("data", "models", "network", "numerics", "training")))
"""Where classes may lie that a message names."""

MAKER = "netpress.training.accelerated.plain._make"
"""The one function that it may name: it makes an object of a class, which is one of these."""


def write_object(thing: Any) -> bytes:
    """`thing` as bytes for `read_object`."""
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def read_object(data: bytes, device: torch.device) -> Any:
    """What `write_object` was given, its tensors on `device`. Raises Failure for a message that names anything else."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
    known = [_known(name) for name in names]
    with torch.serialization.safe_globals(known):
        return torch.load(io.BytesIO(data), map_location=device, weights_only=True)


def is_handed(kind: type) -> bool:
    """Whether objects of this class can be handed to another process."""
    return f"{kind.__module__}.".startswith(ROOMS)


def _known(name: str) -> Any:
    place, _, own = name.rpartition(".")
    found = getattr(importlib.import_module(place), own, None) if f"{place}.".startswith(ROOMS) else None
    if name == MAKER or (isinstance(found, type) and is_handed(found)):
        return found
    raise Failure(f"another process of this run names {name}, which is not handed between processes")
