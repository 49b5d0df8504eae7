"""Parts of a plan that run in strips: which rows each step makes in each strip, and which rows memory must hold.

    dw reads 3 rows, expand 1:        strip 0    strip 1    strip 2    ...
        expand makes rows             0 1        2          3
        dw makes rows                 0          1          2
    so of expand's output 3 rows must be held, and not its whole plane.

A part is some steps in a row. A buffer that is read within its part alone is a window of rows, which moves on from
strip to strip; any other is whole. All of it is calculated here, when the file is written.
"""

from dataclasses import dataclass
from functools import cached_property

from netpress.export.c.plan import Geometry, Plan, Reading, Step
from netpress.program.operations import Convolution


@dataclass(frozen=True)
class Padding:
    """Places around a buffer's image that hold the padding of the layer that reads it."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0
    value: int = 0

    @property
    def any(self) -> bool:
        """Whether there is any."""
        return self.left + self.right + self.top + self.bottom > 0


@dataclass(frozen=True)
class View:
    """How a buffer lies in memory: [channel][row][pitch], of rows -top ... height + bottom only those held."""

    geometry: Geometry
    padding: Padding
    rows: int
    """Held of each channel."""
    bytes_each: int

    @property
    def pitch(self) -> int:
        """Values from a row to the next. A row's padding on the right is the next one's on the left."""
        return self.geometry.width + max(self.padding.left, self.padding.right)

    @property
    def lead(self) -> int:
        """Values before a row's first."""
        return max(self.padding.left, self.padding.right)

    @property
    def plane(self) -> int:
        """Values from a channel to the next."""
        return self.rows * self.pitch

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return (self.geometry.channels * self.plane + self.padding.right) * self.bytes_each


def paddings(made: Plan) -> dict[str, Padding]:
    """The padding of each buffer that a convolution reads as an image."""
    found: dict[str, Padding] = {}
    for step in made.steps:
        operation = step.first.operation if step.first else None
        if isinstance(operation, Convolution) and made.kept(operation.inputs[0]):
            left, right, top, bottom = operation.window.padding
            found[made.name(operation.inputs[0])] = Padding(left, right, top, bottom, int(operation.padding_value))
    return {name: padding for name, padding in found.items() if padding.any}


@dataclass(frozen=True)
class Part:
    """Steps `start` ... `end` - 1 of a plan, made in `strips` strips."""

    made: Plan
    start: int
    end: int
    strips: int
    paced: bool
    """Whether each step makes its share of rows in a strip as soon as it can, or just those that its readers need."""
    whole: frozenset[str]
    """Buffers that are read by other parts, too."""
    padding: dict[str, Padding]
    reads: tuple[tuple[Reading, ...], ...]
    """By step of the part."""

    @property
    def steps(self) -> list[Step]:
        """The part's steps."""
        return self.made.steps[self.start : self.end]

    @cached_property
    def readers(self) -> dict[str, list[tuple[int, Reading]]]:
        """By buffer: which steps of the part, by their place in it, read it."""
        found: dict[str, list[tuple[int, Reading]]] = {}
        for place, read in enumerate(self.reads):
            for reading in read:
                found.setdefault(reading.name, []).append((place, reading))
        return found

    @cached_property
    def until(self) -> list[list[int]]:
        """By strip, from 0 before the first: how many rows each step has made after it."""
        if self.paced:
            return self._paced()
        table = [[0] * len(self.steps)]
        for strip in range(self.strips):
            rows = self._needed(strip + 1)
            table.append([max(old, new) for old, new in zip(table[-1], rows, strict=True)])
        return table

    def _paced(self) -> list[list[int]]:
        heights = [step.geometry.height for step in self.steps]
        shares = [-(-height // self.strips) for height in heights]
        makers = {step.output: place for place, step in enumerate(self.steps)}
        table = [[0] * len(heights)]
        while table[-1] != heights:
            rows = list(table[-1])
            for place, step in enumerate(self.steps):
                possible = [heights[place], rows[place] + shares[place]]
                possible += [
                    self._possible(step, reading, rows[makers[reading.name]])
                    for reading in self.reads[place]
                    if reading.name in makers
                ]
                rows[place] = max(rows[place], min(possible))
            table.append(rows)
        return table

    def _needed(self, strips: int) -> list[int]:
        """Rows that each step must have made after so many strips."""
        steps, rows = self.steps, [0] * len(self.steps)
        for place in reversed(range(len(steps))):
            step = steps[place]
            height = step.geometry.height
            if step.output in self.whole or step.output not in self.readers:
                rows[place] = -(-height * strips // self.strips)
            for reader, reading in self.readers.get(step.output, []):
                if rows[reader]:
                    last = (rows[reader] - 1) * reading.stride - reading.top + reading.span
                    rows[place] = max(rows[place], height if reading.whole else min(max(last, 0), height))
        return rows

    def _possible(self, step: Step, reading: Reading, have: int) -> int:
        height = self.made.geometries[reading.name].height
        if have == height:
            return step.geometry.height
        if reading.whole:
            return 0
        return min(max((have + reading.top - reading.span) // reading.stride + 1, 0), step.geometry.height)

    def first_needed(self, name: str, strip: int) -> int:
        """The first row of a buffer that is still read in strip `strip` or later; beyond its last row if none is."""
        padding = self.padding.get(name, Padding())
        needed = [self.made.geometries[name].height + padding.bottom]
        for place, reading in self.readers.get(name, []):
            done = self.until[strip][place]
            if done < self.until[-1][place]:
                needed.append(-padding.top if reading.whole else done * reading.stride - reading.top)
        return max(min(needed), -padding.top)

    @cached_property
    def windows(self) -> dict[str, list[tuple[int, int]]]:
        """Of each buffer that is a window, by strip: the first row held, and the row after the last."""
        if self.strips == 1:
            return {}
        found: dict[str, list[tuple[int, int]]] = {}
        for place, step in enumerate(self.steps):
            if step.output in self.whole or step.output not in self.readers:
                continue
            padding = self.padding.get(step.output, Padding())
            held, after = list[tuple[int, int]](), 0  # the padding above is there from the beginning
            for strip in range(len(self.until) - 1):
                first = min(self.first_needed(step.output, strip), after)
                after = max(after, self.until[strip + 1][place])
                for reader, reading in self.readers[step.output]:  # the padding below comes when it is read
                    last = (self.until[strip + 1][reader] - 1) * reading.stride - reading.top + reading.span
                    after = max(after, min(last, step.geometry.height + padding.bottom))
                held.append((first, after))
            found[step.output] = held
        return found

    def view(self, name: str) -> View:
        """How a buffer that the part makes or reads lies in memory."""
        geometry, padding = self.made.geometries[name], self.padding.get(name, Padding())
        rows = geometry.height + padding.top + padding.bottom
        if name in self.windows:
            rows = max(after - first for first, after in self.windows[name])
        return View(geometry, padding, rows, 2 if self.made.item(name) == "s16" else 1)

    def lasts(self, name: str) -> bool:
        """Whether a window must keep its memory from strip to strip: for rows that it keeps, or for its padding."""
        padding, held = self.view(name).padding, self.windows[name]
        kept = any(first < before for (first, _), (_, before) in zip(held[1:], held, strict=False))
        return kept or padding.any

    def most_rows(self, place: int) -> int:
        """The most rows that a step makes in a strip."""
        return max(after[place] - before[place] for before, after in zip(self.until, self.until[1:], strict=False))
