"""What no machine could hold is refused from shapes, at once and in little memory; what passes is planned soon."""

import json
import time

import pytest

from netpress.errors import NetpressError, UserError
from netpress.models.bounds import MOST_VALUES, TooLarge, bounded_building
from netpress.models.registry import FAMILIES, parse_model
from netpress.network import create
from netpress.recipe.schema import check_recipe
from netpress.runs.recipes import plan_recipe
from netpress.scoring import score

pytestmark = pytest.mark.slow

PRUNE = {"kind": "prune", "amount": 0.5, "rounds": 200, "train": {"epochs": 200}}
TRAIN = {"kind": "train", "epochs": 1000, "rounds": 200}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"family": "c_efficientnet", "expansion": 1e6}, "model.expansion: 1000000.0 is not at most 1000"),
        ({"family": "c_efficientnet", "width_factor": 1e9}, "model.width_factor: 1000000000.0 is not at most 1000"),
        ({"family": "c_efficientnet", "width_factor": 1000.0}, "more than 268,435,456 weights"),
        ({"family": "c_efficientnet", "depth_factor": 1000.0}, "more than 10,000 layers"),
        ({"family": "resnet", "blocks": [10**8]}, "more than 10,000 layers"),
        ({"family": "resnet", "blocks": [1] * 500}, "more than 268,435,456 weights|beyond all bounds"),
        ({"family": "resnet", "width": 10**9}, "more than 268,435,456 weights|beyond all bounds"),
        ({"family": "resnet", "blocks": []}, "blocks is empty"),
        ({"family": "resnet", "classes": 2**62}, "model.classes: 4611686018427387904 is not at most 1000000"),
        ({"family": "resnet", "channels": 10**12}, "model.channels: 1000000000000 is not at most"),
        ({"family": "resnet", "image_size": 10**9}, "model.image_size: 1000000000 is not at most 4096"),
        ({"family": "pyramidnet", "depth": 9 * 10**7 + 2}, "more than 10,000 layers"),
        ({"family": "wide_resnet", "width": 1000}, "more than 268,435,456 weights"),
        ({"family": "densenet", "growth": 10**9}, "more than 268,435,456 weights|beyond all bounds"),
        ({"family": "c_efficientnet", "dropout": 1.0}, "model.dropout: 1.0 is not below 1"),
        ({"family": "c_efficientnet", "norm_momentum": 0.0}, "model.norm_momentum: 0.0 is not above 0"),
    ],
)
def test_models_that_are_too_large(model, message):
    begun = time.process_time()
    with pytest.raises(UserError, match=message):
        plan_recipe(check_recipe({"name": "large", "model": model, "stages": [TRAIN]}))
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    "model",
    [
        {"family": "c_efficientnet", "preset": "tiny", "depth_factor": 60.0},
        {"family": "wide_resnet", "width": 20},
    ],
)
def test_many_rounds_of_large_networks_are_planned_soon(model):
    begun = time.process_time()
    planned = plan_recipe(check_recipe({"name": "large", "model": model, "stages": [TRAIN, PRUNE]}))
    assert time.process_time() - begun < 15
    rounds = [row["left"] for row in planned["stages"][1]["rows"] if "amount" in row]
    assert len(rounds) == 200
    assert rounds == sorted(rounds, reverse=True)
    tensors = [row["left"] for row in planned["stages"][1]["rows"] if "amount" not in row]
    assert [sum(column) for column in zip(*tensors, strict=True)] == rounds


def test_values_on_the_way_are_bounded():
    recipe = {"name": "wide", "data": {"image_size": 256}, "model": {"family": "resnet", "width": 1000, "blocks": [10]}}
    with pytest.raises(UserError, match=r"one image leaves [0-9,]+ values on its way .* more than the 2,147,483,648"):
        plan_recipe(check_recipe(recipe | {"stages": [TRAIN]}))


def test_what_is_named_on_the_command_line_is_bounded_too():
    for text in ("resnet:blocks=[100000000]", "resnet:width=1000000000"):
        with pytest.raises(TooLarge):
            create(parse_model(text).family.name, parse_model(text).settings.model_dump(mode="json"))
        with pytest.raises(TooLarge):
            parse_model(text).build()


@pytest.mark.parametrize("name", [name for name in FAMILIES.all() if name != "import"])
def test_shapes_say_what_weights_do(name):
    smallest = {"c_efficientnet": {"widths": "tiny"}, "densenet": {"growth": 4}, "pyramidnet": {"depth": 11}}
    settings = smallest.get(name, {})
    shapes = create(name, settings, shapes=True)
    real = create(name, settings)
    assert all(parameter.is_meta for parameter in shapes.module.parameters())
    assert {key: tensor.shape for key, tensor in shapes.module.state_dict().items()} == {
        key: tensor.shape for key, tensor in real.module.state_dict().items()
    }
    # A weight that happens to be drawn as 0 would cost its tensor a mask.
    zeros = sum(int((weight == 0).sum()) for weight in real.weights().values())
    assert (score(shapes).score == score(real).score) or zeros


def test_a_module_stops_where_it_is_too_large():
    from torch import nn

    with bounded_building(parts=10), pytest.raises(TooLarge, match="more than 10 layers"):
        nn.Sequential(*[nn.Linear(1, 1) for _ in range(10)])
    with bounded_building(values=100), pytest.raises(TooLarge, match="more than 100 weights"):
        nn.Linear(10, 11)
    with bounded_building(values=110):
        nn.Linear(10, 11, bias=False)
    assert MOST_VALUES * 4 == 2**30  # one GiB in float32


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"epochs": 3, "schedule": {"kind": "cosine", "warmup": 1e9}}, "warmup: 1e.09 epochs of warm-up leave nothing"),
        ({"epochs": 4, "rounds": 2, "schedule": {"kind": "step", "warmup": 2.0}}, "leave nothing of a round of 2"),
        ({"average": {"decay": 1.0}}, "average.decay: 1.0 is not below 1"),
        ({"optimizer": {"kind": "sgd", "momentum": 1.0}}, "momentum: 1.0 is not below 1"),
        ({"optimizer": {"kind": "adam", "betas": [0.9, 1.0]}}, "betas.1: 1.0 is not below 1"),
        ({"loss": {"kind": "label_smoothing", "epsilon": 1.0}}, "epsilon: 1.0 is not below 1"),
        ({"epochs": 10_000, "rounds": 10_000}, "rounds: 10000 is not at most 200"),
        ({"augment": {"crop": 10**9}}, "crop: 1000000000 is not between 0 and 1024"),
        ({"augment": {"policy": ["rand"] * 101}}, "101 policies, more than 100"),
    ],
)
def test_trainings_that_make_no_sense(stage, message):
    with pytest.raises(NetpressError, match=message):
        check_recipe({"name": "x", "model": {"family": "resnet"}, "stages": [{"kind": "train", **stage}]})


def test_epochs_scaled_keep_more_than_their_warmup():
    from netpress.recipe.scaling import scale_recipe

    stage = {"kind": "train", "epochs": 14, "schedule": {"kind": "cosine", "warmup": 13.5}}
    recipe = check_recipe({"name": "x", "model": {"family": "resnet"}, "stages": [stage]})
    scaled = scale_recipe(recipe, 0.1).stages[0]
    assert scaled.epochs == 1
    assert 0 < scaled.schedule.warmup < 1


def test_rates_of_a_round_of_one_epoch():
    stage = {"kind": "train", "epochs": 1, "optimizer": {"kind": "sgd", "learning_rate": 0.1}}
    for kind, rates in (("cosine", [0.1, 0.0005]), ("constant", [0.1, 0.1])):
        schedule = {"kind": kind} | ({"minimum": 0.0005} if kind == "cosine" else {})
        recipe = check_recipe({"name": "x", "model": {"family": "resnet"}, "stages": [stage | {"schedule": schedule}]})
        assert plan_recipe(recipe)["stages"][0]["rows"][0]["learning_rate"] == rates
    assert json.dumps(rates)
