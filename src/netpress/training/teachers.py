"""Teachers: networks whose answers a student learns from."""

from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netpress.errors import UserError
from netpress.models.folding import fold_norms
from netpress.network import InputSpec, Network, resolve


class MeanTeacher(nn.Module):
    """The mean of several networks' probabilities, as logits, for images normalised for the student."""

    def __init__(self, networks: list[Network], student: InputSpec) -> None:
        super().__init__()
        self.members = nn.ModuleList(network.module for network in networks)
        for index, network in enumerate(networks):
            # (x std_s + mean_s - mean_t) / std_t: from the student's normalisation to the teacher's.
            scale = torch.tensor(student.std) / torch.tensor(network.input.std)
            shift = (torch.tensor(student.mean) - torch.tensor(network.input.mean)) / torch.tensor(network.input.std)
            self.register_buffer(f"scale{index}", scale.view(1, -1, 1, 1))
            self.register_buffer(f"shift{index}", shift.view(1, -1, 1, 1))
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "MeanTeacher":
        """Teachers never train: their norms and dropout stay as they are."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Log of the mean probabilities: [batch, classes]."""
        answers = [
            F.log_softmax(member(images * self.get_buffer(f"scale{i}") + self.get_buffer(f"shift{i}")).float(), dim=1)
            for i, member in enumerate(self.members)
        ]
        return torch.logsumexp(torch.stack(answers), dim=0) if len(answers) > 1 else answers[0]


def load_teachers(names: tuple[str, ...], student: Network, allow_import: bool = False) -> MeanTeacher:
    """The teachers named by files or run folders.

    Raises UserError where one does not fit the student, or is built by its author's own class and not `allow_import`.
    """
    networks = [resolve(name, allow_import=allow_import) for name in names]
    for name, network in zip(names, networks, strict=True):
        if len(network.classes) != len(student.classes) or network.input.size != student.input.size:
            raise UserError(
                f"teacher {name} maps {network.input.size} to {len(network.classes)} classes, "
                f"the student {student.input.size} to {len(student.classes)}; they must agree"
            )
        with suppress(UserError):  # a teacher whose forward cannot be traced keeps its norms
            fold_norms(network.module)
    return MeanTeacher(networks, student.input)
