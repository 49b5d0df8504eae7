"""Channels are followed through operators that move values, so that every shuffle of channels is found.

ShuffleNet, for example, permutes channels between groups, and the challenge charges that as a product with a sparse
matrix. A network can write it as a transpose of groups, a permutation of axes, a stack of parts or a list of indices.
So this module does not look at operators' names. Each element of a value has the number of its channel, and every
operator that moves values moves the numbers too. A result is a shuffle if its channels lie along one axis in another
order.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from netpress.tracing.kinds import Reading

NOTHING = -1
"""In the place of a channel's number: a constant, such as padding."""
LARGEST = 1 << 24  # elements of a value that is followed; larger ones count as new where they were put elsewhere
_SAME_PLACES = ("activation", "add", "multiply", "compare", "norm", "group_norm", "softmax")
_VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_alias")
_WITH_PLACES = ("index", "_unsafe_index", "index_select", "gather", "take", "take_along_dim", "embedding")
_BY_VALUE = (
    "as_strided",
    "fill",
    "masked_fill",
    "index_put",
    "_index_put_impl",
    "scatter",
    "nonzero",
    "masked_select",
    "argwhere",
)


class Channels:
    """The numbers of channels of each value of a recording. Each source has a range of its own."""

    def __init__(self) -> None:
        self.axes: dict[int, tuple[int, ...]] = {}
        self.numbers: dict[int, Tensor] = {}
        self.starts: list[int] = []
        self.next = 0

    def follow(
        self, reading: Reading, function: Callable[..., Any], arguments: Any, keywords: Any, varying: Any, outputs: Any
    ) -> Reading:
        """Note where the channels are in what an operator made; the reading, as that of a shuffle if it is one.

        `varying`: the tensors among its arguments that depend on the input. `outputs`: its results.
        """
        if reading.kind == "move":
            return self._moved(reading, function, arguments, keywords, varying, outputs)
        if reading.kind == "permute_channels":
            for tensor in outputs:
                self._renew(tensor, (1,))
            return self._shuffle(outputs[0], 1)
        alike = next((x for x in varying if outputs and x.shape == outputs[0].shape), None)
        for tensor in outputs:
            if reading.kind in _SAME_PLACES and alike is not None and tensor.shape == alike.shape:
                self._inherit(alike, tensor)
            elif reading.kind in ("linear", "matmul") and tensor.dim() > 1:
                # Rows of a product are places (tokens, windows); what varies along the others are channels.
                self._renew(tensor, tuple(axis for axis in range(tensor.dim()) if axis != tensor.dim() - 2))
            else:
                self._renew(tensor, (1,))
        return reading

    # --- moves

    def _moved(
        self, reading: Reading, function: Callable[..., Any], arguments: Any, keywords: Any, varying: Any, outputs: Any
    ) -> Reading:
        if (
            len(varying) == 1
            and len(outputs) == 1
            and varying[0].shape == outputs[0].shape
            and _is_copy(reading.function)
        ):
            self._share(varying[0], outputs[0])
            return reading
        moved = self._run(reading, function, arguments, keywords, varying, outputs)
        if moved is None:
            for tensor in outputs:
                self._renew(tensor, (1,))
            return reading
        shuffled = None
        for tensor, numbers in zip(outputs, moved, strict=True):
            axis = _only_axis(numbers)
            if axis is not None and self._is_shuffled(numbers, axis):
                shuffled = (tensor, axis)
                self._renew(tensor, (axis,))
            else:
                self.numbers[id(tensor)] = numbers
                self.axes.pop(id(tensor), None)
        return reading if shuffled is None else self._shuffle(*shuffled)

    def _run(
        self, reading: Reading, function: Callable[..., Any], arguments: Any, keywords: Any, varying: Any, outputs: Any
    ) -> list[Tensor] | None:
        """The numbers of channels, moved as the values are; None where that cannot be said."""
        name = reading.function
        if name.rstrip("_") in _BY_VALUE or sum(x.numel() for x in (*varying, *outputs)) > LARGEST:
            return None
        if name in _VIEWS:  # whatever lies in one piece there
            return [self._numbers(varying[0]).reshape(outputs[0].shape)]
        by_input = {id(x): self._numbers(x) for x in varying}
        if name == "cat" and all(id(x) in by_input and x.dim() == outputs[0].dim() for x in arguments[0]):
            return [_joined([by_input[id(x)] for x in arguments[0]], outputs[0])]
        if name == "constant_pad_nd" and len(arguments) > 1 and id(arguments[0]) in by_input:
            return [_padded(by_input[id(arguments[0])], list(arguments[1]), outputs[0])]

        def numbers(x: Tensor) -> Tensor:
            if id(x) in by_input:
                return by_input[id(x)]
            if name in _WITH_PLACES and not x.is_floating_point():
                return x
            return torch.full(x.shape, NOTHING, dtype=torch.int64)  # constants have no channels

        arguments, keywords = tree_map_only(Tensor, numbers, (arguments, {**keywords}))
        for word in ("dtype", "device", "layout", "pin_memory"):
            keywords.pop(word, None)
        if name.startswith("constant_pad"):
            arguments = (*arguments[:2], NOTHING)
        try:
            result = function(*arguments, **keywords)
        except (RuntimeError, TypeError, IndexError, ValueError):
            return None
        tensors = list(result) if isinstance(result, tuple | list) else [result]
        tensors = [x for x in tensors if isinstance(x, Tensor)]
        fits = [x.shape for x in tensors] == [x.shape for x in outputs] and all(x.dtype == torch.int64 for x in tensors)
        return tensors if fits else None

    def _is_shuffled(self, numbers: Tensor, axis: int) -> bool:
        """Whether the channels of a source come in another order, or those of several take turns.

        What is repeated counts where it comes first: a value beside itself is no shuffle.
        """
        index = [slice(None) if place == axis else 0 for place in range(numbers.dim())]
        order = list(dict.fromkeys(number for number in numbers[tuple(index)].tolist() if number != NOTHING))
        if all(number < after for number, after in itertools.pairwise(order)):
            return False
        starts = torch.tensor(self.starts)
        sources = torch.bucketize(torch.tensor(order), starts, right=True).tolist()
        earlier: set[int] = set()
        for place in range(1, len(order)):
            if sources[place] == sources[place - 1]:
                if order[place] < order[place - 1]:
                    return True
                continue
            earlier.add(sources[place - 1])
            if sources[place] in earlier:
                return True
        return False

    @staticmethod
    def _shuffle(output: Tensor, axis: int) -> Reading:
        return Reading("permute_channels", "channel_shuffle", attributes={"channels": output.shape[axis]})

    # --- what is known of values

    def _numbers(self, x: Tensor) -> Tensor:
        """The number of each element's channel, of the shape of x."""
        if id(x) not in self.numbers:
            axes = [axis for axis in self.axes.get(id(x), (1,)) if axis < x.dim()]
            count = 1
            for axis in axes:
                count *= x.shape[axis]
            shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
            self.starts.append(self.next)
            self.numbers[id(x)] = torch.arange(self.next, self.next + count).reshape(shape).expand(x.shape)
            self.next += max(1, count)
        return self.numbers[id(x)]

    def _renew(self, x: Tensor, axes: tuple[int, ...]) -> None:
        """New channels, along these axes."""
        self.axes[id(x)] = axes
        self.numbers.pop(id(x), None)

    def _inherit(self, x: Tensor, output: Tensor) -> None:
        """New channels, in the same places as those of x."""
        numbers = self.numbers.get(id(x))
        if numbers is None:
            self._renew(output, self.axes.get(id(x), (1,)))
            return
        axis = _only_axis(numbers)
        if axis is not None:
            self._renew(output, (axis,))
            return
        lowest, highest = int(numbers.min().clamp(min=0)), int(numbers.max())
        distance = self.next - lowest
        self.axes.pop(id(output), None)
        self.numbers[id(output)] = torch.where(numbers == NOTHING, numbers, numbers + distance)
        self.starts += [self.next, *(start + distance for start in self.starts if lowest < start <= highest)]
        self.next += max(1, highest - lowest + 1)

    def _share(self, x: Tensor, output: Tensor) -> None:
        self.numbers[id(output)] = self._numbers(x)


def _joined(parts: list[Tensor], output: Tensor) -> Tensor:
    """The parts beside one another, without filling memory where each only repeats: along a map's rows and columns."""
    axis = next((k for k, size in enumerate(output.shape) if any(part.shape[k] != size for part in parts)), None)
    if axis is None:
        return torch.cat(parts)
    short = parts
    for k in range(output.dim()):
        if k != axis and all(part.stride(k) == 0 for part in parts):
            short = [part.narrow(k, 0, 1) for part in short]
    return torch.cat(short, axis).expand(output.shape)


def _padded(numbers: Tensor, pads: list[int], output: Tensor) -> Tensor:
    """The numbers with nothing around them, by so many on both sides of each axis, the last one first.

    As `_joined`, without filling memory where nothing is added to what only repeats.
    """
    short = numbers
    for axis in range(numbers.dim()):
        sides = pads[2 * (numbers.dim() - 1 - axis) :][:2]
        if not any(sides) and numbers.stride(axis) == 0:
            short = short.narrow(axis, 0, 1)
    return torch.constant_pad_nd(short, pads, NOTHING).expand(output.shape)


def _is_copy(function: str) -> bool:
    return function.rstrip("_") in ("clone", "alias", "detach", "contiguous", "lift_fresh", "_to_copy", "dropout")


def _only_axis(numbers: Tensor) -> int | None:
    """The one axis along which the numbers vary; None if there are several, or none."""
    axes: list[int] = []
    for axis, (size, stride) in enumerate(zip(numbers.shape, numbers.stride(), strict=True)):
        if size < 2 or stride == 0:
            continue
        if not torch.equal(numbers.narrow(axis, 0, size - 1), numbers.narrow(axis, 1, size - 1)):
            axes.append(axis)
            if len(axes) > 1:
                return None
    return axes[0] if axes else None
