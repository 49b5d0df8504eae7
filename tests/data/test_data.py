"""Data sets: what is read, how it is divided, and what is said of wrong ones."""

import hashlib
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from netpress.data import Dataset, DataSettings, load_dataset, normalize, shuffled_batches
from netpress.data.cifar import RELEASES
from netpress.data.dataset import channel_statistics
from netpress.data.digits import enlarge
from netpress.data.images import draw_stratified
from netpress.errors import Failure, UserError
from netpress.process.console import Console
from netpress.settings import SettingsError, parse

QUIET = Console(quiet=True)
needs_cifar = pytest.mark.skipif("NETPRESS_DATA" not in os.environ, reason="NETPRESS_DATA names no folder with CIFAR")


def load(folder: Path | None = None, seed: int = 0, **values: object) -> Dataset:
    return load_dataset(parse(DataSettings, values, "data"), folder, seed, QUIET)


def test_digits() -> None:
    data = load()
    assert (len(data.train), len(data.validation), len(data.test)) == (1347, 150, 300)
    assert data.train.images.shape == (1347, 3, 32, 32)
    assert data.train.images.dtype == torch.uint8
    assert data.classes == tuple("0123456789")
    assert int(data.train.images.min()) == 0
    assert int(data.train.images.max()) == 255
    assert data.test.labels.bincount().tolist() == pytest.approx([30] * 10, abs=1)
    assert data.selection is data.validation


def test_the_seed_divides_and_nothing_else() -> None:
    first, again, other = load(), load(), load(seed=1)
    assert first.checksum == again.checksum != other.checksum
    assert torch.equal(first.test.images, other.test.images)
    assert not torch.equal(first.validation.labels, other.validation.labels)


def test_train_images_leaves_validation_alone() -> None:
    whole, part = load(), load(train_images=200)
    assert len(part.train) == 200
    assert torch.equal(whole.validation.images, part.validation.images)
    assert part.train.labels.bincount().tolist() == pytest.approx([20] * 10, abs=1)
    with pytest.raises(UserError, match=r"train_images: 1,348 is more than the 1,347"):
        load(train_images=1348)


def test_select_on_test_trains_on_everything() -> None:
    data = load(select_on="test")
    assert (len(data.train), len(data.validation)) == (1497, 0)
    assert data.selection is data.test


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"validation": 0}, "nothing to select on"),
        ({"validation": 1.4}, "validation: 1.4 is not between 0 and 0.9"),
        ({"dataset": "cifar10", "image_size": 16}, "32 pixels"),
        ({"test_fraction": 0.2}, "only a folder"),
        ({"dataset": "mnist"}, "'mnist' is not one of"),
    ],
)
def test_impossible_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse(DataSettings, values, "data")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=120), st.data())
def test_stratified_draws(labels: list[int], data: st.DataObject) -> None:
    tensor = torch.tensor(labels)
    count = data.draw(st.integers(0, len(labels)))
    drawn, left = draw_stratified(tensor, count, 5, "test")
    assert len(drawn) == count
    assert torch.equal(torch.cat([drawn, left]).sort().values, torch.arange(len(labels)))
    for kind in set(labels):
        assert abs(int((tensor[drawn] == kind).sum()) - labels.count(kind) * count / len(labels)) < 1


def test_enlarging_matches_exact_interpolation() -> None:
    generator = np.random.default_rng(0)
    small = generator.integers(0, 17, (3, 8, 8), dtype=np.uint8)
    for size in (8, 20, 32):
        exact = torch.nn.functional.interpolate(
            torch.from_numpy(small)[:, None].double(), (size, size), mode="bilinear", align_corners=False
        )
        assert np.abs(enlarge(small, size) - exact[:, 0].numpy() * 255 / 16).max() <= 0.5 + 1e-9
    assert load(image_size=20).train.images.shape[2:] == (20, 20)


def test_statistics_and_normalization() -> None:
    images = torch.randint(256, (50, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = channel_statistics(images)
    values = images.double() / 255
    assert mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=6e-5)
    assert std == pytest.approx(values.std((0, 2, 3), correction=0).tolist(), abs=6e-5)
    shape = (1, 3, 1, 1)
    expected = (values - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    result = normalize(images, mean, std)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(result.double(), expected, atol=1e-5)


def test_batches_cover_everything_once() -> None:
    batches = shuffled_batches(103, 10, torch.Generator().manual_seed(3))
    assert [len(batch) for batch in batches] == [10] * 10 + [3]
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(103))
    assert len(shuffled_batches(103, 10, torch.Generator().manual_seed(3), drop_last=True)) == 10
    assert len(shuffled_batches(3, 10, torch.Generator().manual_seed(3), drop_last=True)) == 1


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 99))
def test_balanced_batches_show_each_class_equally(labels: list[int], seed: int) -> None:
    truth = torch.tensor(labels)
    batches = shuffled_batches(len(labels), 7, torch.Generator().manual_seed(seed), balanced=truth)
    order = torch.cat(batches)
    assert len(order) == len(labels)
    drawn = torch.bincount(order, minlength=len(labels))  # of each image
    present = truth.unique()
    by_class = [int(drawn[truth == label].sum()) for label in present]
    assert max(by_class) - min(by_class) <= 1
    assert all(drawn[truth == label].max() - drawn[truth == label].min() <= 1 for label in present)


def test_balanced_batches_are_mixed_and_differ() -> None:
    truth = torch.arange(100) // 90  # 90 of one class, 10 of the other
    first, second = (
        torch.cat(shuffled_batches(100, 10, torch.Generator().manual_seed(seed), balanced=truth)) for seed in (1, 2)
    )
    assert not torch.equal(first, second)
    assert len(truth[first].unique_consecutive()) > 20  # shuffled: not one class after the other


@needs_cifar
@pytest.mark.slow
def test_cifar100() -> None:
    folder = Path(os.environ["NETPRESS_DATA"])
    data = load(folder / "cifar-100-python", dataset="cifar100", select_on="test", train_images=None)
    assert data.train.images.shape == (50_000, 3, 32, 32)
    assert data.test.labels.bincount().tolist() == [100] * 100
    assert data.classes[:2] == ("apple", "aquarium_fish")
    # The constants that papers use for CIFAR-100.
    assert (data.mean, data.std) == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


@needs_cifar
def test_cifar10_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(os.environ["NETPRESS_DATA"])
    if (folder / "cifar-10-batches-py" / "data_batch_5").exists():
        pytest.skip("all five training files are here")
    data = load_dataset(DataSettings(dataset="cifar10"), folder, 0, Console())
    assert len(data.train) + len(data.validation) == 30_000
    assert data.classes[-1] == "truck"
    assert "30,000 of the 50,000 published training images" in capsys.readouterr().err


def write_cifar(folder: Path, count: int = 12) -> Path:
    """A tiny data set in the published layout of CIFAR-10, with two of the five training files."""
    place = folder / "cifar-10-batches-py"
    place.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        images = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        content = {b"data": images, b"labels": [index % 10 for index in range(count)]}
        (place / name).write_bytes(pickle.dumps(content, protocol=2))
    (place / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}, protocol=2))
    return place


def test_cifar_layout(tmp_path: Path) -> None:
    place = write_cifar(tmp_path)
    data = load(tmp_path, dataset="cifar10", validation=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 6, 12)
    assert load(place, dataset="cifar10", validation=0.25).checksum == data.checksum
    content = pickle.loads((place / "test_batch").read_bytes())
    assert np.array_equal(data.test.images.flatten(1).numpy(), content[b"data"])


def test_damaged_cifar_is_one_message(tmp_path: Path) -> None:
    place = write_cifar(tmp_path)
    whole = (place / "test_batch").read_bytes()
    wrong = {b"data": np.zeros((4, 9), np.uint8), b"labels": [0] * 4}
    few = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0] * 3}
    outside = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 10]}
    texts = {b"data": np.zeros((4, 3072), np.uint8), b"labels": ["0"] * 4}
    objects = {b"data": np.array([print], dtype=object), b"labels": [0]}
    endless = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 10**30]}
    negative = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, -(10**30)]}
    none = {b"data": np.zeros((0, 3072), np.uint8), b"labels": []}
    no_shape = {b"data": np.array(7, np.uint8), b"labels": [0]}
    truths = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [True]}
    more = (endless, negative, none, no_shape, truths)
    for damaged in (
        whole[:5000],
        b"",
        b"PK\x03\x04 not a pickle",
        *(pickle.dumps(content, protocol=2) for content in (wrong, few, outside, texts, objects, *more, [1, 2])),
    ):
        (place / "test_batch").write_bytes(damaged)
        with pytest.raises(Failure, match=r"test_batch: (damaged|holds no|has a class|not a data file)"):
            load(tmp_path, dataset="cifar10")
    (place / "test_batch").unlink()
    with pytest.raises(Failure, match="incomplete, test_batch missing"):
        load(tmp_path, dataset="cifar10")


def test_cifar_that_is_no_pickle_of_its_kind_is_one_message(tmp_path: Path) -> None:
    """An array that is named and never told what it holds, a label of 5,000 digits, a class name that is a number."""
    place = write_cifar(tmp_path)
    unfilled = b"}U\x04datacnumpy.core.multiarray\n_reconstruct\n(NNNtRs."
    endless = b"}U\x06labels](I" + b"9" * 5000 + b"\nes."
    for content in (unfilled, endless):
        (place / "test_batch").write_bytes(content)
        with pytest.raises(Failure, match="test_batch: damaged"):
            load(tmp_path, dataset="cifar10")
    (place / "batches.meta").write_bytes(pickle.dumps({"label_names": [*"abcdefghi", 7]}, protocol=2))
    with pytest.raises(Failure, match="no 10 different texts"):
        load(tmp_path, dataset="cifar10")


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_run_nothing(tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = write_cifar(tmp_path)
    (place / "test_batch").write_bytes(pickle.dumps({"data": Harmful()}, protocol=protocol))
    with pytest.raises(Failure, match=r"names .*system, which is no array"):
        load(tmp_path, dataset="cifar10")
    assert not (tmp_path / "harmed").exists()


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 255))
def test_any_damaged_byte_of_a_pickle_is_a_failure_or_other_data(place: int, value: int) -> None:
    from netpress.data.pickles import read_arrays

    content = bytearray(pickle.dumps({"data": np.arange(300, dtype=np.uint8).reshape(3, 100), "labels": [1, 2, 3]}, 2))
    content[place % len(content)] = value
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"netpress-pickle-{os.getpid()}"
    path.write_bytes(content)
    try:
        assert isinstance(read_arrays(path), dict)
    except Failure as error:
        assert str(path) in str(error)
    finally:
        path.unlink()


def test_absent_cifar_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionRefusedError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(Failure, match=r"cifar-100-python\.tar\.gz: download failed .*no network"):
        load(tmp_path, dataset="cifar100")
    assert list(tmp_path.iterdir()) == []


def test_an_archive_fetched_by_hand_is_unpacked_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "made/cifar-100-python/notes"
    inside.parent.mkdir(parents=True)
    inside.write_text("unpacked", encoding="utf-8")
    archive = tmp_path / "data/cifar-100-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(inside.parent, "cifar-100-python")
    bytes_ = archive.read_bytes()
    release = replace(RELEASES["cifar100"], sha256=hashlib.sha256(bytes_).hexdigest())
    monkeypatch.setitem(RELEASES, "cifar100", release)
    monkeypatch.setattr("urllib.request.urlopen", None)
    with pytest.raises(Failure):  # nothing but a note is in it
        load(archive.parent, dataset="cifar100")
    assert (archive.parent / "cifar-100-python/notes").read_text(encoding="utf-8") == "unpacked"
    assert archive.read_bytes() == bytes_


def write_images(folder: Path, *paths: str) -> None:
    for index, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + index, 33), (index * 10 % 256, 100, 200)).save(folder / path)


def test_folder_with_train_and_test(tmp_path: Path) -> None:
    files = [f"train/{kind}/{number}.{end}" for kind in ("dog", "cat") for number, end in enumerate(("png", "jpg"))]
    write_images(tmp_path, *files, "train/dog/deep/x.WEBP", "test/cat/a.webp", "test/dog/a.png")
    data = load(tmp_path, dataset="folder", select_on="test", image_size=16)
    assert data.classes == ("cat", "dog")
    assert data.train.images.shape == (5, 3, 16, 16)
    assert data.test.labels.tolist() == [0, 1]
    assert data.train.images[0, :, 8, 8].tolist() == [20, 100, 200]  # cat/0.png, the third written


def test_folder_with_a_stated_split(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{kind}/{number}.png" for kind in "ab" for number in range(10)))
    data = load(tmp_path, dataset="folder", test_fraction=0.2, validation=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 4)
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.train.images.shape[2:] == (32, 32)


def test_unreadable_images_are_listed_once(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"train/{kind}/{number}.png" for kind in "ab" for number in range(8)), "test/a/0.png")
    for number in range(6):
        (tmp_path / "train" / "a" / f"{number}.png").write_bytes(b"no image")
    whole = (tmp_path / "train" / "b" / "7.png").read_bytes()
    (tmp_path / "train" / "b" / "7.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="test: no PNG, JPEG or WebP images of b"):
        load(tmp_path, dataset="folder")
    write_images(tmp_path, "test/b/0.png")
    with pytest.raises(Failure, match=r"7 of 18 images .*: train/a/0\.png \(no PNG.*\), .* and 2 more; replace"):
        load(tmp_path, dataset="folder")


def test_folders_laid_out_wrongly(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs --data"):
        load(dataset="folder")
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "absent", dataset="folder")
    with pytest.raises(UserError, match=r"state data\.test_fraction"):
        load(tmp_path, dataset="folder")
    with pytest.raises(UserError, match="holds no class folders"):
        load(tmp_path, dataset="folder", test_fraction=0.2)
    write_images(tmp_path, "train/a/0.png")
    with pytest.raises(UserError, match=r"test: no such folder"):
        load(tmp_path, dataset="folder")
    write_images(tmp_path, "test/a/0.png", "test/b/0.png")
    with pytest.raises(UserError, match="classes b are not in"):
        load(tmp_path, dataset="folder")
    with pytest.raises(UserError, match="must be left out"):
        load(tmp_path, dataset="folder", test_fraction=0.2)
