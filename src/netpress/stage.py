"""A stage: one step of a run, such as `train` or `prune`.

A stage is three things, which its file registers: settings, a function that runs it, and a function that plans it.

    STAGES.add("fold", Stage(FoldSettings, fold, plan))     in netpress/compression/fold.py

    fold(network, settings, context)   returns the network that the stage makes
    plan(outlook, settings)            says what it would make, and makes nothing

Each stage of a run has a folder of its own. It writes its metrics there and, while it works, its state:

    01-train/metrics.jsonl       one line an epoch
    01-train/state.safetensors   where to go on after an interruption; gone once the stage is done
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from netpress.data import Dataset
from netpress.errors import Failure, UserError
from netpress.files import atomic_write
from netpress.folders.answers import AnswersFolder
from netpress.folders.stage import METRICS, STATE, StageFolder, format_metrics, read_metrics
from netpress.network import FILES, Library, Network
from netpress.numerics.layers import quantized_layers
from netpress.process.console import Console
from netpress.process.world import World
from netpress.registry import Registry
from netpress.scoring import ScoreSettings
from netpress.settings import Settings


@dataclass(frozen=True)
class Context:
    """What a stage may use: its folder, the data, the world that it runs in, its seed, and the terminal.

    `seed` belongs to this stage alone (derived from the run's seed and the stage's place).
    `initial` is the network as the run created it, before any training, for stages that
    rewind; None where there is none.
    """

    folder: Path
    world: World
    seed: int
    console: Console
    dataset: Dataset | None = None
    initial: Network | None = None
    save_every_seconds: float = 60.0
    name: str = "stage"
    on_log: Callable[[dict[str, Any]], None] = field(default=lambda line: None)
    score_settings: ScoreSettings | None = None
    """How the run counts its score, for stages that trade with it; None where nothing is counted."""
    library: Library = FILES
    """What names of networks, such as teachers, stand for."""
    answers: AnswersFolder | None = None
    """Where teachers' answers are kept for later runs; None where none are."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.world.device

    @property
    def data(self) -> Dataset:
        """The data set; a UserError where the command was given none."""
        if self.dataset is None:
            raise UserError(f"{self.name}: this stage needs data; give --data DIR or a [data] table")
        return self.dataset

    def part(self, name: str) -> "Context":
        """A context for one part of the stage (a round), with its own folder and state."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return replace(self, folder=folder, name=f"{self.name}/{name}")

    def log(self, line: dict[str, Any]) -> None:
        """Append one line of figures to the stage's metrics."""
        line = {"stage": self.name, **line}
        try:
            with (self.folder / METRICS).open("a", encoding="utf-8", newline="\n") as metrics:
                metrics.write(format_metrics([line]))
        except OSError as error:
            raise Failure(f"{self.folder / METRICS}: cannot be written: {error.strerror}") from error
        self.on_log(line)

    def logged(self) -> list[dict[str, Any]]:
        """The lines logged so far; a last line cut short by an interruption is left out."""
        return read_metrics(self.folder / METRICS)

    def truncate_log(self, lines: int) -> None:
        """Keep only the first `lines` lines: what was logged after the state was saved is logged again."""
        atomic_write(self.folder / METRICS, format_metrics(self.logged()[:lines]))

    def save_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Replace the stage's saved state, at once or not at all. `values` must be plain JSON."""
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        data = safetensors.torch.save(contiguous, {"values": json.dumps(values)})
        atomic_write(self.folder / STATE, data)

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The saved state, or None where the stage has not begun. Raises Failure if the file is damaged."""
        path = self.folder / STATE
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, framework="pt") as state:
                values = json.loads((state.metadata() or {})["values"])
                tensors = {name: state.get_tensor(name) for name in state.keys()}  # noqa: SIM118
        except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
            raise Failure(
                f"{path}: the saved state is damaged ({error}); delete it to begin this stage anew"
            ) from error
        return tensors, values

    def clear_state(self) -> None:
        """Forget the saved state, that of parts too, once the stage's result is safe."""
        StageFolder(self.folder).clear_state()


PlanRow = dict[str, Any]
"""One line of `netpress plan`: {"what": ..., plus figures by name}."""


@dataclass(frozen=True)
class Outlook:
    """What a stage can know before anything of the run has run.

    `network` has the structure that the stages before leave. Its weights are those that the run begins with, or none
    at all (the meta device) if no stage looks at them or they are many.
    """

    network: Network
    images: int | None = None
    """Training images, where they are known."""
    first_edits: tuple[dict[str, Any], ...] | None = None
    """The structural edits of the network that a run begins with; None where no run does."""
    library: Library = FILES
    """As in `Context`."""
    score_settings: ScoreSettings | None = None
    """As in `Context`."""

    def refuse_quantized(self, what: str, instead: str) -> None:
        """Raise UserError where the network is quantized by now: its values must stay where their formats have them."""
        if quantized_layers(self.network.module):
            raise UserError(f"{what} after a stage that quantizes would take values off their formats; {instead}")


@dataclass(frozen=True)
class Plan:
    """What a stage would do, told without running it."""

    rows: list[PlanRow]
    """What it would touch and cost."""
    network: Network
    """What it would leave, as far as later stages must know: structure, masks, and the weights of the outlook."""
    undecided: tuple[str, ...] = ()
    """Which of `flash`, `ram` and `score` the stage may lower below what `network` needs: how far, only running it
    shows."""


RunFunction = Callable[[Network, Any, Context], Network]
PlanFunction = Callable[[Outlook, Any], Plan]
TrainingsFunction = Callable[[Any], Mapping[str, Settings]]


@dataclass(frozen=True)
class Stage:
    """One kind of stage: its settings, how it runs, how it plans.

    `settings` has a field `kind: Literal["name"] = "name"`. `run(network, settings, context)` returns the network that
    the stage makes. `plan(outlook, settings)` says what it would make; it leaves the outlook as it is, and raises
    UserError for what the stage would refuse, or could only spoil, once the stages before have run for hours.
    `weighs` says that `plan` looks at weights, `counts` that what `run` makes depends on how the run counts its score.
    `trainings` gives the settings of the trainings whose images do not depend on what the stage meets, each by the part
    of the context that it has, or "" for all of it.
    """

    settings: type[Settings]
    run: RunFunction
    plan: PlanFunction
    weighs: bool = False
    counts: bool = False
    trainings: TrainingsFunction = lambda settings: {}

    @property
    def kind(self) -> str:
        """The name by which recipes ask for it."""
        return str(self.settings.model_fields["kind"].default)

    @property
    def description(self) -> str:
        """What it does, in one line."""
        return (self.settings.__doc__ or "").strip().split("\n")[0]


STAGES = Registry[Stage](
    "stage",
    {
        "train": "netpress.training.train",
        "factorize": "netpress.compression.factorize",
        "fold": "netpress.compression.fold",
        "activations": "netpress.compression.activations",
        "simplify": "netpress.compression.simplify",
        "prune": "netpress.compression.prune",
        "prune_to_gate": "netpress.compression.prune_to_gate",
        "prune_channels": "netpress.compression.prune_channels",
        "quantize": "netpress.compression.quantize",
    },
)


def foresee(settings: Sequence[Settings], outlook: Outlook, known: Sequence[Plan] = ()) -> dict[str, Plan]:
    """The plan of each stage by the stage's name; each plans on the network that the one before would leave.

    `known` are the plans of the first stages, where they are there already.
    Raises UserError, which names the stage, for the first stage that would be refused.
    """
    plans: dict[str, Plan] = {}
    for index, one in enumerate(settings):
        name = stage_name(index, one)
        try:
            plans[name] = known[index] if index < len(known) else stage_of(one).plan(outlook, one)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        outlook = replace(outlook, network=plans[name].network)
    return plans


def stage_of(settings: Settings) -> Stage:
    """The stage that these are settings of."""
    return STAGES[settings.kind]  # type: ignore[attr-defined]


def stage_name(index: int, settings: Settings) -> str:
    """The name of the stage at place `index` (from 0) of a run, and of its folder: 01-train."""
    return f"{index + 1:02d}-{settings.kind}"  # type: ignore[attr-defined]
