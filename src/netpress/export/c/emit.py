"""The text of a C file's constants and functions."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from netpress.errors import Failure, UserError
from netpress.export.c.plan import Node, Plan, Step, channels
from netpress.numerics.block_masks import Pattern, cheapest_mask, grid_shape
from netpress.numerics.formats import Binary, GridFormat, Ternary, integer_range
from netpress.numerics.packing import pack_bits, pack_mask
from netpress.program.integers import (
    Clamp,
    Curve,
    HardGate,
    IntegerAdd,
    IntegerMean,
    IntegerMultiply,
    IntegerPool,
    IntegerUnitLength,
    LeakyRelu,
    Pixels,
    Requantize,
    Scale,
    Shift,
)
from netpress.program.operations import Concatenate, Convolution, IntegerSums, MaximumPool, Pad

TYPES = {"u8": "uint8_t", "s8": "int8_t", "s16": "int16_t"}
INDENT = "        "
AHEAD = 2  # bytes beyond packed weights that reading the last one touches


@dataclass
class Writer:
    """Collects a file's constants, and writes its steps."""

    plan: Plan
    formats: dict[str, GridFormat]
    """Of the weights, by the layer's name."""
    patterns: Mapping[str, Pattern]
    """The blocks that masks are made of, by the layer's name."""
    constants: list[str] = field(default_factory=list)
    flash: int = 0
    """Bytes of all constants."""
    known: dict[str, str] = field(default_factory=dict)

    def constant(self, kind: str, prefix: str, values: Iterable[int], size: int) -> str:
        """The name of a constant array, which is written once however often it is used."""
        numbers = list(values)
        body = ",".join(map(str, numbers))
        key = f"{kind} {body}"
        if key not in self.known:
            name = self.known[key] = f"{prefix}{len(self.known)}"
            lines = _wrap(body)
            self.constants.append(f"static const {kind} {name}[{len(numbers)}] = {{\n{lines}\n}};")
            self.flash += size * len(numbers)
        return self.known[key]

    def step(self, index: int, step: Step) -> str:
        """One function."""
        first = step.first.operation if step.first else None
        head = f"static void step_{index}(uint8_t *arena, const uint8_t *pixels) {{"
        if isinstance(first, Concatenate):
            return "\n".join([head, *self._concatenate(step), "}"])
        count, plane = step.shape
        if isinstance(first, IntegerUnitLength):
            call = f"    unit_length({self._at(step.first.inputs[0])}, {self._at(step.output)}, {count});"  # type: ignore[union-attr]
            return "\n".join([head, "    (void)pixels;", call, "}"])
        scratch = step.offset
        before, row = self._first(step)
        rest = [line for node in step.rest for line in self._row(node, step)]
        stored = step.rest and isinstance(step.rest[-1].operation, Requantize)
        if not stored:
            to = f"{self._at(step.output)} + (size_t)o * {plane}"
            rest.append(f"memcpy({to}, v, {2 * plane});")
        lines = [head, f"    int16_t *v = (int16_t *)(arena + {scratch + 4 * plane});", "    int o;", *before]
        if not isinstance(first, Pixels):
            lines.append("    (void)pixels;")
        lines += [f"    for (o = 0; o < {count}; o++) {{", *(INDENT + line for line in [*row, *rest]), "    }", "}"]
        return "\n".join(lines)

    def _at(self, name: str) -> str:
        """A buffer's place."""
        name = self.plan.names.get(name, name)
        return f"({TYPES[self.plan.item(name)]} *)(arena + {self.plan.offsets[name]})"

    def _concatenate(self, step: Step) -> list[str]:
        assert step.first is not None
        lines, offset = ["    (void)pixels;"], 0
        for name in step.first.inputs:
            count, plane = self.plan.channels(name)
            lines.append(f"    memcpy({self._at(step.output)} + {offset}, {self._at(name)}, {2 * count * plane});")
            offset += count * plane
        return lines

    # --- what makes a row

    def _first(self, step: Step) -> tuple[list[str], list[str]]:
        """What stands before the loop over channels, and what makes channel o's row."""
        plane = step.shape[1]
        if step.first is None:
            assert step.source is not None
            return [], [f"memcpy(v, {self._at(step.source)} + (size_t)o * {plane}, {2 * plane});"]
        node = step.first
        operation = node.operation
        match operation:
            case Pixels(table=table):
                name = self.constant("int16_t", "pixel_table_", table.flatten().tolist(), 2)
                return [], [f"pixels_row(pixels + o, v, {plane}, {step.shape[0]}, {name} + 256 * o);"]
            case IntegerSums():
                return self._sums(node, step)
            case IntegerPool() | IntegerMean() | MaximumPool():
                return self._pool(node, plane)
            case Pad():
                return self._pad(node)
        raise TypeError(f"{operation.name}: no row of a {operation.kind}")

    def _sums(self, node: Node, step: Step) -> tuple[list[str], list[str]]:
        operation = node.operation
        assert isinstance(operation, IntegerSums)
        assert node.finish is not None
        shift, scale = node.finish
        assert scale is not None
        factor = self.constant("uint16_t", "factors_", _factors(operation.name, shift.amount, scale.multiplier), 2)
        bias = self.constant("int16_t", "biases_", scale.bias.flatten().tolist(), 2)
        window, stream = self._window(operation), self._stream(operation)
        plane, kind = step.shape[1], self.plan.item(node.inputs[0])
        each = ["o" if tensor.numel() > 1 else "0" for tensor in (shift.amount, scale.bias)]
        before = [
            f"    static const window k = {{{window}}};",
            f"    stream s = {{{stream}}};",
            f"    int32_t *sums = (int32_t *)(arena + {step.offset});",
        ]
        return before, [
            f"sums_{kind}(&k, &s, {self._at(node.inputs[0])}, o, sums);",
            f"finish(sums, v, {plane}, {factor}[{each[0]}], {bias}[{each[1]}]);",
        ]

    def _window(self, operation: IntegerSums) -> str:
        if not isinstance(operation, Convolution):
            outputs, inputs = operation.weight.shape
            return f"{inputs}, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, {outputs}, 0, 1"
        window = operation.window
        outputs, inputs, rows, columns = operation.weight.shape
        _, height, width = self.plan.program.buffers[operation.inputs[0]].shape
        _, high, wide = self.plan.program.buffers[operation.output].shape
        left, _, top, _ = window.padding
        numbers = (inputs, rows, columns, height, width, high, wide, *window.stride, *window.dilation, top, left)
        flat = rows == columns == 1 and window.stride == (1, 1) and not any(window.padding)
        return ", ".join(map(str, (*numbers, outputs // window.groups, int(operation.padding_value), int(flat))))

    def _stream(self, operation: IntegerSums) -> str:
        format, weight = self.formats[operation.layer], operation.weight.flatten().long()
        shape, bits = operation.weight.shape, format.bits
        mask, pattern = cheapest_mask(operation.weight != 0, self.patterns.get(operation.layer), format)
        kept = weight if mask is None else weight[mask.flatten()]
        low, step = integer_range(format)[0], 1
        if isinstance(format, Ternary | Binary):
            low, step = -1, 2
        packed = pack_bits((kept - low) // step, bits).tolist()
        values = self.constant("uint8_t", "weights_", [*packed, *[0] * AHEAD], 1)
        marks = "0" if mask is None else self.constant("uint8_t", "mask_", pack_mask(mask, pattern).tolist(), 1)
        blocks = "0, 0, 0, 0, 0"
        if pattern is not None:
            row, marked = shape[1:].numel(), grid_shape(shape, pattern)
            blocks = ", ".join(map(str, (row, shape[2:].numel(), *pattern, math.prod(marked[1:]))))
        return f"{values}, {marks}, 0, 0, {bits}, {step}, {low}, {blocks}"

    def _pool(self, node: Node, plane: int) -> tuple[list[str], list[str]]:
        operation = node.operation
        _, height, width = self.plan.program.buffers[operation.inputs[0]].shape
        at = f"{self._at(node.inputs[0])} + (size_t)o * {height * width}"
        if isinstance(operation, IntegerMean):
            high, wide, kernel, stride, padding, dilation = 1, 1, (height, width), (1, 1), (0, 0), (1, 1)
        else:
            assert isinstance(operation, IntegerPool | MaximumPool)
            _, high, wide = self.plan.program.buffers[operation.output].shape
            kernel, stride, padding = operation.kernel, operation.stride, operation.padding
            dilation = operation.dilation if isinstance(operation, MaximumPool) else (1, 1)
        numbers = ", ".join(map(str, (height, width, high, wide, *kernel, *stride, *padding, *dilation)))
        before = [f"    static const pool k = {{{numbers}}};"]
        if isinstance(operation, MaximumPool):
            return before, [f"maximum_row(&k, {at}, v);"]
        assert isinstance(operation, IntegerPool | IntegerMean)
        return before, [f"average_row(&k, {at}, v, {operation.amount}, {operation.multiplier});"]

    def _pad(self, node: Node) -> tuple[list[str], list[str]]:
        operation = node.operation
        assert isinstance(operation, Pad)
        left, _, top, _, front, _ = (*operation.widths, *[0] * (6 - len(operation.widths)))
        count, height, width = self.plan.program.buffers[operation.inputs[0]].shape
        _, high, wide = self.plan.program.buffers[operation.output].shape
        at = f"{self._at(node.inputs[0])} + (size_t)(o - {front}) * {height * width}"
        inside = f"o >= {front} && o < {front + count} ? {at} : 0" if any(operation.widths[4:]) else at
        numbers = f"{height}, {width}, {high}, {wide}, {top}, {left}, {int(operation.value)}"
        return [], [f"pad_row({inside}, v, {numbers});"]

    # --- what works on a row

    def _row(self, node: Node, step: Step) -> list[str]:
        operation, (count, plane) = node.operation, step.shape
        match operation:
            case Shift(amount=amount):
                return [f"shift_row(v, {plane}, {self._each(amount, count, 'int8_t', 'shifts_', node)});"]
            case Scale(multiplier=multiplier, bias=bias):
                constants = [self._each(x, count, "int16_t", "scales_", node) for x in (multiplier, bias)]
                return [f"scale_row(v, {plane}, {', '.join(constants)});"]
            case Clamp(low=low, high=high):
                return [f"clamp_row(v, {plane}, {low}, {high});"]
            case LeakyRelu(multiplier=m):
                return [f"leaky_row(v, {plane}, {m});"]
            case HardGate(multiplier=m, amount=n):
                return [f"hard_gate_row(v, {plane}, {m}, {n}, {int(node.gated)});"]
            case Curve(table=table, amount=n):
                name = self.constant("int16_t", "curve_", table.tolist(), 2)
                return [f"curve_row(v, {plane}, {name}, {n}, {int(node.gated)});"]
            case IntegerAdd(constant=constant) if constant is not None:
                return [f"add_value(v, {plane}, {self._each(constant, count, 'int16_t', 'added_', node)});"]
            case IntegerAdd() | IntegerMultiply():
                return [self._two(node, step)]
            case Requantize():
                kind = self.plan.item(step.output)
                numbers = f"{operation.multiplier}, {operation.amount}, {operation.zero_point}"
                to = f"{self._at(step.output)} + (size_t)o * {plane}"
                return [f"requantize_{kind}(v, {to}, {plane}, {numbers}, {operation.low}, {operation.high});"]
        raise TypeError(f"{operation.name}: no row of a {operation.kind}")

    def _two(self, node: Node, step: Step) -> str:
        """A sum or a product of the row and another buffer's channel, or of the row and itself."""
        verb, plane = "add" if isinstance(node.operation, IntegerAdd) else "multiply", step.shape[1]
        made = {earlier.output for earlier in step.nodes} | {str(step.source)}
        other = next((name for name in node.inputs if name not in made), None)
        if other is None:
            return f"{verb}_row(v, {plane}, v);"
        if plane > 1 and self.plan.channels(other)[1] == 1:
            return f"{verb}_value(v, {plane}, ({self._at(other)})[o]);"
        return f"{verb}_row(v, {plane}, {self._at(other)} + (size_t)o * {plane});"

    def _each(self, tensor: Tensor, count: int, kind: str, prefix: str, node: Node) -> str:
        """A constant: one number, or one a channel."""
        if tensor.numel() == 1:
            return str(int(tensor))
        if tensor.numel() != count or channels(tuple(tensor.squeeze().shape))[0] != count:
            raise UserError(f"{node.operation.name}: C has no kernel for a constant of shape {list(tensor.shape)}")
        name = self.constant(kind, prefix, tensor.flatten().tolist(), 1 if kind == "int8_t" else 2)
        return f"{name}[o]"


def _factors(name: str, amount: Tensor, multiplier: Tensor) -> list[int]:
    """Each channel's shift and multiplier in 16 bits."""
    amounts, multipliers = amount.flatten(), multiplier.flatten()
    zero = multipliers == 0
    top = multipliers // 16 - 1024
    fits = zero | ((multipliers % 16 == 0) & (top >= 0) & (top < 1024) & (amounts >= -15) & (amounts < 32))
    if not bool(fits.all()):
        raise Failure(f"{name}: a factor is beyond what its scale can be; quantize the network again")
    return torch.where(zero, 63 << 10, ((amounts + 15) << 10) + top).tolist()


def _wrap(body: str, width: int = 118) -> str:
    lines, line = [], "    "
    for number in body.split(","):
        if len(line) + len(number) + 1 > width:
            lines.append(line)
            line = "    "
        line += f"{number},"
    return "\n".join([*lines, line])
