"""The recorder behind `netpress.tracing.trace` notes every operator that torch dispatches while it is active.

A dispatch mode sees each operator below Python, whoever called it. Hooks say which module it belongs to. An operator
whose inputs are all constants is really calculated: a weight that is normalized or transposed before use is counted by
its real zeros. `netpress.tracing.constants` says what of it is stored.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from netpress.errors import UserError
from netpress.tracing.buffers import Buffers
from netpress.tracing.channels import Channels
from netpress.tracing.constants import Made, Store, Value, of_constants
from netpress.tracing.describing import Describer
from netpress.tracing.kinds import FRESH, read_operator
from netpress.tracing.leaving import is_value, steers
from netpress.tracing.operations import INPUT, Operation, Trace
from netpress.tracing.shapes import shape_only
from netpress.tracing.untouched import Keeper, storage_of, written


class NeedsValues(UserError):
    """The forward pass looks at values, and there are none."""


class Uncountable(UserError):
    """An operation that no rule can be applied to."""


class Recorder(TorchDispatchMode):
    """Records each operator that is dispatched while it is active.

    `store` is given if the image is a real example, not a shape or zeros: a path may be chosen by what is calculated
    from it. What the network keeps is noted there.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and importing the compiler takes longer than tracing

    def __init__(
        self, module: nn.Module, image: Tensor, masks: Mapping[str, Tensor], keeper: Keeper, store: Store | None
    ) -> None:
        super().__init__()
        self.module = module
        self.image = image
        self.values = store is not None
        self.keeper = keeper
        self.within = ""
        self.busy = False
        self.failed_in = False
        self.place = ""
        self.operations: list[Operation] = []
        self.positions: dict[str, int] = {}
        self.store = store if store is not None else Store()
        self.serial = 0
        self.known: dict[int, Value] = {id(image): Value(image, INPUT)}
        self.writes: dict[int, Value] = {}
        self.left = False
        self.refused: UserError | None = None
        self.looked_at: dict[str, None] = {}
        self.without_values: dict[int, Tensor] = {}
        self.stack: list[tuple[str, nn.Module, int]] = [("", module, 1)]
        self.calls: Counter[str] = Counter()
        self.channels = Channels()
        self.buffers = Buffers(image)
        self.describer = Describer(self.store, self._value, self.positions)
        by_role: dict[str, list[tuple[str, Tensor]]] = {
            "parameter": list(module.named_parameters()),
            "buffer": list(module.named_buffers()),
        }
        devices = [tensor.device for tensors in by_role.values() for _, tensor in tensors]
        unknown = torch.device("meta" if devices else "cpu")
        self.home = next((device for device in devices if device.type != "meta"), unknown)
        if self.store.tensors:
            return
        for role, tensors in by_role.items():
            for name, tensor in tensors:
                self.store.add(name, tensor, role, masks.get(name))

    # --- what is known of tensors

    def _value(self, tensor: Tensor) -> Value:
        value = self.known.get(id(tensor))
        if value is None:
            value = self.known[id(tensor)] = self._unknown(tensor)
        if self.writes:
            write = self.writes.get(storage_of(tensor))
            if write is not None and write.serial > value.serial:  # something else was written where this lies
                origins = tuple(dict.fromkeys((*value.origins, *write.origins)))
                parts = () if write.source else (Made(tensor, origins),)
                value = self.known[id(tensor)] = Value(tensor, write.source, parts, write.serial)
        return value

    def _unknown(self, tensor: Tensor) -> Value:
        name = self.store.names.get(id(tensor))
        if name is not None:
            return Value(tensor, parts=(name,))
        if self.left and tensor.is_floating_point() and id(tensor) not in self.keeper.ids:
            return Value(tensor, INPUT)  # its values may be the input's, which left torch before
        return self.store.literal(tensor, self.stack[-1][0])

    def _remember(self, tensor: Tensor, value: Value) -> None:
        self.serial += 1
        value.serial = self.serial
        self.known[id(tensor)] = value
        self.without_values.pop(id(tensor), None)

    def hand_out(self, function: str, tensors: list[Tensor]) -> None:
        """The values of `tensors` leave torch through a function of its Python interface."""
        for tensor in tensors:
            self.keeper.keep(tensor)  # whoever has them may write to them
            if self._value(tensor).constant:
                continue
            if self.values and function == "tolist" and not (tensor.is_floating_point() or tensor.is_complex()):
                self.left = True
                self.looked_at[self._value(tensor).source] = None
                continue
            self.refused = self.refused or NeedsValues(
                f"{self._where(function)}: values that depend on the input leave torch there, so what is calculated "
                "from them cannot be counted; write it with torch's own operators"
            )
            raise self.refused

    # --- modules

    @contextmanager
    def watch_modules(self) -> Iterator[None]:
        """Keep `stack`, the modules that are being executed, while the context lasts."""
        with ExitStack() as hooks:
            for name, part in self.module.named_modules():
                if isinstance(part, torch.jit.ScriptModule):
                    continue  # their children cannot be hooked; operators are seen all the same
                enter, leave = self._hooks(name, part)
                before = part.register_forward_pre_hook(enter, prepend=True)
                hooks.callback(before.remove)
                after = part.register_forward_hook(leave, always_call=True)
                hooks.callback(after.remove)
            yield

    def _hooks(self, name: str, part: nn.Module) -> tuple[Callable[..., None], Callable[..., None]]:
        def enter(_: nn.Module, __: Any) -> None:
            self.calls[name] += 1
            self.stack.append((name, part, self.calls[name]))

        def leave(_: nn.Module, __: Any, result: Any) -> None:
            if result is None and not self.failed_in:  # always_call: it is called after an exception too
                self.failed_in, self.place = True, f"{name or type(part).__name__} ({type(part).__name__})"
            self.stack.pop()
            for tensor in tree_leaves(result):
                value = self.known.get(id(tensor)) if isinstance(tensor, Tensor) else None
                if value is not None and value.source in self.positions and name:
                    position = self.positions[value.source]
                    operation = self.operations[position]
                    self.operations[position] = replace(operation, output_of=(*operation.output_of, name))

        return enter, leave

    # --- operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.busy:
            return func(*args, **kwargs)
        self.busy = True
        try:
            return self._record(func, args, kwargs)
        except UserError as error:
            self.refused = self.refused or error  # a forward pass that catches it is refused all the same
            raise
        finally:
            self.busy = False

    def _record(self, func: Any, args: Any, kwargs: Any) -> Any:
        operator = func.overloadpacket.__name__ if func.namespace == "aten" else str(func.overloadpacket)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        inputs = [self._value(tensor) for tensor in tensors]
        fresh = operator in FRESH
        varying = [] if fresh else [value for value in inputs if not value.constant]
        if varying:
            self._check(func, operator, args, tensors, varying)
        targets = written(func, args, kwargs)
        for tensor in targets:
            self.keeper.keep(tensor)
        result = self._execute(func, operator, args, kwargs, tensors, constant=not varying)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if not outputs and varying and is_value(operator, result):
            self.looked_at.update((value.source, None) for value in varying)
            self._value_left(operator, result)
        if not varying:
            # The first state of a recurrent layer is a value like any later one. A number that left may come back so.
            state = fresh and isinstance(self.stack[-1][1], nn.RNNBase | nn.RNNCellBase)
            returned = self.left and operator in ("full", "full_like", "new_full", "scalar_tensor", "fill", "fill_")
            for tensor in outputs:
                value = of_constants(operator, [] if fresh else inputs, tensor)
                self._remember(tensor, Value(tensor, INPUT) if state or returned else value)
        elif outputs or targets:
            self._operation(func, args, kwargs, inputs, result, outputs, targets)
        for tensor in targets:
            source = self.operations[-1].name if varying else ""
            value = Value(tensor, source, () if varying else (Made(tensor, _origins(inputs)),))
            self._remember(tensor, value)
            self.writes[storage_of(tensor)] = value
        return result

    def _check(self, func: Any, operator: str, args: Any, tensors: list[Tensor], varying: list[Value]) -> None:
        """Refuse what cannot be followed: values that steer where there are none, and complex numbers."""
        if any(tensor.is_complex() for tensor in tensors) or operator == "view_as_complex":
            raise Uncountable(
                f"{self._where(operator)}: complex values are not counted; write their real and imaginary parts as "
                "real tensors, each operation of which has its cost"
            )
        if not self.values and steers(func, args, {id(value.tensor) for value in varying}):
            self._value_left(operator)

    def _value_left(self, operator: str, result: Any = None) -> None:
        """A single value of what depends on the input is known to Python: it may choose a path, if it is real."""
        if not self.values:
            raise NeedsValues(
                f"{self._where(operator)}: what the network does next depends on values of its input; "
                "give examples to count the mean over them"
            )
        self.left = self.left or not isinstance(result, bool)

    def _operation(
        self, func: Any, args: Any, kwargs: Any, inputs: list[Value], result: Any, outputs: Any, targets: list[Tensor]
    ) -> None:
        operator = func.overloadpacket.__name__ if func.namespace == "aten" else str(func.overloadpacket)
        reading = read_operator(operator, args, kwargs, result)
        if reading is None:
            raise Uncountable(
                f"{self._where(operator)}: no rule says what this operator costs, so the network cannot be counted; "
                "express it with operators that netpress knows (docs/scoring.md)"
            )
        varying = [value.tensor for value in inputs if not value.constant]
        within = self.within
        reading = self.channels.follow(reading, func, args, kwargs, varying, outputs)
        self.within = within
        operation = self.describer.describe(reading, args, inputs, outputs[0], self.stack[-1], self.within)
        buffer, elements = self.buffers.place(operation.name, outputs[0], targets)
        self.positions[operation.name] = len(self.operations)
        self.operations.append(replace(operation, buffer=buffer, buffer_elements=elements))
        for tensor in outputs:
            self._remember(tensor, Value(tensor, operation.name))

    def _where(self, operator: str) -> str:
        path, part, _ = self.stack[-1]
        return f"{path or 'the network'} ({type(part).__name__}), operator {operator}"

    def _execute(self, func: Any, operator: str, args: Any, kwargs: Any, tensors: list[Tensor], constant: bool) -> Any:
        if constant and self.home.type != "meta":
            device = kwargs.get("device")
            if (device is not None and torch.device(device).type == "meta") or (
                operator in FRESH and any(tensor.is_meta for tensor in tensors)
            ):
                kwargs = {**kwargs, "device": self.home}  # constants have values, whatever the image has
        if self.store.masked:
            masked = self.store.masked
            args, kwargs = tree_map_only(Tensor, lambda tensor: masked.get(id(tensor), tensor), (args, kwargs))
        if not constant and any(tensor.is_meta for tensor in tensors):
            result = shape_only(operator, args, kwargs)
            if result is not None:
                return result
            if operator in ("index", "_unsafe_index"):
                args = (args[0], _whole_numbers(args[1]), *args[2:])
            args, kwargs = tree_map_only(Tensor, self._without_values, (args, kwargs))
        elif constant and operator not in FRESH and len({tensor.is_meta for tensor in tensors}) > 1:
            args, kwargs = tree_map_only(Tensor, self._without_values, (args, kwargs))
        return func(*args, **kwargs)

    def _without_values(self, tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return tensor
        if id(tensor) not in self.without_values:
            self.store.kept.append(tensor)
            self.without_values[id(tensor)] = tensor.detach().to("meta")
        return self.without_values[id(tensor)]

    # --- result

    def finish(self, result: Any) -> Trace:
        """The trace, once the forward pass has returned `result`. Raises UserError if it says nothing of the input."""
        if self.refused is not None:
            raise self.refused
        results: dict[str, None] = {}
        for tensor in _tensors_in(result):
            value = self._value(tensor) if id(tensor) in self.known else None
            if value is not None and value.source:
                results[value.source] = None
        if not results:
            raise Uncountable(
                f"{type(self.module).__name__}: what its forward pass returns does not depend on its input, as far as "
                "torch's operators show; a network is counted from its input to the tensors that it returns"
            )
        results |= self.looked_at  # what chose a path was used too
        return Trace(tuple(self.operations), dict(self.store.tensors), tuple(results), tuple(self.image.shape[1:]))


def _tensors_in(result: Any, depth: int = 0) -> Iterator[Tensor]:
    """The tensors of what a forward pass returns: one, several, or the fields of an object."""
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor):
            yield leaf
        elif depth < 3 and isinstance(leaf, Mapping):
            yield from _tensors_in(list(leaf.values()), depth + 1)
        elif depth < 3 and is_dataclass(leaf):
            yield from _tensors_in([getattr(leaf, entry.name) for entry in fields(leaf)], depth + 1)
        elif depth < 3 and hasattr(leaf, "__dict__") and not isinstance(leaf, type | nn.Module):
            yield from _tensors_in(list(vars(leaf).values()), depth + 1)


def _whole_numbers(indices: Any) -> list[Tensor | None]:
    """Indices with constant masks of values as the places that these choose: shapes without values need numbers."""
    places: list[Tensor | None] = []
    for index in indices:
        if index is not None and not index.is_meta and index.dtype in (torch.bool, torch.uint8):
            places += index.nonzero(as_tuple=True)
        else:
            places.append(index)
    return places


def _origins(inputs: list[Value]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for value in inputs for name in value.origins))
