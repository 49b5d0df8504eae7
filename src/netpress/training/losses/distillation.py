"""Distillation: a teacher's softened answers as a second target."""

from torch import Tensor
from torch.nn import functional as F

from netpress.data import Mixed
from netpress.network import Library, Network
from netpress.settings import Fraction, Positive, Settings
from netpress.training.losses.loss import Lesson, Loss
from netpress.training.teachers import MeanTeacher, TeacherMode, check_teachers


class Distillation(Settings):
    """A teacher's softened answers as a second target (Hinton et al. 2015)."""

    teachers: tuple[str, ...] = ()
    """Network files, run folders or other networks of the recipe; their probabilities are averaged. Empty where the
    stage supplies a teacher."""
    mode: TeacherMode = "evaluation"
    """How teachers normalise: by their running statistics, or by each batch, as upstream label refinery did."""
    keep_answers: bool = False
    """Round teachers' answers to float16 and keep them on disk: trainings that show them the same images ask once."""
    weight: Fraction = 0.5
    """Share of the teacher in the loss; the rest is the labels'."""
    temperature: Positive = 4.0
    """Divides both logits."""
    t_squared: bool = True
    """Multiply the teacher's term by the squared temperature, so that its gradients keep their size; IMT did not."""

    def check_teachers(self, student: Network, own_teacher: bool, library: Library) -> None:
        """As in `netpress.training.losses.loss.LossSettings`."""
        if self.teachers or not own_teacher or self.mode != "evaluation":
            check_teachers(self.teachers, student, library, mode=self.mode)

    def join(self, loss: Loss, lesson: Lesson) -> "DistilledLoss":
        """`loss` with the teacher's term beside it. Raises UserError where the teacher is missing or does not fit."""
        return DistilledLoss(loss, lesson.teacher(self.teachers, mode=self.mode), self)


class DistilledLoss(Loss):
    """The mean of another loss, a part of its own, and of the divergence from a teacher's answers, by their shares."""

    teacher: MeanTeacher

    def __init__(self, loss: Loss, teacher: MeanTeacher, settings: Distillation) -> None:
        self.loss = loss
        self.teacher = teacher
        self.weight = settings.weight
        self.temperature = settings.temperature
        self.t_squared = settings.t_squared

    def __call__(self, logits: Tensor, labels: Mixed, pixels: Tensor) -> Tensor:
        loss = self.loss(logits, labels, pixels)
        learned = distill(logits, self.teacher(pixels), self.temperature, self.t_squared)
        return (1 - self.weight) * loss + self.weight * learned


def distill(logits: Tensor, teacher_logits: Tensor, temperature: float, t_squared: bool = True) -> Tensor:
    """Kullback-Leibler divergence from the teacher's softened distribution, with the factor temperature squared or not.

    Both logits are [batch, classes]; the mean over the batch is returned (Hinton et al. 2015).
    """
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2 if t_squared else divergence
