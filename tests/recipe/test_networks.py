"""Several networks in one recipe: what each is told, which needs which, and what is refused."""

import copy
import re
from typing import Any

import pytest

from netpress.errors import UserError
from netpress.files import dump_toml, parse_toml
from netpress.recipe.networks import put_in_order
from netpress.recipe.reading import read_recipe
from netpress.recipe.schema import MOST_NETWORKS, Recipe, check_recipe, resolve_again
from netpress.settings import SettingsError

SMALL = {"family": "resnet", "blocks": [1], "width": 8}
TRAIN = {"kind": "train", "epochs": 3, "optimizer": {"kind": "sgd", "momentum": 0.5}}
CHAIN: dict[str, Any] = {
    "name": "pair",
    "seed": 4,
    "data": {"dataset": "digits", "train_images": 64},
    "stages": [TRAIN],
    "networks": {
        "small": {
            "model": {**SMALL, "width": 4},
            "stages": {"0": {"loss": {"kind": "label_refinery", "teachers": ["large"]}}},
        },
        "large": {"model": SMALL},
        "cut": {"model": {"network": "small"}, "stages": [{"kind": "prune", "amount": 0.5}]},
    },
}


def changed(**tables: Any) -> dict[str, Any]:
    """CHAIN with other keys at the top; those of `networks` are put beside or in the place of its own."""
    values = copy.deepcopy(CHAIN) | {key: value for key, value in tables.items() if key != "networks"}
    values["networks"] |= tables.get("networks", {})
    return values


def problems_of(values: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as caught:
        check_recipe(values)
    assert caught.value.exit_code == 2
    return "\n".join(caught.value.problems)


def test_each_network_is_told_what_holds_for_all_and_what_is_its_own():
    recipe = check_recipe(CHAIN)
    small, large, cut = recipe.networks.values()
    assert [member.name for member in (small, large, cut)] == ["pair_small", "pair_large", "pair_cut"]
    assert {member.data.train_images for member in (small, large, cut)} == {64}
    assert {member.seed for member in (small, large, cut)} == {4}
    assert (small.model["width"], large.model["width"], cut.model) == (4, 8, {"network": "small"})
    first, other = small.stages[0], large.stages[0]
    assert (first.epochs, first.optimizer, first.loss.teachers) == (3, other.optimizer, ("large",))
    assert other.loss.kind == "cross_entropy"
    assert [stage.kind for stage in cut.stages] == ["prune"]
    assert list(recipe.networks) == ["small", "large", "cut"]
    assert recipe.needs == {"large": {}, "small": {"large": "is taught by"}, "cut": {"small": "begins with"}}
    # As written by itself, with its teacher a file, it is the same recipe.
    alone = {**CHAIN, "name": "pair_large", "model": SMALL}
    del alone["networks"]
    assert check_recipe(alone) == large


def test_tables_are_joined_unless_they_are_of_another_kind():
    shared: dict[str, Any] = {
        "model": {**SMALL, "width": 16},
        "score": {"convention": "official", "weight_bits": 12},
        "stages": [{**TRAIN, "schedule": {"kind": "cosine", "warmup": 1.0}}],
    }
    steps = {"kind": "piecewise", "milestones": [0.5], "multipliers": [0.1]}
    networks = {
        "small": {"model": {"width": 4}, "stages": {"0": {"optimizer": {"momentum": 0.9}}}},
        "large": {"model": {"family": "densenet", "preset": "nano"}, "stages": {"0": {"schedule": steps}}},
        "cut": {"model": {"network": "small"}, "score": {"convention": "uci"}, "stages": [{"kind": "fold"}]},
    }
    recipe = check_recipe(changed(**shared, networks=networks))
    small, large, cut = recipe.networks.values()
    assert small.model == {**SMALL, "width": 4} and small.stages[0].optimizer.momentum == 0.9
    assert large.model == {"family": "densenet", "preset": "nano"} and large.stages[0].schedule.milestones == (0.5,)
    assert large.stages[0].optimizer.momentum == 0.5
    assert cut.model == {"network": "small"}  # it has none of the shared family's settings
    assert (small.score.weight_bits, cut.score.convention) == (12, "uci")
    assert check_recipe(parse_toml(recipe.text, "")) == recipe


def test_the_result_is_the_last_unless_it_is_named():
    assert check_recipe(CHAIN).result_name == "cut"
    assert check_recipe(changed(result="large")).result_name == "large"
    assert "no network called big (small, large, cut)" in problems_of(changed(result="big"))
    single = {key: value for key, value in CHAIN.items() if key != "networks"} | {"model": SMALL, "result": "a"}
    assert "no network called a (it has only one)" in problems_of(single)


def taught_by(*names: str) -> dict[str, Any]:
    return {"model": SMALL, "stages": {"0": {"distillation": {"teachers": list(names)}}}}


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ({"large": {"model": {"network": "large"}}}, "large begins with large"),
        ({"large": taught_by("large")}, "large is taught by large"),
        ({"large": {"model": {"network": "small"}}}, "small is taught by large, large begins with small"),
        (
            {"large": taught_by("tail"), "tail": {"model": {"network": "cut"}}},
            "small is taught by large, large is taught by tail, tail begins with cut, cut begins with small",
        ),
    ],
)
def test_networks_that_need_each_other_are_told_as_a_circle(networks, message):
    assert problems_of(changed(networks=networks)).endswith(f"no network of these can be the first: {message}")


def test_a_circle_is_told_without_those_that_only_lead_to_it():
    needs = {"d": {"c": "x"}, "a": {}, "b": {"a": "x", "c": "x"}, "c": {"b": "y"}}
    with pytest.raises(ValueError, match=r"first: (c y b, b x c|b x c, c y b)$"):
        put_in_order(needs)


def test_teachers_are_found_wherever_a_stage_names_them():
    deep = {"kind": "prune", "amount": 0.3, "train": {"epochs": 1, "distillation": {"teachers": ["large", "file"]}}}
    networks = {"cut": {"model": {"network": "small"}, "stages": [deep]}}
    needs = check_recipe(changed(networks=networks)).needs
    assert needs["cut"] == {"small": "begins with", "large": "is taught by"}
    both = {"model": {"network": "large"}, "stages": {"0": {"distillation": {"teachers": ["large"]}}}}
    assert check_recipe(changed(networks={"both": both})).needs["both"] == {"large": "begins with"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed(networks={"large": {**CHAIN["networks"]["large"], "name": "x"}}), "networks.large.name: stands at"),
        (changed(networks={"large": {"networks": {}}}), "networks.large.networks: stands at the top of a recipe"),
        (changed(networks={"large": {"sweep": {}}}), "networks.large.sweep: stands at"),
        (changed(networks={"large": {"result": "a"}}), "networks.large.result: stands at"),
        (changed(networks={"large": {"extends": "uci"}}), "networks.large.extends: stands at"),
        (changed(networks={"large": 3}), "networks.large: write a table"),
        (changed() | {"networks": {}}, "networks: write a table for each network"),
        (changed() | {"networks": [1]}, "networks: write a table for each network"),
        (changed(networks={"large": {"model": {**SMALL, "widht": 3}}}), "networks.large.model.widht: no such setting"),
        (changed(networks={"large": {"seed": -1, "model": SMALL}}), "networks.large.seed: -1 is not at least 0"),
        (changed(networks={"../up": {"model": SMALL}}), "networks.../up"),
        (changed(networks={"1st": {"model": SMALL}}), "networks.1st"),
        (changed(networks={"x" * 201: {"model": SMALL}}), "networks.xxx"),
        (changed(name="n" * 150, networks={"x" * 60: {"model": SMALL}}), "together longer than 200 letters"),
        (changed(networks={"large": {"model": SMALL, "stages": {"1": {}}}}), "stages.1: the stages outside are 0 to 0"),
        (changed(networks={"large": {"model": SMALL, "stages": {"²": {}}}}), "stages.²: the stages outside are 0 to 0"),
        (changed(networks={"large": {"model": SMALL, "stages": {"00": {}}}}), "stages.00: the stages outside are 0 to"),
        (changed(stages=[], networks={"large": {"stages": {"0": {}}}}), "large.stages: write [[stages]] outside"),
        (changed(networks={"large": {"data": {"train_images": None}}}), "large.data.train_images: None cannot be laid"),
        (changed(networks={"large": {"stages": {0: {}}}}), "its keys are not all texts"),
    ],
)
def test_tables_that_cannot_be(values, message):
    assert message in problems_of(values)


def test_a_problem_of_what_holds_for_all_is_told_once():
    told = problems_of(changed(data={"dataset": "mnist"}, colour="red"))
    assert told.count("mnist") == told.count("colour") == 1
    told = problems_of({key: value for key, value in CHAIN.items() if key != "name"})
    assert told == "name: is missing"
    lists = {"large": {"model": {"family": "resnext"}}, "small": {"model": SMALL, "stages": [{"kind": "shrink"}]}}
    told = problems_of(changed(networks=lists))
    assert "networks.large.model" in told and "networks.small.stages.0: 'shrink'" in told


def test_there_are_bounds():
    many = {f"n{number}": {"model": SMALL} for number in range(MOST_NETWORKS - 3)}
    assert len(check_recipe(changed(networks=many)).networks) == MOST_NETWORKS
    assert "65 networks are more than the 64" in problems_of(changed(networks={**many, "one": {"model": SMALL}}))
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"model": deep}
    assert "deep within each other" in problems_of(changed(model=deep, networks={"large": {"model": deep}}))


def test_another_recipe_may_change_single_networks(tmp_path):
    path = tmp_path / "mine.toml"
    own = {"networks": {"ex": {"model": {"preset": "exx"}}, "b0": {"stages": {"0": {"epochs": 7}}}}}
    path.write_text(dump_toml({"name": "mine", "extends": "uci", **own}), encoding="utf-8")
    mine, uci = read_recipe(str(path)), read_recipe("uci")
    assert mine.result_name == "ex" and list(mine.networks) == list(uci.networks)
    assert mine.networks["ex"].model == {"family": "efficientnet", "preset": "exx"}
    assert mine.networks["b0"].stages[0] == uci.networks["b0"].stages[0].model_copy(update={"epochs": 7})
    assert mine.networks["b3"].stages == uci.networks["b3"].stages
    further = {"networks": {"head": {"model": {"network": "ex"}, "stages": [{"kind": "fold"}]}}, "result": "head"}
    path.write_text(dump_toml({"name": "mine", "extends": "uci", **further}), encoding="utf-8")
    assert list(read_recipe(str(path)).needs) == [*uci.needs, "head"]


def test_a_chain_may_be_swept_and_says_so_again():
    recipe = check_recipe(changed(sweep={"seeds": [1, 2]}))
    assert recipe.sweep is not None and all(member.sweep is None for member in recipe.networks.values())
    assert resolve_again(recipe.text) == recipe.text


def test_a_recipe_is_given_as_it_is_to_python():
    recipe = check_recipe(CHAIN)
    assert isinstance(recipe, Recipe) and read_recipe(recipe) is recipe
    tuples = changed(stages=(TRAIN,))
    assert read_recipe(tuples) == recipe and isinstance(tuples["stages"], tuple)
    with pytest.raises(UserError, match=re.escape("networks.large.model.family")):
        read_recipe(changed(networks={"large": {"model": {}}}))
