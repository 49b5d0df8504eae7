"""The text of a C file's parts: each runs some steps, at once or in strips."""

from itertools import pairwise

from netpress.export.c.arena import Layout
from netpress.export.c.constants import Constants
from netpress.export.c.emit import StepWriter, indented
from netpress.export.c.strips import Part
from netpress.program.integers import Pixels


def write_part(layout: Layout, constants: Constants, number: int) -> str:
    """The functions of a part's steps, and one that runs these in strips."""
    part = layout.parts[number]
    writers = [StepWriter(layout, constants, part, place) for place in range(len(part.steps))]
    functions = [writer.write() for writer in writers]
    reads_pixels = [isinstance(step.first.operation, Pixels) if step.first else False for step in part.steps]
    body = _strips(layout, part, writers, reads_pixels) if part.strips > 1 else _at_once(layout, part, reads_pixels)
    unused = [] if any(reads_pixels) else ["(void)pixels;"]
    text = "\n".join("    " + line for line in [*body, *unused])
    head = f"static SMALL void part_{number}(uint8_t *arena, const uint8_t *pixels) {{"
    return "\n\n".join([*functions, f"{head}\n{text}\n}}"])


def _fill(layout: Layout, name: str) -> list[str]:
    view = layout.views[name]
    if not view.padding.any:
        return []
    count = view.size // view.bytes_each
    return [f"fill(arena + {layout.places[name].offset}, 1, 0, {count}, {view.bytes_each}, {view.padding.value});"]


def _at_once(layout: Layout, part: Part, reads_pixels: list[bool]) -> list[str]:
    lines = list[str]()
    for place, step in enumerate(part.steps):
        more = ", pixels" if reads_pixels[place] else ""
        lines += [*_fill(layout, step.output), f"step_{part.start + place}(arena{more});"]
    return lines


def _strips(layout: Layout, part: Part, writers: list[StepWriter], reads_pixels: list[bool]) -> list[str]:
    """A loop over strips, by a table of the rows that each step has made and each window holds after it."""
    count, table = len(part.steps), [list(rows) for rows in part.until]
    column: dict[str, int] = {}
    for name, held in part.windows.items():
        top, column[name] = layout.views[name].padding.top, len(table[0])
        for rows, (first, after) in zip(table, [(-top, 0), *held], strict=True):
            rows += [first + top, after + top]
    kind = "uint8_t" if max(map(max, table)) < 256 else "uint16_t"
    numbers = ",\n        ".join("{" + ", ".join(map(str, rows)) + "}" for rows in table)
    lines = [
        "/* After each strip: rows that each step has made; those that each window has dropped, and ever held. */",
        f"static const {kind} rows[{len(table)}][{len(table[0])}] = {{\n        {numbers}}};",
        "int strip;",
        *(line for step in part.steps for line in _fill(layout, step.output)),
        f"for (strip = 0; strip < {len(table) - 1}; strip++) {{",
        f"    const {kind} *was = rows[strip], *is = rows[strip + 1];",
    ]
    for place, (step, writer) in enumerate(zip(part.steps, writers, strict=True)):
        if step.output in column:
            lines += indented(_move(layout, part, step.output, column[step.output]))
        dropped = [f"is[{column[name]}]" for name in writer.windows]
        arguments = ["arena", *(["pixels"] if reads_pixels[place] else []), f"was[{place}]", f"is[{place}]", *dropped]
        idle = any(before[place] == after[place] for before, after in pairwise(table))
        condition = f"if (was[{place}] < is[{place}]) " if idle else ""
        lines.append(f"    {condition}step_{part.start + place}({', '.join(arguments)});")
    assert count == len(writers)
    return [*lines, "}"]


def _move(layout: Layout, part: Part, name: str, column: int) -> list[str]:
    """Before a strip: move what is kept of a window to its beginning, and fill in padding below where it is read."""
    held, view, lines = part.windows[name], layout.views[name], list[str]()
    at, row = f"arena + {layout.places[name].offset}", view.pitch * view.bytes_each
    where = f"{view.geometry.channels}, {view.plane * view.bytes_each}"
    dropped, before, after = f"is[{column}]", f"was[{column + 1}]", f"is[{column + 1}]"
    if any(first < before for (first, _), (_, before) in zip(held[1:], held, strict=False)):
        lines.append(f"slide({at}, {where}, ({dropped} - was[{column}]) * {row}, ({before} - {dropped}) * {row});")
    if held[-1][1] > view.geometry.height:
        height = view.geometry.height + view.padding.top
        numbers = f"{view.pitch}, {view.bytes_each}, {view.padding.value}"
        lines.append(f"pad_below({at}, {where}, {height}, {dropped}, {before}, {after}, {numbers});")
    return lines
