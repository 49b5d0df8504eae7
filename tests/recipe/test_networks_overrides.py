"""--set, --seed and --epochs-scale of a recipe of several networks: what they reach, as written and as stated."""

import copy
from typing import Any

import pytest

from netpress.errors import UserError
from netpress.recipe.reading import read_recipe
from netpress.recipe.schema import check_recipe

SMALL = {"family": "resnet", "blocks": [1], "width": 8}
PRUNE = {"kind": "prune", "amount": 0.5, "train": {"epochs": 4}}
CHAIN: dict[str, Any] = {
    "name": "trio",
    "seed": 4,
    "data": {"dataset": "digits", "train_images": 64},
    "stages": [{"kind": "train", "epochs": 10}],
    "networks": {
        "a": {"model": SMALL},
        "b": {"model": SMALL, "data": {"train_images": 32}, "stages": {"0": {"epochs": 20}}},
        "c": {"model": {"network": "a"}, "score": {"convention": "kaist"}, "stages": [PRUNE]},
        "d": {"model": SMALL, "stages": [{"kind": "train", "batch_size": 16}]},
    },
}
FORMS = {
    "values": lambda: copy.deepcopy(CHAIN),
    "recipe": lambda: check_recipe(CHAIN),
    "stated": lambda: check_recipe(CHAIN).values,
}


@pytest.fixture(params=FORMS)
def read(request):
    def call(*overrides: str, **more: Any):
        given = FORMS[request.param]()
        return read_recipe(given, overrides, **more).networks

    return call


def epochs(networks: Any) -> list[int]:
    return [getattr(member.stages[0], "epochs", 0) or member.stages[0].train.epochs for member in networks.values()]


def test_what_holds_for_all_reaches_those_that_say_it_themselves(read):
    assert {member.data.train_images for member in read("data.train_images=50").values()} == {50}
    assert epochs(read("stages.0.epochs=3")) == [3, 3, 4, 3]  # not the pruning, which stands in the place of the stage
    assert {member.model.get("width") for member in read("model.width=12").values()} == {12, None}
    networks = read('model={family = "densenet", preset = "nano"}')
    assert [member.model for member in networks.values()].count({"network": "a"}) == 1
    assert networks["a"].model == {"family": "densenet", "preset": "nano"}
    conventions = [member.score.convention for member in read("score.convention=uci").values()]
    assert conventions == ["uci"] * 4
    assert all("wave" in member.beside for member in read("beside.wave={}").values())


def test_one_network_alone_is_reached_by_its_name(read):
    assert epochs(read("networks.b.stages.0.epochs=2")) == [10, 2, 4, epochs(read())[3]]
    assert read("networks.c.stages.0.train.epochs=1")["c"].stages[0].train.epochs == 1
    with pytest.raises(UserError, match="entries 0 to 0"):
        read("networks.d.stages.1.epochs=2")
    with pytest.raises(UserError, match=r"no network called e \(a, b, c, d\)"):
        read("networks.e.seed=2")
    assert list(read('networks.e={model = {network = "a"}}')) == ["a", "b", "c", "d", "e"]


def test_every_place_is_reached_by_its_key(read):
    assert epochs(read("**.epochs=1"))[:3] == [1, 1, 1]


def test_the_seed_and_the_scale_reach_every_network(read):
    assert {member.seed for member in read(seed=9).values()} == {9}
    assert {member.seed for member in read("seed=9").values()} == {9}
    scaled = epochs(read(epochs_scale=0.5))
    assert scaled[:3] == [5, 10, 2] and scaled[3] * 2 == epochs(read())[3]


def test_equal_seeds_do_not_make_one_teacher_of_several():
    ensemble = copy.deepcopy(CHAIN)
    ensemble["networks"]["b"]["seed"] = 5
    for given in (ensemble, check_recipe(ensemble)):
        for asked in ({"seed": 9}, {"overrides": ["seed=9"]}):
            with pytest.raises(UserError, match=r"b would lose seeds of their own; set each, as networks\.b\.seed"):
                read_recipe(given, **asked)
        changed = read_recipe(given, ["networks.b.seed=4"], seed=9)
        assert {member.seed for member in changed.networks.values()} == {9}


def test_where_each_network_has_its_own_stages_a_place_is_no_one_stage():
    own = copy.deepcopy(CHAIN)
    for table in own["networks"].values():
        table["stages"] = [PRUNE]
    del own["stages"]
    for given in (own, check_recipe(own)):
        with pytest.raises(UserError, match=r"stages of its own; write networks\.a\.stages\.0\.amount"):
            read_recipe(given, ["stages.0.amount=0.2"])
    for path in ("stages.².epochs=1", "networks.c.stages.².amount=0.1"):
        with pytest.raises(UserError, match="--set"):
            read_recipe(CHAIN, [path])
