"""`with untouched(module):` leaves a module as it was, whatever its forward pass does to it.

A forward pass may count its calls, keep tables, move statistics or put calculated weights in place. Beforehand only
references are copied: attributes, lists, dicts and hooks are put back at the end. A tensor's values are copied just
before an operator first writes to them. So a large module costs no memory.
"""

import functools
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_PLAIN = (str, bytes, int, float, complex, type(None), type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
_PLAIN_TYPES = frozenset([str, bytes, int, float, bool, complex, type(None), torch.dtype, torch.device, torch.Size])
_EMPTY = frozenset([dict, OrderedDict, list, set])
_DEEPEST = 3  # objects of a user's own classes are followed so far from a module
_LONGEST = 10_000  # entries of a list that are looked into
_STATISTICS = frozenset(["native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"])  # write without saying so


class Keeper(TorchDispatchMode):
    """Copies a module's tensor before the first operator that writes to it.

    `tensors` share the memory of the module's own, `ids` are the ids of those. As a mode it watches operators; while a
    recorder does so, that calls `keep`.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in the recorder

    def __init__(self, tensors: list[Tensor], ids: frozenset[int]) -> None:
        super().__init__()
        self.ids = ids
        self.owners: dict[int, list[Tensor]] = {}
        self.saved: list[tuple[Tensor, Tensor]] = []
        for tensor in tensors:
            self.owners.setdefault(storage_of(tensor), []).append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in written(func, args, kwargs or {}):
            self.keep(tensor)
        return func(*args, **(kwargs or {}))

    def keep(self, tensor: Tensor) -> None:
        """Copy what shares memory with `tensor`, if it belongs to the module and is not copied yet."""
        owners = self.owners.pop(storage_of(tensor), ()) if self.owners else ()
        self.saved += [(owner, owner.clone()) for owner in owners if not owner.is_meta]

    @torch.no_grad()
    def restore(self) -> None:
        for owner, values in self.saved:
            owner.copy_(values)


def storage_of(tensor: Tensor) -> int:
    """A number that tensors which share memory have in common; 0 where a tensor has no memory of its own."""
    try:
        return tensor.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):
        return 0


@functools.cache
def _writes(func: Any) -> tuple[tuple[int, str], ...]:
    """Positions and names of the arguments that an operator writes to."""
    if func._schema.name.removeprefix("aten::") in _STATISTICS:
        return (3, "running_mean"), (4, "running_var")
    arguments = enumerate(func._schema.arguments)
    return tuple(
        (position, argument.name)
        for position, argument in arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operator writes to."""
    targets: list[Tensor] = []
    writes = _writes(func)
    if writes and writes[0][0] == 3 and len(args) > 5 and args[5] is False:
        return targets  # a norm at evaluation leaves its statistics alone
    for position, name in writes:
        argument = args[position] if len(args) > position else kwargs.get(name)
        candidates = argument if isinstance(argument, list | tuple) else (argument,)
        targets += [tensor for tensor in candidates if isinstance(tensor, Tensor)]
    return targets


def _is_of_the_users(thing: Any) -> bool:
    """Whether it is an object of somebody's own class: what belongs to Python, NumPy and torch is the process's."""
    home = type(thing).__module__.partition(".")[0]
    is_library = home in sys.stdlib_module_names or home in ("torch", "numpy")
    return not is_library and not isinstance(thing, _PLAIN) and isinstance(getattr(thing, "__dict__", None), dict)


class _Snapshot:
    def __init__(self, module: nn.Module) -> None:
        self.holders: list[tuple[Any, Any]] = []
        self.empty: list[Any] = []
        self.undo: list[Callable[[], Any]] = []
        self.tensors: list[tuple[Tensor, Tensor, bool]] = []
        self.seen: set[int] = set()
        self.modes = [(part, part.training) for part in module.modules()]
        self._take(module, 0)

    def _take(self, thing: Any, depth: int) -> None:
        if id(thing) in self.seen:
            return
        self.seen.add(id(thing))
        if isinstance(thing, Tensor):
            self.tensors.append((thing, thing.detach(), thing.requires_grad))
        elif isinstance(thing, torch.jit.ScriptModule):
            for part in (*thing.parameters(), *thing.buffers()):
                self._take(part, depth)
        elif isinstance(thing, nn.Module):
            self._hold(vars(thing), 0)
        elif isinstance(thing, dict | list | set | deque):
            self._hold(thing, depth)
        elif isinstance(thing, tuple):
            for entry in thing:
                if type(entry) not in _PLAIN_TYPES:
                    self._take(entry, depth)
        elif isinstance(thing, np.ndarray):
            values = thing.copy()
            self.undo.append(lambda: np.copyto(thing, values) if thing.flags.writeable else None)
        elif isinstance(thing, torch.Generator):
            state = thing.get_state()
            self.undo.append(lambda: thing.set_state(state))
        elif isinstance(thing, random.Random):
            words = thing.getstate()
            self.undo.append(lambda: thing.setstate(words))
        elif isinstance(thing, np.random.Generator):
            generator_state = thing.bit_generator.state
            self.undo.append(lambda: setattr(thing.bit_generator, "state", generator_state))
        elif depth < _DEEPEST and _is_of_the_users(thing):
            self._hold(vars(thing), depth + 1)

    def _hold(self, thing: Any, depth: int) -> None:
        entries = dict(thing) if isinstance(thing, dict) else list(thing)
        self.holders.append((thing, entries))
        if len(entries) > _LONGEST:
            return
        for entry in entries.values() if isinstance(entries, dict) else entries:
            kind = type(entry)
            if kind in _PLAIN_TYPES:
                continue
            if kind in _EMPTY and not entry:
                self.empty.append(entry)  # most of a module's own attributes
            else:
                self._take(entry, depth)

    def restore(self) -> None:
        for holder in self.empty:
            if holder:
                holder.clear()
        for holder, entries in self.holders:
            if isinstance(holder, dict):
                if holder.keys() != entries.keys() or any(holder[key] is not value for key, value in entries.items()):
                    holder.clear()
                    holder.update(entries)
            elif len(holder) != len(entries) or any(a is not b for a, b in zip(holder, entries, strict=True)):
                holder.clear()
                (holder.update if isinstance(holder, set) else holder.extend)(entries)
        for tensor, data, requires_grad in self.tensors:
            if storage_of(tensor) != storage_of(data) or tensor.shape != data.shape or tensor.stride() != data.stride():
                tensor.data = data
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
        for undo in self.undo:
            undo()
        for part, mode in self.modes:
            part.training = mode


@contextmanager
def untouched(module: nn.Module) -> Iterator[Keeper]:
    """A context in which `module` may change; at its end the module and the random generators are as they were."""
    snapshot = _Snapshot(module)
    keeper = Keeper(
        [data for _, data, _ in snapshot.tensors], frozenset(id(tensor) for tensor, _, _ in snapshot.tensors)
    )
    words, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield keeper
    finally:
        random.setstate(words)
        np.random.set_state(numpy_state)
        snapshot.restore()
        keeper.restore()
