"""What is known of channels that can only go together."""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Side = Literal["outputs", "inputs", "channels"]
"""What of a layer goes: what it gives, what it reads, or (norms and depthwise convolutions) both at once."""
ALONE = "one channel is left"


@dataclass(frozen=True)
class Axis:
    """Where the channels of a group lie in one layer: channel `channels[i]` of the group at `positions[i]`."""

    layer: str
    side: Side
    positions: Tensor  # int64 [n]
    channels: Tensor  # int64 [n]


@dataclass(frozen=True)
class ChannelGroup:
    """Layers that depend on one another: where one loses a channel, all do.

    `name` is one of the layers that make these channels. `units` has for each channel the number of the unit that it
    can only go with: a channel alone, except where groups of a grouped convolution must stay of equal size. `whole`
    says why none can go; "" where some can.
    """

    name: str
    axes: tuple[Axis, ...]
    units: Tensor  # int64 [channels]
    whole: str = ""

    @property
    def count(self) -> int:
        """Channels."""
        return len(self.units)

    @property
    def makers(self) -> list[str]:
        """The layers whose outputs these channels are; the one in the name where only depthwise ones are."""
        return [axis.layer for axis in self.axes if axis.side == "outputs"] or [self.name]

    @property
    def sizes(self) -> Tensor:
        """Channels of each unit: int64 [units]."""
        return torch.bincount(self.units)


def on_shapes(module: nn.Module) -> nn.Module:
    """A copy of the module without values, on the meta device; what shares a tensor goes on sharing it."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): _without_values(tensor) for tensor in tensors})


def _without_values(tensor: Tensor) -> Tensor:
    shape = torch.empty_like(tensor, device="meta")
    return nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape
