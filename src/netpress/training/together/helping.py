"""What the helpers of a training do: they compute the gradients of their parts of its batches."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from netpress.data import Mixed
from netpress.process.devices import set_threads
from netpress.process.team import END, Team
from netpress.training.accelerated import accelerate
from netpress.training.losses import Loss
from netpress.training.placement import lay_out
from netpress.training.step import answer
from netpress.training.together.leading import (
    CHECK,
    REMEMBER,
    STEP,
    TRAIN,
    as_weight,
    checksum,
    collect_gradients,
    modules_of,
    weights_of,
)
from netpress.training.together.share import Share
from netpress.training.together.swapping import shared


def serve(team: Team) -> None:
    """Help with one training after another, until the leader ends."""
    with ExitStack() as stack:
        helper: _Helper | None = None
        while (call := team.hear())[0] != END:
            command, *numbers = call
            if command == TRAIN:
                helper = _Helper(team, team.listen())
                stack.close()
                stack.enter_context(shared(modules_of(helper.module, helper.loss), helper.share))
                stack.enter_context(accelerate(helper.module))
                continue
            assert helper is not None, "a training is begun before its steps"
            if command == REMEMBER:
                helper.remember(team.listen())
            elif command == STEP:
                helper.take_step(numbers)
            elif command == CHECK:
                helper.check()
                stack.close()
                helper = None


class _Helper:
    """One training, as a helper knows it."""

    def __init__(self, team: Team, told: dict[str, Any]) -> None:
        self.team = team
        self.share = Share(team)
        set_threads(told["threads"])
        self.module = told["module"].train()
        self.loss: Loss = told["loss"]
        self.losses = told["losses"]
        self.bfloat16: bool = told["bfloat16"]
        self.classes: int = told["classes"]
        for module in modules_of(self.module, self.loss):
            lay_out(module, team.device)
        if self.loss.teacher is not None and told["recalls"]:
            self.loss.teacher.recall = self._recall
        self.parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def remember(self, states: dict[str, Any]) -> None:
        """Take over what the losses remember."""
        for name, state in states.items():
            if state:
                self.losses[name].load_state_dict(state)

    def take_step(self, numbers: list[int]) -> None:
        """Compute the gradients of this process's part of a batch, and hand them over."""
        whole, channels, height, width, weight, seed, _ = numbers
        team, device = self.team, self.team.device
        self.share.divide(whole)
        team.spread(weights_of(self.module))
        rows = self.share.rows
        count = rows.stop - rows.start
        pixels = team.receive(torch.empty(count, height, width, channels, device=device), 0).permute(0, 3, 1, 2)
        labels = team.receive(torch.empty(2, count, dtype=torch.int64, device=device), 0)
        mixed = Mixed(labels[0], labels[1], as_weight(weight))
        torch.manual_seed(seed)
        for parameter in self.parameters:
            parameter.grad = None
        loss, right = answer(self.module, self.loss, pixels, mixed, self.bfloat16)
        (loss * self.share.fraction).backward()
        figures = torch.stack([loss.detach() * self.share.fraction, right])
        asked = team.request is not None and team.request.number is not None
        collect_gradients(team, self.parameters, figures, asked)
        self.share.is_split = False

    def check(self) -> None:
        """Say what network this process holds, once it has the leader's."""
        self.team.spread(weights_of(self.module))
        self.team.send(checksum(self.module), 0)

    def _recall(self, index: int, ask: Callable[[], Tensor]) -> Tensor:
        """As the leader's, which keeps the answers to the whole batch and sends those to this part."""
        asked = torch.zeros(1)
        self.team.spread([asked])
        rows = self.share.rows
        if bool(asked):
            self.team.send(ask(), 0)
        answers = torch.empty(rows.stop - rows.start, self.classes, device=self.team.device)
        return self.team.receive(answers, 0)
