"""The weights of a training: those that it moves, and those that it keeps."""

import torch
from torch import Tensor, nn

from netpress.training.averaging import WeightAverage, copy_tensors
from netpress.training.part import Part, State, prefixed, section
from netpress.training.settings import TrainSettings


class Weights(Part):
    """The tensors of the module that is trained."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.trained = [parameter for parameter in module.parameters() if parameter.requires_grad]

    @property
    def are_finite(self) -> bool:
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.trained)

    def state_dict(self) -> State:
        return self.module.state_dict()

    def load_state_dict(self, state: State) -> None:
        self.module.load_state_dict(state)


class KeptWeights(Part):
    """Remembers the best weights of a round where the settings ask for it, and how long ago they were measured."""

    def __init__(self, module: nn.Module, settings: TrainSettings, average: WeightAverage | None) -> None:
        self.module = module
        self.settings = settings
        self.average = average
        self.last: dict[str, Tensor] = {}  # filled at the end, where the kept weights are others
        self.accuracy = 0.0  # of the kept weights, filled at the end
        self.begin_round()

    def begin_round(self) -> None:
        """The weights of earlier rounds are no candidates."""
        self.best: dict[str, Tensor] = {}
        self.best_accuracy = -1.0
        self.waited = 0  # evaluations since the best one

    def measured(self, accuracy: float) -> None:
        """The module's present weights, the averaged ones where there is an average, have this accuracy."""
        if accuracy > self.best_accuracy:
            self.best_accuracy, self.waited = accuracy, 0
            if self.settings.keep == "best":
                self.best = copy_tensors(self.module)
        else:
            self.waited += 1

    @property
    def is_waiting_in_vain(self) -> bool:
        """Whether the accuracy has not risen for as long as early stopping bears."""
        stopping = self.settings.early_stopping
        return stopping is not None and self.waited >= stopping.patience

    def finish(self, accuracy: float) -> None:
        """Put the kept weights in the module; `accuracy` is that of the last evaluation."""
        last = copy_tensors(self.module)
        self.accuracy = self.best_accuracy if self.best else accuracy
        if self.best:
            self.module.load_state_dict(self.best)
        elif self.average:
            self.module.load_state_dict(self.average.tensors)
        if self.best or self.average:
            self.last = last
        self.best = {}

    def state_dict(self) -> State:
        values = {"best_accuracy": self.best_accuracy, "waited": self.waited, "accuracy": self.accuracy}
        return values | prefixed("best", self.best) | prefixed("last", self.last)

    def load_state_dict(self, state: State) -> None:
        self.best_accuracy, self.waited, self.accuracy = state["best_accuracy"], state["waited"], state["accuracy"]
        self.best, self.last = section("best", state), section("last", state)
