"""A network is data: an architecture, tensors, masks and number formats, in one `.netpress` file."""

from netpress.network.file import (
    check_out,
    describe,
    find_file,
    inspect_file,
    load,
    own_class,
    resolve,
    save,
)
from netpress.network.library import FILES, Library
from netpress.network.network import Architecture, InputSpec, Network, build, check_finite, copy, create

__all__ = [
    "FILES",
    "Architecture",
    "InputSpec",
    "Library",
    "Network",
    "build",
    "check_finite",
    "check_out",
    "copy",
    "create",
    "describe",
    "find_file",
    "inspect_file",
    "load",
    "own_class",
    "resolve",
    "save",
]
