"""What a loss is: an object called with a batch's answers, which gives the number that a training makes small.

    class Smallest(LossSettings):                        what a recipe may say
        kind: Literal["smallest"] = "smallest"

        def make(self, lesson: Lesson) -> Loss:
            return SmallestLoss(lesson.teacher(self.teachers))

    class SmallestLoss(Loss):                            what a training calls at every step
        def __call__(self, logits: Tensor, labels: Mixed, pixels: Tensor) -> Tensor: ...

Both stand in one file of this folder; the settings are named in `netpress.training.losses.registry`, and nowhere else.
A loss is a part of the training: it may look at the network at the start of each epoch, and what it remembers is saved.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from netpress.data import Mixed
from netpress.network import FILES, Library, Network
from netpress.settings import Settings
from netpress.training.part import Part
from netpress.training.placement import lay_out
from netpress.training.teachers import DISTILLATION, MeanTeacher, TeacherMode, load_teachers

OWN = "of the stage itself"  # the lesson's own teacher has no file that could name it


class Loss(Part):
    """A loss of one training; it owns its teachers."""

    teacher: MeanTeacher | None = None
    """Who teaches, where somebody does."""

    def __call__(self, logits: Tensor, labels: Mixed, pixels: Tensor) -> Tensor:
        """The mean loss of a batch: a scalar with a gradient.

        `logits` are the network's answers in float32, [batch, classes]. `pixels` are the images that it saw,
        augmented, normalised and mixed, [batch, channels, height, width], for teachers to see the same. It runs in
        the precision of the forward pass: what multiplies matrices here, a teacher, does so in bfloat16 where the
        network does; sums of float32 stay float32.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Lesson:
    """What a loss may use: the network that learns, where it learns, and who may teach it."""

    student: Network
    device: torch.device
    own_teacher: Network | None = None
    """Teaches where no teachers are named: the network before quantization, for example."""
    library: Library = FILES
    """What names of teachers stand for."""

    def teacher(
        self,
        names: tuple[str, ...],
        scale: float = 1.0,
        setting: str = DISTILLATION,
        mode: TeacherMode = "evaluation",
    ) -> MeanTeacher:
        """The teachers of these names in the library, or the lesson's own where there is no name.

        It maps images that are normalised for the student to logits, which have `scale` in them (see `MeanTeacher`).
        Raises UserError as `load_teachers`; `setting` is where the names stand. The lesson's own teacher is in
        evaluation mode: it may be one whose norms are folded.
        """
        if self.own_teacher is not None and not names and mode == "evaluation":
            teacher = MeanTeacher([self.own_teacher], self.student.input, scale=scale, names=(OWN,))
        else:
            teacher = load_teachers(names, self.student, self.library, scale, setting, mode)
        lay_out(teacher, self.device)
        return teacher


class LossSettings(Settings):
    """Settings of a loss; `kind` tells them apart."""

    kind: str

    def check(self, student: Network) -> None:
        """Raise UserError, before the long work, where this loss does not fit the network."""

    def check_teachers(self, student: Network, own_teacher: bool, library: Library) -> None:
        """Raise UserError, building nothing, where this loss lacks a teacher or names one that does not fit.

        `own_teacher` says that the stage has a teacher where no name is given.
        """

    def make(self, lesson: Lesson) -> Loss:
        """The loss of one training. Raises UserError where a teacher is missing or does not fit."""
        raise NotImplementedError
