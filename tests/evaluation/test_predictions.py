"""What a network answers image by image: counted by class, kept in a file, and refused where that is damaged."""

from dataclasses import replace

import pytest
import torch

from netpress.data import Images
from netpress.errors import Failure
from netpress.evaluation import Predictions, evaluate, predict, predictions_of, read_predictions, save_predictions
from netpress.network import create


def make(classes: int = 4, count: int = 50, seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    predicted, labels = torch.randint(0, classes, (2, count), generator=generator)
    names = tuple(f"class {index}" for index in range(classes))
    return Predictions("folder", names, "0" * 64, predicted, labels)


def test_an_evaluation_tells_each_answer():
    network = create("resnet", {"blocks": [1], "width": 8, "image_size": 8, "classes": 7}, seed=1)
    pixels = torch.randint(0, 256, (150, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    images = Images(pixels, torch.arange(150) % 6)  # of the last class there is no image
    measured = evaluate(network, images, batch_size=64)  # the last batch is a smaller one
    assert torch.equal(measured.predicted, predict(network, images).argmax(1))
    right, counts = measured.by_class(7)
    assert counts.tolist() == [25] * 6 + [0]
    by_hand = [0] * 7
    for answer, label in zip(measured.predicted.tolist(), images.labels.tolist(), strict=True):
        by_hand[label] += answer == label
    assert right.tolist() == by_hand
    kept = predictions_of(measured, images, tuple("abcdefg"), "mine")
    assert kept.accuracy == measured.accuracy == sum(by_hand) / 150
    assert [counted.tolist() for counted in kept.by_class()] == [by_hand, counts.tolist()]


@pytest.mark.parametrize(("classes", "width"), [(2, 1), (256, 1), (257, 2), (40_000, 4)])
def test_a_file_gives_back_what_was_saved_and_is_small(tmp_path, classes, width):
    saved = make(classes, count=10_000)
    saved.predicted[0] = saved.labels[1] = classes - 1
    save_predictions(saved, tmp_path / "a")
    read = read_predictions(tmp_path / "a")
    assert (read.dataset, read.classes, read.images) == (saved.dataset, saved.classes, saved.images)
    assert torch.equal(read.predicted, saved.predicted) and torch.equal(read.labels, saved.labels)
    names = len(str(saved.classes))
    assert (tmp_path / "a").stat().st_size <= 2 * 10_000 * width + 1.5 * names + 400
    save_predictions(saved, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_images_are_told_apart_by_their_pixels_and_not_by_their_labels():
    network = create("resnet", {"blocks": [1], "width": 8, "image_size": 8, "classes": 4}, seed=1)
    pixels = torch.zeros(8, 3, 8, 8, dtype=torch.uint8)
    others = pixels.clone()
    others[7, 2, 7, 7] = 1

    def told(pixels: torch.Tensor, labels: torch.Tensor) -> str:
        images = Images(pixels, labels)
        return predictions_of(evaluate(network, images), images, tuple("abcd"), "mine").images

    labels = torch.arange(8) % 4
    assert told(pixels, labels) == told(pixels, labels.flip(0))
    assert told(pixels, labels) != told(others, labels)


def test_a_damaged_file_is_no_traceback(tmp_path):
    path = tmp_path / "predictions.safetensors"
    save_predictions(make(), path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], b"\0" * 40, whole.replace(b"predicted", b"predictee")):
        path.write_bytes(damaged)
        with pytest.raises(Failure, match=r"predictions\.safetensors: damaged .*delete it"):
            read_predictions(path)
    good = make()
    for wrong in (
        replace(good, labels=good.labels[1:]),
        replace(good, predicted=good.predicted + 1),
        replace(good, classes=good.classes[:3]),
    ):
        save_predictions(wrong, path)
        with pytest.raises(Failure, match="damaged"):
            read_predictions(path)
