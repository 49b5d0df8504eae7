"""A part of a training: what it does at each moment, and what it must remember.

A training is a list of parts: the optimizer, the loss, the moving average, the masks. The loop tells each of them,
in the order of the list, what happens, and writes down what each of them remembers:

    class LargestLoss(Part):
        def after_backward(self) -> None: ...
        def state_dict(self) -> State:
            return {"largest": self.largest}
        def load_state_dict(self, state: State) -> None:
            self.largest = state["largest"]

A new part is a class like this one and a line in `TrainingStep` (`netpress.training.step`).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

State = dict[str, Any]
"""What a part remembers: tensors and plain JSON values, by name."""


class Part:
    """Does nothing and remembers nothing; a part writes those methods that it needs.

    A part is ready for the first step of a training once it is made.
    """

    def begin_training(self, steps: int) -> None:
        """The training begins, or is about to go on where it was: it has so many steps, all rounds together."""

    def begin_round(self) -> None:
        """A round begins, which is not the first one."""

    def begin_epoch(self) -> None:
        """An epoch begins. Not called where a training goes on in the middle of one."""

    def begin_step(self, step: int) -> None:
        """Step `step` begins, counted from 0 since the training began."""

    def after_backward(self) -> None:
        """The gradients are there, and no weight has moved yet."""

    def move(self, learning_rate: float) -> None:
        """Now weights move: for optimizers alone."""

    def after_move(self) -> None:
        """The weights have moved."""

    def figures(self) -> State:
        """What the line of the epoch that ends says of this part: plain values by key (docs/runs.md)."""
        return {}

    def close(self) -> None:
        """The training ends, or is cut off: put back what was changed for its time alone."""

    def state_dict(self) -> State:
        """All that the steps to come depend on."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Go on from what `state_dict` gave. Its tensors lie on the CPU."""


def collect(parts: Mapping[str, Part]) -> tuple[dict[str, Tensor], dict[str, State]]:
    """What all parts remember: the tensors as `part/name`, and the plain values by part and name."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, State] = {}
    for name, part in parts.items():
        state = part.state_dict()
        mine = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        tensors |= prefixed(name, mine)
        values[name] = {key: value for key, value in state.items() if key not in mine}
    return tensors, values


def restore(parts: Mapping[str, Part], tensors: Mapping[str, Tensor], values: Mapping[str, State]) -> None:
    """Give each part what `collect` took from it. Raises KeyError where a part is missing."""
    for name, part in parts.items():
        part.load_state_dict(section(name, tensors) | values[name])


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under names that begin with `prefix` and a slash."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def section(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What `prefixed` put under `prefix`."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
