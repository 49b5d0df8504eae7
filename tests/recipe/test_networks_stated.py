"""A recipe of several networks as a run folder states it, and settings that hold for all of them: what they reach."""

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.errors import UserError
from netpress.files import parse_toml
from netpress.recipe.reading import read_recipe
from netpress.recipe.schema import check_recipe, resolve_again

SMALL = {"family": "resnet", "blocks": [1], "width": 8}
SCORES: list[dict[str, Any]] = [
    {"convention": "official", "weight_bits": 7},
    {"convention": "kaist"},
    {"convention": "uci"},
    {"convention": "imt"},
    {},
]
NAMES = ["a", "B-2_", "model", "stages", "epochs", "networks", "teachers", "name", "seed", "kind", "x" * 60]

numbers = st.floats(1e-7, 0.9, allow_nan=False)
scores = st.sampled_from(SCORES)
beside = st.dictionaries(st.sampled_from(["wave", "imt", "uci"]), st.just({}), max_size=2)
data = st.fixed_dictionaries(
    {},
    optional={
        "train_images": st.integers(50, 90),
        "validation": numbers,
        "split_seed": st.integers(0, 2**63 - 1),
        "image_size": st.sampled_from([8, 16]),
    },
)
descriptions = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@st.composite
def stages(draw: st.DrawFn, teachers: list[str]) -> dict[str, Any]:
    train = {
        "epochs": draw(st.integers(1, 9)),
        "optimizer": draw(st.sampled_from([{"kind": "adam"}, {"kind": "sgd", "momentum": 0.3}])),
        "augment": draw(st.sampled_from([{}, {"copies": [{}, {"flip": False}]}])),
    }
    if teachers:
        train["distillation"] = {"teachers": draw(st.lists(st.sampled_from(teachers), min_size=1, unique=True))}
        train["distillation"]["temperature"] = draw(numbers)
    kind = draw(st.sampled_from(["train", "prune"]))
    return {"kind": "train", **train} if kind == "train" else {"kind": "prune", "amount": draw(numbers), "train": train}


@st.composite
def chains(draw: st.DrawFn) -> dict[str, Any]:
    """A small chain: shared and own tables of all sorts, each network taught by or begun with earlier ones."""
    shared_stages = draw(st.lists(stages([]), max_size=2))
    shared_model = draw(st.sampled_from([{}, SMALL, {**SMALL, "width": 12}]))
    networks: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)):
        earlier = list(networks)
        own: dict[str, Any] = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "description": descriptions,
                    "seed": st.integers(0, 3),
                    "data": data,
                    "score": scores,
                    "beside": beside,
                },
            )
        )
        models = [{**SMALL, "width": 4}, {"family": "densenet", "preset": "nano"}, *({"network": n} for n in earlier)]
        models += [{}, {"width": 16}] if shared_model else []
        own["model"] = draw(st.sampled_from(models))
        numbered = {"0": {"kind": "prune", "amount": draw(numbers)}}
        choices = [st.lists(stages(earlier), min_size=1, max_size=2)]
        choices += [st.just(numbered), st.just(None)] if shared_stages else []
        own["stages"] = draw(st.one_of(choices))
        networks[name] = {key: value for key, value in own.items() if value is not None}
    values = {
        "name": draw(st.sampled_from(["c", "x.y-z_" * 20])),
        "description": draw(descriptions),
        "seed": draw(st.integers(0, 3)),
        "data": draw(data),
        "model": shared_model,
        "score": draw(scores),
        "beside": draw(beside),
        "stages": shared_stages,
        "networks": networks,
    }
    return values | draw(st.sampled_from([{}, {"result": next(iter(networks))}, {"sweep": {"seeds": [1]}}]))


@settings(max_examples=60, deadline=None)
@given(chains())
def test_what_a_folder_states_is_the_same_recipe(values):
    before = copy.deepcopy(values)
    recipe = check_recipe(values)
    assert values == before
    again = check_recipe(parse_toml(recipe.text, ""))
    assert again == recipe and again.networks == recipe.networks and again.needs == recipe.needs
    assert resolve_again(recipe.text) == recipe.text
    assert read_recipe(again.values).text == recipe.text
    for member in recipe.networks.values():
        assert resolve_again(member.text) == member.text


OVERRIDES = [
    "data.train_images=55",
    "data.validation=0.25",
    "**.epochs=11",
    "beside.wave.weight_bits=10",
    "model.width=24",
    "score.convention=kaist",
    "stages.0.epochs=12",
    "stages.0.optimizer.momentum=0.75",
    "stages.1.amount=0.625",
    "seed=9",
    'networks.a.stages.0={kind = "fold"}',
    "networks.a.data={image_size = 16}",
    "networks.a.stages.0.epochs=5",
]


def resolved(recipe: Any, override: str) -> Any:
    """The text that the recipe has with the override, or the beginning of the message."""
    try:
        return read_recipe(recipe, [override]).text
    except UserError as error:
        return str(error).splitlines()[0].partition(":")[0]


@settings(max_examples=60, deadline=None)
@given(chains(), st.sampled_from(OVERRIDES))
def test_an_override_reaches_in_a_stated_recipe_what_it_reached_as_written(values, override):
    """Where a folder's recipe is run with --set, or a Recipe object: every network states all settings there."""
    recipe = check_recipe(values)
    written, stated, kept = resolved(values, override), resolved(recipe.values, override), resolved(recipe, override)
    assert written == stated == kept or override.startswith("**")  # defaults are stated only there
    assert stated == kept
