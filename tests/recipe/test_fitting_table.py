"""The [fit] table of a recipe: what may stand in it, and that wrong values are named with their path."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netpress.errors import UserError
from netpress.recipe.fitting import count_combinations, list_combinations, put_values, suggest_table
from netpress.recipe.reading import read_recipe
from netpress.recipe.schema import check_recipe
from netpress.settings import SettingsError

TABLE = {
    "model.width_factor": [0.5, 0.25],
    "stages.1.amount": [0.3, 0.6],
    "stages.2.preset": ["int8", "int4"],
}


def values(fit: Any = None, **more: Any) -> dict[str, Any]:
    stages = [{"kind": "train", "epochs": 1}, {"kind": "prune", "amount": 0.5}, {"kind": "quantize"}]
    model = {"family": "c_efficientnet", "preset": "tiny"}
    return {"name": "small", "model": model, "stages": stages, "fit": TABLE if fit is None else fit, **more}


def problems(fit: Any, **more: Any) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        check_recipe(values(fit, **more))
    return refused.value.problems


@pytest.mark.parametrize(
    ("fit", "problem"),
    [
        ({"model.widht": [1]}, 'fit."model.widht": no such setting'),
        ({"stages.1.amount": [0.5, 1.4]}, 'fit."stages.1.amount": 1.4 is not between 0 and 1'),
        ({"stages.2.preset": ["int8", "int5"]}, "fit.\"stages.2.preset\": 'int5' is not one of "),
        ({"stages.1.amount": []}, 'fit: "stages.1.amount": is empty; name at least one value'),
        ({"stages.1.amount": [0.5, 0.3, 0.5]}, "fit: \"stages.1.amount\": names '0.5' twice"),
        ({"stages.1.amount": 0.5}, "fit.stages.1.amount: "),
        ({"stages.7.amount": [0.5]}, 'fit."stages.7.amount": stages has entries 0 to 2'),
        ({"model.width_factor.x": [0.5]}, 'fit."model.width_factor.x": '),
        ({"name": ["a"]}, 'fit: "name" cannot be fitted; a path begins with '),
        ({"limits.flash": [1]}, 'fit: "limits.flash" cannot be fitted'),
        ({"score.convention": ["imt"]}, 'fit: "score.convention" cannot be fitted'),
        ({"": [1]}, 'fit: "" cannot be fitted'),
        ({"model": [{"family": "resnet"}], "model.width": [4]}, 'fit: "model" and "model.width" set the same'),
        ({"model": {"width": [4]}}, 'fit.model: write paths in quotes, such as "model.expansion" = ...'),
        ({"data.image_size": list(range(8, 8 + 513))}, "fit: 513 combinations are more than 512; name fewer values"),
        ([], "fit: "),
    ],
)
def test_what_is_wrong_is_named_with_its_path(fit: Any, problem: str) -> None:
    assert any(line.startswith(problem) for line in problems(fit))


def test_a_value_that_breaks_another_setting_names_both() -> None:
    told = problems({"model.family": ["c_efficientnet", "resnet"]})
    assert told[0].startswith("fit.\"model.family\": with 'resnet': model: ") and "tiny" in told[0]


def test_what_is_wrong_without_the_table_is_told_first_and_alone() -> None:
    told = problems({"stages.1.amount": [1.4]}, stages=[{"kind": "train", "epochs": 0}, {"kind": "prune", "amount": 2}])
    assert told and not any("fit" in line for line in told)


def test_a_sweep_and_a_network_of_several_may_not_set_it_too() -> None:
    sweep = {"grid": {"stages.1.amount": [0.1]}}
    assert problems({"stages.1": [{"kind": "prune", "amount": 0.2}]}, sweep=sweep) == [
        'settings: fit."stages.1" and the sweep\'s "stages.1.amount" set the same'
    ]
    networks = {"one": {"fit": TABLE}}
    assert problems(TABLE, networks=networks) == [
        "networks.one.fit: stands at the top of a recipe, not in a network's table"
    ]


def test_a_recipe_states_its_table_and_one_without_has_the_text_that_it_had() -> None:
    recipe = check_recipe(values())
    assert '[fit]\n"model.width_factor" = [' in recipe.text
    assert check_recipe(recipe.values) == recipe
    assert "fit" not in check_recipe({key: value for key, value in values().items() if key != "fit"}).text


@pytest.mark.parametrize(
    ("override", "left"),
    [
        ("stages.1.amount=0.1", ["model.width_factor", "stages.2.preset"]),
        ("**.amount=0.1", ["model.width_factor", "stages.2.preset"]),
        ('model={family="resnet"}', ["stages.1.amount", "stages.2.preset"]),
        ("stages.0.epochs=2", list(TABLE)),
        ('fit."stages.1.amount"=[0.9]', list(TABLE)),
    ],
)
def test_what_an_override_sets_is_out_of_the_choice(override: str, left: list[str]) -> None:
    assert list(read_recipe(values(), [override]).fit) == left


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True), max_size=4))
def test_combinations_come_in_order_of_preference(lists: list[list[int]]) -> None:
    """The last list gives way first: as a number counts, its places being those in the lists."""
    table = {f"model.{name}": one for name, one in zip("abcd", lists, strict=False)}
    every = list(list_combinations(table))
    places = [[table[path].index(value) for path, value in one.items()] for one in every]
    assert places == sorted(places) and len(every) == count_combinations(table)
    assert len({tuple(one.items()) for one in every}) == len(every)


def test_values_are_put_where_they_belong_and_nothing_else_changes() -> None:
    before = values()
    own = put_values(before, {"stages.1.amount": 0.3, "model.width_factor": 0.25})
    assert own["stages"][1]["amount"] == 0.3 and own["model"]["width_factor"] == 0.25 and "fit" not in own
    assert before == values()
    own["stages"][1].pop("amount"), own["model"].pop("width_factor")
    before["stages"][1].pop("amount"), before.pop("fit")
    assert own == before


def test_what_holds_for_all_networks_reaches_each() -> None:
    networks = {"one": {"model": {"width_factor": 0.5}}, "two": {}}
    own = check_recipe(put_values(values(networks=networks), {"stages.1.amount": 0.3, "networks.two.seed": 3}))
    assert [own.networks[name].stages[1].amount for name in ("one", "two")] == [0.3, 0.3]  # type: ignore[attr-defined]
    assert (own.networks["one"].seed, own.networks["two"].seed) == (0, 3)


def test_the_settings_to_choose_from_are_those_of_the_recipe() -> None:
    text = suggest_table(check_recipe(values()).values)
    assert text.endswith("here of model.width_factor, stages.1.amount, stages.2.preset")
    recipe = check_recipe(values({}, model={"family": "densenet", "preset": "nano"}, stages=[{"kind": "train"}]))
    assert suggest_table(recipe.values).endswith("here of model.growth")


def test_a_path_that_is_no_recipe_of_several_is_an_error() -> None:
    for networks in ({}, {"networks": {"one": {}, "two": {}}}):
        with pytest.raises(UserError, match=r'fit\."networks\.three\.seed": the recipe has no network three'):
            check_recipe(values({"networks.three.seed": [1]}, **networks))
