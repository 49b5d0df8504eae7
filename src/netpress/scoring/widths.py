"""How wide the numbers are that an operation works on, by the challenge's rule of the widest input.

Widths are the network's own (its number formats), or assumed, or, for a network that quantizes
nothing, the challenge's gift: 16 bits for stored values and multiplications.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from netpress.numerics.accumulators import is_integer, product_bits, tree_bits, tree_width
from netpress.numerics.formats import (
    AnyFormat,
    Binary,
    Float16,
    Float32,
    Integer,
    Ternary,
    parse_format,
    scale_count,
    scale_format,
    zero_point_format,
)
from netpress.scoring.settings import ScoreSettings
from netpress.tracing.operations import INPUT, Operation, Stored, Trace

ALL_OTHERS = "*"
"""Name under which a network's formats state the format of every computed value that has none of its own."""

_SAME_VALUES = ("relu", "relu6", "clamp", "threshold", "max")


def assumed_format(bits: int) -> AnyFormat:
    """What an assumed width means: floats of 32 and 16 bits, below that integers with a scale per output channel."""
    if bits >= 16:
        return Float32() if bits == 32 else Float16()
    return Binary(scale="channel") if bits == 1 else Integer(bits=bits)


class Widths:
    """The formats of all values of a traced network.

    `formats` are those of a network file: by the names of stored tensors, `NAME.input` for what enters a layer,
    NAME for what a module returns, `input` for the image, `*` for all other values that are computed.
    """

    def __init__(self, trace: Trace, formats: Mapping[str, Any], settings: ScoreSettings) -> None:
        self.settings = settings
        self.formats = {name: parse_format(value, f"formats.{name}") for name, value in formats.items()}
        self.weights = None if settings.weight_bits is None else assumed_format(settings.weight_bits)
        self.activations = None if settings.activation_bits is None else assumed_format(settings.activation_bits)
        own = [*self.formats.values(), *(f for f in (self.weights, self.activations) if f is not None)]
        self.quantized = any(is_integer(number_format) for number_format in own)
        assumed = self.weights is not None or self.activations is not None
        self.freebie = settings.freebie and not self.quantized and not assumed and settings.float_bits is None
        self.float = self._float(settings)
        self.values = self._propagate(trace)

    def _float(self, settings: ScoreSettings) -> AnyFormat:
        if settings.float_bits is not None:
            return Float16() if settings.float_bits == 16 else Float32()
        if ALL_OTHERS in self.formats:
            return self.formats[ALL_OTHERS]
        assumed = [f for f in (self.weights, self.activations) if f is not None]
        # A network assumed to be float16 throughout is so outside its products too.
        return Float16() if assumed and all(isinstance(f, Float16) for f in assumed) else Float32()

    def _propagate(self, trace: Trace) -> dict[str, AnyFormat]:
        """The format of what each operation returns: its module's own, or passed on, or float."""
        values: dict[str, AnyFormat] = {INPUT: self.formats.get(INPUT, self.float)}
        for operation in trace.operations:
            own = [self.formats[name] for name in (*operation.output_of, operation.name) if name in self.formats]
            if own:
                values[operation.name] = own[-1]
            elif operation.kind in ("move", "permute_channels") or operation.function in _SAME_VALUES:
                sources = [values[source] for source in operation.sources if source in values]
                values[operation.name] = max(sources, key=lambda f: f.bits, default=self.float)
            else:
                values[operation.name] = self.float
        return values

    def stored(self, tensor: Stored) -> AnyFormat:
        """The format of a stored tensor."""
        if self.weights is not None and len(tensor.shape) > 1:
            return self.weights
        if self.freebie:
            return Float16()
        if tensor.made_of and tensor.name not in self.formats:
            # What is calculated from floats is as wide as the widest of them; from integers, it is a float.
            origins = [self.formats.get(name, self.float) for name in tensor.made_of]
            return self.float if any(is_integer(f) for f in origins) else max(origins, key=lambda f: f.bits)
        return self.formats.get(tensor.name, self.float)

    def operand(self, operation: Operation) -> AnyFormat:
        """The format of what enters a product with weights (of a matrix product: the wider of both)."""
        if self.activations is not None:
            return self.activations
        if f"{operation.module}.input" in self.formats:
            return self.formats[f"{operation.module}.input"]
        return max((self.values.get(source, self.float) for source in operation.sources), key=lambda f: f.bits)

    def weight(self, operation: Operation, trace: Trace) -> AnyFormat:
        """The format of an operation's weights."""
        if operation.weight is not None:
            return self.stored(trace.stored[operation.weight])
        if operation.kind == "matmul":
            return self.operand(operation)
        formats = [self.stored(trace.stored[name]) for name in operation.tensors if len(trace.stored[name].shape) > 1]
        return max(formats, key=lambda f: f.bits, default=Float16() if self.freebie else self.float)

    def element(self, operation: Operation) -> tuple[float, float]:
        """Widths of multiplications and additions of an operation on single values: that of its widest input."""
        if self.freebie:
            return 16, 32
        bits = max((self.values.get(source, self.float).bits for source in operation.sources), default=32)
        return bits, bits

    def multiplication(self, weight: AnyFormat, value: AnyFormat) -> float:
        """Width of a product. A sign of +-1 times a float flips its sign bit: 1 bit (rules' text)."""
        if self.freebie:
            return 16
        if isinstance(weight, Binary | Ternary):
            return value.bits if is_integer(value) else 1
        return max(weight.bits, value.bits)

    def sums(
        self, operation: Operation, terms: float, outputs: float, weight: AnyFormat, value: AnyFormat
    ) -> tuple[float, float]:
        """The additions of `outputs` sums of `terms` products: how many, and their mean width."""
        accumulator = self.accumulator(operation, weight, value)
        if accumulator == "tree":
            return (terms - 1) * outputs, self.tree(math.ceil(terms), product_bits(weight, value))
        return (terms - 1) * outputs, float(accumulator)

    def accumulator(self, operation: Operation, *operands: AnyFormat) -> str:
        """How an operation accumulates its products or values: `tree`, or a width in bits.

        As assumed, else as the layer itself says, else exactly. Only sums of integers are exact in a tree;
        floats are summed in 32 bits unless 16 are claimed.
        """
        own = operation.attributes.get("accumulators")
        chosen = self.settings.accumulator or (str(own) if own is not None else "tree")
        if self.freebie or (chosen == "tree" and not all(is_integer(operand) for operand in operands)):
            return "32"
        return chosen

    @staticmethod
    def tree(terms: int, bits: int) -> float:
        """Mean width of an adder tree's additions: `bits` at the first level, one more at each next."""
        return int(tree_bits(torch.tensor(terms), bits)) / (terms - 1) if terms > 1 else 0.0

    def last_sum(self, operation: Operation, terms: float, weight: AnyFormat, value: AnyFormat) -> float:
        """Width of a finished sum."""
        accumulator = self.accumulator(operation, weight, value)
        return (
            tree_width(math.ceil(terms), product_bits(weight, value)) if accumulator == "tree" else float(accumulator)
        )

    @staticmethod
    def needs_scaling(weight: AnyFormat, value: AnyFormat) -> bool:
        """Whether a finished sum is multiplied by a scale that is not a power of two.

        The scale of an activation needs no multiplication of its own where weights are floats: they take it up.
        """
        if not is_integer(weight):
            return False
        return any(isinstance(f, Integer | Ternary | Binary) and f.scale != "none" for f in (weight, value))

    @staticmethod
    def scale_bits(number_format: AnyFormat, shape: tuple[int, ...]) -> float:
        """Storage of a tensor's scales and zero points."""
        scales = scale_count(number_format, shape)
        if not scales or not is_integer(number_format):
            return 0
        bits = scales * scale_format(number_format).bits  # type: ignore[arg-type]
        if isinstance(number_format, Integer) and number_format.zero_point:
            bits += scales * zero_point_format(number_format).bits
        return bits
