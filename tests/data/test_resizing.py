"""How an image becomes square: as Pillow does it, as a network records it; decoding at a fraction of the size."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from netpress import api
from netpress.data import DataRecord, DataSettings, load_dataset
from netpress.data.pictures import list_pictures, read_blocks
from netpress.data.pixels import PixelRules
from netpress.errors import UserError
from netpress.network import Network, create, load, save
from netpress.network.data import pixel_rules
from netpress.process.console import Console
from netpress.settings import SettingsError, parse

QUIET = Console(quiet=True)
BILINEAR = Image.Resampling.BILINEAR


def read(asked: object, **rules: object) -> np.ndarray:
    """The one picture as [height, width, channels]."""
    (block,) = read_blocks(list_pictures(asked, QUIET), PixelRules(**{"size": 16, **rules}), QUIET)
    assert block.problems == [None]
    return block.pixels[0].permute(1, 2, 0).numpy()


def scene(width: int, height: int) -> Image.Image:
    """Something smooth with edges, unlike in every direction."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    shades = [200 * x, 200 * y, 255 * ((x - 0.3) ** 2 + (y - 0.6) ** 2 < 0.05)]
    return Image.fromarray(np.stack(shades, -1).astype(np.uint8))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 255))
@settings(deadline=None, max_examples=60)
def test_each_method_is_what_pillow_and_the_docs_say(width, height, background):
    image = scene(width, height)
    wanted = {
        "squash": image.resize((16, 16), BILINEAR),
        "crop": ImageOps.fit(image, (16, 16), BILINEAR),
        "pad": ImageOps.pad(image, (16, 16), BILINEAR, (background,) * 3),
    }
    for method, picture in wanted.items():
        assert np.array_equal(read(image, resize=method, background=background), picture), method
    grey = read(image, resize="pad", background=background, channels=1)
    assert np.array_equal(grey[..., 0], ImageOps.pad(image.convert("L"), (16, 16), BILINEAR, background))


def test_what_is_kept_and_lost_can_be_seen():
    """A wide image of black, white and black thirds: cropped it is white, padded it has bars above and below."""
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    cropped = read(pixels, resize="crop")
    assert (cropped[:, 1:-1] == 255).all() and (cropped > 200).all()  # Pillow looks beyond the border of the box
    padded = read(pixels, resize="pad", background=77)
    assert (padded[:5] == 77).all() and (padded[-5:] == 77).all() and padded[8, 8].tolist() == [255] * 3
    assert read(pixels)[8].tolist()[0] == [0] * 3 and read(pixels)[8, 8].tolist() == [255] * 3


def jpeg(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


@pytest.mark.parametrize("method", ["squash", "crop", "pad"])
@pytest.mark.parametrize("progressive", [False, True])
def test_decoding_at_a_fraction_changes_little_and_is_the_same_each_time(method, progressive):
    data = jpeg(scene(700, 430), progressive=progressive)
    whole, reduced = (read(data, resize=method, reduced_decoding=given) for given in (False, True))
    apart = np.abs(whole.astype(int) - reduced)
    assert 0 < apart.max() <= 24 and apart.mean() < 1.5
    assert np.array_equal(reduced, read(data, resize=method, reduced_decoding=True))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_photograph_is_turned_whole_or_reduced(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    data = jpeg(scene(640, 320), exif=exif)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    for method, wanted in (("squash", turned.resize((16, 16), BILINEAR)), ("crop", ImageOps.fit(turned, (16, 16)))):
        reduced = read(data, resize=method, reduced_decoding=True)
        assert np.abs(reduced.astype(int) - np.asarray(wanted).astype(int)).mean() < 4


def test_small_jpegs_and_other_formats_are_decoded_whole():
    small = jpeg(scene(63, 200))  # less than 4 times 16 on one side
    assert np.array_equal(read(small), read(small, reduced_decoding=True))
    stream = io.BytesIO()
    scene(400, 400).save(stream, "PNG")
    assert np.array_equal(read(stream.getvalue()), read(stream.getvalue(), reduced_decoding=True))


def draw(root: Path) -> Path:
    for part in ("train", "test"):
        for place, name in enumerate("ab"):
            (root / part / name).mkdir(parents=True)
            for index in range(4):
                scene(90 + index, 40 + 10 * place).save(root / part / name / f"{index}.jpg")
    return root


def network_of(root: Path, **values: object) -> tuple[Network, DataSettings]:
    asked = parse(DataSettings, {"dataset": "folder", "image_size": 8, "select_on": "test", **values}, "data")
    network = create("resnet", {"blocks": [1], "width": 4, "classes": 2, "image_size": 8}, classes=("a", "b"), seed=1)
    network.data = load_dataset(asked, root, 0, QUIET).record
    return network, asked


@pytest.mark.parametrize("method", ["squash", "crop", "pad"])
def test_a_networks_file_records_it_and_new_images_are_read_so(tmp_path, method):
    network, asked = network_of(draw(tmp_path / "d"), resize=method, background=9)
    save(network, tmp_path / "n.netpress")
    kept = load(tmp_path / "n.netpress")
    assert kept.data == network.data and kept.data.settings.resize == method
    rules = pixel_rules(kept)
    assert (rules.resize, rules.background, rules.reduced_decoding) == (method, 9, True)
    path = tmp_path / "d/test/a/1.jpg"
    dataset = load_dataset(asked, tmp_path / "d", 0, QUIET)
    seen = read(path, size=8, resize=method, background=9, reduced_decoding=True)
    assert np.array_equal(dataset.test.images[1].permute(1, 2, 0).numpy(), seen)
    (answer,) = api.predict(kept, [path])
    (other,) = api.predict(kept, [path], set=["data.resize=squash"])
    assert (answer == other) == (method == "squash")


def test_a_record_without_it_means_how_it_was_before_it_could_be_set(tmp_path):
    network, _ = network_of(draw(tmp_path / "d"), resize="crop")
    values = network.data.as_json()
    del values["settings"]["resize"], values["settings"]["reduced_decoding"]
    old = parse(DataRecord, values)
    assert (old.settings.resize, old.settings.reduced_decoding) == ("squash", False)
    network.data = old
    assert (pixel_rules(network).resize, pixel_rules(network).reduced_decoding) == ("squash", False)
    network.data = None  # trained on CIFAR, say: new images are read as ever
    assert (pixel_rules(network).resize, pixel_rules(network).reduced_decoding) == ("squash", False)
    assert pixel_rules(network, {"resize": "pad"}).resize == "pad"
    with pytest.raises(UserError, match=r"data\.resize, data\.background, data\.max_pixels and data\.reduced_decoding"):
        pixel_rules(network, {"validation": 0.5})


def test_it_is_for_folders_only():
    for values in ({"resize": "crop"}, {"reduced_decoding": False}):
        with pytest.raises(SettingsError, match="changes nothing in digits"):
            parse(DataSettings, values, "data")
    with pytest.raises(SettingsError, match="'stretch' is not one of"):
        parse(DataSettings, {"dataset": "folder", "resize": "stretch"}, "data")


def test_some_test_images_keep_the_shares_of_the_classes(tmp_path):
    all_of, some = (load_dataset(DataSettings(test_images=count), None, 3, QUIET) for count in (None, 50))
    assert (len(some.test), some.test_total, some.tested) == (50, 300, "50 of the 300 test images (data.test_images)")
    assert all_of.test_total is None and all_of.tested == "the test images"
    shares = torch.bincount(all_of.test.labels) / 6
    assert bool(((torch.bincount(some.test.labels) - shares).abs() < 1).all())
    rows = {image.numpy().tobytes() for image in all_of.test.images}
    assert {image.numpy().tobytes() for image in some.test.images} <= rows
    assert torch.equal(some.train.images, all_of.train.images) and some.checksum != all_of.checksum
    assert torch.equal(some.test.images, load_dataset(DataSettings(test_images=50), None, 3, QUIET).test.images)
    with pytest.raises(UserError, match=r"data\.test_images: 301 is more than the 300 images there are for the test"):
        load_dataset(DataSettings(test_images=301), None, 3, QUIET)
    asked = DataSettings(dataset="folder", image_size=8, select_on="test", test_images=4)
    folder = load_dataset(asked, draw(tmp_path / "d"), 0, QUIET)
    assert (len(folder.test), folder.test_total, torch.bincount(folder.test.labels).tolist()) == (4, 8, [2, 2])
