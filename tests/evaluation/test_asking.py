"""Asking a network: the answers of `evaluate`, image by image, whatever lies in the folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import netpress
from netpress.data import DataSettings, load_dataset, normalize
from netpress.errors import Failure, UserError
from netpress.network import Network, create, resolve, save
from netpress.network.data import adopt, pixel_rules
from netpress.process.console import Console
from netpress.program import execute, lower

QUIET = Console(quiet=True)
RANDOM = np.random.default_rng(5)
KAIST = Path(__file__).parents[2] / "networks" / "kaist-int" / "network.netpress"


def picture(index: int) -> Image.Image:
    low, high = sorted(RANDOM.integers(0, 256, 2))
    colours = RANDOM.integers(low, high + 1, (11 + index, 20, 3)).astype(np.uint8)
    return Image.fromarray(np.roll(colours, index, 2) // np.array([1, 1 + index % 3, 1 + index % 2], np.uint8))


def write(image: Image.Image, path: Path, index: int) -> None:
    """In another way each time: JPEG, turned, CMYK, grey, transparent, a palette, 16 bits, several pictures."""
    described = Image.Exif()
    described[0x112] = 1 + index % 8
    if index % 8 == 0:
        image.save(path.with_suffix(".jpg"), exif=described)
    elif index % 8 == 1:
        image.convert("CMYK").save(path.with_suffix(".jpg"))
    elif index % 8 == 2:
        image.convert("L").save(path.with_suffix(".jpeg"))
    elif index % 8 == 3:
        image.putalpha(Image.fromarray(RANDOM.integers(0, 256, image.size[::-1]).astype(np.uint8)))
        image.save(path.with_suffix(".png"), exif=described)
    elif index % 8 == 4:
        image.convert("P").save(path.with_suffix(".png"), transparency=3)
    elif index % 8 == 5:
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path.with_suffix(".png"))
    elif index % 8 == 6:
        image.save(path.with_suffix(".webp"), save_all=True, append_images=[image.transpose(0)], lossless=True)
    else:
        image.save(path.with_suffix(".png"), exif=described)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("odd")
    for number, name in enumerate("abc"):
        (place / name / "inner").mkdir(parents=True)
        for index in range(16):
            image = picture(16 * number + index)
            write(image, place / name / ("inner" if index % 3 else ".") / f"{index:02}", index)
    return place


@pytest.fixture(scope="module")
def network(folder) -> Network:
    """Of random weights, and of a mean and deviation such that all three classes are answered."""
    settings = DataSettings(dataset="folder", image_size=8, test_fraction=0.5, background=190)
    data = load_dataset(settings, folder, 3, QUIET)
    made = create(
        "resnet", {"blocks": [1], "width": 8, "image_size": 8, "classes": 3}, seed=4, classes=tuple("abc"),
        mean=data.mean, std=data.std,
    )  # fmt: skip
    adopt(made, data)
    with torch.no_grad():  # so that no class wins for every image
        head = [layer for layer in made.module.modules() if isinstance(layer, torch.nn.Linear)][-1]
        logits = torch.cat([made.module(batch) for batch in normalized(made, data.test.images)])
        head.bias -= logits.mean(0)
    return made


def normalized(made: Network, images: torch.Tensor) -> list[torch.Tensor]:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (made.input.mean, made.input.std))
    return [((image / 255 - mean) / std)[None] for image in images]


def test_asked_image_by_image_a_network_answers_as_evaluated(folder, network):
    measured = netpress.evaluate(network, data=folder)
    assert measured.count == 24 and len(set(measured.predicted.tolist())) == 3
    assert {Path(name).suffix for name in measured.names} == {".jpg", ".jpeg", ".png", ".webp"}
    answers = netpress.predict(network, [folder / name for name in measured.names], top=2)
    assert [answer.image for answer in answers] == [str(folder / name) for name in measured.names]
    assert [answer.best.label for answer in answers] == ["abc"[index] for index in measured.predicted]
    found = [answer.best.probability for answer in answers]
    assert found == pytest.approx(measured.probabilities.tolist(), abs=1e-6)
    assert all(
        len(answer.guesses) == 2 and answer.guesses[1].probability <= answer.best.probability for answer in answers
    )
    alone = [netpress.predict(network, folder / name)[0] for name in measured.names[:5]]
    assert [answer.best.probability for answer in alone] == pytest.approx(found[:5], abs=1e-6)


def test_pillow_and_arrays_are_normalized_as_in_training(network):
    """By hand from the definition: (pixel / 255 - mean) / std, and a softmax over all classes."""
    pixels = RANDOM.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.inference_mode():
        shares = torch.cat([network.module(batch) for batch in normalized(network, images)]).softmax(1)
    for asked in (pixels, list(pixels), [Image.fromarray(image) for image in pixels]):
        answers = netpress.predict(network, asked, top=9)
        assert [answer.image for answer in answers] == [0, 1, 2]
        for answer, row in zip(answers, shares, strict=True):
            assert {guess.label: guess.probability for guess in answer.guesses} == pytest.approx(
                dict(zip("abc", row.tolist(), strict=True)), abs=1e-5
            )
    scaled = netpress.predict(network, pixels, scale=50)
    assert scaled[0].best.probability > netpress.predict(network, pixels)[0].best.probability


def test_how_images_are_read_is_in_the_file(tmp_path, network):
    save(network, tmp_path / "n.netpress")
    rules = pixel_rules(resolve(str(tmp_path / "n.netpress")))
    assert (rules.size, rules.background, rules.channels) == (8, 190, 3)
    clear = np.zeros((8, 8, 4), np.uint8)
    said = netpress.predict(tmp_path / "n.netpress", [clear, np.full((8, 8), 190, np.uint8)], top=3)
    assert said[0].guesses == said[1].guesses
    other = netpress.predict(network, [clear, np.full((8, 8), 7, np.uint8)], top=3, set=["data.background=7"])
    assert other[0].guesses == other[1].guesses != said[0].guesses
    assert netpress.predict(network, clear, set=["data.max_pixels=63"])[0].problem is not None
    for wrong in ("data.image_size=9", "data.test_fraction=0.1"):
        with pytest.raises(
            UserError, match=r"changes nothing in how one image is read; data\.resize, data\.background"
        ):
            netpress.predict(network, clear, set=[wrong])


def test_a_grey_network_sees_greys_of_colours():
    grey = create("resnet", {"blocks": [1], "width": 8, "image_size": 8, "classes": 3, "channels": 1}, seed=1)
    colours = RANDOM.integers(0, 256, (5, 9, 9, 3)).astype(np.uint8)
    by_pillow = [Image.fromarray(image).convert("L") for image in colours]
    said = [netpress.predict(grey, asked, top=3) for asked in (colours, by_pillow)]
    assert [answer.guesses for answer in said[0]] == [answer.guesses for answer in said[1]]
    two = create("resnet", {"blocks": [1], "width": 8, "image_size": 8, "classes": 3, "channels": 2}, seed=1)
    with pytest.raises(UserError, match="takes 2 channels, and an image has 1"):
        netpress.predict(two, colours)


def test_one_broken_file_does_not_lose_the_others(folder, network, tmp_path):
    (tmp_path / "broken.jpg").write_bytes((folder / "a" / "00.jpg").read_bytes()[:300])
    first, broken, last = netpress.predict(network, [folder / "a/00.jpg", tmp_path / "broken.jpg", folder / "b/00.jpg"])
    assert first.problem is last.problem is None and broken.problem and broken.guesses == ()
    alone = netpress.predict(network, folder / "b/00.jpg")[0].best
    assert (last.best.label, last.best.probability) == (alone.label, pytest.approx(alone.probability, abs=1e-6))
    with pytest.raises(Failure, match=r"broken\.jpg: cannot be read"):
        broken.best  # noqa: B018
    assert netpress.predict(network, tmp_path / "broken.jpg")[0].problem == broken.problem  # none that can be read


def test_exact_answers_are_those_of_the_integers(monkeypatch):
    pixels = RANDOM.integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    shipped = resolve(str(KAIST))
    shown = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), shipped.input.mean, shipped.input.std)
    with torch.inference_mode():
        expected = execute(lower(shipped), shown).double().softmax(1)
    monkeypatch.setattr(shipped.module, "forward", lambda *_: pytest.fail("the simulation in floats was asked"))
    exact = netpress.predict(shipped, pixels, exact=True, top=2)
    for one, probabilities in zip(exact, expected, strict=True):
        best = int(probabilities.argmax())
        assert one.best.label == shipped.classes[best]
        assert one.best.probability == pytest.approx(float(probabilities[best]), abs=1e-6)


def test_what_cannot_be_asked(network):
    grey = np.zeros((4, 4), np.uint8)
    with pytest.raises(UserError, match="no layer of this network computes with integers"):
        netpress.predict(network, grey, exact=True)
    for wrong in ({"top": 0}, {"scale": 0.0}, {"scale": float("nan")}):
        with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
            netpress.predict(network, grey, **wrong)
    spoilt = create("resnet", {"blocks": [1], "width": 8, "image_size": 8, "classes": 3}, seed=4)
    with torch.no_grad():
        list(spoilt.module.parameters())[-1][0] = 3e38
        list(spoilt.module.parameters())[-2].fill_(3e38)
    with pytest.raises(Failure, match="NaN"):
        netpress.predict(spoilt, RANDOM.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8))
