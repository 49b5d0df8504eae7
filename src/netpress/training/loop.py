"""The training loop: rounds of epochs of steps, and going on after an interruption."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from netpress.data import shuffled_batches
from netpress.errors import Failure, UserError
from netpress.evaluation.accuracy import Evaluation, evaluate_module
from netpress.network import Network
from netpress.process.console import Progress
from netpress.process.devices import generator_for
from netpress.process.interruption import Request, deferred
from netpress.process.memory import keep_freed_memory
from netpress.stage import Context
from netpress.training.accelerated import accelerate
from netpress.training.losses import AdaptiveLabelSmoothing, classifier_weight
from netpress.training.norms import NormWarmup
from netpress.training.optimizers import rate_at
from netpress.training.regularizers import penalised_weights
from netpress.training.settings import TrainSettings
from netpress.training.state import lay_out, load_optimizer, optimizer_tensors, prefixed, section
from netpress.training.step import StepRandomness, TrainingStep

SHOW_EVERY = 0.5  # seconds between updates of the progress display
CHECK_EVERY = 50  # steps between looks at the figures on a GPU, where each look waits for the device


@dataclass(frozen=True)
class Trained:
    """What a training gives. `network` holds the kept weights, `last` the tensors after the very last step."""

    network: Network
    last: dict[str, Tensor]
    selection_accuracy: float
    """Accuracy of the kept weights on the selection images, a fraction."""


def run_training(
    network: Network, settings: TrainSettings, context: Context, *, teacher: nn.Module | None = None
) -> Trained:
    """Train `network` in place, as `settings` say, on the training images of `context`.

    The state is saved in the context's folder after every epoch and every `save_every_seconds`; called again
    with the same arguments, the training goes on from there, on a CPU to the same bits. A finished training
    returns its result at once; the caller clears the state once that result is safe. For several trainings in
    one stage, give each its own `context.part(name)`.

    `teacher` maps normalised images to logits and is needed where `settings.distillation` is given.
    Raises UserError where settings and data do not fit, Failure where the loss is no longer finite.
    """
    if context.device.type == "cpu":
        keep_freed_memory()
    training = _Training(network, settings, context, teacher)
    devices = [context.device] if context.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), accelerate(network.module):
        try:
            return training.run()
        finally:
            training.norms.restore()


class _Training:
    def __init__(self, network: Network, settings: TrainSettings, context: Context, teacher: nn.Module | None) -> None:
        data = context.data
        _check(network, settings, context, teacher)
        self.network, self.settings, self.context = network, settings, context
        self.train_images = data.train.to(context.device)
        # Each copy of the images has a policy of its own: numbers run over all copies.
        self.count = len(self.train_images) * settings.augment.copies
        self.selection = data.selection.to(context.device)
        self.steps = len(self._batches(0, 0))
        # Where the training is: the next step to take, all from 0.
        self.round = self.epoch = self.step = 0
        self.sums = torch.zeros(3, dtype=torch.float64, device=context.device)  # loss, SRIP, right; of this epoch
        self.rate = 0.0  # the learning rate of the step before
        self.lines = 0  # logged so far
        self.seconds = 0.0  # spent in this epoch before the last interruption
        self.best: dict[str, Tensor] = {}
        self.best_accuracy = -1.0
        self.waited = 0  # evaluations since the best one
        self.last: dict[str, Tensor] = {}  # filled at the end, where the kept weights are others
        self.kept_accuracy = 0.0  # of the kept weights, filled at the end
        lay_out(network.module, context.device)
        if teacher is not None:
            lay_out(teacher, context.device)
        self.taken = TrainingStep(network, settings, self.train_images, network.input.mean, network.input.std, teacher)
        self.taken.masks.mask_weights()
        # A compiled network would be compiled anew whenever a momentum changes.
        self.norms = NormWarmup(network.module if settings.norm_warmup and not self.taken.compiled else nn.Module())
        self._resume()

    def run(self) -> Trained:
        total = self.steps * self.settings.epochs
        with self.context.console.progress(self.context.name, total) as progress, deferred() as request:
            while self.round < self.settings.rounds:
                accuracy = self._run_epoch(progress, request)
                if self._is_round_over():
                    self._end_round(accuracy)
                else:
                    self.epoch += 1
                self.step, self.seconds = 0, 0.0
                self.sums.zero_()
                self._save()
                request.obey()
        self.network.module.eval()
        return Trained(self.network, self.last or self._copy_tensors(), self.kept_accuracy)

    def _run_epoch(self, progress: Progress, request: Request) -> float | None:
        """Take the steps left in this epoch, measure, log; the selection accuracy where it was measured."""
        device = self.context.device
        self.network.module.train()
        if self.step == 0:
            self.taken.begin_epoch()
        batches = self._batches(self.round, self.epoch)
        before = self.seconds
        started = saved = shown = time.monotonic()
        first = self.step
        while self.step < len(batches):
            self.rate = self._rate()
            self.norms.begin_step((self._epochs_before() + self.epoch) * self.steps + self.step)
            randomness = StepRandomness(
                self.context.seed, (self.context.name, self.round, self.epoch, self.step), device
            )
            indices = batches[self.step].to(device, non_blocking=True)
            figures = self.taken.take(indices, self.rate, randomness)
            figures[:2] *= len(indices)  # means become sums, since the last batch may be smaller
            self.sums += figures
            self.step += 1
            last = self.step == len(batches)
            now = time.monotonic()
            asked = request.number is not None  # to stop; after the last step, once the epoch is measured and saved
            due = (asked or now - saved >= self.context.save_every_seconds) and not last
            if device.type == "cpu" or self.step % CHECK_EVERY == 0 or due or last:
                self._check_finite()
            self.seconds = before + now - started
            if last or now - shown >= SHOW_EVERY:
                shown = now
                self._show(progress, (self.step - first) * self.settings.batch_size / max(1e-9, now - started))
            if due:
                self._save()
                saved = time.monotonic()
                request.obey()
        return self._end_epoch()

    def _end_epoch(self) -> float | None:
        """Measure on the selection images where it is due, log, and remember the best; the accuracy, if measured."""
        loss, term, right = (self.sums / self._images()).tolist()
        line: dict[str, Any] = {
            "round": self.round + 1,
            "epoch": self._epochs_before() + self.epoch + 1,
            "learning_rate": self.rate,
            "loss": loss,
            "train_accuracy": right,
        }
        if self.settings.orthogonality:
            line["regularizer"] = term
        accuracy = None
        if self._is_measured():
            with self.taken.average.applied() if self.taken.average else nullcontext():
                measured = self._evaluate()
                accuracy = measured.accuracy
                self._remember(accuracy)
            line |= {"selection_accuracy": measured.accuracy, "selection_loss": measured.loss}
        line |= {"images_per_second": self._images() / max(1e-9, self.seconds), "seconds": self.seconds}
        self.context.log(line)
        self.lines += 1
        return accuracy

    def _remember(self, accuracy: float) -> None:
        if accuracy > self.best_accuracy:
            self.best_accuracy, self.waited = accuracy, 0
            if self.settings.keep == "best":
                self.best = self._copy_tensors()
        else:
            self.waited += 1

    def _end_round(self, accuracy: float | None) -> None:
        """Go to the next round, from the last weights; after the last one, put the kept weights in the network."""
        self.round, self.epoch = self.round + 1, 0
        if self.round < self.settings.rounds:
            self.best, self.best_accuracy, self.waited = {}, -1.0, 0
            self.taken.begin_round()
            return
        last = self._copy_tensors()
        if self.best:
            self.kept_accuracy = self.best_accuracy
            self.network.module.load_state_dict(self.best)
        else:
            assert accuracy is not None  # the last epoch of a round is always measured
            self.kept_accuracy = accuracy
            if self.taken.average:
                self.network.module.load_state_dict(self.taken.average.tensors)
        if self.best or self.taken.average:
            self.last = last
        self.best = {}

    def _is_round_over(self) -> bool:
        stopping = self.settings.early_stopping
        stopped = stopping is not None and self.waited >= stopping.patience
        return stopped or self.epoch + 1 == self.settings.epochs_of(self.round)

    def _is_measured(self) -> bool:
        last = self.epoch + 1 == self.settings.epochs_of(self.round)
        return last or (self.epoch + 1) % self.settings.evaluate_every == 0

    def _evaluate(self) -> Evaluation:
        spec = self.network.input
        return evaluate_module(self.network.module, self.selection, spec.mean, spec.std)

    def _check_finite(self) -> None:
        """Raises Failure where a loss or SRIP term of this epoch was not finite."""
        if not bool(torch.isfinite(self.sums).all()):
            self._diverge("the loss")

    def _diverge(self, what: str) -> NoReturn:
        epoch = self._epochs_before() + self.epoch + 1
        hints = "a smaller learning rate, a warmup or clip_norm"
        if self.settings.orthogonality:
            hints += ", or a smaller orthogonality.coefficient"
        raise Failure(
            f"{self.context.name}: {what} is not finite in epoch {epoch} of {self.settings.epochs}, "
            f"at step {self.step} of {self.steps}, learning rate {self.rate:.3g}; "
            f"the last good state stays in {self.context.folder}. Try {hints}, and run again with --fresh"
        )

    def _show(self, progress: Progress, images_per_second: float) -> None:
        loss, _, right = (self.sums / min(self._images(), self.step * self.settings.batch_size)).tolist()
        epoch = self._epochs_before() + self.epoch
        progress.update(
            epoch * self.steps + self.step,
            epoch=f"{epoch + 1}/{self.settings.epochs}",
            images_per_second=images_per_second,
            loss=loss,
            accuracy=right,
        )

    def _batches(self, round_index: int, epoch: int) -> list[Tensor]:
        """The epoch's batches of indices. A last batch of one image is left out: norms cannot learn from it."""
        generator = generator_for(self.context.seed, self.context.name, round_index, epoch, "order")
        batches = shuffled_batches(self.count, self.settings.batch_size, generator)
        return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches

    def _images(self) -> int:
        """Images that an epoch passes over."""
        return self.count - 1 if self.steps * self.settings.batch_size < self.count else self.count

    def _epochs_before(self) -> int:
        return sum(self.settings.epochs_of(earlier) for earlier in range(self.round))

    def _rate(self) -> float:
        settings, epochs = self.settings, self.settings.epochs_of(self.round)
        highest = settings.optimizer.learning_rate
        return rate_at(highest, settings.schedule, self.epoch, self.step, epochs, self.steps)

    def _tensors(self) -> dict[str, Tensor]:
        return self.network.module.state_dict()

    def _copy_tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def _save(self) -> None:
        """Write down everything that the steps to come depend on; nothing where the weights have gone bad."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.taken.parameters):
            self._diverge("a weight")
        tensors = prefixed("module", self._tensors()) | prefixed("optimizer", optimizer_tensors(self.taken.optimizer))
        tensors |= prefixed("best", self.best) | prefixed("last", self.last) | {"sums": self.sums}
        if self.taken.table is not None:
            tensors["table"] = self.taken.table
        if self.taken.average:
            tensors |= prefixed("average", self.taken.average.tensors)
        values = {
            "settings": self.settings.model_dump(mode="json"),
            "round": self.round,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "best_accuracy": self.best_accuracy,
            "kept_accuracy": self.kept_accuracy,
            "waited": self.waited,
            "lines": self.lines,
            "updates": self.taken.average.updates if self.taken.average else 0,
        }
        self.context.save_state(tensors, values)

    def _resume(self) -> None:
        """Go on from the saved state, where there is one; cut off what was logged after it."""
        saved = self.context.load_state()
        if saved is None:
            self.context.truncate_log(0)
            return
        try:
            self._take_up(*saved)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise Failure(
                f"{self.context.folder}: its saved state is damaged ({said}); delete state.safetensors to begin anew"
            ) from error

    def _take_up(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        if values["settings"] != self.settings.model_dump(mode="json"):
            raise UserError(
                f"{self.context.folder}: holds a training with other settings; "
                "give the settings that it began with, or --fresh to begin anew"
            )
        self.round, self.epoch, self.step = values["round"], values["epoch"], values["step"]
        self.seconds, self.lines, self.waited = values["seconds"], values["lines"], values["waited"]
        self.best_accuracy, self.kept_accuracy = values["best_accuracy"], values["kept_accuracy"]
        self.sums.copy_(tensors["sums"])
        self.best, self.last = section("best", tensors), section("last", tensors)
        self.network.module.load_state_dict(section("module", tensors))
        load_optimizer(self.taken.optimizer, section("optimizer", tensors))
        if "table" in tensors:
            self.taken.table = tensors["table"].to(self.context.device)
        if self.taken.average:
            self.taken.average.load(section("average", tensors), values["updates"])
        self.context.truncate_log(self.lines)


def check_training(network: Network, settings: TrainSettings, images: int | None = None) -> None:
    """Raise UserError, before the long work, for settings that do not fit the network or so many training images.

    Policy files are read, so that a wrong one is named.
    """
    if images is not None and images < 2:
        raise UserError(f"the data leaves {images} images to train on; at least 2 are needed")
    side = min(network.input.height, network.input.width)
    if settings.augment.crop >= side:
        raise UserError(f"augment.crop: {settings.augment.crop} pixels around images of {side}: some would be blank")
    settings.augment.read_policies()
    if isinstance(settings.loss, AdaptiveLabelSmoothing):
        rows = len(classifier_weight(network.module))
        if rows != len(network.classes):
            raise UserError(
                f"loss: adaptive label smoothing compares the classifier's rows, and the last linear layer has {rows} "
                f"for {len(network.classes)} classes"
            )
    if settings.orthogonality is not None:
        penalised_weights(network.module, settings.orthogonality)


def _check(network: Network, settings: TrainSettings, context: Context, teacher: nn.Module | None) -> None:
    """Raises UserError where the network, the settings and the data do not fit together."""
    data, name = context.data, context.name
    channels, height, width = network.input.size
    if data.train.images.shape[1:] != network.input.size:
        found = "x".join(str(length) for length in data.train.images.shape[1:])
        raise UserError(f"{name}: {data.name} has images of {found}, the network takes {channels}x{height}x{width}")
    if len(data.classes) != len(network.classes):
        raise UserError(f"{name}: {data.name} has {len(data.classes)} classes, the network {len(network.classes)}")
    try:
        check_training(network, settings, len(data.train))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    if (settings.distillation is None) != (teacher is None):
        raise UserError(f"{name}: a distillation needs a teacher, and a teacher a [distillation] table")
