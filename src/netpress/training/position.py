"""Where a training is, and what it has counted since the epoch began."""

import torch
from torch import Tensor

from netpress.training.part import Part, State
from netpress.training.schedules import rate_at
from netpress.training.settings import TrainSettings


class Position(Part):
    """The next step to take: its round, its epoch in the round and its place in the epoch, all from 0."""

    def __init__(self, settings: TrainSettings, steps: int) -> None:
        """`steps` is how many an epoch has."""
        self.settings = settings
        self.steps = steps
        self.round = self.epoch = self.step = 0

    @property
    def epochs(self) -> int:
        """Epochs of the present round."""
        return self.settings.epochs_of(self.round)

    @property
    def epochs_before(self) -> int:
        """Epochs until the present one, those that earlier rounds stopped short of included."""
        return sum(self.settings.epochs_of(earlier) for earlier in range(self.round)) + self.epoch

    @property
    def drawn(self) -> tuple[int, int]:
        """The round and epoch whose order and changes of the images the present epoch has: its own, or an earlier's."""
        repeat = self.settings.repeat_after
        return (self.round, self.epoch) if repeat is None else (0, self.epochs_before % repeat)

    @property
    def steps_before(self) -> int:
        """Steps until the next one, since the training began."""
        return self.epochs_before * self.steps + self.step

    @property
    def learning_rates(self) -> list[float]:
        """Of every step of the present epoch."""
        highest, schedule = self.settings.optimizer.learning_rate, self.settings.schedule
        return [rate_at(highest, schedule, self.epoch, step, self.epochs, self.steps) for step in range(self.steps)]

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        settings = self.settings
        return rate_at(
            settings.optimizer.learning_rate, settings.schedule, self.epoch, self.step, self.epochs, self.steps
        )

    @property
    def size(self) -> int | None:
        """Side of the images of the next step, where the settings reduce them."""
        sizes = self.settings.sizes
        place, places = self.epoch * self.steps + self.step, self.epochs * self.steps
        return sizes[place * len(sizes) // places] if sizes else None

    @property
    def is_last_epoch(self) -> bool:
        """Whether this is the last epoch of its round, unless the round is stopped before."""
        return self.epoch + 1 == self.epochs

    @property
    def is_measured(self) -> bool:
        """Whether the network is to be measured after this epoch."""
        return self.is_last_epoch or (self.epoch + 1) % self.settings.evaluate_every == 0

    @property
    def is_over(self) -> bool:
        """Whether all rounds are done."""
        return self.round == self.settings.rounds

    def end_epoch(self, round_is_over: bool) -> None:
        """Go to the first step of the next epoch, or of the next round."""
        self.round, self.epoch = (self.round + 1, 0) if round_is_over else (self.round, self.epoch + 1)
        self.step = 0

    def state_dict(self) -> State:
        return {"round": self.round, "epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: State) -> None:
        self.round, self.epoch, self.step = state["round"], state["epoch"], state["step"]


class EpochFigures(Part):
    """Sums over the steps of the present epoch, the seconds spent in it, and the lines logged so far."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, SRIP term, images right
        self.seconds = 0.0
        self.lines = 0
        self.learning_rate = 0.0  # of the step before

    def begin_epoch(self) -> None:
        self.sums.zero_()
        self.seconds = 0.0

    def add(self, figures: Tensor, images: int, learning_rate: float) -> None:
        """Add what a step on so many images gave, which is [mean loss, SRIP term, images right]."""
        figures[:2] *= images  # means become sums, since the last batch may be smaller
        self.sums += figures
        self.learning_rate = learning_rate

    def means(self, images: int) -> list[float]:
        """Loss, SRIP term and the share of images right, over so many images."""
        means: list[float] = (self.sums / images).tolist()
        return means

    @property
    def are_finite(self) -> bool:
        return bool(torch.isfinite(self.sums).all())

    def state_dict(self) -> State:
        return {"sums": self.sums, "seconds": self.seconds, "lines": self.lines}

    def load_state_dict(self, state: State) -> None:
        self.sums.copy_(state["sums"])
        self.seconds, self.lines = state["seconds"], state["lines"]
