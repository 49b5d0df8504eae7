"""Images in a cache on disk: the same as in memory, whatever happens to files meanwhile; what memory it takes."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from netpress.data import Dataset, DataSettings, load_dataset
from netpress.data import store as module
from netpress.data.findings import inspect
from netpress.data.store import ImageCache, cache_near
from netpress.data.stored import StoredPixels
from netpress.errors import Failure, UserError
from netpress.process.console import Console
from netpress.recipe.reading import read_recipe
from netpress.runs.jobs import RunOptions
from netpress.runs.recipes import run_recipe

QUIET = Console(quiet=True)
SIDE, EACH = 8, 3 * 8 * 8
COUNT = 24


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 images of two classes, two of them equal."""
    draw = np.random.default_rng(5)
    for number in range(COUNT):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (12, 9, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos/b/copy.png").write_bytes((tmp_path / "photos/a/0.png").read_bytes())
    return tmp_path / "photos"


def read(photos: Path, cache: ImageCache | None = None, console: Console = QUIET, **values: object) -> Dataset:
    asked = {"dataset": "folder", "image_size": SIDE, "test_fraction": 0.25, "validation": 0.2, **values}
    return load_dataset(DataSettings.model_validate(asked), photos, 3, console, cache)


def kept(photos: Path, limit: int = 10**9, name: str = "cache") -> ImageCache:
    return ImageCache(photos.parent / name, limit, least=0)


def same(one: Dataset, other: Dataset) -> bool:
    parts = [(one.train, other.train), (one.validation, other.validation), (one.test, other.test)]
    return (
        (one.checksum, one.mean, one.std, one.files) == (other.checksum, other.mean, other.std, other.files)
        and all(torch.equal(a.images[:], b.images[:]) and torch.equal(a.labels, b.labels) for a, b in parts)
        and all(a.names == b.names for a, b in parts)
    )


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded to the cache, as they are."""
    found: list[Path] = []
    honest = module.read_image
    monkeypatch.setattr(module, "read_image", lambda path, *rest: found.append(path) or honest(path, *rest))
    return found


def test_the_cache_gives_what_memory_gives(photos, decoded):
    (photos / "a/broken.png").write_bytes(b"no image")
    memory, cached = read(photos), read(photos, kept(photos))
    assert isinstance(memory.train.images, torch.Tensor)
    assert isinstance(cached.train.images, StoredPixels)
    assert same(memory, cached)
    assert inspect(memory).as_json() == inspect(cached).as_json()
    assert inspect(cached).copies.groups  # which are found without reading
    assert len(decoded) == COUNT + 2
    assert same(memory, read(photos, kept(photos)))
    assert len(decoded) == COUNT + 3  # what cannot be read is tried again
    for seed in (1, 2):  # another division reads the same files
        assert same(read(photos, split_seed=seed), read(photos, kept(photos), split_seed=seed))
    assert {path.name for path in decoded[COUNT + 2 :]} == {"broken.png"}


@pytest.mark.parametrize("absent", [(), ("preadv", "posix_fadvise")], ids=["pread", "seek"])
def test_it_is_indexed_as_a_tensor(photos, monkeypatch, absent):
    for name in absent:  # as on some systems
        monkeypatch.delattr(os, name, raising=False)
    memory, cached = read(photos).train, read(photos, kept(photos)).train
    count = len(memory)
    mask = torch.arange(count) % 3 == 0
    for index in (0, -1, slice(2, 7), slice(None, None, 4), [3, 1, 1], torch.tensor([5, 0]), mask, slice(0, 0)):
        assert torch.equal(cached.images[index], memory.images[index])
    assert cached.images.shape == memory.images.shape
    for size in (1, 5, count, 100):
        ours, theirs = cached.images.split(size), memory.images.split(size)
        assert len(ours) == len(theirs)
        assert all(map(torch.equal, ours, theirs))
    some = torch.tensor([4, 2, 2])
    assert torch.equal(cached.take(some).images[:], memory.take(some).images)
    assert cached.take(some).names == memory.take(some).names
    with pytest.raises(IndexError):
        cached.images[count]


@pytest.mark.slow
def test_a_training_comes_to_the_same_bits(photos, tmp_path, monkeypatch):
    recipe = read_recipe(
        {
            "name": "tiny",
            "data": {"dataset": "folder", "image_size": SIDE, "test_fraction": 0.25, "validation": 0.2},
            "model": {"family": "c_efficientnet", "preset": "tiny"},
            "stages": [{"kind": "train", "epochs": 1, "batch_size": 5, "augment": {"crop": 1, "flip": True}}],
        }
    )
    found = []
    for name, least in (("memory", module.LEAST), ("cache", 0)):
        monkeypatch.setattr(module, "LEAST", least)
        folder = tmp_path / name / "run"
        run_recipe(recipe, folder, RunOptions(data=photos, device="cpu"))
        found.append(((folder / "network.netpress").read_bytes(), (folder / "data.json").read_text(encoding="utf-8")))
        assert (folder.parent / module.PLACE).exists() == (least == 0)
        assert cache_near(folder).path == cache_near(folder / "network.netpress").path
        assert cache_near(folder).path == (folder.parent / module.PLACE if least == 0 else None)
    assert found[0] == found[1]
    with pytest.raises(UserError, match=r"elsewhere may take 1e-09: give --cache-limit 1 "):
        options = RunOptions(data=photos, device="cpu", cache=tmp_path / "elsewhere", cache_limit=1e-9)
        run_recipe(recipe, tmp_path / "other", options)


def test_killed_in_the_middle_it_goes_on(photos, decoded, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", EACH)  # blocks of few images
    monkeypatch.setattr(module, "available_cores", lambda: 1)
    honest, calls = module._write, []

    def stop(file, values):
        calls.append(len(values))
        if len(calls) == 6:
            raise KeyboardInterrupt  # between pixels and their record
        honest(file, values)

    monkeypatch.setattr(module, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        read(photos, kept(photos))
    monkeypatch.setattr(module, "_write", honest)
    decoded.clear()
    assert same(read(photos), read(photos, kept(photos)))
    assert len(decoded) == COUNT + 1 - 4  # two blocks of two were whole


def test_damage_is_said_or_made_good(photos, decoded):
    memory = read(photos)
    read(photos, kept(photos))
    (pixels,) = (photos.parent / "cache").glob("*.pixels")
    index = pixels.with_suffix(".index")
    whole = {path: path.read_bytes() for path in (pixels, index)}

    def after(path: Path, data: bytes) -> Dataset:
        for each in whole:
            each.write_bytes(whole[each])
        path.write_bytes(data)
        decoded.clear()
        return read(photos, kept(photos))

    size = len(whole[index]) // (COUNT + 1)
    for place in (0, 17, 40, size - 1, size + 3, len(whole[index]) - 1):  # a record that lies is decoded again
        wrong = bytearray(whole[index])
        wrong[place] ^= 4
        assert same(memory, after(index, bytes(wrong)))
        assert len(decoded) == 1
    for path, each in ((pixels, EACH), (index, size)):
        for length in (0, 1, each, len(whole[path]) - 1):
            assert same(memory, after(path, whole[path][:length]))
            assert len(decoded) == COUNT + 1 - length // each
    wrong = bytearray(whole[pixels])
    wrong[EACH + 5] ^= 1
    damaged = after(pixels, bytes(wrong))  # whose checksum is noted
    with pytest.raises(Failure, match=r"image 2 of this cache of decoded images is damaged.*give the command again"):
        for part in (damaged.train, damaged.validation, damaged.test):
            part.images[:]
    assert not pixels.exists()
    assert same(memory, read(photos, kept(photos)))


def test_a_file_that_was_changed_is_decoded_again(photos, decoded):
    read(photos, kept(photos))
    path = photos / "a/2.png"
    before, other = path.stat(), (photos / "a/4.png").read_bytes()
    path.write_bytes(other[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size and time of writing
    (photos / "b/new.png").write_bytes((photos / "b/3.png").read_bytes())
    decoded.clear()
    assert same(read(photos), read(photos, kept(photos)))
    assert sorted(path.name for path in decoded) == ["2.png", "new.png"]


def test_another_pillow_or_other_rules_decode_anew(photos, decoded, monkeypatch):
    read(photos, kept(photos))
    monkeypatch.setattr(PIL, "__version__", "12.0.0")
    read(photos, kept(photos))
    read(photos, kept(photos), resize="crop")
    assert len(decoded) == 3 * (COUNT + 1)


def test_two_at_once_decode_once(photos, decoded):
    found: list[Dataset] = []
    threads = [threading.Thread(target=lambda: found.append(read(photos, kept(photos)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    memory = read(photos)
    assert len(found) == 3
    assert all(same(memory, one) for one in found)
    assert len(decoded) == COUNT + 1


def test_the_bound_holds(photos, decoded, tmp_path):
    needed = (COUNT + 1) * EACH
    with pytest.raises(UserError, match=r"25 decoded images of 8 pixels take .* give --cache-limit 1 "):
        read(photos, kept(photos, needed - 1))
    assert not decoded
    first = read(photos, kept(photos, needed))
    read(photos, kept(photos, 2 * needed), resize="pad")
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 2
    read(photos, kept(photos, 2 * needed))  # used last
    read(photos, kept(photos, 2 * needed), resize="crop")
    decoded.clear()
    assert same(read(photos), read(photos, kept(photos, 2 * needed)))
    assert not decoded  # the other went
    for path in (tmp_path / "cache").glob("*"):
        path.unlink()
    if os.name == "posix":
        assert torch.equal(first.train.images[:], read(photos).train.images[:])  # who reads it goes on


def test_dead_images_give_way(photos):
    cache = kept(photos, (COUNT + 2) * EACH)
    read(photos, cache)
    for name in ("2", "4"):
        (photos / "a" / f"{name}.png").write_bytes((photos / "a/6.png").read_bytes())
    assert same(read(photos), read(photos, cache))
    assert sum(path.stat().st_size for path in cache.folder.glob("*.pixels")) == (COUNT + 1) * EACH


def test_a_file_in_its_place_is_refused(photos):
    (photos.parent / "cache").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"--cache .*: is not a folder"):
        RunOptions(cache=photos.parent / "cache").images_beside(photos)


MEASURE = """
import resource, sys
from pathlib import Path
import torch
from netpress.process.console import Console
from netpress.data import DataSettings, load_dataset
from netpress.data.findings import inspect
from netpress.data.store import ImageCache
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def go(side):
    asked = DataSettings(dataset="folder", image_size=side, test_fraction=0.25)
    data = load_dataset(asked, Path(sys.argv[1]), 1, Console(quiet=True), ImageCache(Path(sys.argv[2]), least=0))
    inspect(data)
    for batch in torch.randperm(len(data.train)).split(4):
        data.train.images[batch]
go(8)
before = peak()
go(512)
print((peak() - before) / (160 * 3 * 512 * 512))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
@pytest.mark.slow
def test_memory_does_not_hold_the_pixels(tmp_path):
    """160 images of 512 pixels, 126 MB: decoded, looked at and read in a random order within a fraction of that."""
    for number in range(160):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, number // 2, 0)).save(path)
    command = [sys.executable, "-c", MEASURE, tmp_path / "photos", tmp_path / "cache"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.6
