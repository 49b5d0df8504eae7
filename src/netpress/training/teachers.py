"""Teachers: networks whose answers a student learns from.

A loss asks its `Lesson` for them (`netpress.training.losses.loss`), which is the only place where they are built.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from netpress.data import Images
from netpress.errors import UserError
from netpress.evaluation.accuracy import collect_answers
from netpress.evaluation.ranking import best_class
from netpress.network import FILES, InputSpec, Library, Network
from netpress.network.data import class_places, is_unnamed
from netpress.network.edits.folding import FoldNorms
from netpress.tracing.foldable import find_foldable_norms

DISTILLATION = "distillation.teachers"  # where teachers are named, unless a loss has a setting of its own for them

TeacherMode = Literal["evaluation", "batch_statistics"]

Recall = Callable[[int, Callable[[], Tensor]], Tensor]
"""Gives the answers of the teacher of a number to the present batch; the function asks it, where that is needed."""


class MeanTeacher(nn.Module):
    """The mean of several networks' probabilities, as logits, for images normalised for the student."""

    def __init__(
        self,
        networks: list[Network],
        student: InputSpec,
        places: list[list[int] | None] | None = None,
        scale: float = 1.0,
        names: tuple[str, ...] = (),
        mode: TeacherMode = "evaluation",
    ) -> None:
        """places: of each network, which of its answers stands for each class of the student; None: in order.

        scale: multiplies each network's logits before they become probabilities. names: what people call the networks;
        their numbers, from 1, by default. mode: batch_statistics normalises by the mean and variance of each batch,
        as upstream label refinery did; unlike there, running statistics stay as they are and dropout is off.
        """
        super().__init__()
        if not networks:
            raise ValueError("nobody teaches: give at least one network")
        self.networks = networks
        self.scale = scale
        self.names = names or tuple(str(number) for number in range(1, len(networks) + 1))
        self.mode = mode
        self.recall: Recall | None = None
        self.members = nn.ModuleList(network.module for network in networks)
        for index, network in enumerate(networks):
            # (x std_s + mean_s - mean_t) / std_t: from the student's normalisation to the teacher's.
            factor = torch.tensor(student.std) / torch.tensor(network.input.std)
            shift = (torch.tensor(student.mean) - torch.tensor(network.input.mean)) / torch.tensor(network.input.std)
            self.register_buffer(f"scale{index}", factor.view(1, -1, 1, 1))
            self.register_buffer(f"shift{index}", shift.view(1, -1, 1, 1))
            order = places[index] if places is not None else None
            self.register_buffer(f"order{index}", None if order is None else torch.tensor(order))
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "MeanTeacher":
        """Teachers never train: their norms and dropout stay as they are."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Log of the mean probabilities, up to a number that all share: [batch, classes]."""
        asking = [partial(self._ask_by_mode, index, images) for index in range(len(self.members))]
        if self.recall is None:
            return _mean([ask() for ask in asking])
        return _mean([self.recall(index, ask) for index, ask in enumerate(asking)])

    @property
    def titles(self) -> list[str]:
        """What figures of each teacher, and then of the mean of several, are called."""
        titles = [f"teacher {name}" for name in self.names]
        return [*titles, f"the mean of {len(titles)} teachers"] if len(titles) > 1 else titles

    def order(self, index: int) -> Tensor | None:
        """Which of the answers of teacher number `index` stands for each class of the student; None: in order."""
        order: Tensor | None = getattr(self, f"order{index}")
        return order

    def accuracies(self, student: Network, images: Images) -> dict[str, float]:
        """Of each teacher by name, and of the mean of several: the share of `images` that it answers rightly.

        The images are normalised for `student`, as in training. Nothing is random here, and no teacher changes. All
        teachers are in evaluation mode, so that the figure does not depend on which images share a batch.
        """
        classes = collect_answers(self._choose, student, images).long()  # [images, teachers and their mean]
        right = (classes == images.labels.cpu()[:, None]).double().mean(dim=0)
        return dict(zip(self.titles, right.tolist(), strict=True))

    def _choose(self, images: Tensor) -> Tensor:
        """The class that each teacher, then the mean of several, finds likeliest; -1 for NaN: [batch, teachers + 1]."""
        answers = [self._ask(index, images) for index in range(len(self.members))]
        if len(answers) > 1:
            answers.append(_mean(answers))
        chosen = [best_class(answer).masked_fill(answer.isnan().any(dim=1), -1) for answer in answers]
        return torch.stack(chosen, dim=1)

    def _ask_by_mode(self, index: int, images: Tensor) -> Tensor:
        if self.mode == "evaluation":
            return self._ask(index, images)
        with _by_batch(self.members[index]):
            return self._ask(index, images)

    def _ask(self, index: int, images: Tensor) -> Tensor:
        """Log-probabilities of one teacher in evaluation mode, or in the mode that its norms are in."""
        images = images * self.get_buffer(f"scale{index}") + self.get_buffer(f"shift{index}")
        answers = F.log_softmax(self.scale * self.members[index](images).float(), dim=1)
        order = self.order(index)
        return answers if order is None else answers[:, order]


def _mean(answers: list[Tensor]) -> Tensor:
    return torch.logsumexp(torch.stack(answers), dim=0) if len(answers) > 1 else answers[0]


@contextmanager
def _by_batch(module: nn.Module) -> Iterator[None]:
    """Within, batch norms take the statistics of the batch, and neither read nor change their running ones."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    before = [(norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, (training, tracks) in zip(norms, before, strict=True):
            norm.training, norm.track_running_stats = training, tracks


def check_teachers(
    names: tuple[str, ...],
    student: Network,
    library: Library = FILES,
    setting: str = DISTILLATION,
    mode: TeacherMode = "evaluation",
) -> None:
    """Raise UserError, without building anything, unless there are teachers that fit the student.

    Each must be a network of the library, a network file or a run folder: a model by its name alone has learned
    nothing that it could teach. `setting` is where the names stand. A teacher that normalises by the batch needs batch
    norms and no formats.
    """
    if not names and mode != "evaluation":
        raise UserError(f'{setting}: names no network file or run folder, which mode = "{mode}" needs')
    if not names:
        raise UserError(f"{setting}: names no network file or run folder, so nothing teaches")
    for name in names:
        try:
            teacher = library.describe(name)
        except UserError as error:
            raise UserError(f"{setting}: {error}") from None
        size = tuple(teacher["input"][key] for key in ("channels", "height", "width"))
        if len(teacher["classes"]) != len(student.classes) or size != student.input.size:
            raise UserError(
                f"teacher {name} maps {size} to {len(teacher['classes'])} classes, "
                f"the student {student.input.size} to {len(student.classes)}; they must agree"
            )
        if not library.may_build(name, teacher["architecture"]["family"]):
            raise UserError(f"teacher {name}: is built by code of its author's own; if you trust it, --allow-import")
        if mode != "evaluation":
            _check_norms(name, teacher)


def _check_norms(name: str, teacher: dict[str, Any]) -> None:
    """Raise UserError unless this network, as `describe` has it, can normalise by the batch."""
    reason = ""
    if teacher["formats"]:
        reason = "its numbers have formats that were chosen for its running statistics"
    elif any(edit.get("kind") == "fold_norms" for edit in teacher["architecture"]["edits"]):
        reason = "its norms are folded into its layers"
    elif not any(tensor.endswith("running_mean") for tensor in teacher["tensors"]):
        reason = "it has no batch norms"
    if reason:
        raise UserError(
            f'teacher {name}: cannot normalise by the batch, as mode = "batch_statistics" asks: {reason}; '
            'give it as it was before, or mode = "evaluation"'
        )


def load_teachers(
    names: tuple[str, ...],
    student: Network,
    library: Library = FILES,
    scale: float = 1.0,
    setting: str = DISTILLATION,
    mode: TeacherMode = "evaluation",
) -> MeanTeacher:
    """The teachers of these names in the library; `scale` and `mode` as in `MeanTeacher`, `setting` is their place.

    Raises UserError where one does not fit the student, or is built by its author's own class and that is not
    allowed.
    """
    check_teachers(names, student, library, setting, mode)
    networks = [library.load(name) for name in names]
    for network in networks if mode == "evaluation" else ():
        with suppress(UserError):  # a teacher whose forward cannot be traced keeps its norms
            network.edit(FoldNorms(pairs=tuple(find_foldable_norms(network.module, network.input.size))))
    by_number = student.data is not None and student.data.settings.classes_by_number
    places = [
        class_places(network, student.classes, f"the student of teacher {name}", by_number)
        if not is_unnamed(student)
        else None
        for name, network in zip(names, networks, strict=True)
    ]
    return MeanTeacher(networks, student.input, places, scale, names, mode)
