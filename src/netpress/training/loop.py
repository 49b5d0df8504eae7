"""The training loop: rounds of epochs of steps, and going on after an interruption.

The loop takes the steps, tells the parts what happens (`netpress.training.part`), and saves what they remember.
"""

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from netpress.errors import Failure, UserError
from netpress.evaluation.accuracy import evaluate_module
from netpress.network import Network
from netpress.process.console import Progress
from netpress.process.interruption import Request, deferred
from netpress.process.memory import keep_freed_memory
from netpress.settings import SettingsError, parse
from netpress.stage import Context
from netpress.training.accelerated import accelerate
from netpress.training.answers import KeptAnswers
from netpress.training.averaging import copy_tensors
from netpress.training.batching import epoch_batches, epoch_images
from netpress.training.checks import check_data, check_teaching
from netpress.training.keeping import KeptWeights, Weights
from netpress.training.masking import MaskHolder
from netpress.training.part import Part, collect, restore
from netpress.training.placement import lay_out
from netpress.training.position import EpochFigures, Position
from netpress.training.schedules import outline
from netpress.training.settings import TrainSettings
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
    network: Network,
    settings: TrainSettings,
    context: Context,
    more_parts: Mapping[str, Part] | None = None,
    *,
    own_teacher: Network | None = None,
    masks: Callable[[Network], MaskHolder] = MaskHolder,
) -> Trained:
    """Train `network` in place, as `settings` say, on the training images of `context`.

    The state is saved in the context's folder after every epoch and every `save_every_seconds`; called again
    with the same arguments, the training goes on from there, on a CPU to the same bits. A finished training
    returns its result at once; the caller clears the state once that result is safe. For several trainings in
    one stage, give each its own `context.part(name)`.

    `more_parts`, by name, are told what happens before the optimizer, the averages and whatever else takes steps.
    `own_teacher` teaches where `settings` ask for a teacher and name none; its module is then moved to the device and
    put in evaluation mode for good. `masks` makes what holds the network's masks, once its tensors lie where they
    train. Raises UserError where settings, data and teachers do not fit, Failure where the loss is no longer finite.
    """
    if context.device.type == "cpu":
        keep_freed_memory()
    training = _Training(network, settings, context, more_parts or {}, own_teacher, masks)
    devices = [context.device] if context.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), accelerate(network.module):
        try:
            return training.run()
        finally:
            training.close()


class _Training:
    def __init__(
        self,
        network: Network,
        settings: TrainSettings,
        context: Context,
        more_parts: Mapping[str, Part],
        own_teacher: Network | None,
        masks: Callable[[Network], MaskHolder],
    ) -> None:
        data, device = context.data, context.device
        try:
            check_data(network, settings, data)
            check_teaching(network, settings, own_teacher is not None, context.library)
        except UserError as error:
            raise UserError(f"{context.name}: {error}") from None
        self.network, self.settings, self.context = network, settings, context
        self.selection = data.selection.to(device)
        lay_out(network.module, device)
        self.taken = TrainingStep(
            network,
            settings,
            data.train.to(device),
            own_teacher=own_teacher,
            library=context.library,
            masks=masks,
            team=context.world.team,
        )
        self.taken.masks.mask_weights()
        self.weights = Weights(network.module)
        self.position = Position(settings, len(self._batches((0, 0))))
        self.figures = EpochFigures(device)
        self.kept = KeptWeights(network.module, settings, self.taken.average)
        self.parts: dict[str, Part] = {
            "position": self.position,
            "figures": self.figures,
            "weights": self.weights,
            **more_parts,
            **self.taken.parts,
            "kept": self.kept,
        }
        for part in self.parts.values():
            part.begin_training(self.position.steps * settings.epochs)
        self.answers = self._keep_answers()
        self.resumed = self._resume()

    def run(self) -> Trained:
        if not self.resumed:
            self._say_teachers()
        total = self.position.steps * self.settings.epochs
        crew = self.taken.crew
        if crew is not None and not self.position.is_over:
            crew.begin()
        with self.context.console.progress(self.context.name, total) as progress, deferred() as request:
            while not self.position.is_over:
                self._run_epoch(progress, request)
                self._save()
                request.obey()
        if self.answers is not None and self.answers.place is not None:
            self.context.console.say(f"{self.context.name}: {self.answers.describe()}")
        if crew is not None:
            crew.end()
        self.network.module.eval()
        return Trained(self.network, self.kept.last or copy_tensors(self.network.module), self.kept.accuracy)

    def close(self) -> None:
        if self.taken.crew is not None:
            self.taken.crew.close()
        for part in self.parts.values():
            part.close()

    def _run_epoch(self, progress: Progress, request: Request) -> None:
        """Take the steps left in this epoch, measure, log, and go to the next one."""
        self.network.module.train()
        if self.position.step == 0:
            for part in self.parts.values():
                part.begin_epoch()
        self._take_steps(progress, request)
        accuracy = self._end_epoch()
        round_is_over = self.position.is_last_epoch or self.kept.is_waiting_in_vain
        self.position.end_epoch(round_is_over)
        if self.position.is_over:
            assert accuracy is not None  # the last epoch of a round is always measured
            self.kept.finish(accuracy)
        elif round_is_over:
            for part in self.parts.values():
                part.begin_round()

    def _take_steps(self, progress: Progress, request: Request) -> None:
        """Take the steps left in this epoch; save, and stop where that is asked for, in between."""
        position, figures = self.position, self.figures
        batches = self._batches(position.drawn)
        first, before = position.step, figures.seconds
        started = saved = shown = time.monotonic()
        while position.step < len(batches):
            self._take_step(batches[position.step])
            if self.taken.crew is not None and self.taken.crew.is_asked and request.number is None:
                request.number = signal.SIGTERM  # which only a helper has heard
            last = position.step == len(batches)
            now = time.monotonic()
            asked = request.number is not None  # to stop; after the last step, once the epoch is measured and saved
            due = (asked or now - saved >= self.context.save_every_seconds) and not last
            if self.context.device.type == "cpu" or position.step % CHECK_EVERY == 0 or due or last:
                self._check_finite()
            figures.seconds = before + now - started
            if last or now - shown >= SHOW_EVERY:
                shown = now
                self._show(progress, (position.step - first) * self.settings.batch_size / max(1e-9, now - started))
            if due:
                self._save()
                saved = time.monotonic()
                request.obey()

    def _take_step(self, batch: Tensor) -> None:
        position, device = self.position, self.context.device
        learning_rate = position.learning_rate
        for part in self.parts.values():
            part.begin_step(position.steps_before)
        place = (self.context.name, *position.drawn, position.step)
        indices = batch.to(device, non_blocking=True)
        own = (self.context.name, position.round, position.epoch, position.step)
        randomness = StepRandomness(self.context.seed, place, device, position.epochs_before, own)
        figures = self.taken.take(indices, learning_rate, randomness, position.size)
        self.figures.add(figures, len(batch), learning_rate)
        position.step += 1

    def _end_epoch(self) -> float | None:
        """Measure on the selection images where it is due, log, and remember the best; the accuracy, if measured."""
        figures, images = self.figures, self._images()
        loss, term, right = figures.means(images)
        line: dict[str, Any] = {
            "round": self.position.round + 1,
            "epoch": self.position.epochs_before + 1,
            "learning_rate": figures.learning_rate,
            "learning_rates": outline(self.position.learning_rates),
            "loss": loss,
            "train_accuracy": right,
        }
        if self.settings.orthogonality:
            line["regularizer"] = term
        for part in self.parts.values():
            line |= part.figures()
        accuracy = None
        if self.position.is_measured:
            spec = self.network.input
            with self.taken.average.applied() if self.taken.average else nullcontext():
                measured = evaluate_module(self.network.module, self.selection, spec.mean, spec.std)
                accuracy = measured.accuracy
                self.kept.measured(accuracy)
            line |= {"selection_accuracy": accuracy, "selection_loss": measured.loss}
        line |= {"images_per_second": images / max(1e-9, figures.seconds), "seconds": figures.seconds}
        self.context.log(line)
        figures.lines += 1
        return accuracy

    def _check_finite(self) -> None:
        """Raises Failure where a loss or SRIP term of this epoch was not finite."""
        if not self.figures.are_finite:
            self._diverge("the loss")

    def _diverge(self, what: str) -> NoReturn:
        position = self.position
        hints = "a smaller learning rate, a warmup or clip_norm"
        if self.settings.orthogonality:
            hints += ", or a smaller orthogonality.coefficient"
        raise Failure(
            f"{self.context.name}: {what} is not finite in epoch {position.epochs_before + 1} of "
            f"{self.settings.epochs}, at step {position.step} of {position.steps}, "
            f"learning rate {self.figures.learning_rate:.3g}; "
            f"the last good state stays in {self.context.folder}. Try {hints}, and run again with --fresh"
        )

    def _show(self, progress: Progress, images_per_second: float) -> None:
        position = self.position
        loss, _, right = self.figures.means(min(self._images(), position.step * self.settings.batch_size))
        progress.update(
            position.steps_before,
            epoch=f"{position.epochs_before + 1}/{self.settings.epochs}",
            images_per_second=images_per_second,
            loss=loss,
            accuracy=right,
        )

    def _batches(self, drawn: tuple[int, int]) -> list[Tensor]:
        return epoch_batches(self.settings, self.context, drawn)

    def _images(self) -> int:
        return epoch_images(self.settings, self.context)

    def _save(self) -> None:
        """Write down what the parts remember; nothing where the weights have gone bad."""
        if not self.weights.are_finite:
            self._diverge("a weight")
        tensors, parts = collect(self.parts)
        self.context.save_state(tensors, {"settings": self.settings.model_dump(mode="json"), "parts": parts})

    def _resume(self) -> bool:
        """Go on from the saved state, if there is one, which is returned; cut off what was logged after it."""
        saved = self.context.load_state()
        if saved is not None:
            tensors, values = saved
            try:
                if not _are_same(values["settings"], self.settings):
                    raise UserError(
                        f"{self.context.folder}: holds a training with other settings; "
                        "give the settings that it began with, or --fresh to begin anew"
                    )
                restore(self.parts, tensors, values["parts"])
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise Failure(
                    f"{self.context.folder}: its saved state is damaged ({reason}); "
                    "delete state.safetensors to begin anew"
                ) from error
        self.context.truncate_log(self.figures.lines)
        return saved is not None

    def _keep_answers(self) -> KeptAnswers | None:
        """What keeps the answers of the teacher from here on, where the settings ask for it."""
        teacher, taught = self.taken.loss.teacher, self.settings.taught
        if teacher is None or taught is None or not taught.keep_answers:
            return None
        images, precision = self._images(), "bfloat16" if self.taken.bfloat16 else "float32"
        return KeptAnswers(teacher, self.network, self.settings, self.context, self.position, images, precision)

    def _say_teachers(self) -> None:
        """Say how good the teachers are, before they teach, where there are images to see it on."""
        context, teacher = self.context, self.taken.loss.teacher
        if teacher is not None and len(self.selection):
            kept = self.answers
            found = kept.accuracies(self.selection) if kept else teacher.accuracies(self.network, self.selection)
            for title, accuracy in found.items():
                context.console.say(f"{context.name}: {title}: {accuracy:.2%} on the {context.data.select_on} images")


def _are_same(saved: dict[str, Any], settings: TrainSettings) -> bool:
    """Whether a state was saved under these settings. A setting that is younger than the state has its default."""
    with suppress(SettingsError):
        return parse(type(settings), saved) == settings
    return False
