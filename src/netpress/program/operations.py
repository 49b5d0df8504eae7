"""A program: a network as a list of operations that read and write named buffers.

A quantized convolution is three operations:

    Quantize      stem.conv.input   float32 values become 8-bit integers
    Convolution   stem.conv.sums    whole sums of products, in accumulators of so many bits
    Rescale       stem.conv         one multiplication and one addition a value give float16 again

Everything in between (activations, gates, pools, sums) is an operation on floats, in the arithmetic that the buffer it
writes states. Every scale is a constant of an operation. `netpress.program.execution` walks the list; exports print it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from netpress.numerics.accumulators import range_width
from netpress.numerics.fixed_point import IntegerRescaling
from netpress.numerics.formats import Fixed, Float16, Float32, Integer
from netpress.numerics.rescaling import Rescaling
from netpress.numerics.sums import Window


@dataclass(frozen=True)
class Buffer:
    """What one operation writes and others read. An integer q stands for (q - zero_point) * scale."""

    name: str
    shape: tuple[int, ...]
    """Of one image, as [channels, height, width]."""
    kind: Literal["float", "integer"]
    bits: int
    signed: bool = True
    scale: float | None = None
    """None for floats, and for sums, whose scales differ by channel: the operation that reads them has these."""
    zero_point: int | None = None

    @property
    def number(self) -> str:
        """The type of its values: float16, uint8, int19."""
        return f"float{self.bits}" if self.kind == "float" else f"{'' if self.signed else 'u'}int{self.bits}"


@dataclass(frozen=True, eq=False)
class Operation:
    """One step. Not used alone: each kind of operation is a class of its own."""

    name: str
    """The module of the network that it belongs to, or a function called within one."""
    inputs: tuple[str, ...]
    """Names of the buffers that it reads."""
    output: str
    """Name of the buffer that it writes; no other operation writes this one."""

    @property
    def kind(self) -> str:
        """The name of its class."""
        return type(self).__name__


# --- between floats and integers


@dataclass(frozen=True, eq=False)
class Quantize(Operation):
    """Floats become integers: round(x / scale) + zero point, clamped to the format's range, halves to even."""

    format: Fixed | Integer
    scale: Tensor
    """[]"""
    zero_point: Tensor | None
    """[], a whole number."""


@dataclass(frozen=True, eq=False)
class Cast(Operation):
    """Floats become the nearest floats of a format, held in float32."""

    format: Float16 | Float32


@dataclass(frozen=True, eq=False)
class Rescale(Operation):
    """A layer's sums become its output."""

    constants: Rescaling | IntegerRescaling


# --- sums of products


@dataclass(frozen=True, eq=False)
class IntegerSums(Operation):
    """Exact sums of products of stored integers. Not used alone."""

    layer: str
    """The quantized layer, under whose name its accumulators are reported."""
    weight: Tensor
    """Whole numbers, [outputs, inputs / groups, rows, columns] or [outputs, inputs]."""
    lowest: int
    """Least partial sum that any input could give."""
    highest: int
    """Largest partial sum that any input could give."""
    accumulator_bits: int
    """Width that the layer's formats claim."""

    @property
    def needed_bits(self) -> int:
        """Width that no input can overflow."""
        return range_width(self.lowest, self.highest)


@dataclass(frozen=True, eq=False)
class Convolution(IntegerSums):
    """[inputs, height, width] -> [outputs, ...], padded with the zero point."""

    window: Window
    padding_value: float


@dataclass(frozen=True, eq=False)
class Linear(IntegerSums):
    """[..., inputs] -> [..., outputs]."""


@dataclass(frozen=True, eq=False)
class FloatConvolution(Operation):
    """A convolution of floats, as torch sums them, padded with 0."""

    weight: Tensor
    bias: Tensor | None
    window: Window


@dataclass(frozen=True, eq=False)
class FloatLinear(Operation):
    """A linear layer of floats, as torch sums them."""

    weight: Tensor
    bias: Tensor | None


# --- on floats: value by value


@dataclass(frozen=True, eq=False)
class Activation(Operation):
    """A function of each value, by its name in `netpress.program.execution`."""

    function: str
    arguments: tuple[tuple[str, float | str], ...] = ()
    """Such as (("negative_slope", 0.1),)."""


@dataclass(frozen=True, eq=False)
class Add(Operation):
    """The sum of two buffers, or of one and a constant."""

    constant: Tensor | float | None = None


@dataclass(frozen=True, eq=False)
class Multiply(Operation):
    """The product of two buffers, or of one and a constant."""

    constant: Tensor | float | None = None


@dataclass(frozen=True, eq=False)
class BatchNorm(Operation):
    """(x - mean) / sqrt(variance + epsilon) * weight + bias, channel by channel."""

    mean: Tensor
    variance: Tensor
    weight: Tensor | None
    bias: Tensor | None
    epsilon: float
    scale: Tensor | None = None
    """In integer arithmetic: what a unit of the output is worth, []."""


@dataclass(frozen=True, eq=False)
class UnitLength(Operation):
    """Vectors along `axis` become those of length 1."""

    axis: int
    epsilon: float


# --- on floats: pools


@dataclass(frozen=True, eq=False)
class AveragePool(Operation):
    """The mean of each window of `kernel`."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    ceil_mode: bool
    """Whether a last window that is cut off counts."""
    counts_padding: bool
    """Whether padded zeros count as values."""


@dataclass(frozen=True, eq=False)
class MaximumPool(Operation):
    """The largest value of each window of `kernel`."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    ceil_mode: bool


@dataclass(frozen=True, eq=False)
class AdaptivePool(Operation):
    """Means over as many windows as give `size`; (1, 1) is the mean of a whole channel."""

    size: tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Mean(Operation):
    """Means over `axes`, of which 0 counts the images."""

    axes: tuple[int, ...]
    keeps_axes: bool


# --- where values lie


@dataclass(frozen=True, eq=False)
class Concatenate(Operation):
    """Buffers one after the other along `axis`, of which 0 counts the images."""

    axis: int


@dataclass(frozen=True, eq=False)
class Pad(Operation):
    """`widths` values added before and after, as torch orders them: those of the last axis first."""

    widths: tuple[int, ...]
    value: float


@dataclass(frozen=True, eq=False)
class Reshape(Operation):
    """The same values in the same order, as `shape` of one image."""

    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Permute(Operation):
    """The axes in another order; 0, that of the images, stays the first."""

    order: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """Operations in order of execution, and the buffers that they read and write."""

    buffers: dict[str, Buffer]
    operations: tuple[Operation, ...]
    input: str
    """Name of the buffer that holds the images, normalised."""
    output: str
    """Name of the buffer that holds the logits."""

    def __post_init__(self) -> None:
        written = {self.input}
        for operation in self.operations:
            missing = [name for name in operation.inputs if name not in written]
            if missing or operation.output in written or operation.output not in self.buffers:
                raise ValueError(f"{operation.name}: reads or writes buffers out of order ({operation.output})")
            written.add(operation.output)
        if self.output not in written:
            raise ValueError(f"{self.output}: no operation writes the output")

    @cached_property
    def last_reads(self) -> tuple[tuple[str, ...], ...]:
        """For each operation the buffers that nobody needs after it."""
        last = {operation.output: index for index, operation in enumerate(self.operations)}
        for index, operation in enumerate(self.operations):
            last |= dict.fromkeys(operation.inputs, index)
        last.pop(self.output, None)
        ended: list[list[str]] = [[] for _ in self.operations]
        for name, index in last.items():
            ended[index].append(name)
        return tuple(map(tuple, ended))

    def describe(self) -> str:
        """The program as a table, one line an operation."""
        rows = [("operation", "output", "numbers", "shape", "accumulators", "inputs"), *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for operation in self.operations:
            written = self.buffers[operation.output]
            claims = ""
            if isinstance(operation, IntegerSums):
                claims = f"{operation.accumulator_bits} bits, {operation.needed_bits} needed"
            shape = "x".join(map(str, written.shape))
            yield operation.kind, written.name, written.number, shape, claims, ", ".join(operation.inputs)
