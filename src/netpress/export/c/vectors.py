"""The text of a C file's path in vectors: one table of layers, one function a step and one a chain of functions.

What works on values is written once for each chain of kinds, such as hard-swish and rounding to the next layer's
integers; a step's numbers stand in a table that the function reads.
"""

import re
from dataclasses import dataclass, field, replace
from importlib.resources import files

from netpress.export.c.constants import Constants
from netpress.export.c.plan import Node
from netpress.export.c.vector_plan import (
    CHANNELS,
    PIXELS,
    NoVectors,
    VectorPlan,
    VectorStep,
    plan_vectors,
    rounded,
)
from netpress.export.c.vector_tails import Tail
from netpress.export.c.vector_weights import Unpacked, unpacked
from netpress.program.integers import IntegerMean, IntegerPool, IntegerUnitLength, Pixels
from netpress.program.operations import Concatenate, Convolution, IntegerSums, MaximumPool, Pad, Program

KERNELS = ("instructions.h", "vectors.c", "vector_values.c")

PATHS = {
    "avx512vnni": "defined(__AVX512BW__) && defined(__AVX512VNNI__)",
    "avx2": "defined(__AVX2__)",
    "ssse3": "defined(__SSSE3__)",
    "neon": "defined(__aarch64__) && defined(__ARM_NEON) && !defined(__AARCH64EB__)",
    "wasm128": "defined(__wasm_simd128__)",
}
"""Whether a compiler makes code for these vectors, the fastest first."""
NUMBERS = {"ssse3": 1, "avx2": 2, "avx512vnni": 3, "neon": 4, "wasm128": 5}
"""As instructions.h counts them."""


@dataclass(frozen=True)
class Vectors:
    """The path in vectors."""

    text: str
    arena: int
    """Bytes."""


def write_vectors(name: str, program: Program, portable: Constants) -> Vectors | None:
    """The path in vectors, which shares constants with the portable one; None where it has no kernel for something."""
    try:
        made = plan_vectors(program)
    except NoVectors:
        return None
    constants = replace(portable, written=[], known=dict(portable.known))
    text = VectorWriter(made, constants).text(name)
    return Vectors("\n\n".join([*constants.written, text]), made.arena)


def choice(name: str, vectors: Vectors | None, constants: list[str], portable: str) -> list[str]:
    """Both paths, of which the compiler takes one, after the constants that both read."""
    if vectors is None:
        return [*constants, portable]
    used = set(re.findall(r"\w+", vectors.text))
    both = [one for one in constants if _declared(one) in used]
    alone = "\n\n".join(one for one in constants if _declared(one) not in used)
    upper = name.upper()
    head = f"#if {upper}_VECTORS\n#define VECTORS {upper}_VECTORS"
    return [*both, head, vectors.text, f"#else /* the portable path */\n\n{alone}\n\n{portable}\n\n#endif"]


def _declared(constant: str) -> str:
    """The name of a constant array."""
    return constant[: constant.index("[")].split()[-1]


def header_lines(name: str, arena: int, vectors: Vectors | None) -> str:
    """Which path is compiled, and the bytes of memory that it needs. `arena`: of the portable one."""
    upper = name.upper()
    if vectors is None:
        return f'#define {upper}_PATH "portable"\n#define {upper}_ARENA_BYTES {arena}'
    lines: list[str] = []
    for path, condition in PATHS.items():
        word = "elif" if lines else "if"
        lines.append(f"#{word} !defined({upper}_PORTABLE) && defined(__GNUC__) && {condition}")
        lines += [f'#define {upper}_PATH "{path}"', f"#define {upper}_VECTORS {NUMBERS[path]}"]
    lines += ["#else", f'#define {upper}_PATH "portable"', f"#define {upper}_VECTORS 0", "#endif"]
    lines += [f"#if {upper}_VECTORS", f"#define {upper}_ARENA_BYTES {vectors.arena}"]
    lines += ["#else", f"#define {upper}_ARENA_BYTES {arena}", "#endif"]
    return "\n".join(lines)


@dataclass
class VectorWriter:
    """Collects the layers and the chains, and writes the steps."""

    plan: VectorPlan
    constants: Constants
    """Those of the portable path are shared."""
    layers: list[str] = field(default_factory=list)
    sizes: list[Unpacked] = field(default_factory=list)
    tails: dict[str, str] = field(default_factory=dict)
    """The name of each chain, by its text."""
    masks: dict[tuple[int, int, int, int, int], int] = field(default_factory=dict)
    """Where the masks of a geometry begin: of a line's width, pixels, the first column, its step and how many."""
    masked: int = 0

    def text(self, name: str) -> str:
        """The whole path, with NAME_run."""
        steps = [self._step(index, step) for index, step in enumerate(self.plan.steps)]
        kernels = [files("netpress.export.c").joinpath(file).read_text("utf-8") for file in KERNELS]
        tails = [f"V_STEP void {name}{text}" for text, name in self.tails.items()]
        return "\n\n".join([*kernels, *tails, self._unpacking(), *steps, self._run(name)])

    # --- the whole

    def _unpacking(self) -> str:
        pairs, quads = (sum(getattr(size, kind) for size in self.sizes) for kind in ("pairs", "quads"))
        masks = "\n".join(
            f"    for (i = 0; i < {length}; i++) v_masks[{at} + i] = -(i % {width} + {column} >= 0 && "
            f"i % {width} + {column} < {width});"
            for at, length, width, column in self._columns()
        )
        table = ",\n    ".join(self.layers)
        dense = "k->kind == 2 ? v_unpack_depthwise(k, to) : v_unpack_dense(k, (int16_t *)(void *)arena, to)"
        return f"""static const v_layer v_layers[{len(self.layers)}] = {{
    {table}}};
/* Filled at the first call: weights as the sums read them, where each layer's begin, and which places of a line a
   column of a depthwise kernel meets. */
static uint32_t v_weights[V_QUADS ? {quads} : {pairs}];
static const uint32_t *v_begin[{len(self.layers)}];
static __attribute__((unused)) int16_t v_masks[{max(self.masked, 1)}];
static int v_state; /* 0: nobody has called; 1: somebody unpacks; 2: done */

static void v_unpack(uint8_t *arena) {{
    uint32_t *to = v_weights;
    int i, none = 0;
    if (__atomic_load_n(&v_state, __ATOMIC_ACQUIRE) == 2) return;
    if (!__atomic_compare_exchange_n(&v_state, &none, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {{
        while (__atomic_load_n(&v_state, __ATOMIC_ACQUIRE) != 2) {{
        }}
        return;
    }}
    for (i = 0; i < {len(self.layers)}; i++) {{
        const v_layer *k = v_layers + i;
        v_begin[i] = to;
        to = {dense};
    }}
{masks}
    __atomic_store_n(&v_state, 2, __ATOMIC_RELEASE);
}}"""

    def _columns(self) -> list[tuple[int, int, int, int]]:
        """Each mask: where it lies, its length, a line's, and the column that it is for."""
        found = []
        for (width, pixels, first, apart, count), start in self.masks.items():
            length = rounded(pixels, PIXELS) + PIXELS
            found += [(start + i * length, length, width, first + i * apart) for i in range(count)]
        return found

    def _run(self, name: str) -> str:
        made = self.plan
        last = made.tensors[made.output]
        calls = "\n".join(f"    v_step_{index}(arena, pixels);" for index in range(len(made.steps)))
        return f"""int {name}_run(void *memory, const uint8_t *pixels, int32_t *logits) {{
    uint8_t *arena = (uint8_t *)(((uintptr_t)memory + 63) / 64 * 64);
    const int16_t *last = (const int16_t *)(void *)(arena + {last.start});
    int o;
    if (!memory || !pixels || !logits || (uintptr_t)memory % 4) return 1;
    v_unpack(arena);
{calls}
    for (o = 0; o < {last.channels * last.plane}; o++)
        logits[o] = last[o / {last.plane} * {last.pitch} + o % {last.plane}];
    return 0;
}}"""

    # --- steps

    def _step(self, index: int, step: VectorStep) -> str:
        head = f"V_STEP void v_step_{index}(uint8_t *arena, const uint8_t *pixels) {{"
        operation = step.first.operation if step.first else None
        if isinstance(operation, IntegerUnitLength | Concatenate):
            return "\n".join([head, "    (void)pixels;", *self._whole(step), "}"])
        tail = Tail(self.plan, self.constants, step)
        name = self.tails.setdefault(tail.text(), f"v_tail_{len(self.tails)}")
        lines = [head, *(f"    {line}" for line in tail.table(name))]
        if not isinstance(operation, Pixels):
            lines.append("    (void)pixels;")
        if step.first is None:
            source, output = self.plan.tensors[str(step.source)], self.plan.tensors[step.output]
            lines += [
                "    int o;",
                f"    for (o = 0; o < {source.channels}; o += {CHANNELS})",
                f"        tail.run(&tail, arena, {self._rows(str(step.source))} + (size_t)o * {source.pitch},",
                f"                 {source.pitch}, o, 0, V_UP({output.plane}, V_WIDE));",
            ]
        elif isinstance(operation, IntegerSums):
            lines += [f"    {line}" for line in self._sums(step.first, step)]
        else:
            lines += [f"    {line}" for line in self._plain(step.first, step)]
        return "\n".join([*lines, "}"])

    def _rows(self, name: str) -> str:
        return f"(int16_t *)(void *)(arena + {self.plan.tensors[name].start})"

    def _whole(self, step: VectorStep) -> list[str]:
        """What is no row of one channel."""
        assert step.first is not None
        output = self.plan.tensors[step.output]
        to = self._rows(step.output)
        if isinstance(step.first.operation, IntegerUnitLength):
            name = step.first.inputs[0]
            tensor = self.plan.tensors[name]
            numbers = f"{tensor.channels}, {tensor.plane}, {tensor.pitch}"
            return [f"    v_unit_length({self._rows(name)}, {to}, {numbers});"]
        lines, offset = ["    int16_t *to = " + to + ";"], 0
        for name in step.first.inputs:
            tensor = self.plan.tensors[name]
            numbers = f"{tensor.channels}, {tensor.plane}, {tensor.pitch}, {output.plane}, {output.pitch}"
            lines.append(f"    v_copy({self._rows(name)}, to, {offset}, {numbers});")
            offset += tensor.channels * tensor.plane
        return lines

    def _sums(self, node: Node, step: VectorStep) -> list[str]:
        operation, read = node.operation, self.plan.tensors[node.inputs[0]]
        assert isinstance(operation, IntegerSums)
        self._layer(node, step)
        layer = f"v_layers + {len(self.layers) - 1}, &tail, v_begin[{len(self.layers) - 1}]"
        if read.layout == "guarded":
            return [f"v_depthwise({layer}, v_masks, arena);"]
        return [f"v_dense({layer}, arena);"]

    def _layer(self, node: Node, step: VectorStep) -> None:
        """Add a line to the table of layers."""
        operation, read = node.operation, self.plan.tensors[node.inputs[0]]
        assert isinstance(operation, IntegerSums) and node.finish is not None and node.finish[1] is not None
        shift, scale = node.finish[0], node.finish[1]
        packed = ", ".join(map(str, self.constants.packed(operation)))
        factors = self.constants.factors(operation.name, shift.amount, scale.multiplier)
        biases = self.constants.add("int16_t", "biases_", scale.bias.flatten().tolist(), 2)
        each = f"{int(shift.amount.numel() > 1)}, {int(scale.bias.numel() > 1)}"
        kind = {"places": 0, "rows": 1, "guarded": 2}[read.layout]
        size = unpacked(operation, kind == 2, read, self.plan.tensors[step.output].plane)
        self.sizes.append(size)
        if isinstance(operation, Convolution):
            window = operation.window
            outputs, inputs, rows, columns = operation.weight.shape
            left, _, top, _ = window.padding
            place: tuple[int, ...] = (rows, columns, *window.stride, *window.dilation, top, left)
            image, made = self.plan.image(operation.inputs[0]), self.plan.image(operation.output)
            numbers = (outputs, window.groups, inputs, *place, *image, *made)
            zero = int(operation.padding_value)
        else:
            # Channels of several pixels in a row are a kernel as long as they.
            numbers = (len(operation.weight), 1, read.channels, 1, read.plane, 1, 1, 1, 1, 0, 0, 1, read.plane, 1, 1)
            zero = 0
        masks = self._masked(operation) if kind == 2 else 0
        shift_wide = int(shift.wide)
        text = ", ".join(map(str, (*numbers, read.pitch, zero, kind, int(read.small), shift_wide)))
        together = ", ".join(map(str, size.together))
        where = f"{masks}, {read.start}, {step.offset}"
        self.layers.append(f"{{{{{packed}}}, {factors}, {biases}, {{{each}}}, {text}, {{{together}}}, {where}}}")

    def _masked(self, operation: IntegerSums) -> int:
        assert isinstance(operation, Convolution)
        height, width = self.plan.image(operation.inputs[0])
        columns = operation.weight.shape[3]
        key = (width, height * width, -operation.window.padding[0], operation.window.dilation[1], columns)
        if key not in self.masks:
            self.masks[key] = self.masked
            self.masked += columns * (rounded(height * width, PIXELS) + PIXELS)
        return self.masks[key]

    def _plain(self, node: Node, step: VectorStep) -> list[str]:
        """Rows that are made number by number, 4 channels at a time."""
        output = self.plan.tensors[step.output]
        pitch, plane = rounded(output.plane, PIXELS), output.plane
        row, operation = f"rows + b * {pitch}", node.operation
        before: list[str] = []
        if isinstance(operation, Pixels):
            table = self.constants.add("int16_t", "pixel_table_", operation.table.flatten().tolist(), 2)
            make = f"v_pixels(pixels + o + b, {row}, {plane}, {output.channels}, {table} + 256 * (o + b))"
        else:
            before, make = self._window(node, row)
        return [
            *before,
            f"int16_t *rows = (int16_t *)(void *)(arena + {step.offset});",
            "int o, b;",
            f"for (o = 0; o < {output.channels}; o += {CHANNELS}) {{",
            f"    for (b = 0; b < {CHANNELS} && o + b < {output.channels}; b++) {make};",
            f"    tail.run(&tail, arena, rows, {pitch}, o, 0, V_UP({plane}, V_WIDE));",
            "}",
        ]

    def _window(self, node: Node, row: str) -> tuple[list[str], str]:
        operation, read = node.operation, self.plan.tensors[node.inputs[0]]
        image, made = self.plan.image(operation.inputs[0]), self.plan.image(node.output)
        at = f"{self._rows(node.inputs[0])} + (o + b) * {read.pitch}"
        kernel: tuple[int, ...] = (1, 1, 1, 1, 0, 0, 1, 1)
        if isinstance(operation, IntegerMean):
            kernel, made, call = (*image, 1, 1, 0, 0, 1, 1), (1, 1), "average"
        elif isinstance(operation, IntegerPool):
            kernel, call = (*operation.kernel, *operation.stride, *operation.padding, 1, 1), "average"
        elif isinstance(operation, MaximumPool):
            kernel = (*operation.kernel, *operation.stride, *operation.padding, *operation.dilation)
            call = "maximum"
        elif isinstance(operation, Pad):
            left, _, top, _, front, _ = (*operation.widths, *[0] * (6 - len(operation.widths)))
            kernel, call = (1, 1, 1, 1, top, left, 1, 1), "pad"
            inside = f"o + b >= {front} && o + b < {front + read.channels}"
            at = f"{inside} ? {self._rows(node.inputs[0])} + (o + b - {front}) * {read.pitch} : 0"
        else:
            raise TypeError(f"{operation.name}: no row of a {operation.kind}")
        numbers = ", ".join(map(str, (*image, *made, *kernel)))
        more = ""
        if isinstance(operation, IntegerMean | IntegerPool):
            more = f", {operation.amount}, {operation.multiplier}"
        if isinstance(operation, Pad):
            more = f", {int(operation.value)}"
        return [f"static const v_window window = {{{numbers}}};"], f"v_{call}(&window, {at}, {row}{more})"
