"""This module notices values that leave torch, or that decide what a forward pass does next.

A forward pass may, for example, call `x.numpy()`, calculate there and come back. A recording follows tensors only: what
comes back looks like a constant and would cost nothing. So the tracer refuses where the input's values leave.
A single number may leave if there are examples: it can choose a path, whose operations are counted.
"""

import functools
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_LEAVING = """
numpy __array__ __array_interface__ tolist data_ptr const_data_ptr untyped_storage storage _typed_storage
__dlpack__ to_dlpack __deepcopy__ __reduce_ex__ __reduce__ share_memory_ save
"""
LEAVING = frozenset(_LEAVING.split())
"""Functions of torch's Python interface that hand out a tensor's values without an operator."""
_SHOWS = frozenset(["__repr__", "__str__", "__format__"])
_SIZES = frozenset(["sym_size", "sym_numel", "sym_stride", "sym_storage_offset", "is_same_size", "is_pinned", "size"])


class Watcher(Protocol):
    """What a recording lets its `CallNames` see and say."""

    busy: bool
    """The recording itself computes, so nothing is watched."""
    within: str
    """The function of torch's Python interface that is under way; empty where there is none."""

    def hand_out(self, function: str, tensors: list[Tensor]) -> None:
        """The values of `tensors` leave torch through `function`."""


class CallNames(TorchFunctionMode):
    """Remembers which function of torch's Python interface is under way, and watches for those that hand out values."""

    def __init__(self, recorder: Watcher) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        recorder = self.recorder
        if name in LEAVING and not recorder.busy:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            recorder.hand_out(name, tensors)
        shown, recorder.busy = recorder.busy, recorder.busy or name in _SHOWS  # looking at values is no calculation
        recorder.within = name
        if name == "__getitem__" and not recorder.busy:
            args = (args[0], _places(args[1]))
        try:
            return func(*args, **(kwargs or {}))
        finally:
            recorder.within, recorder.busy = "", shown


def _places(index: Any) -> Any:
    """An index whose lists are tensors with values: torch makes them where what is indexed is, without any."""
    if isinstance(index, tuple):
        return tuple(_places(part) for part in index)
    if isinstance(index, np.ndarray) or (isinstance(index, list) and index):
        leaves = [index] if isinstance(index, np.ndarray) else tree_leaves(index)
        if all(isinstance(leaf, int | np.ndarray | np.integer) for leaf in leaves):
            return torch.as_tensor(index)
    return index


@functools.cache
def _tags(func: Any) -> tuple[bool, bool]:
    return torch.Tag.data_dependent_output in func.tags, torch.Tag.dynamic_output_shape in func.tags


def steers(func: Any, args: Any, varying: set[int]) -> bool:
    """Whether an operator gives Python a value, or a result whose size depends on values. `varying`: ids of tensors."""
    value, size = _tags(func)
    if size and func.overloadpacket.__name__ in ("index", "_unsafe_index"):
        # Only a mask of values chooses how many; whole numbers choose which.
        masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
        size = any(id(index) in varying for index in masks)
    return value or size


def is_value(operator: str, result: Any) -> bool:
    """Whether an operator that made no tensor gave Python a value of the tensors that it read."""
    return operator not in _SIZES and any(leaf is not None for leaf in tree_leaves(result))
