"""The compiled kernel for policies against its torch twin: the same bytes, whatever the images and the steps."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from netpress.data.operations import KINDS, OPERATIONS, StepTable, _run_groups, run_steps
from netpress.data.policies import TRIVIAL_SPACE, find_policies, trivial_policy
from netpress.native.library import SWITCH
from netpress.native.policies import Steps, Work, available, run_policies

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
# Neither is square nor a multiple of 8 throughout; the smallest have no pixel inside their border.
SIZES = ((32, 32), (7, 13), (33, 18), (3, 3), (2, 5), (5, 2), (1, 1), (40, 1), (1, 9), (64, 70))
SWITCHED_OFF = "no compiled kernels here: netpress was installed without a C compiler, or NETPRESS_NATIVE is 0"
compiled = pytest.mark.skipif(not available(), reason=SWITCHED_OFF)


def hard_images(channels: int, height: int, width: int) -> Tensor:
    """uint8 [10, channels, height, width]: noise of every range, constant planes, ramps, two values only."""
    generator = torch.Generator().manual_seed(height * 100 + width)
    images = torch.randint(256, (10, channels, height, width), dtype=torch.uint8, generator=generator)
    images[0], images[1], images[2] = 0, 255, 77
    images[3, 0] = 9  # one constant plane, beside others that are not (if there are any)
    images[4] = torch.arange(width, dtype=torch.uint8)
    images[5] = images[5] // 100 * 100
    images[6] = images[6] // 128 * 255
    images[7] = 100 + images[7] // 64
    images[8, ..., -1, -1], images[8, ..., :-1, :] = 255, 3
    return images


def values_of(name: str) -> list[float]:
    """Every value that policies can give an operation: its levels, both signs, and TrivialAugment's."""
    values = [OPERATIONS[name].value_at(level / 20) for level in range(21)]
    if OPERATIONS[name].mirrored:
        values += [-value for value in values]
    if name in TRIVIAL_SPACE:
        steps = [sub[0] for sub in trivial_policy().sub_policies if sub and sub[0].operation == name]
        values += [value for step in steps for value in step.values]
    return sorted(set(values))


@compiled
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_equals_its_twin(name: str, channels: int) -> None:
    values = values_of(name)
    for height, width in SIZES:
        images = hard_images(channels, height, width)
        table = StepTable([(name, value) for value in values], height, width, CPU)
        # Every image by every value, in one batch.
        steps, taken = np.divmod(np.arange(len(values) * len(images)), len(images))
        images = images.repeat(len(values), 1, 1, 1)
        taken += steps * 10
        centres = np.random.default_rng(0).random((len(taken), 2))
        centres[::7] = 0.0
        expected, changed = images.clone(), images.clone()
        _run_groups(expected, table, taken, steps, centres)
        run_steps(changed, table, taken, steps, centres)
        assert torch.equal(changed, expected), (
            f"{height} x {width}: {(changed != expected).flatten(1).any(1).nonzero()}"
        )
        if height == 32 and (name, channels) != ("Color", 1):
            assert not torch.equal(changed, images)  # something was compared


@compiled
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_long_random_sequences_equal_their_twin(channels: int, threads: int) -> None:
    """Entries in any order, several of an image in theirs, on one and two threads."""
    draw = np.random.default_rng(threads)
    known = [(name, value) for name in OPERATIONS for value in values_of(name)]
    table = StepTable(known, 31, 34, CPU)
    images = torch.cat([hard_images(channels, 31, 34)] * 20)
    taken, steps = draw.integers(0, len(images), 700), draw.integers(0, len(known), 700)
    centres = draw.random((700, 2))
    expected, changed = images.clone(), images.clone()
    _run_groups(expected, table, taken, steps, centres)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run_steps(changed, table, taken, steps, centres)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(changed, expected)


def policy_names() -> list[str]:
    folder = os.environ.get("NETPRESS_POLICIES")
    return ["trivial", "rand", *(sorted(map(str, Path(folder).glob("*.json"))) if folder else [])]


@compiled
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", policy_names(), ids=lambda name: Path(name).stem)
def test_whole_policies_equal_their_twin(name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same generator gives the same images by either way; files: those in the folder NETPRESS_POLICIES."""
    policies = find_policies([name], 2, 0.6)
    images = torch.cat([hard_images(3, 32, 32)] * 50)
    kept, before = images.clone(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        changed = policies(images, torch.Generator().manual_seed(5))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(images, kept)
    monkeypatch.setattr("netpress.data.operations.available", lambda: False)
    assert torch.equal(changed, policies(images, torch.Generator().manual_seed(5)))
    assert not torch.equal(changed, images)
    # Images that do not lie in memory in the order of their indices.
    monkeypatch.undo()
    turned = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(changed, policies(turned, torch.Generator().manual_seed(5)))


@compiled
def test_nothing_to_do() -> None:
    policies = find_policies(["trivial"], 2, 0.5)
    assert policies(torch.empty(0, 3, 32, 32, dtype=torch.uint8), torch.Generator()).shape == (0, 3, 32, 32)
    images = hard_images(3, 8, 8)
    table = StepTable([("Invert", 0.0)], 8, 8, CPU)
    changed, none = images.clone(), np.empty(0, np.int64)
    run_steps(changed, table, none, none, np.empty((0, 2)))
    assert torch.equal(changed, images)


def inverting() -> Steps:
    table = StepTable([("Invert", 0.0)], 8, 8, CPU)
    assert KINDS["Invert"] == table.kinds[0]
    return table.compiled


@compiled
@pytest.mark.parametrize(("image", "step"), [(10, 0), (-1, 0), (0, 1), (0, -1)])
def test_entries_outside_the_batch_are_refused(image: int, step: int) -> None:
    images = hard_images(3, 8, 8)
    before = images.clone()
    taken, chosen, colour = np.array([0, image]), np.array([0, step]), np.zeros(3, np.uint8)
    with pytest.raises(IndexError, match="images below 10 and steps below 1"):
        run_policies(images, inverting(), taken, chosen, np.zeros((2, 2)), colour)
    assert torch.equal(images, before)


@compiled
def test_what_the_kernel_cannot_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    images, one, centre, colour = hard_images(3, 8, 8), np.zeros(1, np.int64), np.zeros((1, 2)), np.zeros(3, np.uint8)
    for wrong in (images.float(), images[:, :, ::2], images[0], images.contiguous(memory_format=torch.channels_last)):
        with pytest.raises(ValueError, match="images: uint8"):
            run_policies(wrong, inverting(), one, one, centre, colour)
    with pytest.raises(ValueError, match="of 2 x 8 x 8: 1 or 3 channels"):
        run_policies(images[:, :2].contiguous(), inverting(), one, one, centre, colour)
    with pytest.raises(ValueError, match="with 2 channels"):
        run_steps(images[:, :2].contiguous(), StepTable([("Invert", 0.0)], 8, 8, CPU), one, one, centre)
    with pytest.raises(ValueError, match="one value for each of 3"):
        run_policies(images, inverting(), one, one, centre, colour[:1])
    for entries in ((one, one[:0], centre), (one, one, centre[0]), (one[None], one, centre)):
        with pytest.raises(ValueError, match="are \\[entries\\]"):
            run_policies(images, inverting(), *entries, colour)
    monkeypatch.setattr("netpress.native.policies._function", lambda loaded: lambda *arguments: 1)
    with pytest.raises(MemoryError, match="10 images of 3 x 8 x 8"):
        run_policies(images, inverting(), one, one, centre, colour)


def test_steps_name_rows_that_are_there() -> None:
    moves, tables = np.zeros((2, 6), np.int32), np.zeros((1, 256), np.uint8)

    def steps(work: int, row: int, moves: np.ndarray = moves, count: int = 1) -> Steps:
        return Steps(np.array([work]), np.array([row]), np.ones(1), np.ones(count), moves, tables)

    assert len(steps(Work.MOVE, 1)) == len(steps(Work.FILL, 7)) == 1
    for work, row, message in ((Work.MOVE, 2, "MOVE has 2"), (Work.LOOK_UP, 1, "LOOK_UP has 1"), (8, 0, "of Work")):
        with pytest.raises(ValueError, match=message):
            steps(work, row)
    with pytest.raises(ValueError, match="MOVE has 2"):
        steps(Work.MOVE, -1)
    with pytest.raises(ValueError, match=r"\[moves, 6\]"):
        steps(Work.MOVE, 0, moves[:, :5])
    with pytest.raises(ValueError, match="one for each step"):
        steps(Work.MOVE, 0, count=2)


def test_the_switch_leaves_the_kernel_out() -> None:
    """With NETPRESS_NATIVE=0 torch computes, and the same; this process' way is whatever it is."""
    code = (
        "import hashlib, torch\n"
        "from netpress.data.policies import find_policies\n"
        "from netpress.native.policies import available\n"
        "images = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))\n"
        "changed = find_policies(['trivial'], 2, 0.5)(images, torch.Generator().manual_seed(1))\n"
        "print(available(), hashlib.sha256(changed.numpy().tobytes()).hexdigest())\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, SWITCH: switch},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout.split()
        for switch in ("0", os.environ.get(SWITCH, "1"))
    ]
    assert said[0][0] == "False"
    assert said[1][0] == str(available())
    assert said[0][1] == said[1][1]


@pytest.mark.parametrize("loaded", [None, object()], ids=["no library", "older library"])
def test_without_the_kernel_torch_computes(loaded: object, monkeypatch: pytest.MonkeyPatch) -> None:
    images, step, centre = hard_images(3, 8, 8), np.zeros(10, np.int64), np.zeros((10, 2))
    table = StepTable([("Invert", 0.0)], 8, 8, CPU)
    monkeypatch.setattr("netpress.native.policies.library", lambda: loaded)
    assert not available()
    changed = images.clone()
    run_steps(changed, table, np.arange(10), step, centre)
    assert torch.equal(changed, 255 - images)
    with pytest.raises(RuntimeError, match="compiled library"):
        run_policies(images, table.compiled, np.arange(10), step, centre, np.zeros(3, np.uint8))
