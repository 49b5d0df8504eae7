"""The recorder behind `netpress.scoring.tracing`: every operator that is dispatched while it is active.

A dispatch mode sees each operator below Python, whoever called it; hooks say which module it belongs to.
Operators whose inputs are stored tensors alone are really calculated, so a weight that is normalized or
transposed before use is counted by its real zeros.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from netpress.errors import UserError
from netpress.numerics.accumulators import range_width
from netpress.numerics.integer import worst_sums
from netpress.numerics.layers import QuantizedLayer
from netpress.scoring.kinds import DATA_DEPENDENT, MOVES, Reading, read_operator
from netpress.scoring.operations import INPUT, Operation, Stored, Trace
from netpress.scoring.shapes import shape_only


class NeedsValues(UserError):
    """The forward pass looks at values, and there are none."""


class Uncountable(UserError):
    """An operation that no rule can be applied to."""


class CallNames(TorchFunctionMode):
    """Remembers which function of torch's Python interface is under way, such as `normalize`."""

    def __init__(self, recorder: "Recorder") -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.recorder.within = getattr(func, "__name__", "")
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.recorder.within = ""


class _Value:
    """What is known of a tensor.

    `source` is the operation that made it; or, if `constant`, `tensors` are the stored tensors that it depends
    on alone, and `derived` says that it was calculated from them and is not just one of them or a view of one.
    """

    __slots__ = ("constant", "derived", "source", "tensor", "tensors")

    def __init__(
        self, tensor: Tensor, source: str = "", tensors: tuple[str, ...] = (), *, derived: bool = False
    ) -> None:
        self.tensor = tensor  # kept, so that its id stays its own
        self.source = source
        self.constant = not source
        self.tensors = tensors
        self.derived = derived


class Recorder(TorchDispatchMode):
    """Records each operator that is dispatched while it is active."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and importing the compiler takes longer than tracing

    def __init__(self, module: nn.Module, image: Tensor, masks: Mapping[str, Tensor], values: bool) -> None:
        super().__init__()
        self.module = module
        self.image = image
        self.values = values
        self.within = ""
        self.failed_in = False
        self.place = ""
        self.operations: list[Operation] = []
        self.positions: dict[str, int] = {}
        self.stored: dict[str, Stored] = {}
        self.names: dict[int, str] = {}
        self.known: dict[int, _Value] = {id(image): _Value(image, INPUT)}
        self.without_values: dict[int, Tensor] = {}
        self.masked: dict[int, Tensor] = {}
        self.kept: list[Tensor] = []
        self.stack: list[tuple[str, nn.Module, int]] = [("", module, 1)]
        self.calls: Counter[str] = Counter()
        self.terms: dict[tuple[int, Any], Counter[int]] = {}
        for name, parameter in module.named_parameters():
            self._store(name, parameter, "parameter", masks.get(name))
        for name, buffer in module.named_buffers():
            self._store(name, buffer, "buffer", masks.get(name))

    # --- stored tensors

    def _store(self, name: str, tensor: Tensor, role: str, mask: Tensor | None) -> None:
        self.names[id(tensor)] = name
        self.kept.append(tensor)
        values = nonzeros = tensor.numel()
        if mask is not None:
            values = nonzeros = int(mask.sum())
        if not tensor.is_meta and tensor.dim() > 1:
            exists = tensor.detach() if mask is None else tensor.detach() * mask.to(tensor.device)
            nonzeros = int(_count_nonzeros(exists))
            values = nonzeros if mask is None else values
            if mask is not None:
                self.masked[id(tensor)] = exists
        self.stored[name] = Stored(name, tuple(tensor.shape), values, nonzeros, role)

    def _value(self, tensor: Tensor) -> _Value:
        known = self.known.get(id(tensor))
        if known is None:
            name = self.names.get(id(tensor))
            if name is None and tensor.dim() > 0:  # a tensor that a user's module keeps as a plain attribute
                path = self.stack[-1][0]
                name = f"{path}.constant" if path else "constant"
                while name in self.stored:
                    name += "'"
                self._store(name, tensor, "constant", None)
            known = self.known[id(tensor)] = _Value(tensor, tensors=(name,) if name else ())
        return known

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
                known = self.known.get(id(tensor)) if isinstance(tensor, Tensor) else None
                if known is not None and known.source in self.positions and name:
                    position = self.positions[known.source]
                    made = self.operations[position]
                    self.operations[position] = replace(made, output_of=(*made.output_of, name))

        return enter, leave

    # --- operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        inputs = [self._value(tensor) for tensor in tensors]
        varying = [value for value in inputs if not value.constant]
        if operator in DATA_DEPENDENT and varying:
            if not self.values:
                raise NeedsValues(
                    f"{self._where(operator)}: what the network does next depends on values of its input; "
                    "give examples to count the mean over them"
                )
            return func(*args, **kwargs)
        result = self._execute(func, args, kwargs, tensors)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if not made:
            return result
        if not varying:
            names = tuple(dict.fromkeys(name for value in inputs for name in value.tensors))
            derived = operator.rstrip("_") not in MOVES or len(inputs) != 1 or inputs[0].derived
            for tensor in made:
                self._remember(tensor, _Value(tensor, tensors=names, derived=derived))
            return result
        reading = read_operator(operator, args, kwargs, result)
        if reading is None:
            raise Uncountable(
                f"{self._where(operator)}: no rule says what this operator costs, so the network cannot be counted; "
                "express it with operators that netpress knows (docs/scoring.md)"
            )
        operation = self._describe(reading, args, inputs, made[0])
        self.positions[operation.name] = len(self.operations)
        self.operations.append(operation)
        for tensor in made:
            self._remember(tensor, _Value(tensor, operation.name))
        return result

    def _where(self, operator: str) -> str:
        path, part, _ = self.stack[-1]
        return f"{path or 'the network'} ({type(part).__name__}), operator {operator}"

    def _remember(self, tensor: Tensor, value: _Value) -> None:
        self.known[id(tensor)] = value
        self.without_values.pop(id(tensor), None)

    def _execute(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        if self.masked:
            args, kwargs = tree_map_only(Tensor, lambda tensor: self.masked.get(id(tensor), tensor), (args, kwargs))
        if any(tensor.is_meta for tensor in tensors):
            result = shape_only(func.overloadpacket.__name__, args, kwargs)
            if result is not None:
                return result
            args, kwargs = tree_map_only(Tensor, self._without_values, (args, kwargs))
        return func(*args, **kwargs)

    def _without_values(self, tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return tensor
        if id(tensor) not in self.without_values:
            self.kept.append(tensor)
            self.without_values[id(tensor)] = tensor.detach().to("meta")
        return self.without_values[id(tensor)]

    def _describe(self, reading: Reading, args: Any, inputs: list[_Value], output: Tensor) -> Operation:
        path, part, call = self.stack[-1]
        weight, reading = self._weight(reading, args)
        bias = self._operand(args, reading.bias)
        stored = [name for value in inputs if value.constant for name in value.tensors]
        for name in stored:
            self.stored[name] = replace(self.stored[name], used=True)
        terms = self._terms(reading, weight, args, output) if reading.kind in _PRODUCTS else ()
        in_leaf = not any(True for _ in part.children())
        return Operation(
            name=self._name(path, call, reading, in_leaf),
            kind=reading.kind,
            function=reading.function,
            module=path,
            module_type=type(part).__name__,
            in_leaf=in_leaf,
            call=call,
            inputs=tuple(tuple(value.tensor.shape) for value in inputs if not value.constant),
            output=tuple(output.shape),
            sources=tuple(dict.fromkeys(value.source for value in inputs if not value.constant)),
            tensors=tuple(dict.fromkeys(stored)),
            weight=weight.tensors[0] if weight is not None and len(weight.tensors) == 1 else None,
            bias=bias.tensors[0] if bias is not None and len(bias.tensors) == 1 else None,
            has_bias=bias is not None,
            derived_weight=weight is not None and weight.derived,
            terms=terms,
            window=reading.window,
            attributes={**reading.attributes, **_claims(part)} if weight is not None else reading.attributes,
            within=self.within,
        )

    def _name(self, path: str, call: int, reading: Reading, in_leaf: bool) -> str:
        """The module's path for the first thing that a leaf module calculates, else path.function."""
        again = f" (call {call})" if call > 1 else ""
        if in_leaf and path and reading.kind != "move" and path + again not in self.positions:
            return path + again
        name = f"{path}.{reading.function}{again}" if path else reading.function
        number = 2
        while (name if number == 2 else f"{name} {number - 1}") in self.positions:
            number += 1
        return name if number == 2 else f"{name} {number - 1}"

    # --- weights

    def _operand(self, args: Any, position: int | None) -> _Value | None:
        if position is None or len(args) <= position or not isinstance(args[position], Tensor):
            return None
        value = self._value(args[position])
        return value if value.constant else None

    def _weight(self, reading: Reading, args: Any) -> tuple[_Value | None, Reading]:
        weight = self._operand(args, reading.weight)
        if reading.kind != "matmul":
            return weight, reading
        if weight is None and reading.weight is not None:  # weight @ x instead of x @ weight
            weight = self._operand(args, reading.weight - 1)
            if weight is not None:
                reading = replace(reading, weight=reading.weight - 1)
        return weight, replace(reading, kind="linear", function="linear") if weight is not None else reading

    def _terms(self, reading: Reading, weight: _Value | None, args: Any, output: Tensor) -> tuple[tuple[int, int], ...]:
        if weight is None:
            return ((reading.window, output.numel()),)
        tensor = self.masked.get(id(weight.tensor), weight.tensor)
        transposed = reading.kind == "conv_transpose"
        if reading.kind in ("conv", "conv_transpose"):
            rows = tensor.shape[0]
            # A transposed convolution multiplies each input value by its channel's whole kernel.
            places = args[0].numel() // rows if transposed else output.numel() // rows
            axis: Any = "first"
        else:
            # x @ weight sums along the weight's columns, weight @ x along its rows.
            first = reading.weight == (0 if reading.bias is None else 1)
            axis = -1 if first or tensor.dim() == 1 else -2
            rows = tensor.numel() // tensor.shape[axis]
            places = output.numel() // rows
        if tensor.is_meta:
            known = self.stored[weight.tensors[0]] if len(weight.tensors) == 1 else None
            if known is None or known.values == known.count or known.count != tensor.numel():
                return ((reading.window, rows * places),)
            whole, rest = divmod(known.values, rows)  # a mask without weights: as even as can be
            return tuple((n, count * places) for n, count in ((whole + 1, rest), (whole, rows - rest)) if count)
        key = (id(weight.tensor), axis)
        if key not in self.terms:
            counts = _count_nonzeros(tensor.flatten(1) if axis == "first" else tensor, 1 if axis == "first" else axis)
            self.terms[key] = Counter(np.ravel(counts).tolist())
            self.kept.append(weight.tensor)
        return tuple((n, count * places) for n, count in sorted(self.terms[key].items()))

    # --- result

    def finish(self, result: Any) -> Trace:
        """The trace, once the forward pass has returned `result`."""
        results: dict[str, None] = {}
        for leaf in tree_leaves(result):
            known = self.known.get(id(leaf)) if isinstance(leaf, Tensor) else None
            if known is not None and known.source:
                results[known.source] = None
        used = dict(self.stored)
        return Trace(tuple(self.operations), used, tuple(results), tuple(self.image.shape[1:]))


def _count_nonzeros(tensor: Tensor, axis: int | None = None) -> Any:
    """How many values are not 0, in all or along an axis. NumPy counts ten times as fast as torch does here."""
    tensor = tensor.detach().cpu()
    return np.count_nonzero((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(), axis=axis)


def _claims(part: nn.Module) -> dict[str, Any]:
    """What a layer that computes with integers says of its sums: their width, and the largest they can become."""
    if not isinstance(part, QuantizedLayer) or not part.formats.integer:
        return {}
    claims: dict[str, Any] = {"accumulators": part.formats.accumulators}
    if not part.weight.is_meta:
        lowest, highest = worst_sums(part)
        claims["largest_sum"] = max(-lowest, highest)
        claims["needed_width"] = range_width(lowest, highest)
    return claims


_PRODUCTS = ("conv", "conv_transpose", "linear", "matmul")
