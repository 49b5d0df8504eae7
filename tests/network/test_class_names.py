"""Classes are matched by name: in any order, or refused with both lists; by number where that is asked for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from netpress import api
from netpress.data import Images
from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.network import create, load, save
from netpress.network.data import class_places, load_data, matched
from netpress.process.console import Console
from netpress.recipe.schema import check_recipe
from netpress.runs.recipes import plan_recipe
from netpress.training import load_teachers

QUIET = Console(quiet=True)
COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}
SAME = {name: name for name in COLOURS}
OTHERS = {"red": "z_red", "green": "green", "blue": "blue"}


def draw(root: Path, names: dict[str, str]) -> Path:
    """Images of three colours, in folders that `names` names."""
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for colour, name in names.items():
            place = root / part / name
            place.mkdir(parents=True)
            for number in range(16):
                pixels = np.clip(np.array(COLOURS[colour]) + random.integers(-20, 20, (8, 8, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Three folders of the same images, and a run on the first, which tells all colours apart."""
    root = tmp_path_factory.mktemp("classes")
    draw(root / "same", SAME)
    draw(root / "renamed", OTHERS)
    draw(root / "more", {**SAME, "green": "yellow"})
    optimizer = {"kind": "sgd", "learning_rate": 0.05}
    train = {"kind": "train", "epochs": 6, "batch_size": 16, "optimizer": optimizer, "augment": {"crop": 0}}
    recipe = {"name": "r", "seed": 1, "data": {"dataset": "folder", "image_size": 8}}
    recipe |= {"model": {"family": "resnet", "blocks": [1], "width": 8}, "stages": [train]}
    result = api.run(recipe, data=root / "same", out=root / "run")
    assert result.accuracy > 0.9
    return root


def test_another_order_is_permuted(place):
    """The same images under the network's names in another order: labels move, answers do not."""
    network = load(place / "run" / "network.netpress")
    data = load_data(network, place / "same", console=QUIET)
    assert data.classes == network.classes == ("blue", "green", "red")
    turned = ("red", "blue", "green")
    places = [turned.index(name) for name in data.classes]
    parts = {
        name: Images(part.images, torch.tensor(places)[part.labels])
        for name, part in (("train", data.train), ("validation", data.validation), ("test", data.test))
    }
    back = matched(network, replace(data, classes=turned, **parts))
    assert back.classes == network.classes
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(back, name).labels, getattr(data, name).labels)
    assert evaluate(network, back.test).accuracy == evaluate(network, data.test).accuracy > 0.9


@pytest.mark.parametrize("verb", ["evaluate", "sensitivity", "apply", "export"])
def test_other_names_are_refused_with_both_lists(place, call, tmp_path, verb):
    words = {
        "evaluate": ("evaluate", place / "run"),
        "sensitivity": ("sensitivity", place / "run", "--widths", "8", "--set", "data.split_seed=1"),
        "apply": ("apply", "prune", place / "run", "--set", "amount=0.1", "--set", "data.split_seed=1"),
        "export": ("export", "onnx", place / "run", "--out", tmp_path / "n.onnx"),
    }[verb]
    words = (*words, "--out", tmp_path / "out.netpress") if verb == "apply" else words
    code, _, err = call(*words, "--data", place / "more")
    assert code == 2
    assert "the network has green, folder yellow" in err
    assert "--classes-by-number" in err
    if verb == "export":
        pytest.importorskip("onnxruntime")
    code, _, err = call(*words, "--data", place / "more", "--classes-by-number")
    assert code == 0, err


def test_by_number_is_for_those_who_mean_it(place, call):
    """Renamed, red is the last class still and green the first but one: by number all answers are as they were."""
    code, _, err = call("evaluate", place / "run", "--data", place / "renamed")
    assert code == 2
    assert "the network has red, folder z_red" in err
    code, out, _ = call("evaluate", place / "run", "--data", place / "renamed", "--classes-by-number", "--json")
    whole = json.loads(out)["accuracy"]
    code, out, _ = call("evaluate", place / "run", "--data", place / "same", "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == whole
    assert api.evaluate(str(place / "run"), data=place / "renamed", set=["data.classes_by_number=true"]).count == 48


def test_recipes_that_begin_with_a_network_match_its_classes(place, tmp_path):
    recipe = {"name": "n", "data": {"dataset": "folder", "image_size": 8, "split_seed": 0}}
    recipe |= {"model": {"network": str(place / "run")}, "stages": [{"kind": "prune", "amount": 0.1}]}
    for ask in (
        lambda values: plan_recipe(check_recipe(values), place / "renamed"),
        lambda values: api.run(values, data=place / "renamed", out=tmp_path / values["name"]),
    ):
        with pytest.raises(UserError, match="network has red, folder z_red"):
            ask(recipe)
        ask({**recipe, "name": "m", "data": {**recipe["data"], "classes_by_number": True}})


def network_of(names: tuple[str, ...], answer: int):
    """A network that always gives the class of this number."""
    made = create("resnet", {"blocks": [1], "width": 4, "classes": len(names), "image_size": 8}, classes=names)
    last = [module for module in made.module.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.bias[answer] = 5
    made.module.eval()
    return made


def test_teachers_answer_for_the_classes_that_they_name(tmp_path):
    teacher, student = tmp_path / "teacher.netpress", network_of(("a", "b", "c"), 0)
    save(network_of(("c", "a", "b"), 0), teacher)  # always says c
    said = load_teachers((str(teacher),), student)(torch.zeros(2, 3, 8, 8))
    assert said.argmax(1).tolist() == [2, 2]
    wanted = torch.log_softmax(torch.tensor([0.0, 0.0, 5.0]), 0)
    assert torch.allclose(said, wanted.expand(2, 3), atol=1e-6)
    save(network_of(("c", "a", "x"), 0), teacher)
    with pytest.raises(UserError, match=r"the network has x, the student of teacher .* b"):
        load_teachers((str(teacher),), student)


def test_a_network_that_has_seen_no_data_takes_its_names(place, tmp_path, call):
    model = "resnet:blocks=[1],width=4,classes=3,image_size=8"
    words = ("apply", "train", model, "--data", place / "same", "--set", "epochs=1", "--out", tmp_path / "n.netpress")
    code, _, err = call(*words)
    assert code == 0, err
    made = load(tmp_path / "n.netpress")
    assert made.classes == ("blue", "green", "red")
    assert made.data.settings.dataset == "folder"


def test_places_by_hand():
    network = create("resnet", {"blocks": [1], "width": 4, "classes": 3}, classes=("a", "b", "c"))
    assert class_places(network, ("c", "a", "b"), "data") == [2, 0, 1]
    assert class_places(network, ("a", "b", "c"), "data") is None
    assert class_places(network, ("x", "y", "z"), "data", by_number=True) is None
    for names, message in (
        (("a", "b"), "3 classes apart .a, b, c., data has 2 .a, b."),
        (("a", "b", "B"), "c, data B"),
    ):
        with pytest.raises(UserError, match=message):
            class_places(network, names, "data")
