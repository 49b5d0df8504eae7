"""The describer turns an operator that the recorder saw into an operation: its name, its weights and its terms."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from netpress.numerics.accumulators import range_width
from netpress.numerics.layers import QuantizedLayer
from netpress.tracing.constants import Store, Value
from netpress.tracing.kinds import Reading
from netpress.tracing.operations import Operation
from netpress.tracing.terms import Terms, by_rows, matrix_rows, transposed

_PRODUCTS = ("conv", "conv_transpose", "linear", "matmul")


class Describer:
    """Makes operations of operators that were read. `value`: what is known of a tensor; `positions`: names in use."""

    def __init__(self, store: Store, value: Callable[[Tensor], Value], positions: Mapping[str, int]) -> None:
        self.store, self.value, self.positions = store, value, positions
        self.terms: dict[tuple[int, Any], Counter[int]] = {}

    def describe(
        self,
        reading: Reading,
        args: Any,
        inputs: list[Value],
        output: Tensor,
        place: tuple[str, nn.Module, int],
        within: str,
    ) -> Operation:
        """The operation of `reading`. `place`: path of the module, the module, and which of its calls this is."""
        path, part, call = place
        weight, reading = self._weight(reading, args)
        bias = self._operand(args, reading.bias)
        roles = {id(value): role for value, role in ((bias, "bias"), (weight, "weight")) if value is not None}
        names = {
            id(value): self.store.use(value, path, roles.get(id(value), "constant"))
            for value in inputs
            # A shuffle's places are its sparse matrix, however they are written.
            if value.constant and reading.kind != "permute_channels"
        }
        terms = self._terms(reading, weight, names, args, output) if reading.kind in _PRODUCTS else ()
        in_leaf = not any(True for _ in part.children())
        attributes = {**reading.attributes, **_claims(part)} if weight is not None else reading.attributes
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
            tensors=tuple(dict.fromkeys(name for several in names.values() for name in several)),
            weight=_only(names, weight),
            bias=_only(names, bias),
            has_bias=bias is not None,
            derived_weight=weight is not None and weight.derived,
            terms=terms,
            window=reading.window,
            attributes=self._factors(reading, attributes, args, output),
            within=within,
        )

    def _factors(self, reading: Reading, attributes: Mapping[str, Any], args: Any, output: Tensor) -> Mapping[str, Any]:
        """What a product with a matrix does besides: a value that is added, and multiplications by alpha and beta."""
        if reading.kind not in ("matmul", "linear"):
            return attributes
        attributes = dict(attributes)
        factors = output.numel() if attributes.pop("scaled", 0) else 0
        beta = attributes.pop("beta", False)
        if reading.bias is not None and self._operand(args, reading.bias) is None:
            attributes["added"] = True
            factors += args[reading.bias].numel() if beta else 0
        return attributes | ({"factors": factors} if factors else {})

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

    def _operand(self, args: Any, position: int | None) -> Value | None:
        if position is None or len(args) <= position or not isinstance(args[position], Tensor):
            return None
        value = self.value(args[position])
        return value if value.constant else None

    def _weight(self, reading: Reading, args: Any) -> tuple[Value | None, Reading]:
        weight = self._operand(args, reading.weight)
        if reading.kind != "matmul":
            return weight, reading
        if weight is None and reading.weight is not None:  # weight @ x instead of x @ weight
            weight = self._operand(args, reading.weight - 1)
            if weight is not None:
                reading = replace(reading, weight=reading.weight - 1, attributes={**reading.attributes, "left": True})
        return weight, replace(reading, kind="linear", function="linear") if weight is not None else reading

    def _terms(
        self, reading: Reading, weight: Value | None, names: Mapping[int, tuple[str, ...]], args: Any, output: Tensor
    ) -> Terms:
        attributes = reading.attributes
        if reading.kind == "conv_transpose":
            places = len(attributes["kernel"])
            kernel = args[1].to("meta") if weight is None else self._existing(weight)
            channels = output.shape[-places - 1]
            batch = output.numel() // (channels * max(1, output.shape[-places:].numel()))
            terms = transposed(kernel, args[0].shape[-places:], output.shape[-places:], attributes, channels)
            return tuple((n, count * batch) for n, count in terms)
        if weight is None:
            return ((reading.window, output.numel()),)
        tensor, axis = self._existing(weight), 1
        if reading.kind == "conv":
            rows = tensor.shape[0]
        else:
            tensor, axis = matrix_rows(tensor, attributes.get("left", False), attributes.get("joined", False))
            rows = tensor.numel() // max(1, tensor.shape[axis])
        places = output.numel() // max(1, rows)
        if tensor.is_meta:
            name = _only(names, weight)
            entry = self.store.tensors[name] if name else None
            if entry is None or entry.values == entry.count or entry.count != tensor.numel():
                return ((reading.window, rows * places),)
            whole, rest = divmod(entry.values, rows)  # a mask without weights: as even as can be
            return tuple((n, count * places) for n, count in ((whole + 1, rest), (whole, rows - rest)) if count)
        key = (id(weight.tensor), axis)
        if key not in self.terms:
            self.terms[key] = by_rows(tensor.flatten(1) if reading.kind == "conv" else tensor, axis)
            self.store.kept.append(weight.tensor)
        return tuple((n, count * places) for n, count in sorted(self.terms[key].items()))

    def _existing(self, weight: Value) -> Tensor:
        return self.store.masked.get(id(weight.tensor), weight.tensor)


def _only(names: Mapping[int, tuple[str, ...]], value: Value | None) -> str | None:
    """The name of an operand that is one stored tensor."""
    candidates = names.get(id(value), ()) if value is not None else ()
    return candidates[0] if len(candidates) == 1 else None


def _claims(part: nn.Module) -> dict[str, Any]:
    """What a layer that computes with integers says of its sums: their width, and the largest they can become."""
    if not isinstance(part, QuantizedLayer) or not part.formats.integer:
        return {}
    claims: dict[str, Any] = {"accumulators": part.formats.accumulators}
    if not part.weight.is_meta:
        lowest, highest = part.sum_range()
        claims["largest_sum"] = max(-lowest, highest)
        claims["needed_width"] = range_width(lowest, highest)
    return claims
