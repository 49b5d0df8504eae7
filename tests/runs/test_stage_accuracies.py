"""What a run measures on the test images of its stages, and the pictures that it draws."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import netpress
from netpress.data import DataSettings, load_dataset
from netpress.evaluation import accuracy_interval, evaluate
from netpress.folders.run import RunFolder
from netpress.process.console import Console
from netpress.report import make_report
from netpress.runs import judging

pytestmark = pytest.mark.slow

SET = ["data.train_images=120", "data.image_size=8", "stages.0.epochs=2", "stages.1.train.epochs=2"]
SET += ["stages.0.schedule.warmup=1", "stages.0.augment.crop=1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("runs") / "small"
    netpress.run("digits", out=out, set=SET)
    return RunFolder(out)


@pytest.fixture(scope="module")
def data(finished: RunFolder):
    settings = DataSettings(train_images=120, image_size=8)
    return load_dataset(settings, None, 1, Console(quiet=True))


def test_each_stage_is_measured_as_evaluate_measures_it(finished, data):
    told = finished.read_judgement()
    assert list(told["stages"]) == ["01-train", "02-prune"] and told["images"] == len(data.test)
    for name, figures in told["stages"].items():
        network = netpress.load(finished.stage(name).network)
        measured = evaluate(network, data.test)
        right = int((measured.predicted == measured.labels).sum())
        assert (figures["right"], figures["images"], figures["loss"]) == (right, 300, measured.loss)
        assert figures["interval"] == list(accuracy_interval(right, 300))
        assert figures["score"] == netpress.score(network).score
    score = finished.read_score()
    last = told["stages"]["02-prune"]
    assert last["right"] / last["images"] == score["accuracy"]
    assert all(last[name] == score["footprint"][name] for name in ("flash_bytes", "ram_bytes", "multiply_adds"))
    assert told["stages"]["01-train"]["nonzero_multiply_adds"] > last["nonzero_multiply_adds"]


def test_the_answers_add_up(finished, data):
    told = finished.read_judgement()
    images = torch.bincount(data.test.labels).tolist()
    matrix = np.zeros((10, 10), dtype=int)
    for label, predicted, count in told["confusion"]:
        matrix[label, predicted] += count
    assert matrix.sum(1).tolist() == images == [one["images"] for one in told["classes"]]
    assert matrix.diagonal().tolist() == [one["right"] for one in told["classes"]]
    assert [one["name"] for one in told["classes"]] == list(data.classes)
    assert sum(one["images"] for one in told["calibration"]["bins"]) == 300
    wrong = matrix.sum() - matrix.trace()
    assert len(told["mistakes"]) == min(wrong, judging.MOST_MISTAKES)


def test_the_pictures_are_those_of_the_images(finished, data):
    facts = json.loads(finished.examples.read_text(encoding="utf-8"))
    assert facts["classes"] == list(data.classes) and facts["augmented_in"] == "01-train"
    sheet = np.asarray(Image.open(finished.picture("examples")))
    side = facts["side"]
    for row, count in enumerate(facts["shown"]):
        own = data.train.images[data.train.labels == row].permute(0, 2, 3, 1).numpy()
        for column in range(count):
            tile = sheet[row * side : (row + 1) * side, column * side : (column + 1) * side]
            assert any(np.array_equal(tile, image) for image in own)
    mistakes = np.asarray(Image.open(finished.picture("mistakes")))
    first = finished.read_judgement()["mistakes"][0]
    assert np.array_equal(mistakes[:, :8], data.test.images[first["image"]].permute(1, 2, 0).numpy())
    augmented = np.asarray(Image.open(finished.picture("augmented")))
    assert augmented.shape == sheet.shape and not np.array_equal(augmented, sheet)


def test_the_page_has_it_all(finished):
    html = make_report(finished.path).read_text(encoding="utf-8")
    assert html.count("<img") == 2 * 10 + len(finished.read_judgement()["mistakes"])
    for told in ("01-train", "confused most", "Wilson", "before training", "training images of 3"):
        assert told in html


def test_the_peak_of_the_rate_is_logged(finished):
    """The warm-up of one epoch ends at .1, and the epoch's last step is the only one that has it."""
    lines = [json.loads(line) for line in finished.metrics.read_text(encoding="utf-8").splitlines()]
    rates = [pair for line in lines if line.get("stage") == "01-train" for pair in line["learning_rates"]]
    assert max(rate for _, rate in rates) == pytest.approx(0.1, rel=1e-6)
    assert min(rate for _, rate in rates) < 0.06


def test_what_is_measured_is_not_measured_again_unless_the_network_is_another(finished, tmp_path, monkeypatch):
    import shutil

    place = tmp_path / finished.path.name
    shutil.copytree(finished.path, place)
    run, measured = RunFolder(place), []
    before = run.read_judgement()
    sheets = {name: run.picture(name).read_bytes() for name in ("examples", "augmented", "mistakes")}

    def counted(network, images, **options):
        measured.append(network)
        return evaluate(network, images, **options)

    monkeypatch.setattr(judging, "evaluate", counted)
    netpress.run("digits", out=place, set=SET)
    assert not measured and run.read_judgement() == before

    run.judgement.write_text("{", encoding="utf-8")  # damaged: all is measured anew, to the same
    for picture in sheets:
        run.picture(picture).unlink()
    run.examples.unlink()
    netpress.run("digits", out=place, set=SET)
    assert len(measured) == 1 and run.read_judgement() == before
    assert {name: run.picture(name).read_bytes() for name in sheets} == sheets

    shutil.copy(run.stage("02-prune").network, run.stage("01-train").network)
    netpress.run("digits", out=place, set=SET)
    first, last = run.read_judgement()["stages"].values()
    assert len(measured) == 2 and first["right"] == last["right"] and first["network"] == last["network"]


def test_clearing_takes_them_too(finished, tmp_path):
    import shutil

    place = tmp_path / "run"
    shutil.copytree(finished.path, place)
    (place / "pictures" / "mine.png").write_bytes(b"")
    RunFolder(place).clear()
    left = sorted(path.relative_to(place).as_posix() for path in Path(place).rglob("*") if path.is_file())
    assert [name for name in left if not name.endswith(".lock")] == ["pictures/mine.png"]
