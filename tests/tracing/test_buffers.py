"""In which memory results lie, and how long each is needed: by hand, and by a simulation with reference counts."""

from collections import Counter
from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from netpress.tracing import Trace, trace
from netpress.tracing.buffers import find_lifetimes, sum_alive

SIZE = (4, 6, 6)


class Calls(nn.Module):
    """A function of the image and of two convolutions that keep its shape."""

    def __init__(self, function: Callable[[Tensor, nn.Module, nn.Module], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.one = nn.Conv2d(4, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 1, groups=2)

    def forward(self, image: Tensor) -> Tensor:
        return self.function(image, self.one, self.two)


def traced(function: Callable[[Tensor, nn.Module, nn.Module], Tensor]) -> Trace:
    return trace(Calls(function), SIZE)


def alive(one: Trace) -> list[float]:
    """Maps of 6 x 6 elements that are alive at each operation."""
    lifetimes = find_lifetimes(one)
    elements = sum_alive(lifetimes, [lifetime.elements for lifetime in lifetimes], len(one.operations))
    return [count / 36 for count in elements]


def test_a_chain_needs_what_an_operation_reads_and_makes() -> None:
    assert alive(traced(lambda x, one, two: two(functional.relu(one(x))))) == [8, 8, 8]


def test_a_residual_lives_until_it_is_added() -> None:
    # conv: x, a   conv: x, a, b   add: x, b, c
    assert alive(traced(lambda x, one, two: two(one(x)) + x)) == [8, 12, 12]


def test_parts_live_until_they_are_joined() -> None:
    one = traced(lambda x, one, two: torch.cat([one(x), two(x)], 1))
    assert alive(one) == [8, 12, 16]  # the image is gone when the two parts and the joined 8 channels are there


def test_two_branches_keep_what_both_read() -> None:
    one = traced(lambda x, one, two: one(functional.relu(x)) + two(functional.relu(x)))
    #   relu: x, a   conv: x, a, b   relu: x, b, c   conv: b, c, d   add: b, d, e
    assert alive(one) == [8, 12, 12, 12, 12]


def test_a_view_has_no_memory_and_keeps_what_it_shows() -> None:
    def function(x: Tensor, one: nn.Module, two: nn.Module) -> Tensor:
        whole = one(x)
        part = whole[:, :2]
        other = two(x)
        return torch.cat([part, other], 1)

    one = traced(function)
    assert [operation.function for operation in one] == ["conv", "slice", "conv", "cat"]
    assert alive(one) == [8, 8, 12, 14]  # all four channels of `whole` stay while two of them are read
    assert [lifetime.name for lifetime in find_lifetimes(one)] == ["input", "one", "two", "cat"]


def test_what_is_written_in_place_has_a_buffer_of_its_own() -> None:
    assert alive(traced(lambda x, one, two: one(x).relu_())) == [8, 8]
    assert alive(traced(lambda x, one, two: one(x).add_(x))) == [8, 12]


def test_what_is_put_together_in_place_is_one_buffer() -> None:
    def function(x: Tensor, one: nn.Module, two: nn.Module) -> Tensor:
        joined = torch.zeros(1, 8, 6, 6)
        joined[:, :4] = one(x)
        joined[:, 4:] = two(x)
        return functional.relu(joined)

    one = traced(function)
    joined = [lifetime for lifetime in find_lifetimes(one) if lifetime.elements == 8 * 36]
    assert len(joined) == 2  # and the result of ReLU
    assert joined[0].readers == (one.operations[-1].name,)
    assert alive(one)[-1] == 16


def test_a_result_that_nobody_reads_lives_while_it_is_made() -> None:
    def function(x: Tensor, one: nn.Module, two: nn.Module) -> Tensor:
        one(x)
        return two(x)

    assert alive(traced(function)) == [8, 8]


def test_all_that_is_returned_lives_to_the_end() -> None:
    one = trace(Calls(lambda x, one, two: (one(x), two(x))), SIZE)  # type: ignore[arg-type,return-value]
    assert alive(one) == [8, 12]


def test_of_several_paths_each_is_a_trace_of_its_own() -> None:
    def function(x: Tensor, one: nn.Module, two: nn.Module) -> Tensor:
        first = one(x)
        return first if x.sum() > 0 else two(first) + x

    one = trace(Calls(function), SIZE, examples=torch.stack([torch.ones(SIZE), -torch.ones(SIZE)]))
    assert len(one.paths) == 2
    # The sum of the image and what it is compared to are single values; the answer lives on, since it chose the path.
    assert sorted(max(alive(path)) for path in one.paths) == [8 + 1 / 36, 12 + 1 / 36]


# --- any program

Step = tuple[str, tuple[int, ...], int]
"""What is calculated, of which earlier values (0 is the image), and how many channels it makes."""


@st.composite
def programs(draw: st.DrawFn) -> list[Step]:
    channels, viewed = [4], {0}
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(["conv", "relu", "in place", "add", "cat", "part", "part", "pool"]))
        first = draw(st.integers(0, len(channels) - 1))
        if kind == "in place" and first in viewed:
            kind = "relu"
        others = [place for place, count in enumerate(channels) if kind == "cat" or count == channels[first]]
        second = draw(st.sampled_from(others))
        made = {"conv": draw(st.integers(1, 6)), "cat": channels[first] + channels[second]}
        made["part"] = draw(st.integers(1, channels[first]))
        if kind in ("part", "in place"):  # what shows another's memory, or is shown, is left as it is
            viewed |= {first, len(channels)}
        channels.append(made.get(kind, channels[first]))
        steps.append((kind, (first, second) if kind in ("add", "cat") else (first,), channels[-1]))
    return steps


class Program(nn.Module):
    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, image: Tensor) -> Tensor:
        values = [image]
        for kind, places, made in self.steps:
            values.append(calculate(kind, [values[place] for place in places], made))
        return values[-1]


def calculate(kind: str, values: list[Tensor], made: int) -> Tensor:
    x = values[0]
    calls: dict[str, Callable[[], Tensor]] = {
        "conv": lambda: functional.conv2d(x, torch.ones(made, x.shape[1], 1, 1)),
        "relu": lambda: functional.relu(x),
        "in place": lambda: functional.relu_(x),
        "add": lambda: x + values[1],
        "cat": lambda: torch.cat(values, 1),
        "part": lambda: x.narrow(1, x.shape[1] - made, made),
        "pool": lambda: functional.max_pool2d(x, 1),
    }
    return calls[kind]()


def simulate(steps: list[Step]) -> list[float]:
    """Channels alive at each step. Every object counts who will still read it, and goes when nobody does.

    A view has no channels, and refers to what it shows as long as it is there itself.
    """
    sizes, shows, place_of = [4], [-1], [0]  # by object: channels, what it shows; by value: which object it is by now
    reads: list[list[int]] = []
    for kind, places, made in steps:
        reads.append([place_of[place] for place in places])
        sizes.append(0 if kind == "part" else made)
        shows.append(reads[-1][0] if kind == "part" else -1)
        place_of.append(len(sizes) - 1)
        if kind == "in place":
            place_of[places[0]] = len(sizes) - 1
    references = Counter(one for several in reads for one in several)
    references.update(base for base in shows if base >= 0)
    references[len(sizes) - 1] += 1  # the caller, for ever
    alive: set[int] = {0}
    sums: list[float] = []
    for step, read in enumerate(reads):
        alive.add(step + 1)
        sums.append(sum(sizes[one] for one in alive))
        references.subtract(read)
        while gone := {one for one in alive if not references[one]}:
            alive -= gone
            references.subtract(shows[one] for one in gone if shows[one] >= 0)
    return sums


@settings(deadline=None, max_examples=60)
@given(programs())
def test_lifetimes_are_those_of_reference_counts(steps: list[Step]) -> None:
    one = trace(Program(steps), SIZE)
    assert len(one.operations) == len(steps)
    assert alive(one) == simulate(steps)
