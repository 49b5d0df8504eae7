"""Recipes: what is accepted, what is refused, and what a person is told."""

import re
import tomllib

import pytest

from netpress.errors import UserError
from netpress.recipe.drafting import draft_recipe
from netpress.recipe.overrides import apply_override
from netpress.recipe.reading import load_values, read_recipe, shipped
from netpress.recipe.scaling import scale_recipe
from netpress.recipe.schema import check_recipe
from netpress.scoring import choose_settings
from netpress.settings import SettingsError
from netpress.training.schedules import rate_at


@pytest.mark.parametrize("name", list(shipped()))
def test_shipped_recipes_resolve_and_read_back_equal(name):
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.description
    text = recipe.text
    assert check_recipe(tomllib.loads(text)) == recipe


def test_every_problem_is_told_at_once_with_its_path():
    values, source = load_values("digits")
    values["stages"][1]["amount"] = 1.4
    values["stages"][0]["epoch"] = 3
    values["data"]["dataset"] = "mnist"
    values["model"]["expansion"] = "wide"
    with pytest.raises(SettingsError) as caught:
        check_recipe(values, source)
    message = str(caught.value)
    assert "stages.1.prune.amount: 1.4 is not between 0 and 1" in message
    assert "stages.0.train.epoch: no such setting" in message
    assert "data.dataset: 'mnist' is not one of" in message
    assert "model.expansion" in message
    assert caught.value.exit_code == 2
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": {"family": "resnext"}}, "resnext"),
        ({"model": {}}, "model.family"),
        ({"model": {"family": "c_efficientnet", "preset": "v9"}}, "v9"),
        ({"model": {"network": 3}}, "model.network"),
        ({"stages": [{"kind": "shrink"}]}, "'shrink' is not one of"),
        ({"stages": [{"epochs": 3}]}, "kind"),
        ({"stages": [{"kind": "train", "epochs": 2.5}]}, "stages.0.train.epochs"),
        ({"stages": [{"kind": "train", "epochs": True}]}, "stages.0.train.epochs"),
        ({"stages": [{"kind": "train", "epochs": 0}]}, "0 is not at least 1"),
        ({"seed": -1}, "seed: -1 is not at least 0"),
        ({"name": "../x"}, "name"),
        ({"colour": "red"}, "colour: no such setting"),
    ],
)
def test_impossible_recipes(change, expected):
    values, _ = load_values("digits")
    with pytest.raises(UserError, match=re.escape(expected)):
        check_recipe(values | change)


def test_overrides():
    values, _ = load_values("digits")
    for text in (
        "stages.0.epochs=2",
        "data.train_images=50",
        "model.init=orthogonal",
        "stages.1.train.mix.kind=cutmix",
    ):
        apply_override(values, text)
    recipe = check_recipe(values)
    assert recipe.stages[0].epochs == 2
    assert recipe.data.train_images == 50
    assert recipe.model["init"] == "orthogonal"
    assert recipe.stages[1].train.mix.kind == "cutmix"


@pytest.mark.parametrize("text", ["stages.7.epochs=1", "stages.x.epochs=1", "epochs", "name.first=1", "=3"])
def test_overrides_that_cannot_be(text):
    values, _ = load_values("digits")
    with pytest.raises(UserError, match="--set"):
        apply_override(values, text)


def test_an_override_for_every_place():
    values, _ = load_values("digits")
    for text in ("**.augment.policy=rand", "**.epochs=2", 'model."dropout"=0.3'):
        apply_override(values, text)
    recipe = check_recipe(values)
    assert recipe.stages[0].augment.policy == recipe.stages[1].train.augment.policy == "rand"
    assert recipe.stages[0].epochs == recipe.stages[1].train.epochs == 2
    assert recipe.model["dropout"] == 0.3
    for text in ("**.nothing=1", "**=1"):
        with pytest.raises(UserError, match="--set"):
            apply_override(values, text)


def test_epochs_scale_keeps_a_round_an_epoch():
    scaled = read_recipe("kaist-v1", epochs_scale=0.005)
    assert (scaled.stages[0].epochs, scaled.stages[0].rounds) == (4, 4)
    assert scaled.stages[1].train.epochs == 1
    # One epoch a round still has the whole cosine, not its lowest rate alone.
    assert scaled.stages[0].schedule.per == scaled.stages[1].train.schedule.per == "step"
    longer = read_recipe("kaist-v1", epochs_scale=2).stages[0]
    assert (longer.epochs, longer.schedule.per) == (1200, "epoch")


def test_cards_beside_are_named_by_their_convention_or_name_it():
    values = {"wave": {}, "whole": {"convention": "wave", "residual_adds": True}}
    recipe = check_recipe({**load_values("digits")[0], "beside": values})
    again = read_recipe("digits", ["beside.wave={}", "beside.whole.convention=wave", "beside.whole.residual_adds=true"])
    assert again == recipe == check_recipe(tomllib.loads(recipe.text))
    assert recipe.beside["wave"] == choose_settings("wave")
    assert recipe.beside["whole"] == choose_settings("wave", options={"residual_adds": True})
    plain = read_recipe("digits")
    assert plain.beside == {} and "beside" not in plain.text  # as the run folders of versions that had none state it


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("beside.wvae={}", "beside.wvae.convention: 'wvae' is not one of 'official', 'kaist', 'wave'"),
        ("beside.mine.convention=wvae", "beside.mine.convention: 'wvae' is not one of"),
        ("beside.wave.mask=none", "beside.wave: mask is no option of the convention wave; it has activation_bits"),
        ("beside.wave.residual_adds=3", "beside.wave.residual_adds: 3 is not"),
        ("beside.wave.bits=9", "beside.wave.bits: no such setting"),
        ("beside.wave=3", "beside.wave: 3 is not an object"),
        ('beside=["wave"]', "beside: write a table for each count, such as [beside.wave]"),
        ("beside.'a/b'.convention=wave", "beside.'a/b'"),
    ],
)
def test_cards_beside_that_cannot_be_counted(override, problem):
    with pytest.raises(SettingsError) as raised:
        read_recipe("digits", [override])
    assert problem in str(raised.value)
    assert len(raised.value.problems) == 1


def test_pieces_keep_their_shares_when_scaled():
    schedule = {"kind": "piecewise", "milestones": [0.25, 0.5], "multipliers": [0.1, 0.002], "per": "epoch"}
    stage = {"kind": "train", "epochs": 1800, "schedule": schedule}
    recipe = check_recipe({"name": "pieces", "model": {"family": "pyramidnet"}, "stages": [stage]})
    assert check_recipe(tomllib.loads(recipe.text)).text == recipe.text
    train = scale_recipe(recipe, 0.001).stages[0]
    assert (train.epochs, train.schedule.per) == (2, "step")
    rates = [rate_at(1.0, train.schedule, e, s, 2, 4) for e in range(2) for s in range(4)]
    assert rates == [1.0, 1.0, 0.1, 0.1, *[0.002] * 4]


def test_epochs_scale_reaches_defaults_and_warm_ups():
    stage = {"kind": "train", "schedule": {"kind": "cosine", "warmup": 5.0}}
    values = {"name": "short", "model": {"family": "c_efficientnet"}, "stages": [stage]}
    scaled = scale_recipe(check_recipe(values), 0.1)
    assert scaled.stages[0].epochs == 3  # of the default, 30
    assert scaled.stages[0].schedule.warmup == 0.5
    for factor in (0, -1, float("nan")):
        with pytest.raises(UserError, match="--epochs-scale"):
            scale_recipe(check_recipe(values), factor)


def test_a_recipe_extends_another(tmp_path):
    (tmp_path / "wide.toml").write_text(
        'name = "wide"\nextends = "digits"\n[data]\nvalidation = 0.2\n[model]\nwidth_factor = 2.0'
    )
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nextends = "wide.toml"\n[model]\ndropout = 0.0\n[[stages]]\nkind = "train"\nepochs = 1\n'
    )
    recipe, digits = read_recipe(str(path)), read_recipe("digits")
    assert recipe.model == {**digits.model, "width_factor": 2.0, "dropout": 0.0}
    assert (recipe.data.validation, recipe.seed, recipe.score) == (0.2, digits.seed, digits.score)
    assert [stage.epochs for stage in recipe.stages] == [1]  # the list as a whole
    assert (recipe.name, recipe.description) == ("mine", "")  # names and descriptions are each one's own


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "no-such-recipe"', "mine.toml: extends: no-such-recipe: no recipe of this name"),
        ('extends = "other.toml"', "other.toml: no such recipe file"),
        ("extends = 3", "mine.toml: extends: 3 is not the name of a recipe"),
        ('extends = "../mine/mine.toml"', "extends itself"),
        ('extends = "digits"', "name: is missing"),
    ],
)
def test_recipes_that_extend_nothing_sound(tmp_path, text, message):
    path = tmp_path / "mine" / "mine.toml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        read_recipe(str(path))


def test_unknown_recipe_and_broken_toml(tmp_path):
    with pytest.raises(UserError, match="digits"):
        read_recipe("no-such-recipe")
    with pytest.raises(UserError, match="no such recipe file"):
        read_recipe(str(tmp_path / "none.toml"))
    broken = tmp_path / "broken.toml"
    for content in (b"name = [", b'name = "\xff"'):
        broken.write_bytes(content)
        with pytest.raises(UserError, match="not valid TOML"):
            read_recipe(str(broken))


def test_new_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = draft_recipe("mine")
    assert read_recipe(str(path)).name == "mine"
    assert "# " in path.read_text()
    with pytest.raises(UserError, match="is there already"):
        draft_recipe("mine")
    with pytest.raises(UserError, match="--like"):
        draft_recipe("other", "nothing")


@pytest.mark.parametrize("preset", [3, True, {"a": 1}, [["tiny"]], [3], {}])
def test_a_preset_is_a_name_or_names(preset):
    values, _ = load_values("digits")
    values["model"]["preset"] = preset
    with pytest.raises(SettingsError, match=r"model\.preset: must be the name of a preset") as caught:
        check_recipe(values)
    assert len(caught.value.problems) == 1


def test_values_that_no_setting_has():
    values, _ = load_values("digits")
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for value, message in (
        (10**5000, "seed: is a whole number of more than 64 bits"),
        (deep, "tables and lists lie more than 30 deep"),
        ([0] * 1_000_001, "holds more than 1,000,000 values"),
        ({1: 2}, "seed: its keys are not all texts"),
        (b"x", "seed: bytes is no kind of value"),
        (float("nan"), "seed: "),
    ):
        with pytest.raises(UserError, match=message):
            check_recipe(values | {"seed": value})


def test_one_message_for_a_value_of_several_types():
    values, _ = load_values("digits")
    for on, message in (
        ([0] * 3000, r"stages\.0\.train\.orthogonality\.on\.0: 0 is not a valid string"),
        (5, r"orthogonality\.on: 5 is not a valid string; 5 is not a valid array"),
    ):
        values["stages"][0]["orthogonality"] = {"on": on}
        with pytest.raises(SettingsError, match=message) as caught:
            check_recipe(values)
        assert len(caught.value.problems) == 1
