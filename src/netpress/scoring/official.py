"""The MicroNet Challenge's own rules, operation by operation.

Sources in the comments: "text" is the challenge's scoring page with its questions and answers,
"counter" the organisers' counting.py, "notebook" their EfficientNet example, a name in capitals an
entry of 2019 that they verified. Where all are silent, the choice and its reason are stated.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from netpress.errors import UserError
from netpress.numerics.accumulators import is_integer, tree_width
from netpress.numerics.accumulators import product_bits as bits_of_product
from netpress.numerics.formats import AnyFormat, Binary, Integer, Ternary
from netpress.scoring import arithmetic
from netpress.scoring.arithmetic import ACTIVATIONS, Cost
from netpress.scoring.card import Counted, Row, Tally
from netpress.scoring.official_rules import rules
from netpress.scoring.settings import ScoreSettings
from netpress.scoring.widths import Widths
from netpress.tracing.operations import Operation, Stored, Trace

DESCRIPTION = "the challenge's own rules: real non-zeros, a mask, real widths, everything executed is counted"
CLAMP_OPERATIONS = 3  # scale, round, clamp
ALTERNATIVES: tuple[dict[str, str], ...] = (
    {"clamp": "free"},
    {"clamp": "charged"},
    {"float_adds": "32"},
    {"counting": "winner"},
)
"""Readings of the rules on which counts of 2019 differ: the card of a quantized network gives the score by each."""


def count(trace: Trace, settings: ScoreSettings, formats: Mapping[str, Any]) -> Counted:
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
        rules(settings, counter.widths, counter.mask, counter.norms),
        counter.assumed(),
        counter.notes(),
        alternatives=others,
    )


def _count(trace: Trace, settings: ScoreSettings, formats: Mapping[str, Any]) -> tuple[list[Row], "_Counter"]:
    counter = _Counter(trace, settings, Widths(trace, formats, settings))
    rows = [counter.count(operation) for operation in trace.operations]
    unused = [tensor for tensor in trace.unused if tensor.name not in counter.charged]
    rows += [_unused(tensor) for tensor in unused if tensor.role != "buffer" and tensor.shape]
    return rows, counter


def _unused(tensor: Stored) -> Row:
    # Text: what inference needs is counted. No operation reads this, so it need not be stored.
    reason = "no operation uses it, so it need not be stored"
    if tensor.folded_into:
        reason = f"folded into {tensor.folded_into}, which is stored in its place"
    return Row(tensor.name, "unused", weights=tensor.count, nonzeros=tensor.nonzeros, uncounted=reason)


class _Counter:
    def __init__(self, trace: Trace, settings: ScoreSettings, widths: Widths) -> None:
        self.trace, self.settings, self.widths = trace, settings, widths
        self.charged: set[str] = set()
        # A network with formats says what is stored and run: a norm that is still there is one of both.
        self.norms = settings.norms or ("kept" if widths.formats else "folded")
        self.folded = _FOLDS[self.norms](trace)
        self.shifted = {source: norm for norm, source in self.folded.items()}
        self.dead = trace.dead()
        self.quantized_values = 0.0
        self.quantized: set[str] = set()
        self.could_overflow: list[str] = []
        self.winner = widths.quantized and settings.counting == "winner"
        # Counter: a mask wherever there is a zero. MSUNET was verified with masks only where they pay, and so
        # does the file of a network that has formats.
        self.mask = settings.mask or ("cheaper" if widths.quantized or widths.formats else "charged")

    def count(self, operation: Operation) -> Row:
        tally = Tally.of(operation)
        if operation.name in self.dead:
            tally.notes.append("executed, but its result is never used")
        if operation.kind in ("conv", "conv_transpose", "linear", "matmul"):
            self._products(operation, tally)
        elif operation.kind == "norm":
            self._norm(operation, tally)
        elif operation.kind == "move":
            # Silent; the notebook counts nothing for them, nor did any verified entry.
            tally.uncounted = "places values elsewhere, calculates nothing"
        else:
            self._single_values(operation, tally)
        if operation.kind != "norm":
            self._store_tensors(operation, tally)
        self._quantize(operation, tally)
        return tally.row()

    # --- storage

    def _store_tensors(self, operation: Operation, tally: Tally) -> None:
        # Text: every value that inference needs, once, however often it is used.
        # A layer's scales and zero points (tensors with formats that the plain layer does not read) go with it.
        formats, stored = self.widths.formats, self.trace.stored
        own = (f"{operation.module}.{part}" for part in ("weight_scale", "input_scale", "input_zero_point"))
        scales = [name for name in own if name in formats and name in stored] if operation.weight else []
        for name in (*operation.tensors, *scales):
            if name not in self.charged:
                self.charged.add(name)
                self._store(stored[name], tally)

    def _store(self, tensor: Stored, tally: Tally) -> None:
        number_format = self.widths.stored(tensor)
        values: float = tensor.values
        if self.settings.sparsity is not None and len(tensor.shape) > 1:
            values = tensor.count * (1 - self.settings.sparsity)
        bits, scales = number_format.bits, 0.0
        if f"{tensor.name}_scale" not in self.trace.stored:
            scales = self.widths.scale_bits(number_format, () if self.winner else tensor.shape)
        # Counter: biases and other vectors are dense.
        if len(tensor.shape) < 2:
            count = 1 if self.winner and tensor.name.endswith("weight_scale") else tensor.count
            tally.store(count * bits + scales)
            return
        # Text: values that exist, and one bit for each element of the full tensor.
        if isinstance(number_format, Ternary):
            values = tensor.nonzeros
        sparse = values < tensor.count
        # MSUNET, HHI: one mask, and one bit for the sign of each non-zero; such a sign cannot say zero.
        if self.mask == "cheaper" and not isinstance(number_format, Binary | Ternary):
            sparse = values * bits + tensor.count < tensor.count * bits
        stored = values if sparse else tensor.count
        tally.store(stored * bits + scales, tensor.count if sparse else 0, tensor.count, tensor.nonzeros)

    # --- products with weights

    def _products(self, operation: Operation, tally: Tally) -> None:
        widths = self.widths
        value, weight = widths.operand(operation), widths.weight(operation, self.trace)
        norm = self.shifted.get(operation.name)
        # Notebook: a norm leaves its shift as a bias.
        as_bias = norm is not None
        bias = operation.has_bias or as_bias or operation.attributes.get("added", False)
        alive = 0
        for terms, outputs in self._terms(operation):
            if not terms:  # all weights of these outputs are zero: they are constants, with nothing to add
                continue
            cost = arithmetic.dot_products(terms, outputs)
            tally.multiply(cost.multiplications, widths.multiplication(weight, value))
            tally.add(*widths.sums(operation, terms, outputs, weight, value))
            alive += outputs
            if bias:
                tally.add(outputs, self._bias_bits(operation, terms, weight, value))
        if "factors" in operation.attributes:  # alpha and beta of addmm and its like
            tally.multiply(operation.attributes["factors"], widths.element(operation)[0])
        if widths.needs_scaling(weight, value):
            # RIAIR, MSUNET: making a sum of integers a real number again is one multiplication per output.
            tally.multiply(alive, widths.float.bits)
        if as_bias and not operation.has_bias and operation.weight not in self.charged:
            tally.store(operation.channels * (16 if widths.freebie else widths.float.bits))
        self._check_overflow(operation, weight, value)

    def _terms(self, operation: Operation) -> tuple[tuple[float, int], ...]:
        """Non-zero terms of each output's sum; as a mean, which may be a fraction, if a sparsity is assumed."""
        if self.settings.sparsity is None or operation.kind == "matmul":
            return operation.terms
        if operation.kind == "conv_transpose":
            return tuple((terms * (1 - self.settings.sparsity), outputs) for terms, outputs in operation.terms)
        return ((operation.window * (1 - self.settings.sparsity), operation.outputs),)

    def _bias_bits(self, operation: Operation, terms: float, weight: AnyFormat, value: AnyFormat) -> float:
        widths = self.widths
        if widths.freebie:
            return 32
        stored = widths.stored(self.trace.stored[operation.bias]) if operation.bias else widths.float
        if widths.needs_scaling(weight, value):  # RIAIR: it is added after scaling, in floating point
            return self._float_add(max(widths.float.bits, stored.bits))
        return max(widths.last_sum(operation, terms, weight, value), stored.bits)

    def _float_add(self, bits: float) -> float:
        """Width of an addition outside sums of products; the board has those of the winner at 32 bits."""
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
        elif tree_width(max((n for n, _ in operation.terms), default=1), bits_of_product(weight, value)) > int(
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
        if not self.widths.freebie:  # its factors are real numbers
            multiplication_bits = addition_bits = max(multiplication_bits, self.widths.float.bits)
        tally.multiply(operation.outputs, multiplication_bits)
        tally.add(operation.outputs, self._float_add(addition_bits))
        key = "\n".join(operation.tensors)
        if key not in self.charged:
            self.charged.add(key)
            tally.store(2 * operation.channels * (16 if self.widths.freebie else self.widths.float.bits))

    # --- everything else

    def _single_values(self, operation: Operation, tally: Tally) -> None:
        multiplication_bits, addition_bits = self.widths.element(operation)
        if operation.function in ("average", "sum", "variance", "deviation", "length", "softmax", "log_softmax"):
            self._sums_of_values(operation, tally, multiplication_bits)
            return
        cost = elementary_cost(operation)
        tally.multiply(cost.multiplications, multiplication_bits)
        tally.add(cost.additions, self._float_add(addition_bits))
        if operation.kind == "permute_channels":
            # Text: a permutation is a product with a sparse matrix, which is stored too: ones and their mask.
            channels = operation.attributes["channels"]
            tally.store(channels, channels * channels)
            tally.notes.append("a permutation, charged as a product with a sparse matrix")

    def _sums_of_values(self, operation: Operation, tally: Tally, bits: float) -> None:
        cost = elementary_cost(operation)
        if self.winner and operation.kind == "pool":  # RIAIR: window * window places charged as window
            cost = Cost(operation.outputs, sum((math.isqrt(n) - 1) * count for n, count in operation.windows))
        sources = [self.widths.values.get(source, self.widths.float) for source in operation.sources]
        tally.multiply(cost.multiplications, bits)
        if self.widths.accumulator(operation, *sources) == "tree" and operation.function in ("average", "sum"):
            for window, outputs in operation.windows:
                share = cost.additions if len(operation.windows) == 1 else (window - 1) * outputs
                tally.add(share, self.widths.tree(window, sources[0].bits))
        else:
            # Review of OSI AI: sums in half precision are accumulated in 32 bits unless shown otherwise.
            tally.add(cost.additions, float(self.widths.accumulator(operation, self.widths.float)))

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
        if self.settings.clamp == "charged":
            tally.multiply(CLAMP_OPERATIONS * made, self.widths.float.bits)

    # --- words

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


_FOLDS: dict[str, Callable[[Trace], dict[str, str]]] = {
    "folded": Trace.folded_norms,
    "forward": Trace.norms_folded_forward,
    "kept": lambda trace: {},
}


def elementary_cost(operation: Operation) -> Cost:
    """Operations of everything that is neither a product with weights nor a batch norm."""
    outputs, window = operation.outputs, operation.window
    if operation.kind == "activation":
        return ACTIVATIONS[operation.function].times(outputs)
    if operation.kind == "add":  # counter: Add
        more = operation.attributes
        return Cost(outputs * more.get("scaled", 0), outputs * more.get("additions", 1))
    if operation.kind in ("multiply", "compare", "permute_channels"):  # counter: Scale
        return Cost(outputs, 0)
    if operation.kind == "pool":
        pool = arithmetic.average if operation.function == "average" else arithmetic.maximum
        costs = [pool(window, outputs) for window, outputs in operation.windows]
        return Cost(sum(cost.multiplications for cost in costs), sum(cost.additions for cost in costs))
    if operation.kind == "reduce":
        return arithmetic.reduction(operation.function, window, outputs)
    if operation.kind == "softmax":
        vectors = outputs / window
        logarithm = Cost(vectors, outputs) if operation.function == "log_softmax" else Cost(0, 0)
        cost = arithmetic.softmax(window, vectors)
        # log softmax is x - log(sum of exp): no divisions.
        return cost if not logarithm.additions else Cost(outputs + vectors, cost.additions + outputs)
    if operation.kind == "group_norm":
        return arithmetic.group_norm(window, outputs, affine=bool(operation.tensors))
    if operation.kind == "upsample":
        return arithmetic.upsampling(window, outputs)
    raise AssertionError(f"{operation.name}: {operation.kind} has no cost")


def _per_tensor(number_format: AnyFormat) -> AnyFormat:
    if isinstance(number_format, Integer) and number_format.scale == "channel":
        return number_format.model_copy(update={"scale": "tensor"})
    return number_format


def _scaled(number_format: AnyFormat | None, each: str) -> str:
    return f", integers with a 16-bit scale {each}" if number_format is not None and is_integer(number_format) else ""
