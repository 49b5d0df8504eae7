"""What a teacher costs a training step, and what its kept answers cost.

    python -m benchmarks.teachers [--teacher IMT.safetensors] [--students nano v1] [--blocks 10] [--threads 1]

Three loops take the same steps with CutMix, crop and flip: without a teacher, with a teacher that is asked, and with
that teacher's answers kept on disk (`keep_answers`); of the last, each epoch's first step reads and checks the epoch's
file. Loops have processes of their own and run in turns, as in `benchmarks.training`. Students are DenseNet nano of IMT
and C-EfficientNet v1; the teacher is IMT's released network where a file is named, and an untrained `densenet:tiny`
otherwise: speed does not depend on its weights.

Images are CIFAR-10 where NETPRESS_DATA names its folder, and random ones otherwise.
"""

import argparse
import functools
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.training import IMAGES, OurLoop, alternate
from netpress.data import Dataset, DataSettings, Images, load_dataset
from netpress.folders.answers import AnswersFolder
from netpress.imports.imt import import_imt
from netpress.network import Network, resolve
from netpress.process.console import Console
from netpress.process.devices import available_cores, choose_device
from netpress.process.memory import keep_freed_memory
from netpress.process.world import World
from netpress.settings import parse
from netpress.stage import Context
from netpress.training import TrainSettings
from netpress.training.answers import KeptAnswers
from netpress.training.placement import lay_out
from netpress.training.position import Position
from netpress.training.step import StepRandomness, TrainingStep

ALONE, ASKED, KEPT = "without a teacher", "a teacher that is asked", "its answers kept"
LOOPS = (ALONE, ASKED, KEPT)
STUDENTS = {"nano": "densenet:nano,classes=10", "v1": "c_efficientnet:v1,classes=10"}
SETTINGS: dict[str, Any] = {
    "epochs": 1,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4},
    "augment": {"crop": 4, "flip": True},
    "mix": {"kind": "cutmix"},
}
TAUGHT = {"weight": 0.9, "temperature": 30.0, "keep_answers": True}


def load_cifar10() -> Images:
    """Training images of CIFAR-10, or random ones without NETPRESS_DATA."""
    folder = os.environ.get("NETPRESS_DATA")
    if folder:
        settings = DataSettings(dataset="cifar10", select_on="test", train_images=IMAGES)
        return load_dataset(settings, Path(folder), 0, Console(quiet=True)).train
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (IMAGES, 3, 32, 32), generator=generator).byte()
    return Images(pixels, torch.randint(10, (IMAGES,), generator=generator))


class TaughtLoop(OurLoop):
    """Steps of a position, with the teacher asked or its answers read; `answers` reads them."""

    def __init__(self, step: TrainingStep, position: Position) -> None:
        super().__init__(step)
        self.position = position
        self.answers: KeptAnswers | None = None
        self.folder = tempfile.TemporaryDirectory()  # as long as this loop lives

    def randomness(self) -> StepRandomness:
        return StepRandomness(0, ("bench", self.position.step), self.step.device)

    def take(self, indices: Tensor) -> None:
        if self.answers is not None and self.position.step == 0:
            self.answers.place = None  # another epoch: its file is read anew
        self.step.take(indices.to(self.step.device), 0.01, self.randomness()).tolist()
        self.position.step = (self.position.step + 1) % self.position.steps


def make_loop(
    student: str, teacher: str | None, batch_size: int, name: str, images: Images, device: torch.device
) -> TaughtLoop:
    """The loop called `name` of `LOOPS`; its images are those of `load_cifar10`."""
    images = load_cifar10().to(device)
    if device.type == "cpu":
        keep_freed_memory()
    network = resolve(STUDENTS[student])
    lay_out(network.module, device)
    network.module.train()
    settings = parse(TrainSettings, {**SETTINGS, "batch_size": batch_size})
    own = None
    if name != ALONE:
        settings = parse(TrainSettings, {**SETTINGS, "batch_size": batch_size, "distillation": TAUGHT})
        own = import_imt(teacher) if teacher else resolve("densenet:tiny,classes=10")
    step = TrainingStep(network, settings, images, own_teacher=own)
    loop = TaughtLoop(step, Position(settings, len(images) // batch_size))
    if name == KEPT:
        _fill(loop, network, batch_size)
    return loop


def _fill(loop: TaughtLoop, student: Network, batch_size: int) -> None:
    """Let the teacher answer to one epoch, and the loop read what it said from then on."""
    step, position = loop.step, loop.position
    teacher = step.loss.teacher
    assert teacher is not None
    place = Path(loop.folder.name)
    nothing = Images(step.images.images[:0], step.images.labels[:0])
    data = Dataset("cifar10", step.images, nothing, nothing, student.classes, (), (), "none")
    console = Console(quiet=True)
    context = Context(place, World(step.device), 0, console, data, answers=AnswersFolder(place, 10**9), name="bench")
    count = position.steps * batch_size
    make = functools.partial(
        KeptAnswers,
        teacher,
        student,
        step.settings,
        context,
        position,
        count,
        "bfloat16" if step.bfloat16 else "float32",
    )
    make()
    for number in range(position.steps):
        position.step = number
        pixels, _ = step.prepare(torch.arange(batch_size, device=step.device), loop.randomness())
        teacher(pixels)
    position.step = 0
    loop.answers = make()
    teacher(step.prepare(torch.arange(batch_size, device=step.device), loop.randomness())[0])
    assert loop.answers.read == 1


def measure(
    student: str, teacher: str | None, batch_size: int, blocks: int, device: torch.device, threads: int | None
) -> str:
    """Medians of the three loops, as text."""
    make = functools.partial(make_loop, student, teacher, batch_size)
    times = alternate(list(LOOPS), batch_size, blocks, device, make, threads)
    named = Path(teacher).stem if teacher else "untrained tiny"
    rows = [f"student {STUDENTS[student]}, teacher {named}, batch {batch_size}, {available_cores()} cores"]
    alone = times[ALONE]
    for name in LOOPS:
        taken = times[name]
        rows.append(
            f"  {name:<24} {1000 * taken.wall:8.1f} ms a step ({taken.wall / alone.wall:.3f})  "
            f"{1000 * taken.cpu:8.1f} ms of CPU ({taken.cpu / alone.cpu:.3f})  threads: {taken.threads}  "
            f"{taken.memory:.0f} MiB"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a teacher and its kept answers cost a training step.")
    parser.add_argument("--teacher", help="a safetensors file that IMT released")
    parser.add_argument("--students", nargs="+", choices=sorted(STUDENTS), default=sorted(STUDENTS))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument(
        "--threads", type=int, help="of all loops; by default each takes the number that is best for it"
    )
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    print(time.strftime("%Y-%m-%d"), torch.__version__)
    device = choose_device(options.device)
    for student in options.students:
        measured = measure(student, options.teacher, options.batch, options.blocks, device, options.threads)
        print(measured, flush=True)


if __name__ == "__main__":
    main()
