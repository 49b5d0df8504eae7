"""Exponential moving average (EMA) of a network's weights.

Averaged weights answer better than the last ones while the learning rate is high; at the end of a cosine round the
two agree. The average moves after the optimizer does, and averages the running statistics of the norms too.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from netpress.training.masking import MaskHolder
from netpress.training.part import Part, State, prefixed, section


class WeightAverage(Part):
    """The moving average of a module's floating-point tensors; counters are copied. Each round has a new one.

    `masks` are those of the training: where they change, what they remove now is zero in the average too.
    """

    def __init__(self, module: nn.Module, decay: float, warmup: bool = True, masks: MaskHolder | None = None) -> None:
        self.decay = decay
        self.warmup = warmup
        self.module = module
        self.masks = masks
        self.begin_round()

    def begin_round(self) -> None:
        """Begin with the module's present weights."""
        self.updates = 0
        self.tensors: dict[str, Tensor] = copy_tensors(self.module)

    @torch.no_grad()
    def after_move(self) -> None:
        """Move the average towards the module's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        present = self.module.state_dict()
        floats = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.tensors[name] for name in floats], [present[name] for name in floats], 1 - decay)
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point():
                tensor.copy_(present[name])
        if self.masks is not None:
            self.masks.mask_copies(self.tensors)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module with the averaged weights inside the block, its own again after it."""
        own = copy_tensors(self.module)
        self.module.load_state_dict(self.tensors)
        try:
            yield
        finally:
            self.module.load_state_dict(own)

    def state_dict(self) -> State:
        return {"updates": self.updates, **prefixed("tensors", self.tensors)}

    def load_state_dict(self, state: State) -> None:
        self.updates = state["updates"]
        saved = section("tensors", state)
        for name, tensor in self.tensors.items():
            tensor.copy_(saved[name])


def copy_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module as they are now."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
