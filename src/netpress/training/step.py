"""One training step, from the indices of a batch to moved weights.

Randomness: a step's generators are made for (seed, stage, round, epoch, step, purpose) alone, so a resumed run needs
no saved generator states. Modules that draw from torch's global generator (nn.Dropout, a user's own code) are
made reproducible by seeding that generator at every step; the loop does this inside `torch.random.fork_rng`,
so that the caller's stream is left as it was.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netpress.data import Images, Mixed, augment, mix, normalize
from netpress.network import Network
from netpress.process.devices import generator_for, seed_for
from netpress.training.averaging import WeightAverage
from netpress.training.losses import (
    AdaptiveLabelSmoothing,
    CrossEntropy,
    class_likeness,
    classifier_weight,
    count_right,
    cross_entropy,
    distill,
    target_table,
)
from netpress.training.masking import MaskHolder
from netpress.training.optimizers import make_optimizer
from netpress.training.regularizers import spectral_penalty
from netpress.training.settings import TrainSettings


@dataclass(frozen=True)
class StepRandomness:
    """The random streams of one step, by purpose."""

    seed: int
    place: tuple[str | int, ...]
    """The stage's name, then round, epoch and step from 0."""
    device: torch.device

    def generator(self, purpose: str) -> torch.Generator:
        return generator_for(self.seed, *self.place, purpose, device=self.device)

    def seed_global(self) -> None:
        """Seed the generator that modules such as nn.Dropout draw from."""
        torch.manual_seed(seed_for(self.seed, *self.place, "modules"))


class TrainingStep:
    """Everything that a step of one round needs; `take` takes the step."""

    def __init__(
        self,
        network: Network,
        settings: TrainSettings,
        images: Images,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        teacher: nn.Module | None = None,
    ) -> None:
        self.settings = settings
        self.module = network.module
        self.images = images
        self.mean, self.std = mean, std
        self.teacher = teacher
        self.device = images.images.device
        self.classes = len(network.classes)
        self.forward: Callable[[Tensor], Tensor] = self.module
        self.compiled = settings.compile == "on" or (settings.compile == "auto" and self.device.type == "cuda")
        if self.compiled:
            self.forward = torch.compile(self.module)
        self.bfloat16 = settings.precision == "bfloat16" or (
            settings.precision == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.penalty = spectral_penalty(self.module, settings.orthogonality) if settings.orthogonality else None
        self.masks = MaskHolder(network)
        self.parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.table: Tensor | None = None
        self.begin_round()
        self.begin_epoch()

    def begin_round(self) -> None:
        """A new optimizer and, where one is asked for, a new moving average."""
        self.optimizer = make_optimizer(self.module, self.settings.optimizer)
        average = self.settings.average
        self.average = WeightAverage(self.module, average.decay, average.warmup) if average else None

    def begin_epoch(self) -> None:
        """Read the targets of adaptive label smoothing from the classifier's present weights."""
        loss = self.settings.loss
        match loss:
            case CrossEntropy():
                self.table = None
            case AdaptiveLabelSmoothing():
                likeness = class_likeness(classifier_weight(self.module), loss)
                self.table = target_table(loss, self.classes, likeness)
            case _:
                self.table = target_table(loss, self.classes).to(self.device)

    def take(self, indices: Tensor, learning_rate: float, randomness: StepRandomness) -> Tensor:
        """Take one step on the images numbered `indices` (on the device): [loss, SRIP term, images right], float64.

        The loss is the mean over the batch without the SRIP term. The weights move even where the loss is not
        finite: on a GPU nobody looks at it before they do.
        """
        randomness.seed_global()
        pixels, mixed = self.prepare(indices, randomness)
        loss, term, right = self.measure(pixels, mixed, randomness)
        self.update(loss, term, learning_rate)
        return torch.stack([loss.detach().double(), term.detach().double(), right.double()])

    def prepare(self, indices: Tensor, randomness: StepRandomness) -> tuple[Tensor, Mixed]:
        """Augmented, normalised, mixed images [batch, channels, height, width] and their mixed labels.

        Numbers run over the images once for each copy that the augmentation asks for.
        """
        count = len(self.images)
        copy, indices = indices // count, indices % count
        pixels = augment(self.images.images[indices], self.settings.augment, randomness.generator("augment"), copy)
        labels = self.images.labels[indices]
        return mix(normalize(pixels, self.mean, self.std), labels, self.settings.mix, randomness.generator("mix"))

    def measure(self, pixels: Tensor, mixed: Mixed, randomness: StepRandomness) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, SRIP term and the number of images right: three scalars."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.forward(pixels)
            answers = self.teacher(pixels) if self.teacher is not None else None
        logits = logits.float()
        loss = cross_entropy(logits, mixed, self.table)
        distillation = self.settings.distillation
        if distillation is not None and answers is not None:
            learned = distill(logits, answers.detach().float(), distillation.temperature)
            loss = (1 - distillation.weight) * loss + distillation.weight * learned
        term = self.penalty(randomness.generator("srip")) if self.penalty else loss.new_zeros(())
        return loss, term, count_right(logits.detach(), mixed)

    def update(self, loss: Tensor, term: Tensor, learning_rate: float) -> None:
        """Move the weights against the gradient of the loss and the SRIP term; masked weights stay zero."""
        self.optimizer.zero_grad(set_to_none=True)
        (loss + term if self.penalty else loss).backward()
        self.masks.mask_gradients()
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.masks.mask_weights()
        if self.average is not None:
            self.average.update()
