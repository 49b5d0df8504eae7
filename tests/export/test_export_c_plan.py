"""Plans of C files, executed in Python on a memory that remembers which value each byte holds."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import FAMILIES, QUICK, context, family, modules, random_network
from torch import nn

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.export.c.arena import Layout, lay_out, scratch_bytes
from netpress.export.c.plan import Reading, plan
from netpress.export.c.strips import Part
from netpress.network import Network
from netpress.program import lower
from netpress.settings import parse

NOTHING = -1


class Memory:
    """The arena, each byte of which knows the row that it belongs to; steps read and write rows."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.made = layout, layout.made
        self.bytes = np.full(layout.arena, NOTHING)
        self.touched = np.zeros(layout.arena, dtype=bool)
        self.number = {name: index for index, name in enumerate(layout.views)}

    def tag(self, name: str, channel: int, row: int) -> int:
        return (self.number[name] * 10_000 + channel) * 10_000 + row + 100

    def row(self, name: str, first: int, channel: int, row: int) -> slice:
        """The bytes of a row of the image, without what is on its left and right."""
        view = self.layout.views[name]
        assert first <= row < first + view.rows, f"{name}: row {row} is not in the window from {first} on"
        value = channel * view.plane + (row - first) * view.pitch + view.lead
        start = self.layout.places[name].offset + value * view.bytes_each
        return slice(start, start + view.geometry.width * view.bytes_each)

    def pad(self, name: str) -> None:
        view, start = self.layout.views[name], self.layout.places[name].offset
        if view.padding.any:
            self.write(slice(start, start + view.size), self.tag(name, 9_999, 0))

    def write(self, place: slice, tag: int) -> None:
        assert 0 <= place.start <= place.stop <= len(self.bytes)
        self.bytes[place] = tag
        self.touched[place] = True

    def move(self, part: Part, name: str, strip: int) -> None:
        """A window goes on: what it keeps moves to its beginning; padding below appears."""
        held, view, start = part.windows[name], self.layout.views[name], self.layout.places[name].offset
        first, after = held[strip]
        was, ahead = held[strip - 1] if strip else (first, 0)
        size = view.pitch * view.bytes_each
        for channel in range(view.geometry.channels):
            at = start + channel * view.plane * view.bytes_each
            kept = self.bytes[at + (first - was) * size : at + (ahead - was) * size].copy()
            self.bytes[at : at + len(kept)] = kept
            for row in range(max(ahead, view.geometry.height), after):
                self.write(slice(at + (row - first) * size, at + (row - first + 1) * size), self.tag(name, 9_999, 0))

    def check(self, part: Part, reading: Reading, row: int, channel: int, channels: int, strip: int) -> None:
        """All that a row of a step's output is made of is there."""
        name = reading.name
        geometry, padding = self.made.geometries[name], self.layout.views[name].padding
        first = part.windows[name][strip][0] if name in part.windows else -padding.top
        rows = range(geometry.height) if reading.whole else range(reading.span)
        begin = 0 if reading.whole else row * reading.stride - reading.top
        alone = reading.by_channel and geometry.channels == channels
        for one in [channel] if alone else range(geometry.channels):
            for line in (begin + place for place in rows):
                if not 0 <= line < geometry.height:
                    if padding.any:
                        assert (self.bytes[self.row(name, first, one, line)] == self.tag(name, 9_999, 0)).all()
                    continue
                found = self.bytes[self.row(name, first, one, line)]
                assert (found == self.tag(name, one, line)).all(), f"{name}: row {line} of channel {one} is gone"

    def step(self, part: Part, place: int, strip: int) -> None:
        step, index = part.steps[place], part.start + place
        name, padding = step.output, self.layout.views[step.output].padding
        block = self.layout.scratch[index]
        self.write(slice(block.offset, block.offset + scratch_bytes(step, part.most_rows(place))[1]), NOTHING)
        rows = range(part.until[strip][place], part.until[strip + 1][place])
        first = part.windows[name][strip][0] if name in part.windows else -padding.top
        ends = (0, step.geometry.channels - 1)
        for channel in range(step.geometry.channels):
            for reading in self.made.reads(step):
                for row in rows:
                    if reading.by_channel or channel in ends:
                        self.check(part, reading, row, channel, step.geometry.channels, strip)
            for row in rows:
                self.write(self.row(name, first, channel, row), self.tag(name, channel, row))

    def run(self) -> None:
        for part in self.layout.parts:
            names = [step.output for step in part.steps]
            for name in names if part.strips > 1 else []:
                self.pad(name)
            for strip in range(len(part.until) - 1):
                for place, name in enumerate(names):
                    if part.strips == 1:
                        self.pad(name)
                    if name in part.windows:
                        self.move(part, name, strip)
                    self.step(part, place, strip)
        output = self.made.output
        for channel in range(self.made.geometries[output].channels):
            for row in range(self.made.geometries[output].height):
                assert (self.bytes[self.row(output, 0, channel, row)] == self.tag(output, channel, row)).all()


def check_plan(network: Network, strip_rows: int | None) -> Layout:
    """Each step finds what it reads, and the arena's last byte is needed."""
    layout = lay_out(plan(lower(network)), strip_rows)
    memory = Memory(layout)
    memory.run()
    assert memory.touched[-1], "the arena is larger than what is used of it"
    assert all(block.offset % 4 == 0 for block in [*layout.places.values(), *layout.scratch])
    made = [place for part in layout.parts for place in range(part.start, part.end)]
    assert made == list(range(len(layout.made.steps)))
    return layout


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_plans_of_every_family(name: str, tmp_path: Path) -> None:
    network = quantize(family(name), parse(QuantizeSettings, QUICK), context(tmp_path))
    arenas = {rows: check_plan(network, rows).arena for rows in (None, 1, 2, 100)}
    assert min(arenas.values()) == arenas[None], "the planner finds no more than is forced upon it"


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(modules(), st.integers(7, 12), st.integers(2, 8), st.sampled_from([None, 1, 2, 3]))
def test_plans_of_random_networks(
    tmp_path_factory: pytest.TempPathFactory, module: nn.Module, height: int, bits: int, strip_rows: int | None
) -> None:
    network = random_network(module, (height, 7), bits, 1, tmp_path_factory.mktemp("plan"))
    check_plan(network, strip_rows)
