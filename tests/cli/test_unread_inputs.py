"""No input is silently ignored: each acts, or is refused with a sentence and exit code 2."""

import json

import pytest

import netpress
from netpress.errors import UserError
from netpress.network import create, save
from netpress.recipe.reading import read_recipe
from netpress.settings import SettingsError

pytestmark = pytest.mark.slow

FOLD_ONLY = {"name": "x", "model": {"family": "c_efficientnet", "preset": "tiny"}, "stages": [{"kind": "fold"}]}
TRAINS = {
    "name": "x",
    "model": {"family": "c_efficientnet", "preset": "tiny"},
    "stages": [{"kind": "train", "epochs": 10, "rounds": 1}],
}
SWEEP = """
extends = "digits"
name = "s"
[sweep]
seeds = [1, 2]
"""


@pytest.fixture
def place(tmp_path):
    """A folder with a network of the digits, one that has seen no data, and a sweep."""
    for name, dataset in (("net", "digits"), ("new", None)):
        network = create("c_efficientnet", {"widths": "tiny", "width_factor": 0.5, "classes": 10}, seed=1)
        if dataset is not None:
            network.facts["dataset"] = dataset
        save(network, tmp_path / f"{name}.netpress")
    (tmp_path / "sweep.toml").write_text(SWEEP)
    (tmp_path / "fold.toml").write_text(
        'name = "fold"\n[model]\nfamily = "c_efficientnet"\npreset = "tiny"\n[[stages]]\nkind = "fold"\n'
    )
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run digits --data elsewhere", "--data elsewhere: digits come with netpress"),
        ("plan digits --data elsewhere", "--data elsewhere: digits come with netpress"),
        ("run digits --seed 1 --set seed=2", "--seed and --set seed say the same"),
        ("run digits --seed 1 --set **.seed=2", "--seed and --set seed say the same"),
        ("run digits --save-every -1", "--save-every"),
        ("run fold.toml --epochs-scale 0.1", "--epochs-scale 0.1: this recipe trains nothing"),
        ("plan fold.toml --epochs-scale 0.1", "--epochs-scale 0.1: this recipe trains nothing"),
        ("run sweep.toml --seed 3", "--seed 3: the sweep sets seeds itself"),
        ("run sweep.toml --set seed=3", "--set seed=3: the sweep sets this itself"),
        ("plan sweep.toml --set seed=3", "--set seed=3: the sweep sets this itself"),
        ("plan digits --set data.background=9", "data: background: changes nothing in digits"),
        ("plan digits --set data.max_pixels=9", "data: max_pixels: changes nothing in digits"),
        ("apply fold net.netpress --out o --data elsewhere", "--data elsewhere: digits come with netpress"),
        ("apply fold new.netpress --out o --set data.validation=0.2", "data.validation: changes nothing"),
        ("apply fold new.netpress --out o --classes-by-number", "data.classes_by_number: changes nothing"),
        ("apply fold net.netpress --out o --dataset digits --set data.dataset=cifar10", "--dataset digits and --set"),
        ("apply fold net.netpress --out o --set sweep.seeds=[1]", "fold.sweep: no such setting"),
        ("evaluate net.netpress --data elsewhere", "--data elsewhere: digits come with netpress"),
        (
            "evaluate net.netpress --dataset digits --set data.dataset=cifar10",
            "--dataset digits and --set data.dataset",
        ),
        (
            "evaluate net.netpress --classes-by-number --set data.classes_by_number=false",
            "--classes-by-number and --set data.classes_by_number say the same",
        ),
        ("evaluate net.netpress --set data.validation=0.5", "--set data.validation: concerns the training images"),
        ("evaluate net.netpress --set data.train_images=5", "--set data.train_images: concerns the training images"),
        ("evaluate net.netpress --set data.select_on=test", "--set data.select_on: concerns the training images"),
        ("sensitivity net.netpress --json --csv", "--json and --csv exclude each other"),
        ("sensitivity net.netpress --set widths=[8]", "--set widths: changes nothing here, give --widths"),
        ("sensitivity net.netpress --set train.epochs=1", "--set train: changes nothing here"),
        ("sensitivity net.netpress --set bits=auto", "--set bits: changes nothing here"),
        ("sensitivity net.netpress --dataset digits --set data.dataset=cifar10", "--dataset digits and --set"),
        ("score net.netpress --json --csv", "--json and --csv exclude each other"),
        ("score net.netpress --json --explain", "--json and --explain exclude each other"),
        ("score net.netpress --explain --per kind", "--per kind: there are no rows"),
        ("score net.netpress new.netpress --per kind", "--per kind: there are no rows"),
        (
            "score net.netpress --convention kaist --set convention=wave",
            "--convention and --set convention say the same",
        ),
        ("score net.netpress --weight-bits 8 --set weight_bits=4", "--weight-bits and --set weight_bits say the same"),
        ("score net.netpress --set score.mask=cheaper", "leave out `score.`"),
        ("score net.netpress --set mask", "--set mask: write it as path.to.key=value"),
        ("score net.netpress --set **.mask=none", "says mask nowhere"),
        ("score net.netpress --set no_such=1", "no_such: no such setting"),
        ("export onnx net.netpress --out o.onnx --no-check --agreement 0.0", "leave out --agreement, or --no-check"),
        (
            "export onnx net.netpress --out o.onnx --no-check --set data.dataset=digits",
            "leave out --set, or --no-check",
        ),
        ("export onnx net.netpress --out o.onnx --no-check --classes-by-number", "leave out --classes-by-number"),
        ("export onnx new.netpress --out o.onnx --set data.image_size=9", "data.image_size: changes nothing"),
    ],
)
def test_refused(call, place, words, message):
    code, _, error = call(*words.split())
    assert code == 2, error
    assert message in error
    assert not (place / "o").exists()
    assert not (place / "o.onnx").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"set": ["stages.0.no_such=5"]}, "stages.0.train.no_such: no such setting"),
        ({"set": ["stages.4.epochs=5"]}, "stages has entries 0 to 0"),
        ({"set": ["epochs"]}, "--set epochs"),
        ({"set": ["seed=1"], "seed": 2}, "say the same"),
        ({"seed": -1}, "seed"),
        ({"epochs_scale": 0.0}, "--epochs-scale"),
    ],
)
@pytest.mark.parametrize("given", ["values", "recipe"])
def test_overrides_of_recipes_in_python(tmp_path, asked, message, given):
    recipe = TRAINS if given == "values" else read_recipe(TRAINS)
    with pytest.raises(UserError, match=message):
        netpress.run(recipe, out=tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()


def test_recipes_in_python_are_read_as_files_are():
    before = json.dumps(TRAINS)
    first = read_recipe(TRAINS, ["stages.0.epochs=4", "data.validation=0.2"], 7, 0.5)
    assert json.dumps(TRAINS) == before
    assert (first.stages[0].epochs, first.data.validation, first.seed) == (2, 0.2, 7)
    again = read_recipe(first, ["name=y"], 8)
    assert (again.stages, again.name, again.seed) == (first.stages, "y", 8)
    assert (first.name, first.seed) == ("x", 7)
    assert read_recipe({**TRAINS, "stages": tuple(TRAINS["stages"])}, ["stages.0.epochs=3"]).stages[0].epochs == 3
    extended = read_recipe({"extends": "digits", "name": "mine"}, ["seed=3"])
    assert (extended.name, extended.seed, extended.data.dataset) == ("mine", 3, "digits")
    with pytest.raises(SettingsError, match="no kind of value"):
        read_recipe({**TRAINS, "description": object()})
    with pytest.raises(UserError, match="trains nothing"):
        read_recipe(FOLD_ONLY, epochs_scale=0.5)


def test_score_settings_as_recipes_read_them(call, place):
    _, by_set, _ = call("score", "net.netpress", "--json", "--set", "convention=kaist", "--set", 'mask="none"')
    figures = json.loads(by_set)
    assert figures["convention"] == "kaist"
    _, by_option, _ = call("score", "net.netpress", "--json", "--convention", "kaist", "--set", "mask=none")
    assert json.loads(by_option) == figures
    _, charged, _ = call("score", "net.netpress", "--json", "--convention", "kaist")
    assert json.loads(charged)["convention"] == "kaist"


def test_what_is_asked_for_is_printed(call, place):
    _, out, _ = call("score", "net.netpress", "net.netpress", "--json")
    assert [figures["network"] for figures in json.loads(out)] == ["net.netpress"] * 2
    _, layers, _ = call("score", "net.netpress", "--json")
    _, blocks, _ = call("score", "net.netpress", "--json", "--per", "block")
    assert len(json.loads(blocks)["layers"]) < len(json.loads(layers)["layers"])


def test_sensitivity_in_python_is_the_command(call, place):
    with pytest.raises(UserError, match="--widths 1: a width is 2 to 16 bits"):
        netpress.sensitivity(place / "net.netpress", widths=[1])
    with pytest.raises(UserError, match="--images 0"):
        netpress.sensitivity(place / "net.netpress", images=0)
    with pytest.raises(UserError, match="--set arithmetic: changes nothing here"):
        netpress.sensitivity(place / "net.netpress", set=["arithmetic=float32"])
    measured = netpress.sensitivity(place / "net.netpress", widths=[4], images=20, set=["calibration_images=16"])
    assert measured.images == 20
    words = ("--widths", 4, "--images", 20, "--set", "calibration_images=16", "--json")
    code, out, error = call("sensitivity", "net.netpress", *words)
    assert code == 0, error
    assert json.loads(out) == [vars(row) for row in measured.rows]
