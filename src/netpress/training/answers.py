"""Teachers' answers kept on disk: a second training that shows them the same images does not ask them.

What a teacher sees is decided by the data, the seed and the settings of the images, not by the student. So its answers
to one epoch are a file that any training with the same key reads. They are log-probabilities rounded to float16, and a
training with `keep_answers` rounds them in the same way where it computes them: with the files and without, it comes to
the same bits.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netpress import __version__
from netpress.data import AugmentSettings, Images
from netpress.data.stored import Pixels, byte_blocks
from netpress.errors import Failure
from netpress.models.registry import IMPORTED
from netpress.native.library import available
from netpress.network import Network
from netpress.network.fingerprint import fingerprint
from netpress.process.devices import processor_name
from netpress.stage import Context
from netpress.training.position import Position
from netpress.training.settings import TrainSettings
from netpress.training.teachers import MeanTeacher

DTYPE = np.dtype(np.float16)
LOWEST = -65504.0  # of float16; below comes minus infinity, which no divergence stands


@dataclass
class _Epoch:
    """One teacher's answers to the present epoch."""

    key: str
    rows: Tensor | None = None
    """float16 [images of the epoch, classes], in the order of the steps; None where they are neither read nor kept."""
    is_read: bool = False


class KeptAnswers:
    """Gives a teacher's answers at every step of a training: those kept from an earlier one, or those that it asks for.

    Whole epochs are kept. Where a training goes on in the middle of one whose answers are not kept, teachers are asked
    for the rest of it, and it is kept by the next training that passes over it whole.
    """

    def __init__(
        self,
        teacher: MeanTeacher,
        student: Network,
        settings: TrainSettings,
        context: Context,
        position: Position,
        images: int,
        precision: str,
        used: set[str] | None = None,
    ) -> None:
        """`images`: how many an epoch passes over. `precision`: in which teachers compute. From here on `teacher` asks
        this object at every step of `position`. `used`: keys that must stay, to which those used here are added.
        """
        self.teacher, self.student, self.context, self.position = teacher, student, context, position
        self.folder = context.answers
        self.batch_size = settings.batch_size
        self.shape = images, len(student.classes)
        self.keys = [_teacher_key(teacher, index) for index in range(len(teacher.networks))] if self.folder else []
        self.stream = _stream(student, settings, context, precision) if self.folder else {}
        self.epochs: dict[int, _Epoch] = {}  # the present one of each teacher, by its number
        self.place: tuple[int, int] | None = None  # round and epoch of whose draws these are
        self.number = -1  # epochs before the present one
        self.used: set[str] = set() if used is None else used
        self.is_full = False
        """Whether there was no room for an epoch."""
        self.problem: Failure | None = None
        """Why nothing could be written, where that is so."""
        self.read = self.asked = 0  # epochs
        self.told: set[str] = set()
        teacher.recall = self.answer
        for name, network in zip(teacher.names, teacher.networks, strict=True):
            if self.folder and network.architecture.family == IMPORTED:
                self._warn_once(
                    f"teacher {name} is built by code of its author's own, which may change: its answers are not kept"
                )

    def answer(self, index: int, ask: Callable[[], Tensor]) -> Tensor:
        """What teacher number `index` answers to the batch of this step, rounded to float16: float32 [batch, classes].

        `ask` asks it, which is done only where its answers are not kept.
        """
        epoch = self._epoch(index)
        first = self.position.step * self.batch_size
        if epoch.is_read and epoch.rows is not None:
            return epoch.rows[first : first + self.batch_size].float()
        answers = ask().clamp(min=LOWEST).half()
        if epoch.rows is not None:
            epoch.rows[first : first + len(answers)] = answers
            if first + len(answers) == len(epoch.rows):
                self._write(epoch.key, epoch.rows.cpu().numpy())
                epoch.is_read = True
        return answers.float()

    def accuracies(self, images: Images) -> dict[str, float]:
        """As `MeanTeacher.accuracies` for the student, with the figures kept as answers are."""
        if self.folder is None or None in self.keys or not len(images):
            return self.teacher.accuracies(self.student, images)
        facts = {name: self.stream[name] for name in ("version", "where", "student")}
        key = _digest(["accuracies", self.keys, facts, _checksum(images.images), _checksum(images.labels)])
        titles = self.teacher.titles
        kept = self._read(key, (len(titles),), np.dtype(np.float64))
        if kept is not None:
            return dict(zip(titles, kept.tolist(), strict=True))
        measured = self.teacher.accuracies(self.student, images)
        self._write(key, np.array([measured[title] for title in titles]))
        return measured

    def has_all(self) -> bool:
        """Whether the answers to the present epoch are kept of all teachers whose answers can be."""
        return all(self._epoch(index).is_read for index, key in enumerate(self.keys) if key is not None)

    def describe(self) -> str:
        """How many epochs of answers were read since this training began or went on, and how many asked for."""
        where = "" if self.folder is None else f"; kept in {self.folder.path}"
        return f"answers of teachers: {self.read} epochs read, {self.asked} asked for{where}"

    def _epoch(self, index: int) -> _Epoch:
        place, number = self.position.drawn, self.position.epochs_before
        if (place, number) != (self.place, self.number):
            same = self.epochs if place == self.place else {}
            self.epochs = {index: epoch for index, epoch in same.items() if epoch.is_read}
            self.place, self.number = place, number
        if index not in self.epochs:
            self.epochs[index] = self._open(index)
        return self.epochs[index]

    def _open(self, index: int) -> _Epoch:
        """The answers of teacher number `index` to the present epoch, read, or ready to be noted."""
        key = self.keys[index] if self.keys else None
        if key is None:
            self.asked += 1
            return _Epoch("")
        epoch = _Epoch(_digest(["epoch", key, self.stream, self.place]))
        kept = self._read(epoch.key, self.shape, DTYPE)
        device = self.context.device
        if kept is not None:
            self.read += 1
            epoch.rows, epoch.is_read = torch.from_numpy(kept).to(device), True
        else:
            self.asked += 1
            if self.position.step == 0:
                epoch.rows = torch.empty(self.shape, dtype=torch.float16, device=device)
        return epoch

    def _read(self, key: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
        assert self.folder is not None
        try:
            values = self.folder.read(key, shape, dtype)
        except Failure as failure:
            self._warn(f"{failure}; teachers are asked again")
            return None
        if values is not None:
            self.used.add(key)
        return values

    def _write(self, key: str, values: np.ndarray) -> None:
        """Keep an array, or say why not. A training needs none of this, so no failure ends it."""
        assert self.folder is not None
        try:
            if self.folder.write(key, values, self.used):
                self.used.add(key)
            else:
                self.is_full = True
                self._warn_once(
                    f"{self.folder.path}: {self.folder.limit / 1e9:g} GB do not hold all answers of this training; the "
                    "rest is not kept. --answers-limit sets another bound"
                )
        except Failure as failure:
            self.problem = failure
            self._warn_once(f"{failure}; answers of teachers are not kept")

    def _warn_once(self, text: str) -> None:
        if text not in self.told:
            self.told.add(text)
            self._warn(text)

    def _warn(self, text: str) -> None:
        self.context.console.warn(f"{self.context.name}: {text}")


def count_bytes(settings: TrainSettings, epochs: int, images: int, classes: int) -> int:
    """Bytes of the answers that so many epochs over so many images keep; 0 where these settings keep none."""
    taught = settings.taught
    if taught is None or not taught.keep_answers:
        return 0
    epochs = min(epochs, settings.repeat_after or epochs)
    return epochs * settings.augment.passes * images * classes * DTYPE.itemsize * max(1, len(taught.teachers))


def _teacher_key(teacher: MeanTeacher, index: int) -> str | None:
    """Checksum of all that the answers of one teacher depend on, but for what it sees; None where nothing covers it."""
    network, order = teacher.networks[index], teacher.order(index)
    if network.architecture.family == IMPORTED:
        return None
    normalisation = asdict(network.input)
    places = None if order is None else order.tolist()
    return _digest([fingerprint(network), normalisation, places, teacher.scale, teacher.mode])


def _stream(student: Network, settings: TrainSettings, context: Context, precision: str) -> dict[str, Any]:
    """All that decides which pixels a teacher sees in a round and epoch, and how it computes. Nothing of the student
    but how its images are normalised.
    """
    device = context.device
    where = [torch.cuda.get_device_name(device)] if device.type == "cuda" else _processor()
    augment = settings.augment
    return {
        "version": [__version__, torch.__version__, np.__version__],
        "where": [device.type, *where],
        "student": asdict(student.input),
        "precision": precision,
        "images": _checksum(context.data.train.images),
        "augment": augment.model_dump(mode="json"),
        "policies": [_policies(part) for part in augment.parts.values()],
        "mix": settings.mix.model_dump(mode="json"),
        "batch_size": settings.batch_size,
        "seed": context.seed,
        "name": context.name,
        **({"sizes": [settings.sizes, settings.epochs, settings.rounds]} if settings.sizes else {}),
        **({"sampling": settings.sampling} if settings.sampling != "uniform" else {}),
    }


def _processor() -> list[str | int | None]:
    """What decides how a CPU rounds: see docs/recipes.md, "What is equal where"."""
    facts = processor_name(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), int(available())
    return [*facts, *(os.environ.get(name) for name in ("DNNL_MAX_CPU_ISA", "DNNL_DEFAULT_FPMATH_MODE"))]


def _policies(settings: AugmentSettings) -> str | None:
    policies = settings.read_policies()
    return None if policies is None else repr([policy.sub_policies for policy in policies.policies])


def _checksum(values: Pixels) -> str:
    inner = hashlib.sha256()
    for block in byte_blocks(values):
        inner.update(block)
    return hashlib.sha256(repr(tuple(values.shape)).encode() + bytes(1) + inner.digest()).hexdigest()


def _digest(facts: Any) -> str:
    """The SHA-256 of plain values, in hexadecimal."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
