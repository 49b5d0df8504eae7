"""Which steps run together in strips, how many strips, and where in the arena everything lies.

Strips save memory, and cost time: each one unpacks the weights of its layers again. So the planner first finds the
least memory that any division into parts and strips needs, and then, within it, the division that unpacks least.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from netpress.export.c.plan import Plan, Step
from netpress.export.c.strips import Padding, Part, View, paddings
from netpress.program.operations import IntegerSums

ALIGNED = 4  # bytes
LONGEST = 12  # steps of a part
TRIES = 50  # orders of placing
PRODUCT = 8  # bytes of a weight and its place, unpacked


@dataclass(eq=False)
class Block:
    """Some bytes of the arena from step `start` to step `end`."""

    name: str
    """Of a buffer; "" of scratch memory."""
    size: int
    start: int
    end: int
    offset: int = 0
    later: "Block | None" = None
    """Where it is written over by something smaller: what lies at the same place from then on."""

    @property
    def spans(self) -> Iterator["Block"]:
        """The block and those that are written over it, one after the other in time."""
        block: Block | None = self
        while block:
            yield block
            block = block.later


@dataclass
class Layout:
    """Parts in order of execution, and where in the arena buffers and scratch memory lie."""

    made: Plan
    parts: list[Part]
    blocks: list[Block]
    places: dict[str, Block]
    """Of each buffer; several have the same where one is written over another."""
    scratch: list[Block]
    """Of each step."""
    views: dict[str, View] = field(default_factory=dict)

    @property
    def arena(self) -> int:
        """Bytes."""
        return max(
            (block.offset + block.size for block in self.blocks), default=0
        )  # the first of a place is the largest


def lay_out(made: Plan, strip_rows: int | None = None) -> Layout:
    """Divide a plan into parts and strips, and place what they need. `strip_rows` forces strips of so many rows."""
    planner = Planner(made)
    layout = planner.place(planner.divide(strip_rows))
    layout.views = {step.output: part.view(step.output) for part in layout.parts for step in part.steps}
    return layout


def scratch_bytes(step: Step, rows: int) -> tuple[int, int]:
    """Bytes of a step's sums and values (6 each), and with its unpacked weights."""
    values = -(-6 * rows * step.geometry.width // ALIGNED) * ALIGNED
    operation = step.first.operation if step.first else None
    if not isinstance(operation, IntegerSums):
        return values, values
    most = int((operation.weight != 0).flatten(1).sum(1).max())
    return values, values + PRODUCT * (most + 2)  # each of two lists may be filled up to an even number


class Planner:
    """Divides a plan into parts. Each choice is judged by the memory that it needs at its worst step."""

    def __init__(self, made: Plan) -> None:
        self.made = made
        self.padding: dict[str, Padding] = paddings(made)
        self.reads = [tuple(made.reads(step)) for step in made.steps]
        self.maker = {step.output: place for place, step in enumerate(made.steps)}
        self.last = {made.output: len(made.steps)}
        for place, read in enumerate(self.reads):
            for reading in read:
                self.last[reading.name] = max(self.last.get(reading.name, 0), place)
        self.unpacked = [
            step.first.operation.weight.numel() if step.first and isinstance(step.first.operation, IntegerSums) else 0
            for step in made.steps
        ]

    # --- which parts

    def divide(self, strip_rows: int | None) -> list[Part]:
        """Parts of all steps: the least memory first, then the fewest weights unpacked."""
        runs = list(self._runs())
        if strip_rows is not None:
            return [self._forced(start, end, strip_rows) for start, end in runs]
        choices = [self._choices(start, end) for start, end in runs]
        bound = max((_least(start, end, choice) for (start, end), choice in zip(runs, choices, strict=True)), default=0)
        parts = list[Part]()
        for (start, end), choice in zip(runs, choices, strict=True):
            parts += self._cheapest(start, end, choice, bound)
        return parts

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Steps in a row that could be one part: each makes rows of few rows of what is made within."""
        start, images = 0, False
        for place, step in enumerate(self.made.steps):
            image = step.geometry.height > 1
            ends = any(reading.whole and self.maker.get(reading.name, -1) >= start for reading in self.reads[place])
            if place and (ends or not image or not images):
                yield start, place
                start = place
            images = image
        yield start, len(self.made.steps)

    def _choices(self, start: int, end: int) -> dict[tuple[int, int], list[tuple[int, Part]]]:
        """By first and last step: parts, and the memory that each needs."""
        found = {}
        for first in range(start, end):
            for after in range(first + 1, min(first + LONGEST, end) + 1):
                parts = list(self._parts(first, after))
                found[first, after] = [(self._load(part), part) for part in parts]
        return found

    def _parts(self, start: int, end: int) -> Iterator[Part]:
        height = max(step.geometry.height for step in self.made.steps[start:end])
        counts = {-(-height // rows) for rows in range(1, height + 1)} if end - start > 1 else {1}
        for strips in sorted(counts):
            for paced in (False, True)[: 1 if strips == 1 else 2]:
                yield self._part(start, end, strips, paced)

    def _part(self, start: int, end: int, strips: int, paced: bool) -> Part:
        outer = frozenset(
            name for name, maker in self.maker.items() if not (start <= maker and self.last.get(name, maker) < end)
        )
        return Part(self.made, start, end, strips, paced, outer, self.padding, tuple(self.reads[start:end]))

    def _forced(self, start: int, end: int, rows: int) -> Part:
        height = max(step.geometry.height for step in self.made.steps[start:end])
        return self._part(start, end, -(-height // rows), paced=start % 2 == 1)

    def _load(self, part: Part) -> int:
        """The most bytes that are needed at once while a part runs."""
        places = {
            name: Block(name, part.view(name).size, part.start, last if part.strips == 1 else max(last, part.end - 1))
            for name, maker in self.maker.items()
            if maker < part.start <= (last := self.last.get(name, maker))
        }
        blocks = [*places.values(), *self._blocks(part, places)]
        sizes = [0] * (part.end - part.start)
        for block in blocks:
            for span in block.spans:
                for place in range(max(span.start, part.start), min(span.end, part.end - 1) + 1):
                    sizes[place - part.start] += -(-span.size // ALIGNED) * ALIGNED
        return max(sizes)

    def _cheapest(
        self, start: int, end: int, choices: dict[tuple[int, int], list[tuple[int, Part]]], bound: int
    ) -> list[Part]:
        best: dict[int, tuple[int, list[Part]]] = {start: (0, [])}
        for after in range(start + 1, end + 1):
            options = [
                (best[first][0] + self._cost(part), [*best[first][1], part])
                for first in range(start, after)
                for load, part in choices.get((first, after), [])
                if load <= bound and first in best
            ]
            if options:
                best[after] = min(options, key=lambda option: option[0])
        return best[end][1]

    def _cost(self, part: Part) -> int:
        return part.strips * (sum(self.unpacked[part.start : part.end]) + 100 * (part.end - part.start)) + int(
            part.paced
        )

    # --- what a part needs

    def place(self, parts: list[Part]) -> Layout:
        """All blocks of a division into parts, in their places."""
        places: dict[str, Block] = {}
        blocks = list[Block]()
        for part in parts:
            if part.strips > 1:  # what such a part reads must live until its last strip
                for name in part.readers:
                    if name in places:
                        places[name].end = max(places[name].end, part.end - 1)
            blocks += self._blocks(part, places)
        pack(blocks)
        scratch = [block for block in blocks if not block.name]
        return Layout(self.made, parts, blocks, places, scratch)

    def _blocks(self, part: Part, places: dict[str, Block]) -> list[Block]:
        """The blocks that a part adds; `places` are those of all buffers so far, to which its own are added."""
        added = list[Block]()
        for place, step in enumerate(part.steps):
            index, name = part.start + place, step.output
            last = self.last.get(name, index)
            over = self._overwritten(part, place, places)
            looped = part.strips > 1 and (name not in part.windows or part.lasts(name))
            start, end = (part.start, part.end - 1) if looped else (index, index)
            block = Block(name, part.view(name).size, start, max(end, last))
            if over is None:
                added.append(block)
            else:
                block.start, over.later = over.end + 1, block
            places[name] = block
            added.append(Block("", scratch_bytes(step, part.most_rows(place))[1], index, index))
        return added

    def _overwritten(self, part: Part, place: int, places: dict[str, Block]) -> Block | None:
        """The place of a buffer whose rows are all read before this step writes there, if there is such a one."""
        step = part.steps[place]
        mine = part.view(step.output)
        if mine.padding.any or step.output in part.windows:
            return None
        index = part.start + place
        for name in dict.fromkeys(
            reading.name for before in range(place + 1) for reading in self.reads[part.start + before]
        ):
            block, ends = places.get(name), index if part.strips == 1 else part.end - 1
            if block is None or block.later or name in part.windows or self.last[name] > index or block.end != ends:
                continue
            other = part.view(name)
            if other.padding.any or other.geometry.channels != mine.geometry.channels:
                continue
            here = [reading for reading in self.reads[index] if reading.name == name]
            if any(not reading.by_channel for reading in here):
                continue
            if part.strips == 1:
                if here and mine.plane * mine.bytes_each <= other.plane * other.bytes_each:
                    return block
            elif (other.geometry, other.bytes_each) == (mine.geometry, mine.bytes_each) and all(
                part.first_needed(name, strip) >= rows[place] for strip, rows in enumerate(part.until)
            ):
                return block
        return None


def _least(start: int, end: int, choices: dict[tuple[int, int], list[tuple[int, Part]]]) -> int:
    """The least memory by which steps `start` ... `end` - 1 run, however they are divided."""
    best = {start: 0}
    for after in range(start + 1, end + 1):
        best[after] = min(
            max(best[first], load) for first in range(start, after) for load, _ in choices.get((first, after), [])
        )
    return best[end]


def pack(blocks: list[Block]) -> None:
    """Set offsets so that blocks of one time do not overlap.

    The largest are placed first, each as low as it can lie. What then lies on top is placed earlier, and all is tried
    again; the best order is kept.
    """
    order = sorted(blocks, key=lambda one: (-one.size, one.start))
    best, offsets = _place(order), [block.offset for block in order]
    kept = list(order)
    for _ in range(TRIES):
        top = max(order, key=lambda one: one.offset + one.size)
        place = order.index(top)
        if place == 0:
            break
        order.insert(place // 2, order.pop(place))
        size = _place(order)
        if size < best:
            best, offsets, kept = size, [block.offset for block in order], list(order)
    for block, offset in zip(kept, offsets, strict=True):
        for span in block.spans:
            span.offset = offset


def _place(order: list[Block]) -> int:
    """Place blocks in this order, each as low as it can lie; the bytes that they take."""
    placed: list[Block] = []
    for block in order:
        beside = list(_beside(block, placed))
        ends = sorted({0, *(-(-end // ALIGNED) * ALIGNED for _, end, _ in beside)})
        offset = next(at for at in ends if all(at >= end or at + size <= start for start, end, size in beside))
        for span in block.spans:
            span.offset = offset
        placed += block.spans
    return max((block.offset + block.size for block in order), default=0)


def _beside(block: Block, placed: list[Block]) -> Iterator[tuple[int, int, int]]:
    """Bytes that are taken while `block` or what is written over it lives, and how many of it live then."""
    for span in block.spans:
        for other in placed:
            if other.start <= span.end and span.start <= other.end:
                yield other.offset, other.offset + other.size, span.size
