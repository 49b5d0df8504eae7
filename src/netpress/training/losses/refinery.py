"""Label refinery: a teacher's answers to the very image that the student sees, in the place of its label.

Bagherinezhad et al., arXiv 1805.02641, with a scale for networks whose answers are cosines:

    loss = - sum_k p_k log softmax(scale * logits)_k,   p = softmax(scale * teacher's logits)
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from netpress.data import Mixed
from netpress.network import Library, Network
from netpress.settings import Positive
from netpress.training.losses.loss import Lesson, Loss, LossSettings
from netpress.training.teachers import MeanTeacher, TeacherMode, check_teachers

SETTING = "loss.teachers"  # as messages name it


class LabelRefinery(LossSettings):
    """Cross-entropy with a teacher's answers to the same augmented, mixed image (Bagherinezhad et al. 2018).

    The labels of the training images are never read, but for the accuracy that the log shows.
    """

    kind: Literal["label_refinery"] = "label_refinery"
    teachers: tuple[str, ...] = ()
    """Network files, run folders or other networks of the recipe; their probabilities are averaged. Empty where the
    stage supplies a teacher."""
    mode: TeacherMode = "evaluation"
    """How teachers normalise: by their running statistics, or by each batch, as upstream label refinery did."""
    keep_answers: bool = False
    """Round teachers' answers to float16 and keep them on disk: trainings that show them the same images ask once."""
    scale: Positive = 1.0
    """Multiplies the logits of student and teachers alike; 5 for cosine heads (UCI 2019)."""

    def check_teachers(self, student: Network, own_teacher: bool, library: Library) -> None:
        if self.teachers or not own_teacher or self.mode != "evaluation":
            check_teachers(self.teachers, student, library, SETTING, self.mode)

    def make(self, lesson: Lesson) -> "RefinedLoss":
        return RefinedLoss(lesson.teacher(self.teachers, self.scale, SETTING, self.mode), self.scale)


class RefinedLoss(Loss):
    """`teacher` maps pixels to the logarithms of its answers, with the scale in them: [batch, classes]."""

    teacher: MeanTeacher

    def __init__(self, teacher: MeanTeacher, scale: float) -> None:
        self.teacher = teacher
        self.scale = scale

    def __call__(self, logits: Tensor, labels: Mixed, pixels: Tensor) -> Tensor:
        return F.cross_entropy(self.scale * logits, self.teacher(pixels).softmax(dim=1))
