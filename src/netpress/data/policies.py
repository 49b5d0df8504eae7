"""Augmentation policies: which operations an image goes through, and how strongly.

A policy is a list of sub-policies. Every image draws one of them and runs its steps in turn, each with its probability.
`read_policy` reads policies from JSON files, such as those that Fast AutoAugment released. Two are built in:

- `trivial`: TrivialAugment, one operation at one of 31 strengths (Mueller and Hutter 2021, the wide space; a shift goes
  up to the image's whole side, as theirs of 32 pixels does on CIFAR).
- `rand`: RandAugment, some operations in a row at one strength (Cubuk et al. 2020).

`found_policies/` holds those that `netpress search policy` found and that come with netpress, called by their names.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netpress.data.operations import OPERATIONS, StepTable, run_steps
from netpress.errors import UserError
from netpress.files import parse_json, read_file, require_file

LARGEST_FILE = 16 << 20  # bytes
MOST_SUB_POLICIES, MOST_STEPS = 10_000, 16  # of a file: the arrays that batches draw from are as large as both together
FOUND = Path(__file__).parent / "found_policies"
_SHOWN = 5  # problems listed before a message says how many more
TRIVIAL_LEVELS = 31
# The strongest value of each operation: how far a mirrored one goes to either side, how far a
# factor lies from 1, how many bits are lost, how far the threshold falls.
TRIVIAL_SPACE = {
    **dict.fromkeys(["ShearX", "ShearY", "Brightness", "Contrast", "Color", "Sharpness"], 0.99),
    **dict.fromkeys(["TranslateX", "TranslateY"], 1.0),
    **dict.fromkeys(["AutoContrast", "Equalize"], 0.0),
    "Rotate": 135.0,
    "Posterize": 6.0,
    "Solarize": 256.0,
}
RAND_SPACE = {
    **TRIVIAL_SPACE,
    **dict.fromkeys(["ShearX", "ShearY"], 0.3),
    **dict.fromkeys(["TranslateX", "TranslateY"], 0.45),
    **dict.fromkeys(["Brightness", "Contrast", "Color", "Sharpness"], 0.9),
    "Rotate": 30.0,
    "Posterize": 4.0,
}


@dataclass(frozen=True)
class Step:
    """An operation with its probability and two equally likely values (in the operation's own unit)."""

    operation: str
    probability: float
    values: tuple[float, float]


@dataclass(frozen=True, eq=False)  # compared and cached by identity: a policy has hundreds of steps
class Policy:
    """A name and sub-policies, each a sequence of steps (none at all for an image left as it is)."""

    name: str
    sub_policies: tuple[tuple[Step, ...], ...]


def read_policy(path: Path) -> Policy:
    """A policy from a JSON file: {"sub_policies": [[[operation, probability, level], ...], ...]}.

    Probabilities and levels are 0 to 1; a level stands for a value between the two ends
    in `OPERATIONS`. Other keys of the file (name, source) are for people. Raises
    UserError naming the file and each wrong sub-policy.
    """
    content = parse_json(read_file(path, LARGEST_FILE, "policy"), f"policy {path}")
    listed = content.get("sub_policies") if isinstance(content, dict) else None
    return policy_of(listed, path.stem, str(path))


def policy_of(listed: Any, name: str, source: str) -> Policy:
    """The policy of a list of sub-policies as a file has them. Raises UserError naming `source` and what is wrong."""
    if not isinstance(listed, list) or not listed:
        raise UserError(f'policy {source}: needs a list "sub_policies" of lists of [operation, probability, level]')
    if len(listed) > MOST_SUB_POLICIES:
        raise UserError(f"policy {source}: has {len(listed):,} sub-policies; at most {MOST_SUB_POLICIES:,} are read")
    problems: list[str] = []
    sub_policies = tuple(
        _read_sub_policy(entry, f"sub_policies.{place}", problems) for place, entry in enumerate(listed)
    )
    if problems:
        more = f"\nand {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(f"policy {source}:\n" + "\n".join(problems[:_SHOWN]) + more)
    return Policy(name, sub_policies)


def _read_sub_policy(entry: Any, where: str, problems: list[str]) -> tuple[Step, ...]:
    if not isinstance(entry, list):
        problems.append(f"{where}: {entry!r} is not a list of [operation, probability, level]")
        return ()
    if len(entry) > MOST_STEPS:
        problems.append(f"{where}: has {len(entry):,} steps, more than {MOST_STEPS}")
        return ()
    steps = []
    for place, step in enumerate(entry):
        here = f"{where}.{place}"
        if not isinstance(step, list) or len(step) != 3:
            problems.append(f"{here}: {step!r} is not [operation, probability, level]")
            continue
        name, probability, level = step
        operation = OPERATIONS.get(name) if isinstance(name, str) else None
        if operation is None:
            problems.append(f"{here}: {name!r} is not an operation; there are {', '.join(OPERATIONS)}")
        for what, number in (("probability", probability), ("level", level)):
            if type(number) not in (int, float) or not 0 <= number <= 1:
                problems.append(f"{here}: {what} {number!r} is not between 0 and 1")
                operation = None
        if operation is not None:
            value = operation.value_at(level)
            steps.append(Step(name, probability, (value, -value if operation.mirrored else value)))
    return tuple(steps)


def trivial_policy() -> Policy:
    """TrivialAugment: each of 14 operations (one does nothing) at each strength is a sub-policy."""
    levels = [level / (TRIVIAL_LEVELS - 1) for level in range(TRIVIAL_LEVELS)]
    singles = [(_step_of(name, TRIVIAL_SPACE, level),) for name in TRIVIAL_SPACE for level in levels]
    return Policy("trivial", (*singles, *[()] * TRIVIAL_LEVELS))


def rand_policy(operations: int, level: float) -> Policy:
    """RandAugment: every sequence of `operations` of the 14 operations (one does nothing) at one strength, 0 to 1."""
    singles: list[tuple[Step, ...]] = [(_step_of(name, RAND_SPACE, level),) for name in RAND_SPACE]
    sequences = itertools.product([*singles, ()], repeat=operations)
    return Policy("rand", tuple(tuple(itertools.chain(*sequence)) for sequence in sequences))


def _step_of(name: str, space: Mapping[str, float], level: float) -> Step:
    strength = space[name] * level
    if name == "Posterize":
        values = (8.0 - round(strength),) * 2
    elif name == "Solarize":
        values = (256.0 - strength,) * 2
    elif OPERATIONS[name].mirrored:
        values = (strength, -strength)
    else:
        values = (1 + strength, 1 - strength)
    return Step(name, 1.0, (values[0], values[1]))


def shipped_policies() -> dict[str, Path]:
    """The policies that were found by a search and come with netpress: name -> file."""
    return {path.stem: path for path in sorted(FOUND.glob("*.json"))}


def describe_policies() -> dict[str, str]:
    """What `augment.policy` may be called without a file of one's own: name -> a few words."""
    described = {
        "none": "images as they are",
        "trivial": "TrivialAugment: one operation at one of 31 strengths",
        "rand": "RandAugment: some operations in a row at one strength",
    }
    for name, path in shipped_policies().items():
        content = parse_json(read_file(path, LARGEST_FILE, "policy"), f"policy {path}")
        described[name] = f"{len(content['sub_policies']):,} sub-policies for {content['dataset']}, {content['source']}"
    return described


def find_policies(names: Sequence[str], rand_operations: int, rand_level: float) -> "PolicySet":
    """The policies called `trivial`, `rand` or as a shipped one, or by the path of their file. Raises UserError."""
    shipped = shipped_policies()
    places = [name if name in ("trivial", "rand") else shipped.get(name, Path(name)) for name in names]
    stamps = tuple(None if isinstance(place, str) else _stamp(place) for place in places)
    return _find_policies(tuple(places), stamps, rand_operations, rand_level)


def _stamp(place: Path) -> tuple[int, int]:
    # So that a file that was edited is read again.
    try:
        path = place.expanduser()
        size = require_file(path, "policy", LARGEST_FILE)
        return path.stat().st_mtime_ns, size
    except (OSError, RuntimeError) as error:  # RuntimeError: a home folder that nobody has
        raise UserError(f"policy {place}: cannot be read ({error})") from None
    except UserError as error:
        known = ", ".join(["trivial", "rand", *shipped_policies()])
        raise UserError(f"{error}; give {known} or the path of a JSON file") from None


@lru_cache(maxsize=16)
def _find_policies(
    places: tuple[str | Path, ...], stamps: tuple[object, ...], operations: int, level: float
) -> "PolicySet":
    built_in = {"trivial": trivial_policy, "rand": lambda: rand_policy(operations, level)}
    return PolicySet(
        [built_in[place]() if isinstance(place, str) else read_policy(place.expanduser()) for place in places]
    )


@dataclass(eq=False)
class PolicySet:
    """Several policies as arrays from which whole batches draw."""

    policies: Sequence[Policy]
    _tables: dict[tuple[int, int, torch.device], StepTable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        subs = [sub for policy in self.policies for sub in policy.sub_policies]
        counts = np.array([len(policy.sub_policies) for policy in self.policies])
        self.counts, self.starts = counts, np.cumsum(counts) - counts  # of each policy's sub-policies
        self.depth = max(map(len, subs))
        self.steps: dict[tuple[str, float], int] = {}  # (operation, value) -> place in the table
        self.probabilities = np.zeros((len(subs), self.depth))  # 0 where a sub-policy is shorter
        self.numbers = np.zeros((len(subs), self.depth, 2), np.int64)  # of the step, for either value
        for row, sub in enumerate(subs):
            for column, step in enumerate(sub):
                self.probabilities[row, column] = step.probability
                for side, value in enumerate(step.values):
                    key = (step.operation, value)
                    self.numbers[row, column, side] = self.steps.setdefault(key, len(self.steps))

    def table(self, height: int, width: int, device: torch.device) -> StepTable:
        """The steps prepared for images of one size on one device; made once."""
        key = (height, width, device)
        if key not in self._tables:
            self._tables[key] = StepTable(list(self.steps), height, width, device)
        return self._tables[key]

    def draw(self, batch: int, generator: torch.Generator, copy: Tensor | None = None) -> "Drawn":
        """What happens to each of `batch` images; `copy` (int64 [batch]) says which policy each is under."""
        numbers = torch.rand(
            batch, 2 + 4 * self.depth, generator=generator, device=generator.device, dtype=torch.float64
        )
        uniform = numbers.cpu().numpy()
        if copy is None:
            policy = (uniform[:, 0] * len(self.policies)).astype(np.int64)
        else:
            policy = copy.cpu().numpy()
        subs = self.starts[policy] + (uniform[:, 1] * self.counts[policy]).astype(np.int64)
        coins, sides, centres = np.split(uniform[:, 2:], [self.depth, 2 * self.depth], axis=1)
        taken, column = np.nonzero(coins < self.probabilities[subs])  # image by image, steps in order
        steps = self.numbers[subs[taken], column, (sides[taken, column] < 0.5).astype(np.int64)]
        return Drawn(taken, steps, centres.reshape(batch, self.depth, 2)[taken, column])

    def __call__(self, images: Tensor, generator: torch.Generator, copy: Tensor | None = None) -> Tensor:
        """Run a drawn sub-policy on every image: uint8 [batch, 1 or 3, height, width], unchanged; same shape back.

        Images may lie on any device; numbers are drawn on the generator's.
        """
        drawn = self.draw(len(images), generator, copy)
        images = images.clone(memory_format=torch.contiguous_format)
        table = self.table(images.shape[2], images.shape[3], images.device)
        run_steps(images, table, drawn.taken, drawn.steps, drawn.centres)
        return images


@dataclass(frozen=True)
class Drawn:
    """The steps that a batch takes, in the order in which each image takes them."""

    taken: np.ndarray  # int64 [entries], which image
    steps: np.ndarray  # int64 [entries], which step of the table
    centres: np.ndarray  # float64 [entries, 2], where a cutout lies
