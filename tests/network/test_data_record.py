"""A network's file says which images it was made with, and what reads images for it divides them so."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from netpress import api
from netpress.data import DataRecord, DataSettings, load_dataset
from netpress.errors import UserError
from netpress.network import create, describe, load, save
from netpress.network.data import load_data
from netpress.process.console import Console
from netpress.runs.apply import apply_stage
from netpress.runs.beginning import load_run_data
from netpress.runs.jobs import RunOptions
from netpress.settings import parse

pytestmark = pytest.mark.slow

QUIET = Console(quiet=True)
MODEL = {"blocks": [1], "width": 4, "classes": 2, "image_size": 8}
TRAIN = {"kind": "train", "epochs": 1, "batch_size": 16}


def draw_folder(root: Path, parts: tuple[str, ...] = ("",), classes: tuple[str, ...] = ("cat", "dog"), count: int = 20):
    """Images of noise, no two alike; the n-th class is brighter than the one before."""
    random = np.random.default_rng(5)
    for part in parts:
        for place, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 100, (8, 8, 3)) + 150 * place
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{number}.png")
    return root


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.fixture(scope="module")
def flat(tmp_path_factory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("flat"))


@pytest.fixture(scope="module")
def run(flat, tmp_path_factory) -> Path:
    """A run of one epoch on a folder that is divided by the run: 40 images, 8 for the test, 8 for validation."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    data = {"dataset": "folder", "image_size": 8, "test_fraction": 0.2, "validation": 0.25}
    recipe = {"name": "r", "seed": 1, "data": data, "model": {"family": "resnet", "blocks": [1], "width": 4}}
    api.run({**recipe, "stages": [TRAIN]}, data=flat, out=folder)
    return folder


def test_the_file_says_how_the_images_were_divided(run, flat):
    wanted = load_dataset(
        DataSettings(dataset="folder", image_size=8, test_fraction=0.2, validation=0.25), flat, 1, QUIET
    )
    for path in (run / "01-train" / "network.netpress", run / "network.netpress"):
        said = describe(path)["data"]
        assert said["settings"]["validation"] == 0.25
        assert (said["seed"], said["checksum"]) == (1, wanted.checksum)
        network = load(path)
        assert network.data == wanted.record
        assert load_data(network, flat, console=QUIET, selects=True).checksum == wanted.checksum
    assert json.loads((run / "environment.json").read_text())["data_checksum"] == wanted.checksum


def test_apply_selects_on_what_the_run_set_apart(run, flat, tmp_path, monkeypatch):
    """Each image is another, so that bytes tell which set it is in; seeds of apply's own change nothing."""
    wanted = load_dataset(load(run / "network.netpress").data.settings, flat, 1, QUIET)
    seen = []
    monkeypatch.setattr("netpress.runs.apply.evaluate", lambda network, images, device: seen.append(images) or FINE)
    out = tmp_path / "p.netpress"
    apply_stage("prune", str(run), out, ["amount=0.2"], seed=7, options=RunOptions(data=flat))
    assert rows(seen[0].images) == rows(wanted.validation.images)
    assert not rows(seen[0].images) & (rows(wanted.train.images) | rows(wanted.test.images))
    assert load(out).data == wanted.record


class Fine:
    accuracy = 0.5


FINE = Fine()


def test_commands_know_the_data_of_a_folder_without_train_and_test(run, flat, call, tmp_path):
    for network in (run, run / "01-train" / "network.netpress"):
        code, out, err = call("evaluate", network, "--data", flat, "--json", "--threads", 1)
        assert code == 0, err
        assert json.loads(out)["images"] == 8
    assert call("apply", "prune", run, "--data", flat, "--set", "amount=0.1", "--out", tmp_path / "p.netpress")[0] == 0
    code, out, err = call("sensitivity", run, "--data", flat, "--widths", "8")
    assert code == 0, err
    assert "of 8 images" in out
    code, out, err = call("evaluate", run, "--data", flat, "--json", "--set", "data.test_fraction=0.5")
    assert json.loads(out)["images"] == 20
    assert "may have been training images" in err
    code, _, err = call("evaluate", run, "--data", flat, "--set", "epochs=2")
    assert code == 2
    assert "only data.KEY=VALUE" in err


def test_export_compares_on_the_images_of_the_test(run, flat, call, tmp_path):
    pytest.importorskip("onnxruntime")
    code, out, err = call("export", "onnx", run, "--out", tmp_path / "n.onnx", "--data", flat, "--json")
    assert code == 0, err
    assert json.loads(out)["count"] == 8


def test_other_images_and_other_splits_are_refused_unless_asked_for(run, flat, tmp_path, call):
    network = load(run / "network.netpress")
    other = draw_folder(tmp_path / "other", count=21)
    for selects in (True, False):  # a test set that is drawn is in danger, too
        with pytest.raises(UserError, match=r"not the images that the network was trained with.*data\.split_seed"):
            load_data(network, other, selects=selects, console=QUIET)
    with pytest.raises(UserError, match="not the images"):  # fewer of them: looked at with all
        load_data(network, other, changes={"train_images": 4}, selects=True, console=QUIET)
    assert len(load_data(network, flat, changes={"train_images": 4}, selects=True, console=QUIET).train) == 4
    asked = load_data(network, other, changes={"split_seed": 3}, selects=True, console=QUIET)
    assert asked.record.seed == 3
    given = draw_folder(tmp_path / "given", ("train", "test"))
    assert len(load_data(network, given, console=QUIET).test) == 40  # somebody else's test images
    with pytest.raises(UserError, match="not the images"):
        load_data(network, given, selects=True, console=QUIET)
    code, _, err = call("sensitivity", run, "--data", other)
    assert code == 2
    assert "--set data.split_seed=0" in err


def test_a_recipe_that_begins_with_a_network_divides_as_it_did(run, flat):
    network = load(run / "network.netpress")
    said = network.data.settings
    assert load_run_data(said, flat, 9, network, QUIET).record == network.data
    with pytest.raises(UserError, match=r"data\.validation: 0\.3, but .* was trained with 0\.25"):
        load_run_data(said.model_copy(update={"validation": 0.3}), flat, 9, network, QUIET)
    asked = said.model_copy(update={"validation": 0.3, "split_seed": 4})
    assert load_run_data(asked, flat, 9, network, QUIET).record.seed == 4
    on_test = said.model_copy(update={"select_on": "test"})  # no image is selected on that was trained on
    assert rows(load_run_data(on_test, flat, 9, network, QUIET).test.images) == rows(
        load_run_data(said, flat, 9, network, QUIET).test.images
    )


def test_a_file_without_a_record_still_loads(tmp_path):
    network = create("resnet", MODEL)
    save(network, tmp_path / "n.netpress")
    assert "data" not in describe(tmp_path / "n.netpress")
    assert load(tmp_path / "n.netpress").data is None


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    validation=st.floats(0.01, 0.9),
    on_test=st.booleans(),
    few=st.none() | st.integers(1, 100),
    split=st.none() | st.integers(0, 99),
)
def test_a_record_reads_the_same_images_again(seed, validation, on_test, few, split):
    select = "test" if on_test else "validation"
    said = DataSettings(image_size=8, validation=validation, select_on=select, train_images=few, split_seed=split)
    read = load_dataset(said, None, seed, QUIET)
    parts = [rows_of(part) for part in (read.train, read.validation, read.test)]
    assert sum(map(len, parts)) == len(set().union(*parts))  # no image is in two parts
    assert len(parts[2]) == 300
    again = parse(DataRecord, json.loads(json.dumps(read.record.as_json())), "data")
    assert again == read.record
    assert load_dataset(again.settings, None, again.seed, QUIET).checksum == read.checksum


def rows_of(part) -> set[bytes]:
    """The images, which differ in all digits but few: a set of them is as large as the part."""
    found = {image.numpy().tobytes() for image in part.images}
    assert len(found) == len(part)
    return found
