"""The MicroNet Challenge's own rules, operation by operation.

A rule is a function that says itself (`netpress.scoring.rules`); its last argument is the source: "text" is the
challenge's scoring page with its questions and answers, "counter" the organisers' counting.py, "notebook" their
EfficientNet example, a name in capitals an entry of 2019 that they verified. Where all are silent, a comment states the
choice and its reason.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from netpress.errors import UserError
from netpress.numerics.accumulators import is_integer, product_bits, tree_width
from netpress.numerics.formats import AnyFormat, Integer
from netpress.scoring import arithmetic
from netpress.scoring.arithmetic import ELEMENTARY, Cost
from netpress.scoring.card import Counted, Row, Tally, relative_score
from netpress.scoring.conventions import CONVENTIONS, OFFICIAL, Convention
from netpress.scoring.official_rules import (
    CLAMP_OPERATIONS,
    CLAMPS,
    NORMS,
    SATURATIONS,
    dot_products,
    integer_scalings,
    move,
    scalings,
    sums_of,
)
from netpress.scoring.official_storage import MASKS, Storage, block_marks
from netpress.scoring.rules import Rule
from netpress.scoring.widths import Widths, WidthSettings, adder_tree
from netpress.settings import Fraction
from netpress.tracing.operations import Operation, Stored, Trace

DESCRIPTION = "the challenge's own rules: real non-zeros, a mask, real widths, everything executed is counted"
ALTERNATIVES: tuple[dict[str, str], ...] = (
    {"clamp": "free"},
    {"clamp": "charged"},
    {"float_adds": "32"},
    {"counting": "winner"},
)
"""Readings of the rules on which counts of 2019 differ: the card of a quantized network gives the score by each."""


def _is_stored(mask: Any) -> Any:
    if mask == "none":
        raise ValueError("which weights exist must be stored somehow; choose charged or cheaper")
    return mask


class OfficialSettings(WidthSettings):
    """How the challenge's own rules are read."""

    convention: Literal["official"] = "official"
    mask: Annotated[Literal["charged", "cheaper"] | None, BeforeValidator(_is_stored)] = None
    """A mask for every tensor with zeros, as the counter does, or only where it pays (default if quantized)."""
    norms: Literal["folded", "forward", "kept"] | None = None
    """Norms folded where data flow allows (default), or kept (default of networks with number formats of their own,
    which fold before they round); forward: each taken as folded into what it feeds, which gives the WideResNet
    baseline."""
    clamp: Literal["free", "charged"] = "free"
    """Scaling, rounding and clamping of a quantized activation: nothing, as accepted in 2019, or three operations."""
    float_adds: Literal["own", "32"] = "own"
    """Width of additions outside sums of products (biases, residual additions, scaled norms): their inputs', or 32."""
    counting: Literal["strict", "winner"] = "strict"
    """Of a quantized network: every scale and every place of a pool, or as the winner of 2019 (RIAIR) counted and the
    board has it: one scale a tensor however many channels have their own, pools of one dimension, float_adds 32."""
    sparsity: Fraction | None = None
    """Part of every weight tensor assumed to be zero, as the counter has it, instead of the real zeros."""


def count(trace: Trace, settings: OfficialSettings, formats: Mapping[str, Any]) -> Counted:
    """Count a trace by the official rules. For what is quantized, other readings of the rules are counted too."""
    rows, counter = _count(trace, settings, formats)
    others = {}
    if counter.widths.quantized:
        for choice in ALTERNATIVES:
            if any(getattr(settings, key) != value for key, value in choice.items()):
                rows_then, _ = _count(trace, settings.model_copy(update=choice), formats)
                totals = sum(row.params for row in rows_then), sum(row.operations for row in rows_then)
                others[", ".join(f"{key} = {value}" for key, value in choice.items())] = totals
    return Counted(
        tuple(rows),
        counter.rules(),
        counter.assumed(),
        counter.notes(),
        alternatives=others,
    )


def _count(trace: Trace, settings: OfficialSettings, formats: Mapping[str, Any]) -> tuple[list[Row], "_Counter"]:
    counter = _Counter(trace, settings, Widths(trace, formats, settings))
    rows = [counter.count(operation) for operation in trace.operations]
    unused = [tensor for tensor in trace.unused if tensor.name not in counter.storage.charged]
    rows += [_unused(tensor) for tensor in unused if tensor.role != "buffer" and tensor.shape]
    return rows, counter


def _unused(tensor: Stored) -> Row:
    # Text: what inference needs is counted. No operation reads this, so it need not be stored.
    reason = "no operation uses it, so it need not be stored"
    if tensor.folded_into:
        reason = f"folded into {tensor.folded_into}, which is stored in its place"
    return Row(tensor.name, "unused", weights=tensor.count, nonzeros=tensor.nonzeros, uncounted=reason)


class _Counter:
    def __init__(self, trace: Trace, settings: OfficialSettings, widths: Widths) -> None:
        self.trace, self.settings, self.widths = trace, settings, widths
        self.winner = widths.quantized and settings.counting == "winner"
        # Counter: a mask wherever there is a zero. MSUNET was verified with masks only where they pay, and so
        # does the file of a network that has formats.
        self.mask = MASKS[settings.mask or ("cheaper" if widths.quantized or widths.formats else "charged")]
        self.storage = Storage(trace, widths, self.mask, settings.sparsity, scale_a_tensor=self.winner)
        # A network with formats says what is stored and run: a norm that is still there is one of both.
        self.norms = NORMS[settings.norms or ("kept" if widths.formats else "folded")]
        self.folded = self.norms(trace)
        self.shifted = {source: norm for norm, source in self.folded.items()}
        self.clamps = CLAMPS[settings.clamp]
        self.scalings = integer_scalings if is_integer(widths.float) else scalings
        self.dead = trace.dead()
        self.quantized_values = 0.0
        self.quantized: set[str] = set()
        self.could_overflow: list[str] = []

    def count(self, operation: Operation) -> Row:
        tally = Tally.of(operation)
        if operation.name in self.dead:
            tally.notes.append("executed, but its result is never used")
        if operation.kind in ("conv", "conv_transpose", "linear", "matmul"):
            self._products(operation, tally)
        elif operation.kind == "norm":
            self._norm(operation, tally)
        elif operation.kind == "move":
            tally.uncounted = move(operation)
        else:
            self._single_values(operation, tally)
        if operation.kind != "norm":
            self.storage.charge(operation, tally)
        self._quantize(operation, tally)
        if is_integer(self.widths.float) and self.settings.clamp == "charged":
            tally.multiply(SATURATIONS.get(operation.kind, 0) * operation.outputs, self.widths.float.bits)
        return tally.row()

    # --- products with weights

    def _products(self, operation: Operation, tally: Tally) -> None:
        widths = self.widths
        value, weight = widths.operand(operation), widths.weight(operation, self.trace)
        # Notebook: a norm leaves its shift as a bias.
        as_bias = operation.name in self.shifted
        bias = operation.has_bias or as_bias or operation.attributes.get("added", False)
        alive = 0
        for terms, outputs in sums_of(operation, self.settings.sparsity):
            cost = dot_products(terms, outputs, bias)
            if not terms:  # all weights of these outputs are zero: they are constants, with nothing to add
                continue
            tally.multiply(cost.multiplications, widths.multiplication(weight, value))
            tally.add(cost.additions, widths.sum_bits(operation, terms, weight, value))
            alive += outputs
            if cost.biases:
                tally.add(cost.biases, self._bias_bits(operation, terms, weight, value))
        if "factors" in operation.attributes:  # alpha and beta of addmm and its like
            tally.multiply(operation.attributes["factors"], widths.element(operation)[0])
        if widths.needs_scaling(weight, value):
            tally.multiply(self.scalings(alive), widths.float.bits)
        if as_bias and not operation.has_bias and operation.weight not in self.storage.charged:
            tally.store(operation.channels * widths.real_bits)
        self._check_overflow(operation, weight, value)

    def _bias_bits(self, operation: Operation, terms: float, weight: AnyFormat, value: AnyFormat) -> float:
        widths = self.widths
        if widths.gift is not None:
            return widths.gift.addition
        stored = widths.stored(self.trace.stored[operation.bias]) if operation.bias else widths.float
        if widths.needs_scaling(weight, value):  # RIAIR: it is added after scaling, in floating point
            return self._float_add(max(widths.float.bits, stored.bits))
        return max(widths.last_sum(operation, terms, weight, value), stored.bits)

    def _float_add(self, bits: float) -> float:
        """Width of an addition outside sums of products; the board has those of the winner at 32 bits, in floats."""
        if is_integer(self.widths.float):
            return bits
        return max(bits, 32) if self.winner or self.settings.float_adds == "32" else bits

    def _check_overflow(self, operation: Operation, weight: AnyFormat, value: AnyFormat) -> None:
        """Refuse a claimed accumulator that the layer's own integers could overflow; note one that is assumed."""
        accumulator = self.widths.accumulator(operation, weight, value)
        if accumulator == "tree" or not (is_integer(weight) and is_integer(value)):
            return
        needed = operation.attributes.get("needed_width")
        if needed is not None and self.widths.weights is None and self.widths.activations is None:
            if needed > int(accumulator):
                raise UserError(
                    f"{operation.name}: sums of {accumulator} bits are claimed, but its weights and inputs can reach "
                    f"{operation.attributes['largest_sum']:,}, which takes {needed} bits; claim wider sums or an "
                    "adder tree"
                )
        elif tree_width(max((n for n, _ in operation.terms), default=1), product_bits(weight, value)) > int(
            accumulator
        ):
            self.could_overflow.append(operation.name)

    # --- norms

    def _norm(self, operation: Operation, tally: Tally) -> None:
        if operation.name in self.folded:
            tally.uncounted = f"folded into {self.folded[operation.name]}: its shift is counted there as a bias"
            return
        # RIAIR, MSUNET: where something stands between, one multiplication and addition an element, and
        # two values a channel (the statistics merge with scale and shift).
        multiplication_bits, addition_bits = self.widths.element(operation)
        if self.widths.gift is None:  # its factors are real numbers
            multiplication_bits = addition_bits = max(multiplication_bits, self.widths.float.bits)
        tally.multiply(operation.outputs, multiplication_bits)
        tally.add(operation.outputs, self._float_add(addition_bits))
        self.storage.charge_values(operation, 2 * operation.channels, tally)
        if (scale := f"{operation.module}.output_scale") in self.widths.formats:
            tally.store(self.widths.formats[scale].bits)

    # --- everything else

    def _single_values(self, operation: Operation, tally: Tally) -> None:
        multiplication_bits, addition_bits = self.widths.element(operation)
        if operation.function in ("average", "sum", "variance", "deviation", "length", "softmax", "log_softmax"):
            self._sums_of_values(operation, tally, multiplication_bits)
            return
        cost = ELEMENTARY[operation.kind](operation)
        tally.multiply(cost.multiplications, multiplication_bits)
        tally.add(cost.additions, self._float_add(addition_bits))
        if operation.kind == "permute_channels":
            self.storage.charge_permutation(operation, tally)
            tally.notes.append("a permutation, charged as a product with a sparse matrix")

    def _sums_of_values(self, operation: Operation, tally: Tally, bits: float) -> None:
        cost = ELEMENTARY[operation.kind](operation)
        if self.winner and operation.kind == "pool":  # RIAIR: window * window places charged as window
            cost = Cost(operation.outputs, sum((math.isqrt(n) - 1) * count for n, count in operation.windows))
        sources = [self.widths.values.get(source, self.widths.float) for source in operation.sources]
        tally.multiply(cost.multiplications, bits)
        if self.widths.accumulator(operation, *sources) == "tree" and operation.function in ("average", "sum"):
            for window, outputs in operation.windows:
                share = cost.additions if len(operation.windows) == 1 else (window - 1) * outputs
                tally.add(share, adder_tree(window, sources[0].bits))
        else:
            # Review of OSI AI: sums in half precision are accumulated in 32 bits unless shown otherwise.
            accumulator = self.widths.accumulator(operation, self.widths.float)
            if accumulator == "tree":  # of squares, the products of two values
                tally.add(cost.additions, adder_tree(operation.window, 2 * self.widths.float.bits))
            else:
                tally.add(cost.additions, float(accumulator))

    # --- quantizers

    def _quantize(self, operation: Operation, tally: Tally) -> None:
        """Note each value that is made an integer; charge it if the settings say so."""
        products = operation.kind in ("conv", "conv_transpose", "linear", "matmul")
        number_format = self.widths.operand(operation) if products else self.widths.values[operation.name]
        made = 0.0
        if products and self.widths.activations is not None:
            new = [source for source in operation.sources if source not in self.quantized]
            self.quantized.update(new)  # assumed: one quantizer for all that use a value
            made = sum(math.prod(shape) for shape in operation.inputs) if new else 0
            scales = self.widths.scale_bits(_per_tensor(number_format), ())
        elif products and f"{operation.module}.input" in self.widths.formats:
            made, scales = sum(math.prod(shape) for shape in operation.inputs), 0
        elif any(name in self.widths.formats for name in (*operation.output_of, operation.name)):
            made, scales = operation.outputs, self.widths.scale_bits(_per_tensor(number_format), ())
        if not made or not is_integer(number_format):
            return
        self.quantized_values += made * operation.share
        # Text: scales and zero points are values that inference needs.
        tally.store(scales)
        if clamps := self.clamps(made):
            tally.multiply(clamps, self.widths.float.bits)

    # --- words

    def rules(self) -> tuple[Rule[..., Any], ...]:
        """The rules that this count applied."""
        applied: list[Rule[..., Any]] = [relative_score, self.widths.rule, self.mask, self.norms, dot_products]
        applied += [sums_of, arithmetic.counter_activation, arithmetic.entry_activation, arithmetic.other_function]
        applied += [arithmetic.pool, arithmetic.elementwise, arithmetic.permutation, arithmetic.upsampling, move]
        if any(tensor.pattern is not None for tensor in self.trace.stored.values()):
            applied.append(block_marks)
        if self.widths.quantized:
            applied += [adder_tree, self.scalings, self.clamps]
        return tuple(applied)

    def assumed(self) -> tuple[str, ...]:
        settings, words = self.settings, []
        if settings.weight_bits is not None:
            words.append(f"weights of {settings.weight_bits} bits" + _scaled(self.widths.weights, "an output channel"))
        if settings.activation_bits is not None:
            words.append(
                f"inputs of convolutions and linear layers of {settings.activation_bits} bits"
                + _scaled(self.widths.activations, "a tensor")
            )
        if settings.sparsity is not None:
            words.append(f"{settings.sparsity:.1%} of every weight tensor zero")
        if settings.accumulator is not None:
            words.append(
                "sums of integer products in an exact adder tree"
                if settings.accumulator == "tree"
                else f"sums in {settings.accumulator} bits"
            )
        if settings.float_bits is not None or words:
            words.append(f"everything else in {self.widths.float.bits}-bit floating point")
        if settings.norms == "forward":
            words.append("every norm folded into what it feeds")
        return tuple(words)

    def notes(self) -> tuple[str, ...]:
        notes = list(self.trace.notes)
        if self.dead:
            notes.append(f"{len(self.dead)} operations are executed although nothing uses their results; they count")
        if self.could_overflow:
            notes.append(
                f"16-bit sums could overflow in {len(self.could_overflow)} layers, first {self.could_overflow[0]}"
            )
        if self.quantized_values:
            values = self.quantized_values
            cost = values * CLAMP_OPERATIONS * self.widths.float.bits / 32
            verb = "are" if self.settings.clamp == "charged" else "would be"
            notes.append(
                f"making {values:,.0f} values an example integers: {cost:,.0f} operations {verb} charged for it"
            )
        if self.winner:
            notes.append("scales, pools and float additions are counted as by the winner of 2019")
        if self.trace.examples:
            notes.append(f"operations are the mean over {self.trace.examples:,} examples")
        return tuple(notes)


def _per_tensor(number_format: AnyFormat) -> AnyFormat:
    if isinstance(number_format, Integer) and number_format.scale == "channel":
        return number_format.model_copy(update={"scale": "tensor"})
    return number_format


def _scaled(number_format: AnyFormat | None, each: str) -> str:
    return f", integers with a 16-bit scale {each}" if number_format is not None and is_integer(number_format) else ""


CONVENTIONS.add(OFFICIAL, Convention(DESCRIPTION, OfficialSettings, count))
