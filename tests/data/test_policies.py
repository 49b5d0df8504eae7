"""Operations against Pillow, and policies: what is drawn, joined, and refused."""

import json
import math
import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.policies import measure_policies, run_with_pillow
from netpress.data import AugmentSettings, DataSettings, augment, load_dataset
from netpress.data.operations import OPERATIONS, StepTable, _arrange, run_steps
from netpress.data.pickles import read_arrays
from netpress.data.policies import (
    RAND_SPACE,
    TRIVIAL_SPACE,
    Policy,
    PolicySet,
    Step,
    find_policies,
    rand_policy,
    read_policy,
    trivial_policy,
)
from netpress.errors import UserError
from netpress.native.policies import available
from netpress.process.console import Console
from netpress.settings import SettingsError, parse

CPU = torch.device("cpu")
LEVELS = (0, 0.013, 0.25, 1 / 3, 0.456789, 0.5, 0.61, 0.875, 0.999, 1)


def real_images(count: int) -> Tensor:
    """CIFAR-100 where it is at hand, else digits in random colours with noise; and some that are hard cases."""
    generator = torch.Generator().manual_seed(0)
    if folder := os.environ.get("NETPRESS_DATA"):
        content = read_arrays(Path(folder) / "cifar-100-python" / "test")
        images = torch.tensor(content["data"][:count]).view(-1, 3, 32, 32)
    else:
        digits = load_dataset(DataSettings(), None, 0, Console(quiet=True)).train.images
        tint = torch.rand(len(digits), 3, 1, 1, generator=generator)
        noise = torch.randint(30, digits.shape, generator=generator)
        images = ((digits * tint).int() + noise).clamp(0, 255).to(torch.uint8)
    images = images[:count].clone()
    images[0], images[1] = 0, 255
    images[2] = 77
    images[3] = torch.arange(32, dtype=torch.uint8) * 8
    images[4, :, ::2] = 255
    images[5] = torch.randint(100, 103, (3, 32, 32), dtype=torch.uint8, generator=generator)
    return images


@pytest.fixture(scope="module")
def images() -> Tensor:
    return real_images(1000)


@pytest.fixture(scope="module", params=["compiled", "torch"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways in which a CPU can run steps."""
    if request.param == "compiled" and not available():
        pytest.skip("no compiled kernels here: netpress was installed without a C compiler, or NETPRESS_NATIVE is 0")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr("netpress.data.operations.available", lambda: False)
        yield


def run_one(images: Tensor, name: str, value: float, centres: np.ndarray | None = None) -> Tensor:
    changed, count = images.clone(), len(images)
    table = StepTable([(name, value)], images.shape[2], images.shape[3], CPU)
    places = np.full((count, 2), 0.5) if centres is None else centres
    run_steps(changed, table, np.arange(count), np.zeros(count, np.int64), places)
    return changed


def run_pillow(images: Tensor, name: str, value: float, centres: np.ndarray | None = None) -> Tensor:
    changed = []
    for place, array in enumerate(images.permute(0, 2, 3, 1).contiguous().numpy()):
        centre = (0.5, 0.5) if centres is None else tuple(centres[place])
        changed.append(np.asarray(run_with_pillow(Image.fromarray(array), name, value, centre)))
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", OPERATIONS)
def test_equals_pillow_on_real_images(images: Tensor, name: str) -> None:
    centres = np.random.default_rng(0).random((len(images), 2))
    for place, level in enumerate(LEVELS):
        part = slice(None) if place == 4 else slice(place * 7, place * 7 + 60)  # all 1,000 images at one level
        value = OPERATIONS[name].value_at(level)
        ours = run_one(images[part], name, value, centres[part])
        assert torch.equal(ours, run_pillow(images[part], name, value, centres[part])), f"{name} at level {level}"


@pytest.mark.usefixtures("way")
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(TRIVIAL_SPACE)), st.integers(0, 30), st.booleans(), st.integers(3, 20), st.integers(3, 20)
)
def test_equals_pillow_at_any_size_and_strong_values(
    name: str, level: int, side: bool, height: int, width: int
) -> None:
    steps = [sub[0] for sub in trivial_policy().sub_policies if sub and sub[0].operation == name]
    value = steps[level].values[side]
    images = torch.randint(
        256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(level)
    )
    assert torch.equal(run_one(images, name, value), run_pillow(images, name, value))


@pytest.mark.usefixtures("way")
def test_grey_images_equal_pillow(images: Tensor) -> None:
    grey = images[:40, :1]
    for name in OPERATIONS:
        if name == "Cutout":
            continue  # its colour is grey for one channel
        value = OPERATIONS[name].value_at(0.8)
        reference = [
            np.asarray(run_with_pillow(Image.fromarray(image), name, value))
            for image in grey[:, 0].contiguous().numpy()
        ]
        assert torch.equal(run_one(grey, name, value)[:, 0], torch.from_numpy(np.stack(reference))), name


def test_large_images_need_no_table_of_places(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netpress.data.operations._PLACES_LIMIT", 0)
    monkeypatch.setattr("netpress.data.operations.available", lambda: False)
    assert torch.equal(run_one(images[:5], "Rotate", 17.5), run_pillow(images[:5], "Rotate", 17.5))


@pytest.mark.usefixtures("way")
def test_a_batch_goes_through_its_steps_as_pillow_would(images: Tensor) -> None:
    """Every image of a batch, each with its own drawn sub-policy, equals Pillow's run of the same steps."""
    draw = np.random.default_rng(4)
    names = list(OPERATIONS)
    subs = []
    for _ in range(200):
        steps = []
        for name in draw.choice(names, 3):
            value = OPERATIONS[name].value_at(draw.random())
            steps.append(Step(str(name), 0.7, (value, -value if OPERATIONS[name].mirrored else value)))
        subs.append(tuple(steps))
    policies = PolicySet([Policy("three", tuple(subs))])
    batch = images[:256]
    changed = policies(batch, torch.Generator().manual_seed(9))
    drawn = policies.draw(len(batch), torch.Generator().manual_seed(9))
    steps_by_number = list(policies.steps)
    expected = [Image.fromarray(image) for image in batch.permute(0, 2, 3, 1).contiguous().numpy()]
    for image, step, centre in zip(drawn.taken, drawn.steps, drawn.centres, strict=True):
        expected[image] = run_with_pillow(expected[image], *steps_by_number[step], centre=centre)
    assert torch.equal(
        changed, torch.from_numpy(np.stack([np.asarray(image) for image in expected])).permute(0, 3, 1, 2)
    )
    assert 1.8 < len(drawn.taken) / len(batch) < 2.4  # 3 steps of probability 0.7


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 14)), min_size=1, max_size=40))
def test_arranged_steps_keep_each_image_in_order(entries: list[tuple[int, int]]) -> None:
    taken, kinds = np.array(entries).T
    order, bounds = _arrange(taken, kinds)
    assert sorted(order) == list(range(len(entries)))
    assert [start for start, _, _ in bounds] == [0] + [stop for _, stop, _ in bounds[:-1]]
    run_of = {int(entry): run for run, (start, stop, _) in enumerate(bounds) for entry in order[start:stop]}
    for image in set(taken.tolist()):
        runs = [run_of[entry] for entry in np.flatnonzero(taken == image).tolist()]
        assert all(first < second for first, second in pairwise(runs))


def write_policy(path: Path, *sub_policies: object) -> Path:
    path.write_text(json.dumps({"name": path.stem, "sub_policies": sub_policies}))
    return path


def test_drawn_shares(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "p.json", [["Rotate", 0.25, 0.9], ["Invert", 1, 0]], [["Solarize", 1, 0.5]])
    policies = find_policies([str(path)], 2, 0.3)
    drawn = policies.draw(8000, torch.Generator().manual_seed(0))
    counts = dict(zip(policies.steps, np.bincount(drawn.steps, minlength=len(policies.steps)) / 8000, strict=True))
    assert counts == pytest.approx(
        {("Rotate", 24.0): 0.0625, ("Rotate", -24.0): 0.0625, ("Invert", 0.0): 0.5, ("Solarize", 128.0): 0.5}, abs=0.02
    )


def test_the_generator_decides_everything(images: Tensor) -> None:
    policies = find_policies(["trivial", "rand"], 2, 0.5)
    first = policies(images[:64], torch.Generator().manual_seed(1))
    assert torch.equal(first, policies(images[:64], torch.Generator().manual_seed(1)))
    assert not torch.equal(first, policies(images[:64], torch.Generator().manual_seed(2)))
    assert first.dtype == torch.uint8


def test_copies_use_their_own_policy(tmp_path: Path, images: Tensor) -> None:
    names = tuple(
        str(write_policy(tmp_path / f"{name}.json", [[name, 1, 0.5]])) for name in ("Invert", "Solarize", "Equalize")
    )
    chosen = AugmentSettings(policy=names, combine="copies", crop=0, flip=False)
    assert chosen.passes == 3
    batch, copy = images[:9], torch.arange(9) % 3
    changed = augment(batch, chosen, torch.Generator().manual_seed(0), copy)
    assert torch.equal(changed[0::3], 255 - batch[0::3])
    assert torch.equal(changed[1::3], run_one(batch[1::3], "Solarize", 128.0))
    with pytest.raises(ValueError, match="which copy"):
        augment(batch, chosen, torch.Generator().manual_seed(0))
    mixed = AugmentSettings(policy=names, crop=0, flip=False)
    assert mixed.passes == 1
    inverted = (augment(images, mixed, torch.Generator().manual_seed(0)) == 255 - images).flatten(1).all(1)
    assert 0.25 < inverted.float().mean() < 0.42


def test_built_in_policies() -> None:
    trivial = trivial_policy()
    assert len(trivial.sub_policies) == 31 * (len(TRIVIAL_SPACE) + 1)
    strongest = {sub[0].operation: sub[0].values for sub in trivial.sub_policies if sub}
    assert strongest["Rotate"] == (135, -135)
    assert strongest["Posterize"] == (2, 2)
    assert strongest["Color"] == pytest.approx((1.99, 0.01))
    rand = rand_policy(2, 0.5)
    assert len(rand.sub_policies) == (len(RAND_SPACE) + 1) ** 2
    assert {len(sub) for sub in rand.sub_policies} == {0, 1, 2}
    assert all(step.probability == 1 and math.isfinite(sum(step.values)) for sub in rand.sub_policies for step in sub)


@pytest.mark.parametrize(
    ("sub_policy", "message"),
    [
        (
            [["Rotate", 1, 0.5], ["Swirl", 1, 0.5]],
            r"sub_policies\.1\.1: 'Swirl' is not an operation; there are ShearX,",
        ),
        ([["Rotate", 1, 1.5]], r"sub_policies\.1\.0: level 1\.5 is not between 0 and 1"),
        ([["Rotate", -0.1, 0.5]], r"sub_policies\.1\.0: probability -0\.1 is not between"),
        ([["Rotate", "1", 0.5]], r"sub_policies\.1\.0: probability '1' is not between"),
        ([["Rotate", 1]], r"sub_policies\.1\.0: \['Rotate', 1\] is not \[operation"),
        ("Rotate", r"sub_policies\.1: 'Rotate' is not a list"),
        ([[["Rotate"], True, 0.5]], r"sub_policies\.1\.0: \['Rotate'\] is not an operation"),
    ],
)
def test_wrong_policies_name_the_sub_policy(tmp_path: Path, sub_policy: object, message: str) -> None:
    path = write_policy(tmp_path / "mine.json", [["Invert", 1, 0]], sub_policy)
    with pytest.raises(UserError, match=r"mine\.json:\n" + message):
        read_policy(path)


def test_wrong_policy_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    with pytest.raises(UserError, match=r"no such file; give trivial, rand, [\w, -]+ or the path"):
        AugmentSettings(policy=str(path)).read_policies()
    path.write_text("{")
    with pytest.raises(UserError, match="not a JSON file"):
        AugmentSettings(policy=str(path)).read_policies()
    for empty in ([], {}, {"sub_policies": []}):
        path.write_text(json.dumps(empty))
        with pytest.raises(UserError, match="needs a list"):
            read_policy(path)
    write_policy(path, *[[["Swirl", 1, 1]]] * 9)
    with pytest.raises(UserError, match=r"sub_policies\.4\.0: .*\nand 4 more"):
        read_policy(path)
    write_policy(path, [["Invert", 1, 1]])  # an edited file is read again
    assert AugmentSettings(policy=str(path)).read_policies() is not None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"policy": []}, "at least one policy"),
        ({"policy": ["trivial", "none"]}, "at least one policy"),
        ({"policy": "trivial", "combine": "copies"}, "needs several policies"),
        ({"rand_operations": 4}, "rand_operations: 4 is not between 1 and 3"),
    ],
)
def test_wrong_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse(AugmentSettings, values, "augment")


def test_measuring_speed(images: Tensor) -> None:
    threads = torch.get_num_threads()
    (speed,) = measure_policies(find_policies(["rand"], 2, 0.3), images[:64], batches=(64,), rounds=1)
    assert speed.ratio == pytest.approx(speed.netpress / speed.pillow)
    assert speed.netpress > 0
    assert torch.get_num_threads() == threads
