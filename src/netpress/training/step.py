"""One training step, from the indices of a batch to moved weights, and the parts that take a hand in it.

Randomness: the generators of a step are made for (seed, stage, round, epoch, step, purpose) alone, so a training
that goes on after an interruption needs no saved generator. Modules that draw from torch's global generator
(nn.Dropout, a user's own code) find it seeded anew at every step. The loop does this inside `torch.random.fork_rng`,
so that the caller's stream stays as it was.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from netpress.data import Images, Mixed, augment, mix, normalize, shrink
from netpress.evaluation.ranking import best_class
from netpress.network import FILES, Library, Network
from netpress.process.devices import generator_for, seed_for
from netpress.process.team import Team
from netpress.training.averaging import WeightAverage
from netpress.training.losses import Lesson, Loss
from netpress.training.masking import MaskHolder
from netpress.training.norms import NormWarmup
from netpress.training.optimizers import GradientClip, Optimizer
from netpress.training.part import Part
from netpress.training.regularizers import spectral_penalty
from netpress.training.settings import TrainSettings
from netpress.training.together.leading import Crew


@dataclass(frozen=True)
class StepRandomness:
    """The random streams of one step, by purpose."""

    seed: int
    place: tuple[str | int, ...]
    """The stage's name, then round, epoch and step from 0, of the epoch whose draws these are."""
    device: torch.device
    epoch: int = 0
    """Epochs of the training before this step's."""
    own: tuple[str | int, ...] | None = None
    """As `place`, of this step itself where that is another: images come again, noise in the network does not."""

    def generator(self, purpose: str) -> torch.Generator:
        place = self.place if purpose in ("augment", "mix") else self.own or self.place
        return generator_for(self.seed, *place, purpose, device=self.device)

    @property
    def module_seed(self) -> int:
        """Of the generator that modules such as nn.Dropout draw from."""
        return seed_for(self.seed, *(self.own or self.place), "modules")

    def seed_global(self) -> None:
        """Seed the generator that modules such as nn.Dropout draw from."""
        torch.manual_seed(self.module_seed)


class TrainingStep:
    """Everything that a step needs; `take` takes one. Whoever takes steps tells `parts` of rounds and epochs."""

    def __init__(
        self,
        network: Network,
        settings: TrainSettings,
        images: Images,
        *,
        own_teacher: Network | None = None,
        library: Library = FILES,
        masks: Callable[[Network], MaskHolder] = MaskHolder,
        team: Team | None = None,
    ) -> None:
        """`images` lie on the device of the training; `masks` makes what holds the network's masks; `team`: who takes a
        part of each batch, where several do.

        Raises UserError where a teacher is missing or does not fit.
        """
        self.settings = settings
        self.module = network.module
        self.spec = network.input
        self.images = images
        self.device = images.images.device
        self.forward: Callable[[Tensor], Tensor] = self.module
        wanted = settings.compile == "on" or (settings.compile == "auto" and self.device.type == "cuda")
        self.compiled = wanted and team is None  # norms that wait for other processes cannot be compiled
        if self.compiled:
            self.forward = torch.compile(self.module)
        self.bfloat16 = settings.precision == "bfloat16" or (
            settings.precision == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        lesson = Lesson(network, self.device, own_teacher, library)
        self.label_loss = settings.loss.make(lesson)
        distillation = settings.distillation
        self.distilled = distillation.join(self.label_loss, lesson) if distillation else None
        self.loss: Loss = self.distilled or self.label_loss
        self.penalty = spectral_penalty(self.module, settings.orthogonality) if settings.orthogonality else None
        average = settings.average
        self.masks = masks(network)
        self.average = WeightAverage(self.module, average.decay, average.warmup, self.masks) if average else None
        self.optimizer = Optimizer(self.module, settings.optimizer)
        self.parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.parts = self._make_parts()
        losses = {name: part for name, part in self.parts.items() if isinstance(part, Loss)}
        self.crew = Crew(team, network, losses, self.loss, self.bfloat16) if team is not None else None

    def _make_parts(self) -> dict[str, Part]:
        """All parts of a step by name, in the order in which they are told what happens."""
        settings = self.settings
        parts: dict[str, Part | None] = {
            # A compiled network would be compiled anew whenever a momentum changes.
            "norms": NormWarmup(self.module) if settings.norm_warmup and not self.compiled else None,
            "loss": self.label_loss,
            "distillation": self.distilled,
            "masks": self.masks,
            # What masks remove from the gradient does not count for its norm.
            "clip": GradientClip(self.module, settings.clip_norm) if settings.clip_norm is not None else None,
            "optimizer": self.optimizer,
            # The average is one of masked weights.
            "average": self.average,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def take(
        self, indices: Tensor, learning_rate: float, randomness: StepRandomness, size: int | None = None
    ) -> Tensor:
        """Take one step on the images numbered `indices` (on the device): [loss, SRIP term, images right], float64.

        `size` is the side in pixels to which they are reduced, where they are. The loss is the mean over the batch
        without the SRIP term. The weights move even where the loss is not finite: on a GPU nobody looks at it before
        they do.
        """
        randomness.seed_global()
        pixels, mixed = self.prepare(indices, randomness, size)
        if self.crew is not None:
            pixels, mixed = self.crew.hand_out(pixels, mixed, randomness.epoch, randomness.module_seed)
        loss, term, right = self.measure(pixels, mixed, randomness)
        loss, right = self.update(loss, term, right, learning_rate)
        return torch.stack([loss.detach().double(), term.detach().double(), right.double()])

    def prepare(self, indices: Tensor, randomness: StepRandomness, size: int | None = None) -> tuple[Tensor, Mixed]:
        """Augmented, normalised, reduced, mixed images [batch, channels, height, width] and their mixed labels.

        Numbers run over the images once for each copy that the augmentation asks for.
        """
        count = len(self.images)
        copy, indices = indices // count, indices % count
        pixels = augment(self.images.images[indices], self.settings.augment, randomness.generator("augment"), copy)
        labels = self.images.labels[indices]
        pixels = shrink(normalize(pixels, self.spec.mean, self.spec.std), size)
        return mix(pixels, labels, self.settings.mix, randomness.generator("mix"))

    def measure(self, pixels: Tensor, mixed: Mixed, randomness: StepRandomness) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, SRIP term and the number of images right: three scalars."""
        loss, right = answer(self.forward, self.loss, pixels, mixed, self.bfloat16)
        term = self.penalty(randomness.generator("srip")) if self.penalty else loss.new_zeros(())
        return loss, term, right

    def update(self, loss: Tensor, term: Tensor, right: Tensor, learning_rate: float) -> tuple[Tensor, Tensor]:
        """Move the weights against the gradient of the loss and the SRIP term; masked weights stay zero.

        Loss and images right come back: of the whole batch, where those given are of the leader's part of it.
        """
        for parameter in self.parameters:
            parameter.grad = None
        own = loss if self.crew is None else loss * self.crew.share.fraction
        (own + term if self.penalty else own).backward()
        if self.crew is not None:
            loss, right = self.crew.gather(loss, right)
        for part in self.parts.values():
            part.after_backward()
        for part in self.parts.values():
            part.move(learning_rate)
        for part in self.parts.values():
            part.after_move()
        return loss, right


def answer(
    forward: Callable[[Tensor], Tensor], loss: Loss, pixels: Tensor, mixed: Mixed, bfloat16: bool
) -> tuple[Tensor, Tensor]:
    """Mean loss of a batch or a part of one, with a gradient, and the number of images right: two scalars."""
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bfloat16):
        logits = forward(pixels).float()
        measured = loss(logits, mixed, pixels)
    return measured, count_right(logits.detach(), mixed)


def count_right(logits: Tensor, mixed: Mixed) -> Tensor:
    """Images answered rightly, a mixed image counting as the shares of its two labels: float scalar."""
    answers = best_class(logits)
    right = (answers == mixed.labels_a).sum().float()
    if mixed.weight < 1:
        right = mixed.weight * right + (1 - mixed.weight) * (answers == mixed.labels_b).sum()
    return right
