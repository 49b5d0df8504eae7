"""Functions of single values in vectors: one C function for each chain of kinds, whose numbers are in a table."""

from dataclasses import dataclass, field

from torch import Tensor

from netpress.export.c.constants import Constants
from netpress.export.c.plan import Node
from netpress.export.c.vector_plan import CHANNELS, VectorPlan, VectorStep, rounded
from netpress.program.integers import (
    Clamp,
    Curve,
    HardGate,
    IntegerAdd,
    IntegerMultiply,
    LeakyRelu,
    Requantize,
    Scale,
    Shift,
)

SIXTH = 21845
"""What a hard gate multiplies by: 1/6 times a power of two."""
FARTHEST = 11
"""Bits to the left before a hard gate, up to which what saturates there is beyond 0 ... 1 in any case."""


@dataclass
class Tail:
    """A chain of functions: its lines, and the numbers that they read."""

    plan: VectorPlan
    constants: Constants
    step: VectorStep
    head: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    each: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The function but for its name; equal chains have equal texts."""
        for node in self.step.rest:
            self._add(node)
        self._store()
        head, body = (
            "\n".join(f"{indent}{line}" for line in lines)
            for indent, lines in (("    ", self.head), ("        ", self.body))
        )
        return f"""(const v_tail *t, uint8_t *arena, const int16_t *v, int apart, int o, int at, int count) {{
    const int32_t *const k = t->k;
    const int16_t *const *const each = t->each;
    int p;
{head}
    (void)k, (void)each;
    for (p = 0; p < count; p += V_WIDE) {{
        V a[{CHANNELS}];
        V_EACH4(a[g] = v_load(v + (ptrdiff_t)g * apart + p);)
{body}
    }}
}}"""

    def table(self, name: str) -> list[str]:
        """What a step declares before it calls the chain."""
        output = self.plan.tensors[self.step.output]
        lines, numbers, each = [], "0", "0"
        if self.numbers:
            lines.append(f"static const int32_t k[] = {{{', '.join(map(str, self.numbers))}}};")
            numbers = "k"
        if self.each:
            lines.append(f"static const int16_t *const each[] = {{{', '.join(self.each)}}};")
            each = "each"
        return [
            *lines,
            f"static const v_tail tail = {{{name}, {numbers}, {each}, {output.start}, {output.pitch}, "
            f"{rounded(output.channels, CHANNELS)}}};",
        ]

    # --- numbers

    def _number(self, value: int) -> str:
        self.numbers.append(int(value))
        return f"k[{len(self.numbers) - 1}]"

    def _vector(self, value: int) -> str:
        name = f"v{len(self.head)}"
        self.head.append(f"const V {name} = v_set16({self._number(value)});")
        return name

    def _constant(self, values: list[int], prefix: str) -> str:
        self.each.append(self.constants.add("int16_t", prefix, values, 2))
        return f"each[{len(self.each) - 1}]"

    def _channel(self, tensor: Tensor) -> str:
        """A number for each channel, `o + g`, or one for all."""
        values = tensor.flatten().tolist()
        count = self.plan.tensors[self.step.output].channels
        values = values * count if len(values) == 1 else values
        return f"{self._constant([*values, *[0] * (rounded(count, CHANNELS) - count)], 'each_')}[o + g]"

    # --- functions

    def _every(self, text: str) -> None:
        self.body.append(f"V_EACH4(a[g] = {text};)")

    def _add(self, node: Node) -> None:
        match node.operation:
            case Shift(amount=amount):
                self._every(
                    f"v_shifted(a[g], {self._number(int(amount)) if amount.numel() == 1 else self._channel(amount)})"
                )
            case Scale(multiplier=multiplier, bias=bias):
                numbers = [
                    self._vector(int(x)) if x.numel() == 1 else f"v_set16({self._channel(x)})"
                    for x in (multiplier, bias)
                ]
                self._every(f"v_add(v_rescale(a[g], {numbers[0]}), {numbers[1]})")
            case Clamp(low=low, high=high):
                self._every(f"v_least(v_most(a[g], {self._vector(low)}), {self._vector(high)})")
            case LeakyRelu(multiplier=m):
                self._every(f"v_leaky(a[g], {self._vector(m)})")
            case HardGate():
                self._hard_gate(node)
            case Curve(table=table, amount=n):
                curve = f"v_curve(a[g], {self._constant(table.tolist(), 'curve_')}, {self._number(n)})"
                self._every(f"v_rescale_any(a[g], {curve})" if node.gated else curve)
            case IntegerAdd(constant=constant) if constant is not None:
                self._every(f"v_add(a[g], v_set16({self._channel(constant)}))")
            case IntegerAdd() | IntegerMultiply():
                self._two(node)
            case Requantize():
                self._requantize(node)
            case _:
                raise TypeError(f"{node.operation.name}: no vectors of a {node.operation.kind}")

    def _hard_gate(self, node: Node) -> None:
        assert isinstance(node.operation, HardGate)
        m, n = node.operation.multiplier, node.operation.amount
        if m == SIXTH and -FARTHEST <= n < 0:
            bounds = f"{self._vector(-(32768 >> -n))}, {self._vector((32768 >> -n) - 1)}"
            gate = f"v_hard_gate_left(a[g], {self._vector(m)}, {self._number(-n)}, {bounds})"
        else:
            gate = f"v_hard_gate(a[g], {self._vector(m)}, {self._number(n)})"
        self._every(f"v_rescale(a[g], {gate})" if node.gated else gate)

    def _two(self, node: Node) -> None:
        """A sum or a product of the values and another tensor's, or of the values and themselves."""
        verb = "v_add" if isinstance(node.operation, IntegerAdd) else "v_rescale_any"
        made = {earlier.output for earlier in self.step.rest} | {str(self.step.source)}
        made |= {self.step.first.output} if self.step.first else set()
        name = next((name for name in node.inputs if name not in made), None)
        if name is None:
            self._every(f"{verb}(a[g], a[g])")
            return
        other, output = self.plan.tensors[name], self.plan.tensors[self.step.output]
        at = f"(const int16_t *)(const void *)(arena + {self._number(other.start)})"
        pointer = f"other{len(self.head)}"
        if output.plane > 1 and other.plane == 1:
            self.head.append(f"const int16_t *{pointer} = {at} + (ptrdiff_t)o * {self._number(other.pitch)};")
            apart = self.numbers[-1]
            self._every(f"{verb}(a[g], v_all({pointer} + {apart} * g))")
            return
        pitch = self._number(other.pitch)
        self.head.append(f"const int16_t *{pointer} = {at} + (ptrdiff_t)o * {pitch} + at;")
        self._every(f"{verb}(a[g], v_load({pointer} + (ptrdiff_t)g * {pitch} + p))")

    def _requantize(self, node: Node) -> None:
        operation, output = node.operation, self.plan.tensors[self.step.output]
        assert isinstance(operation, Requantize)
        # Depthwise layers read what lies above their padding, so that this is 0.
        below = output.below
        m, n = self._vector(operation.multiplier), operation.amount
        if n > 0:
            scaled = f"v_rescale(v_rescale(a[g], {m}), {self._vector(1 << (15 - n) if n < 16 else 0)})"
        else:
            scaled = f"v_scaled(a[g], {m}, {self._number(n)})"
        low, high = (self._vector(value - below) for value in (operation.low, operation.high))
        self._every(f"v_least(v_most(v_add({scaled}, {self._vector(operation.zero_point - below)}), {low}), {high})")

    def _store(self) -> None:
        output = self.plan.tensors[self.step.output]
        if output.layout == "places":
            kind = "v_store_bytes" if output.small else "v_store_pairs"
            self.body.append(f"{kind}(t, arena, o, at + p, a[0], a[1], a[2], a[3]);")
            return
        self.head.append("int16_t *const out = (int16_t *)(void *)(arena + t->out) + (ptrdiff_t)o * t->pitch + at;")
        self.body.append("V_EACH4(v_store(out + (ptrdiff_t)g * t->pitch + p, a[g]);)")
