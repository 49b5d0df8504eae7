"""What the challenge's own rules charge for stored tensors.

A dense weight of 100 values at 4 bits costs 400 bits. With 90 zeros it costs 10 values and a mask: 40 + 100 bits.
"""

from netpress.numerics.block_masks import Pattern, mask_bits
from netpress.numerics.formats import Binary, Ternary
from netpress.scoring.card import Tally
from netpress.scoring.rules import Rule, rule
from netpress.scoring.widths import Widths
from netpress.tracing.operations import Operation, Shape, Stored, Trace

PARTS = ("weight_scale", "input_scale", "input_zero_point", "output_scale")
"""A quantized layer's own tensors that say what its integers are worth."""
Kept = tuple[float, float]
"""Stored values, and bits of the mask that says which these are."""


@rule("a tensor with zeros stores its non-zeros and a mask of 1 bit an element", "text, counter")
def mask_zeros(values: float, count: int, bits: float, marks: int) -> Kept:
    """`marks` are the bits of the mask."""
    return (values, marks) if values < count else (count, 0)


@rule("a tensor stores non-zeros and a mask where that is less than all values", "MSUNet, and the file")
def mask_where_cheaper(values: float, count: int, bits: float, marks: int) -> Kept:
    return (values, marks) if values * bits + marks < count * bits else (count, 0)


@rule(
    "a tensor whose blocks each exist or not as a whole has a mask of 1 bit a block, and stores the values of whole "
    "blocks, zeros among them",
    "text",
)
def block_marks(shape: Shape, pattern: Pattern) -> int:
    """Bits of the mask: 4,096 of 512 x 128 values in blocks of 4 x 4 (text)."""
    return mask_bits(shape, pattern)


MASKS: dict[str, Rule[[float, int, float, int], Kept]] = {"charged": mask_zeros, "cheaper": mask_where_cheaper}


class Storage:
    """Charges each stored tensor once, however often it is used. `charged` holds the names of those that it has."""

    def __init__(
        self,
        trace: Trace,
        widths: Widths,
        mask: Rule[[float, int, float, int], Kept],
        sparsity: float | None,
        scale_a_tensor: bool,
    ) -> None:
        """`scale_a_tensor`: a tensor counts one scale, however many channels have their own."""
        self.trace, self.widths, self.mask, self.sparsity = trace, widths, mask, sparsity
        self.scale_a_tensor = scale_a_tensor
        self.charged: set[str] = set()

    def charge(self, operation: Operation, tally: Tally) -> None:
        """Charge the tensors that an operation reads. Text: every value that inference needs."""
        # A layer's scales and zero points (tensors with formats that the plain layer does not read) go with it.
        formats, stored = self.widths.formats, self.trace.stored
        own = (f"{operation.module}.{part}" for part in PARTS)
        scales = [name for name in own if name in formats and name in stored] if operation.weight else []
        for name in (*operation.tensors, *scales):
            if name not in self.charged:
                self.charged.add(name)
                self._charge(stored[name], tally)

    def charge_values(self, operation: Operation, count: int, tally: Tally) -> None:
        """Charge `count` real numbers for all tensors of an operation, such as a norm's four."""
        key = "\n".join(operation.tensors)
        if key not in self.charged:
            self.charged.add(key)
            tally.store(count * self.widths.real_bits)

    def charge_permutation(self, operation: Operation, tally: Tally) -> None:
        """Charge the sparse matrix of a permutation. Text: its ones, of one bit, and their mask."""
        channels = operation.attributes["channels"]
        tally.store(channels, channels * channels)

    def _charge(self, tensor: Stored, tally: Tally) -> None:
        number_format = self.widths.stored(tensor)
        bits, scales = number_format.bits, 0.0
        if f"{tensor.name}_scale" not in self.trace.stored:
            scales = self.widths.scale_bits(number_format, () if self.scale_a_tensor else tensor.shape)
        if len(tensor.shape) < 2:  # counter: biases and other vectors are dense
            count = 1 if self.scale_a_tensor and tensor.name.endswith("weight_scale") else tensor.count
            tally.store(count * bits + scales)
            return
        values: float = tensor.values if self.sparsity is None else tensor.count * (1 - self.sparsity)
        if isinstance(number_format, Ternary):
            values = tensor.nonzeros
        # MSUNET, HHI: one mask, and one bit for the sign of each non-zero; such a sign cannot say zero.
        mask = mask_zeros if isinstance(number_format, Binary | Ternary) else self.mask
        marks = tensor.count
        # A mask by blocks and a second one inside them, for signs, was asked for and denied (HHI).
        if tensor.pattern is not None and values == tensor.values:
            marks = block_marks(tensor.shape, tensor.pattern)
        stored, charged = mask(values, tensor.count, bits, marks)
        tally.store(stored * bits + scales, charged, tensor.count, tensor.nonzeros)
