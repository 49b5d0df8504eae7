"""The text of a C file's steps: one function each, which makes some rows of its output, channel by channel."""

from dataclasses import dataclass

from torch import Tensor

from netpress.errors import UserError
from netpress.export.c.arena import PRODUCT, Layout, scratch_bytes
from netpress.export.c.constants import Constants
from netpress.export.c.plan import Node, Plan, Step, sides
from netpress.export.c.strips import Padding, Part, View
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
PAIR_BITS = 24  # that two sums in one register of 64 bits leave each


@dataclass
class StepWriter:
    """Writes one step of a part."""

    layout: Layout
    constants: Constants
    part: Part
    place: int

    def __post_init__(self) -> None:
        self.plan: Plan = self.layout.made
        self.index = self.part.start + self.place
        self.step: Step = self.plan.steps[self.index]
        single = self.part.strips == 1
        self.start = "0" if single else "from"
        self.stop = str(self.step.geometry.height) if single else "to"
        self.rows = str(self.step.geometry.height) if single else "(to - from)"
        self.count = f"{self.rows} * {self.step.geometry.width}"
        if single:
            self.count = str(self.step.geometry.plane)

    @property
    def windows(self) -> list[str]:
        """The windows that the step reads and writes: how many rows each has dropped is an argument of its own."""
        named = [*(reading.name for reading in self.plan.reads(self.step)), self.step.output]
        return [name for name in dict.fromkeys(named) if name in self.part.windows]

    def write(self) -> str:
        """The function."""
        step, (operation, body) = self.step, (self.step.first.operation if self.step.first else None, [])
        if isinstance(operation, IntegerUnitLength):
            count = step.geometry.channels
            body = [f"unit_length({self._at(operation.inputs[0])}, {self._at(step.output)}, {count});"]
        elif isinstance(operation, Concatenate):
            body = self._concatenate()
        else:
            body = self._channels()
        arguments = ["uint8_t *arena"]
        if isinstance(operation, Pixels):
            arguments.append("const uint8_t *pixels")
        if self.part.strips > 1:
            arguments += ["int from", "int to", *(f"int dropped_{place}" for place in range(len(self.windows)))]
        text = "\n".join("    " + line for line in body)
        return f"/* {step.output} */\nstatic SMALL void step_{self.index}({', '.join(arguments)}) {{\n{text}\n}}"

    def _channels(self) -> list[str]:
        """A loop over channels, each of which is made, worked on and stored."""
        step = self.step
        if self._swish() is not None:
            return self._in_one()
        if step.first and step.first.finish and not step.rest:  # the layer's output is what is stored
            return self._layer(step.first)
        before, row = self._first()
        rest, current = list[str](), step.first.output if step.first else str(step.source)
        for node in step.rest:
            rest += self._row(node, current)
            current = node.output
        if not (step.rest and isinstance(step.rest[-1].operation, Requantize)):
            rest.append(f"memcpy({self._row_at(step.output, self.start)}, v, sizeof *v * (size_t)({self.count}));")
        return [*before, "int o;", f"for (o = 0; o < {step.geometry.channels}; o++) {{", *indented([*row, *rest]), "}"]

    # --- where things lie

    def _view(self, name: str) -> View:
        return self.layout.views[self.plan.name(name)]

    def _at(self, name: str) -> str:
        """A buffer's memory."""
        name = self.plan.name(name)
        return f"({TYPES[self.plan.item(name)]} *)(arena + {self.layout.places[name].offset})"

    def _row_at(self, name: str, row: str, channel: str = "o", left: int = 0) -> str:
        """Where a channel's row `row` lies, from `left` places before its first value."""
        name = self.plan.name(name)
        view = self._view(name)
        before = view.padding.top * view.pitch + view.lead - left
        parts = [] if channel == "0" else [f"{channel} * {view.plane}"]
        if name in self.part.windows:
            parts.append(f"({row} - dropped_{self.windows.index(name)}) * {view.pitch}")
        elif row != "0":
            parts.append(f"{row} * {view.pitch}")
        if before or not parts:
            parts.append(str(before))
        return f"{self._at(name)} + ({' + '.join(parts)})"

    def _first_held(self, name: str) -> str:
        """The first row of a buffer without padding that memory holds."""
        name = self.plan.name(name)
        return f"dropped_{self.windows.index(name)}" if name in self.part.windows else "0"

    # --- what makes a row

    def _scratch(self) -> str:
        return f"int16_t *v = (int16_t *)(arena + {self.layout.scratch[self.index].offset});"

    def _concatenate(self) -> list[str]:
        step, lines, offset = self.step, ["int o;"], 0
        assert step.first is not None
        for name in step.first.inputs:
            count = self.plan.geometries[name].channels
            to = self._row_at(step.output, self.start, f"(o + {offset})" if offset else "o")
            copy = f"memcpy({to}, {self._row_at(name, self.start)}, {2} * (size_t)({self.count}));"
            lines += [f"for (o = 0; o < {count}; o++)", f"    {copy}"]
            offset += count
        return lines

    def _first(self) -> tuple[list[str], list[str]]:
        """What stands before the loop over channels, and what makes channel o's rows."""
        step = self.step
        if step.first is None:
            assert step.source is not None
            single = len(step.rest) == 1 and isinstance(step.rest[0].operation, Requantize)
            if single and not self._overlaps(step.source):  # which reads v alone
                return [], [f"const int16_t *v = {self._row_at(step.source, self.start)};"]
            at = self._row_at(step.source, self.start)
            return [self._scratch()], [f"memcpy(v, {at}, sizeof *v * (size_t)({self.count}));"]
        node = step.first
        match node.operation:
            case Pixels(table=table):
                name = self.constants.add("int16_t", "pixel_table_", table.flatten().tolist(), 2)
                channels = step.geometry.channels
                at = f"pixels + ({self.start} * {step.geometry.width * channels} + o)"
                return [self._scratch()], [f"pixels_row({at}, v, {self.count}, {channels}, {name} + 256 * o);"]
            case IntegerSums():
                return self._sums(node)
            case IntegerPool() | IntegerMean() | MaximumPool():
                return self._pool(node)
            case Pad():
                return self._pad(node)
        raise TypeError(f"{node.operation.name}: no row of a {node.operation.kind}")

    def _sums(self, node: Node) -> tuple[list[str], list[str]]:
        """A layer's rows of one channel."""
        before, at = self._constants(node)
        values = self.layout.scratch[self.index].offset + 4 * self.part.most_rows(self.place) * self.step.geometry.width
        lines = [f"int16_t *v = (int16_t *)(arena + {values});", "work w;", "begin(arena, &l, &w);"]
        return [before, *lines], [f"values_{self.plan.item(node.inputs[0])}(&l, &w, {at}, o, {self.rows}, v);"]

    def _layer(self, node: Node) -> list[str]:
        """A layer whose output is stored as it is."""
        constants, at = self._constants(node)
        out = self._row_at(self.step.output, self.start, "0")
        return [constants, f"layer_{self.plan.item(node.inputs[0])}(arena, &l, {at}, {self.rows}, {out});"]

    def _constants(self, node: Node) -> tuple[str, str]:
        """A layer's `layer`, and where its first product lies in channel 0."""
        operation, step = node.operation, self.step
        assert isinstance(operation, IntegerSums) and node.finish is not None
        shift, scale = node.finish
        assert scale is not None
        factor = self.constants.factors(operation.name, shift.amount, scale.multiplier)
        bias = self.constants.add("int16_t", "biases_", scale.bias.flatten().tolist(), 2)
        each = [int(tensor.numel() > 1) for tensor in (shift.amount, scale.bias)]
        values, size = scratch_bytes(step, self.part.most_rows(self.place))
        scratch = self.layout.scratch[self.index].offset
        window, at = self._window(operation)
        numbers = (*each, step.geometry.channels, (size - values) // PRODUCT, scratch, scratch + values)
        stream = self.constants.stream(operation)
        places = f"{', '.join(map(str, numbers))}, {self._view(step.output).plane}"
        return f"static const layer l = {{{{{window}}}, {{{stream}}}, {factor}, {bias}, {places}}};", at

    def _swish(self) -> tuple[HardGate, Requantize] | None:
        """The hard-swish and the rounding to 8 bits that one kernel does after a layer's sums."""
        first, rest = self.step.first, self.step.rest
        if first is None or len(rest) != 2 or not rest[0].gated or not isinstance(first.operation, IntegerSums):
            return None
        gate, last = rest[0].operation, rest[1].operation
        if not isinstance(gate, HardGate) or not isinstance(last, Requantize):
            return None
        fits = gate.amount <= 0 and last.amount > 0 and (last.low, last.high) == (0, 255)
        fits = fits and first.operation.needed_bits <= PAIR_BITS and self.plan.item(self.step.output) == "u8"
        fits = fits and gate.multiplier > 2**14  # so that a gate is 0 or 1 where what it is made of saturates
        fits = fits and (abs(last.zero_point) + 1) * 2**last.amount < 2**15  # so that 32 bits hold it, times 2**15
        fits = fits and not self._overlaps(first.operation.inputs[0])
        return (gate, last) if fits else None

    def _overlaps(self, name: str) -> bool:
        """Whether the step's output lies where a buffer lies that it reads."""
        one, other = self.layout.places[self.plan.name(name)], self.layout.places[self.plan.name(self.step.output)]
        return one.offset < other.offset + other.size and other.offset < one.offset + one.size

    def _in_one(self) -> list[str]:
        """A layer, its hard-swish and its rounding to 8 bits, without values in between."""
        found, node = self._swish(), self.step.first
        assert found is not None and node is not None
        gate, last = found
        constants, at = self._constants(node)
        out = self._row_at(self.step.output, self.start, "0")
        return [
            constants,
            f"static const swish a = {{{gate.multiplier}, {-gate.amount}}};",
            self._requantize(last)[0],
            f"swish_{self.plan.item(node.inputs[0])}(arena, &l, {at}, {self.rows}, {out}, &a, &g);",
        ]

    def _window(self, operation: IntegerSums) -> tuple[str, str]:
        """A layer's `window`, and where its first product lies in channel 0."""
        narrow = int(operation.needed_bits <= PAIR_BITS)
        name = operation.inputs[0]
        if not isinstance(operation, Convolution):
            outputs, inputs = operation.weight.shape
            return f"{inputs}, 1, 1, 1, {outputs}, 1, {narrow}, 1, 1, 1, 1", self._at(name)
        window = operation.window
        outputs, inputs, rows, columns = operation.weight.shape
        left, _, top, _ = window.padding
        if self.plan.kept(name):
            view = self._view(name)
            row = self.start if window.stride[0] == 1 else f"{self.start} * {window.stride[0]}"
            at = self._row_at(name, "0" if self.start == "0" else f"{row} - {top}" if top else row, "0", left)
            if self.start == "0" and top:  # the rows above the first are there
                at = f"{self._at(name)} + {(view.padding.top - top) * view.pitch + view.lead - left}"
        else:
            if any(window.padding):
                raise UserError(f"{operation.name}: C has no kernel for a Convolution of a reshaped image with padding")
            view = View(self.plan.shaped(name), Padding(), self.plan.shaped(name).height, 1)
            at = self._at(name)
        down, below = window.stride[0] * view.pitch, window.dilation[0] * view.pitch
        each = outputs // window.groups
        wide = self.step.geometry.width
        numbers = (
            inputs,
            rows,
            columns,
            wide,
            each,
            window.stride[1],
            narrow,
            window.dilation[1],
            below,
            down,
            view.plane,
        )
        return ", ".join(map(str, numbers)), at

    def _pool(self, node: Node) -> tuple[list[str], list[str]]:
        operation, step = node.operation, self.step
        name = operation.inputs[0]
        shape = self.plan.shaped(name)
        if isinstance(operation, IntegerMean):
            kernel, stride, padding, dilation = (shape.height, shape.width), (1, 1), (0, 0), (1, 1)
        else:
            assert isinstance(operation, IntegerPool | MaximumPool)
            kernel, stride, padding = operation.kernel, operation.stride, operation.padding
            dilation = operation.dilation if isinstance(operation, MaximumPool) else (1, 1)
        numbers = (shape.height, shape.width, step.geometry.width, *kernel, *stride, *padding, *dilation)
        before = [f"static const pool k = {{{', '.join(map(str, numbers))}}};", self._scratch()]
        rows = f"{self._channel(name)}, {self._first_held(name)}, {self.start}, {self.stop}, v"
        if isinstance(operation, MaximumPool):
            return before, [f"maximum_rows(&k, {rows});"]
        assert isinstance(operation, IntegerPool | IntegerMean)
        return before, [f"average_rows(&k, {rows}, {operation.amount}, {operation.multiplier});"]

    def _channel(self, name: str, channel: str = "o") -> str:
        """Where the first row of a channel lies that memory holds."""
        plane = self._view(name).plane if self.plan.kept(name) else self.plan.shaped(name).plane
        return f"{self._at(name)} + {channel} * {plane}"

    def _pad(self, node: Node) -> tuple[list[str], list[str]]:
        operation, name = node.operation, node.operation.inputs[0]
        assert isinstance(operation, Pad)
        left, _, top, _, front, _ = sides(operation)
        shape = self.plan.shaped(name)
        at = self._channel(name, f"(o - {front})" if front else "o")
        if any(operation.widths[4:]):
            at = f"o >= {front} && o < {front + shape.channels} ? {at} : 0"
        numbers = (shape.height, shape.width, self.step.geometry.width, top, left, int(operation.value))
        before = [f"static const border k = {{{', '.join(map(str, numbers))}}};", self._scratch()]
        return before, [f"pad_rows(&k, {at}, {self._first_held(name)}, {self.start}, {self.stop}, v);"]

    # --- what works on a row

    def _row(self, node: Node, current: str) -> list[str]:
        """One operation on v, which is `current`."""
        operation, count = node.operation, self.count
        match operation:
            case Shift(amount=amount):
                return [f"shift_row(v, {count}, {self._each(amount, 'int8_t', 'shifts_', node)});"]
            case Scale(multiplier=multiplier, bias=bias):
                constants = [self._each(x, "int16_t", "scales_", node) for x in (multiplier, bias)]
                return [f"scale_row(v, {count}, {', '.join(constants)});"]
            case Clamp(low=low, high=high):
                return [f"clamp_row(v, {count}, {low}, {high});"]
            case LeakyRelu(multiplier=m):
                return [f"leaky_row(v, {count}, {m});"]
            case HardGate(multiplier=m, amount=n):
                return [f"hard_gate_row(v, {count}, {m}, {n}, {int(node.gated)});"]
            case Curve(table=table, amount=n):
                name = self.constants.add("int16_t", "curve_", table.tolist(), 2)
                return [f"curve_row(v, {count}, {name}, {n}, {int(node.gated)});"]
            case IntegerAdd(constant=constant) if constant is not None:
                return [f"add_value(v, {count}, {self._each(constant, 'int16_t', 'added_', node)});"]
            case IntegerAdd() | IntegerMultiply():
                return [self._two(node, current)]
            case Requantize():
                return self._requantize(operation)
        raise TypeError(f"{operation.name}: no row of a {operation.kind}")

    def _requantize(self, operation: Requantize) -> list[str]:
        name = self.step.output
        view = self._view(name)
        numbers = (operation.multiplier, operation.amount, operation.zero_point, operation.low, operation.high)
        return [
            f"static const grid g = {{{', '.join(map(str, (*numbers, self.step.geometry.width, view.pitch)))}}};",
            f"requantize_{self.plan.item(name)}(v, {self._row_at(name, self.start)}, {self.rows}, &g);",
        ]

    def _two(self, node: Node, current: str) -> str:
        """A sum or a product of v and another buffer's rows, or of v and itself."""
        verb = "add" if isinstance(node.operation, IntegerAdd) else "multiply"
        names = list(node.inputs)
        names.remove(current)
        other = names[0]
        if other == current:
            return f"{verb}_row(v, {self.count}, v);"
        if self.plan.geometries[other] != self.step.geometry:
            return f"{verb}_value(v, {self.count}, ({self._at(other)})[o]);"
        return f"{verb}_row(v, {self.count}, {self._row_at(other, self.start)});"

    def _each(self, tensor: Tensor, kind: str, prefix: str, node: Node) -> str:
        """A constant: one number, or one a channel."""
        if tensor.numel() == 1:
            return str(int(tensor))
        count = self.step.geometry.channels
        if tensor.numel() != count or tensor.squeeze().shape[0] != count:
            raise UserError(f"{node.operation.name}: C has no kernel for a constant of shape {list(tensor.shape)}")
        name = self.constants.add(kind, prefix, tensor.flatten().tolist(), 1 if kind == "int8_t" else 2)
        return f"{name}[o]"


def indented(lines: list[str], by: str = "    ") -> list[str]:
    """Lines of a block in C."""
    return [by + line for line in lines]
