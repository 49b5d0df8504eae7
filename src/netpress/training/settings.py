"""What a training can be asked to do: the settings of the `train` stage.

The defaults are a plain, sound training. The recipes of the published systems name what they change.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from netpress.data import AugmentSettings, MixSettings
from netpress.settings import Count, Positive, Settings, Share, at_most
from netpress.training.losses import ChosenLoss, CrossEntropy, Distillation, LabelRefinery
from netpress.training.optimizers import Adam, AdamW, Sgd
from netpress.training.regularizers import Orthogonality
from netpress.training.schedules import Cosine, Schedule

OptimizerSettings = Annotated[Sgd | Adam | AdamW, Field(discriminator="kind")]
ScheduleSettings = Annotated[Schedule, Field(discriminator="kind")]

MOST_EPOCHS = 1_000_000
MOST_ROUNDS = 200


class Average(Settings):
    """An exponential moving average (EMA) of the weights, evaluated and kept in their place."""

    decay: Share = 0.999
    """Share of the old average kept at each step."""
    warmup: bool = True
    """Use at most (1 + step) / (10 + step), so that the first weights are soon forgotten."""


class EarlyStopping(Settings):
    """End a round when the selection accuracy has stopped rising."""

    patience: Count = 10
    """Evaluations in a row without a better accuracy before the round ends."""


class TrainSettings(Settings):
    """Train the network: SGD or Adam, schedules with restarts, smoothing, orthogonality, mixing, averaging."""

    kind: Literal["train"] = "train"
    epochs: Annotated[Count, at_most(MOST_EPOCHS)] = 30
    """Passes over the training images, all rounds together."""
    rounds: Annotated[Count, at_most(MOST_ROUNDS)] = 1
    """Warm restarts: the epochs are shared evenly; each round has a new optimizer and a new schedule."""
    batch_size: Annotated[Count, at_most(2**20)] = 128
    """Images a step."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """Of classes with unequally many images: `uniform` passes over each image once an epoch; `balanced` over as many
    images, those of each class as often as those of the others, so that the images of a small class return."""
    repeat_after: Count | None = None
    """Epochs after which the images come again just as they came, in the same order, changed and mixed alike, so that
    kept answers of teachers serve once more; by default never."""
    sizes: tuple[Annotated[Count, at_most(4096)], ...] = ()
    """Progressive resizing: sides in pixels to which images are reduced, each for an equal share of a round's steps,
    such as [16, 24, 32]; empty: never. Smaller images cost less, and a network learns much from them at first."""
    optimizer: OptimizerSettings = Sgd()
    """How the weights move."""
    schedule: ScheduleSettings = Cosine()
    """The learning rate over a round."""
    loss: ChosenLoss = CrossEntropy()
    """What is made small."""
    distillation: Distillation | None = None
    """A teacher's answers as a second target."""
    orthogonality: Orthogonality | None = None
    """SRIP, a penalty that keeps the singular values of weight matrices near 1."""
    augment: AugmentSettings = AugmentSettings()
    """Random changes of each training image."""
    mix: MixSettings = MixSettings()
    """Mixing of two images and their labels."""
    average: Average | None = None
    """Moving average of the weights."""
    clip_norm: Positive | None = None
    """Largest Euclidean norm of all gradients together; a longer gradient is shortened."""
    keep: Literal["last", "best"] = "last"
    """The weights kept: the last ones, or those of the last round that did best on the selection images."""
    early_stopping: EarlyStopping | None = None
    """When to end a round before its time."""
    evaluate_every: Count = 1
    """Epochs between evaluations on the selection images; the last epoch of a round is always evaluated."""
    norm_warmup: bool = True
    """Let norms look back over a tenth of the steps so far at first; without effect where the network is compiled."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; auto is bfloat16 on a GPU that has it and float32 on a CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the network with torch.compile; auto is on for a GPU and off on a CPU, where it pays little."""

    @model_validator(mode="after")
    def _rounds_have_epochs(self) -> Self:
        if self.rounds > self.epochs:
            raise ValueError(f"{self.rounds} rounds need at least as many epochs, not {self.epochs}")
        return self

    @model_validator(mode="after")
    def _rounds_outlast_their_warmup(self) -> Self:
        shortest = self.epochs_of(self.rounds - 1)
        if self.schedule.warmup >= shortest:
            raise ValueError(
                f"schedule.warmup: {self.schedule.warmup:g} epochs of warm-up leave nothing of a round of {shortest}"
            )
        return self

    @model_validator(mode="after")
    def _repeats_alike(self) -> Self:
        if self.repeat_after is not None and self.sizes:
            raise ValueError("repeat_after: images whose sizes change do not come again as they came; leave out sizes")
        return self

    @model_validator(mode="after")
    def _one_way_of_teaching(self) -> Self:
        if self.distillation is not None and isinstance(self.loss, LabelRefinery):
            raise ValueError(
                "distillation adds a teacher to a loss that reads labels, and loss label_refinery learns from a "
                "teacher alone; leave out one of them"
            )
        return self

    @property
    def taught(self) -> Distillation | LabelRefinery | None:
        """The settings that name teachers, where any do."""
        return self.distillation or (self.loss if isinstance(self.loss, LabelRefinery) else None)

    def epochs_of(self, round_index: int) -> int:
        """Epochs of round `round_index` (from 0); what does not divide evenly goes to the first rounds."""
        share, left = divmod(self.epochs, self.rounds)
        return share + (round_index < left)
