"""What the leader of a training does at each step: it hands out parts of the batch, and gathers gradients."""

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from netpress.data import Mixed
from netpress.errors import Failure
from netpress.network import Network
from netpress.process.team import Team
from netpress.training.losses import Loss
from netpress.training.part import Part
from netpress.training.teachers import Recall
from netpress.training.together.share import Share
from netpress.training.together.swapping import check_shareable, shared

TRAIN, REMEMBER, STEP, CHECK = 1, 2, 3, 4
"""Commands: begin a training; take over what the losses remember; take a step; compare networks, and forget them."""


class Crew:
    """The helpers of one training."""

    def __init__(self, team: Team, network: Network, losses: Mapping[str, Part], loss: Loss, bfloat16: bool) -> None:
        """`losses` are the parts of `loss` that remember something. Raises UserError for norms that no two share."""
        module = network.module
        check_shareable(module)
        self.team, self.module, self.losses, self.loss = team, module, losses, loss
        self.classes = len(network.classes)
        self.bfloat16 = bfloat16
        self.share = Share(team)
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.epoch = -1  # for which the helpers have what the losses remember
        self.is_asked = False
        """Whether somebody asked a helper to stop."""
        self.is_begun = False
        self.stack = ExitStack()

    def begin(self) -> None:
        """Hand the network and its loss to the helpers. From here on the network's modules know the whole batch."""
        team, teacher = self.team, self.loss.teacher
        recall = teacher.recall if teacher is not None else None
        if teacher is not None:
            teacher.recall = None  # answers are kept by the leader
        told = {"module": self.module, "loss": self.loss, "losses": self.losses, "bfloat16": self.bfloat16}
        self.is_begun = True
        team.call(TRAIN)
        team.tell(told | {"recalls": recall is not None, "classes": self.classes, "threads": torch.get_num_threads()})
        team.is_busy = False
        if teacher is not None and recall is not None:
            kept = recall
            teacher.recall = lambda index, ask: self._recall(index, ask, kept)
        self.stack.enter_context(shared(modules_of(self.module, self.loss), self.share))

    def close(self) -> None:
        """The modules are what they were."""
        self.stack.close()
        self.is_begun = False

    def hand_out(self, pixels: Tensor, mixed: Mixed, epoch: int, seed: int) -> tuple[Tensor, Mixed]:
        """Begin a step of that `epoch` on a batch; the leader's part of it. A batch too small to share it has alone.

        `seed` is that of the modules that draw.
        """
        if not self.share.divide(len(pixels)):
            return pixels, mixed
        team = self.team
        if epoch != self.epoch:
            team.call(REMEMBER)
            team.tell({name: loss.state_dict() for name, loss in self.losses.items()})
            self.epoch = epoch
        team.call(STEP, *pixels.shape, as_number(mixed.weight), seed)
        team.spread(weights_of(self.module))
        for rank in team.helpers:
            rows = self.share.rows_of(rank)
            team.send(pixels[rows].permute(0, 2, 3, 1), rank)
            team.send(torch.stack([mixed.labels_a[rows], mixed.labels_b[rows]]), rank)
        rows = self.share.rows
        return pixels[rows], Mixed(mixed.labels_a[rows], mixed.labels_b[rows], mixed.weight)

    def gather(self, loss: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Put the gradients of the whole batch in place of those of the part; its mean loss, and the images right.

        `loss` is the mean over the leader's part.
        """
        if not self.share.is_split:
            return loss, right
        figures = torch.stack([loss.detach() * self.share.fraction, right])
        self.is_asked |= collect_gradients(self.team, self.parameters, figures)
        self.team.is_busy = self.share.is_split = False
        return figures[0], figures[1]

    def end(self) -> None:
        """Raise Failure unless all hold the same network, bit for bit, as the training leaves it."""
        if not self.is_begun:
            return
        team = self.team
        team.call(CHECK)
        team.spread(weights_of(self.module))
        own = checksum(self.module)
        for rank in team.helpers:
            if not torch.equal(team.receive(torch.empty_like(own), rank), own):
                raise Failure(f"process {rank + 1} of {team.size} holds another network than the first; begin again")
        team.is_busy = False

    def _recall(self, index: int, ask: Callable[[], Tensor], kept: Recall) -> Tensor:
        """What teacher number `index` answers to the leader's part; `kept` has the answers to the batch, or asks."""
        if not self.share.is_split:
            return kept(index, ask)
        asked = False

        def ask_all() -> Tensor:
            nonlocal asked
            asked = True
            self.team.spread([torch.ones(1)])
            own = ask()
            parts = [own]
            for rank in self.team.helpers:
                rows = self.share.rows_of(rank)
                parts.append(self.team.receive(own.new_empty(rows.stop - rows.start, own.shape[1]), rank))
            return torch.cat(parts)

        whole = kept(index, ask_all)
        if not asked:
            self.team.spread([torch.zeros(1)])
        for rank in self.team.helpers:
            self.team.send(whole[self.share.rows_of(rank)], rank)
        return whole[self.share.rows]


def modules_of(module: nn.Module, loss: Loss) -> list[nn.Module]:
    """What looks at batches: the network and its teachers."""
    return [module] if loss.teacher is None else [module, loss.teacher]


def weights_of(module: nn.Module) -> list[Tensor]:
    """What the processes must share at each step: parameters and buffers of real numbers."""
    return [tensor for tensor in module.state_dict().values() if tensor.is_floating_point()]


def collect_gradients(team: Team, parameters: Iterable[nn.Parameter], figures: Tensor, asked: bool = False) -> bool:
    """Sum gradients and `figures` [2] over all processes into the leader's; whether any of them was asked to stop."""
    held = [parameter for parameter in parameters if parameter.grad is not None]
    gradients: list[Any] = [parameter.grad for parameter in held]
    flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), figures, figures.new_tensor([float(asked)])])
    team.collect(flat)
    if team.rank == 0:
        sizes = [gradient.numel() for gradient in gradients]
        *sums, totals, stops = flat.split([*sizes, 2, 1])
        for gradient, values in zip(gradients, sums, strict=True):
            gradient.copy_(values.view_as(gradient))
        figures.copy_(totals)
        return bool(stops > 0)
    return False


def checksum(module: nn.Module) -> Tensor:
    """The SHA-256 of what `weights_of` gives: uint8 [32], on the module's device."""
    digest = hashlib.sha256()
    weights = weights_of(module)
    for tensor in weights:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8).to(weights[0].device)


def as_number(weight: float) -> int:
    """A float64 as the whole number of its bits, for a call."""
    return int(struct.unpack("<q", struct.pack("<d", weight))[0])


def as_weight(number: int) -> float:
    """The inverse of `as_number`."""
    return float(struct.unpack("<d", struct.pack("<q", number))[0])
