"""How wide the numbers are that an operation works on, by the challenge's rule of the widest input.

Widths come from one of three places: the network's number formats; what the settings assume; or, where nothing is
quantized, the challenge's gift of 16 bits for stored values and multiplications.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import AfterValidator

from netpress.numerics.accumulators import is_integer, product_bits, tree_bits, tree_width
from netpress.numerics.formats import (
    AnyFormat,
    Binary,
    Float16,
    Float32,
    GridFormat,
    Integer,
    Minifloat,
    Ternary,
    parse_format,
    scale_count,
    scale_format,
    zero_point_format,
)
from netpress.scoring.conventions import ScoreSettings
from netpress.scoring.rules import Rule, rule
from netpress.tracing.operations import INPUT, Operation, Stored, Trace

ALL_OTHERS = "*"
"""Name under which a network's formats state the format of every computed value that has none of its own."""

_SAME_VALUES = ("relu", "relu6", "clamp", "threshold", "max")


def _width(bits: int) -> int:
    if not (1 <= bits <= 16 or bits == 32):
        raise ValueError(f"{bits} is not a width: 1 to 15 for integers, 16 or 32 for floats")
    return bits


Bits = Annotated[int, AfterValidator(_width)]


class WidthSettings(ScoreSettings):
    """Widths that are assumed instead of the network's own."""

    weight_bits: Bits | None = None
    """Assumed width of weights instead of the network's own: 1 to 15 integers, 16 and 32 floats."""
    activation_bits: Bits | None = None
    """Assumed width of what enters convolutions and linear layers, likewise."""
    accumulator: Literal["tree", "16", "32"] | None = None
    """Width of sums of products: an exact adder tree (integers only), or fixed. Default: tree for integers, else 32."""
    float_bits: Literal[16, 32] | None = None
    """Width of everything that stays in floating point; 16 must really run so. Default: the network's, else 32."""
    freebie: bool = True
    """16 bits for values and multiplications of a network that quantizes nothing."""


class Gift(NamedTuple):
    """Bits of stored values, of multiplications and of additions."""

    value: int
    multiplication: int
    addition: int


@rule("nothing is quantized: values and multiplications at 16 bits, additions at 32", "text")
def gift() -> Gift:
    return Gift(16, 16, 32)


@rule("an operation is as wide as its widest input", "text")
def widest(bits: Iterable[float]) -> float:
    return max(bits, default=32)


@rule("exact adder tree: weight + activation bits at the first level, 1 more at each next", "RIAIR")
def adder_tree(terms: int, bits: int) -> float:
    """Mean width of the additions of a tree over `terms` values of `bits` bits."""
    return _add_up(terms, bits) / (terms - 1) if terms > 1 else 0.0


@functools.lru_cache(maxsize=2**16)  # the outputs of a pruned layer have few different numbers of terms
def _add_up(terms: int, bits: int) -> int:
    return int(tree_bits(torch.tensor(terms), bits))


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

    def __init__(self, trace: Trace, formats: Mapping[str, Any], settings: WidthSettings) -> None:
        self.settings = settings
        self.formats = {name: parse_format(value, f"formats.{name}") for name, value in formats.items()}
        self.weights = None if settings.weight_bits is None else assumed_format(settings.weight_bits)
        self.activations = None if settings.activation_bits is None else assumed_format(settings.activation_bits)
        own = [*self.formats.values(), *(f for f in (self.weights, self.activations) if f is not None)]
        self.quantized = any(is_integer(number_format) for number_format in own)
        assumed = self.weights is not None or self.activations is not None
        given = settings.freebie and not self.quantized and not assumed and settings.float_bits is None
        self.gift = gift() if given else None
        self.float = self._float(settings)
        self.values = self._propagate(trace)

    @property
    def rule(self) -> Rule[..., Any]:
        """The rule that says how wide operations are."""
        return widest if self.gift is None else gift

    @property
    def real_bits(self) -> float:
        """Width of a stored number that is not quantized, such as a norm's scale."""
        return self.float.bits if self.gift is None else self.gift.value

    def _float(self, settings: WidthSettings) -> AnyFormat:
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
        if self.gift is not None:
            return assumed_format(self.gift.value)
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
        floats = self.float if self.gift is None else assumed_format(self.gift.value)
        return max(formats, key=lambda stored: stored.bits, default=floats)

    def element(self, operation: Operation) -> tuple[float, float]:
        """Widths of multiplications and additions of an operation on single values: that of its widest input."""
        if self.gift is not None:
            return self.gift.multiplication, self.gift.addition
        bits = widest(self.values.get(source, self.float).bits for source in operation.sources)
        return bits, bits

    def multiplication(self, weight: AnyFormat, value: AnyFormat) -> float:
        """Width of a product. A sign of +-1 times a float flips its sign bit: 1 bit (rules' text)."""
        if self.gift is not None:
            return self.gift.multiplication
        if isinstance(weight, Binary | Ternary):
            return value.bits if is_integer(value) else 1
        return widest((weight.bits, value.bits))

    def sum_bits(self, operation: Operation, terms: float, weight: AnyFormat, value: AnyFormat) -> float:
        """Mean width of the additions of a sum of `terms` products."""
        accumulator = self.accumulator(operation, weight, value)
        if accumulator == "tree":
            return adder_tree(math.ceil(terms), product_bits(weight, value))
        return float(accumulator)

    def accumulator(self, operation: Operation, *operands: AnyFormat) -> str:
        """How an operation accumulates its products or values: `tree`, or a width in bits.

        As assumed, else as the layer itself says, else exactly. Only sums of integers are exact in a tree;
        floats are summed in 32 bits unless 16 are claimed.
        """
        own = operation.attributes.get("accumulators")
        chosen = self.settings.accumulator or (str(own) if own is not None else "tree")
        if self.gift is not None:
            return str(self.gift.addition)
        if chosen == "tree" and not all(is_integer(operand) for operand in operands):
            return "32"
        return chosen

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
        if not scales or not isinstance(number_format, GridFormat | Minifloat):
            return 0
        bits = scales * scale_format(number_format).bits
        if isinstance(number_format, Integer) and number_format.zero_point:
            bits += scales * zero_point_format(number_format).bits
        return bits
