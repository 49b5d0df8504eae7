"""The angle loss against the formula written out, on cosines of a real head."""

import math
import tomllib

import pytest
import torch
from torch import Tensor, nn

from netpress.data import Mixed
from netpress.errors import UserError
from netpress.models.blocks import CosineLinear
from netpress.network import Architecture, Network, create
from netpress.recipe.schema import Recipe, check_recipe
from netpress.runs.recipes import plan_recipe
from netpress.settings import SettingsError, parse
from netpress.stage import Outlook
from netpress.training import TrainSettings, plan
from netpress.training.losses import Angle, CrossEntropy, Lesson, Loss

CLASSES = 5
PIXELS = torch.zeros(6, 3, 8, 8)
MIXED = Mixed(torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([4, 1, 0, 2, 3, 3]), 0.3)
SMALL = {"width": 0.1, "depth": 0.1, "cosine_features": 8, "image_size": 8, "classes": CLASSES}


def _network(**values) -> Network:
    return create("efficientnet", SMALL | values)


def _loss(settings: Angle) -> Loss:
    return settings.make(Lesson(_network(), torch.device("cpu")))


def _cosines(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(6, CLASSES, generator=torch.Generator().manual_seed(4), dtype=dtype) * 2 - 1


def _plain(cosines: list[list[float]], labels: list[int], scale: float, margin: float) -> float:
    """The paper's equation, term by term."""
    total = 0.0
    for row, label in zip(cosines, labels, strict=True):
        own = math.exp(scale * (row[label] - margin))
        others = sum(math.exp(scale * cosine) for k, cosine in enumerate(row) if k != label)
        total -= math.log(own / (own + others))
    return total / len(labels)


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
@pytest.mark.parametrize(("scale", "margin"), [(5.0, 0.0), (5.0, 0.35), (30.0, 0.2), (0.5, 2.0)])
def test_it_equals_the_formula_for_each_of_two_labels(scale, margin, weight):
    mixed, cosines = Mixed(MIXED.labels_a, MIXED.labels_b, weight), _cosines()
    first, second = (
        _plain(cosines.tolist(), labels.tolist(), scale, margin) for labels in (MIXED.labels_a, MIXED.labels_b)
    )
    loss = _loss(Angle(scale=scale, margin=margin))(cosines, mixed, PIXELS)
    assert loss.item() == pytest.approx(weight * first + (1 - weight) * second, rel=1e-5)


def test_without_a_margin_it_is_the_cross_entropy_of_scaled_cosines():
    plain = CrossEntropy().make(Lesson(_network(), torch.device("cpu")))
    assert torch.equal(_loss(Angle())(_cosines(), MIXED, PIXELS), plain(5 * _cosines(), MIXED, PIXELS))
    assert _loss(Angle(margin=0.1))(_cosines(), MIXED, PIXELS) > _loss(Angle())(_cosines(), MIXED, PIXELS)


def test_a_hundred_directions_as_far_apart_as_they_can_be_reach_the_floor():
    """At scale 5 no network of 100 classes does better than .491: the right answer has a probability of .612."""
    corners = torch.eye(100) - 0.01  # of a simplex: the cosine between any two is -1/99
    head = CosineLinear(100, 100)
    head.weight.data.copy_(3 * corners)
    labels = torch.arange(100)
    loss = _loss(Angle())(head(nn.functional.normalize(corners, dim=1)), Mixed(labels, labels, 1.0), PIXELS)
    assert loss.item() == pytest.approx(-math.log(math.exp(5) / (math.exp(5) + 99 * math.exp(-5 / 99))), rel=1e-5)
    assert loss.item() == pytest.approx(0.491, abs=5e-4)
    assert math.exp(-loss.item()) == pytest.approx(0.612, abs=5e-4)


@pytest.mark.parametrize("margin", [0.0, 0.35])
def test_its_gradient_is_that_of_finite_differences(margin):
    loss = _loss(Angle(margin=margin))
    cosines = _cosines(torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: loss(values, MIXED, PIXELS), (cosines,))


def _plan(network: Network) -> list[dict]:
    return plan(Outlook(network), parse(TrainSettings, {"augment": {"crop": 0}, "loss": {"kind": "angle"}})).rows


def test_a_network_without_a_cosine_head_is_refused_by_the_plan():
    assert _plan(_network())[0]["loss"] == "angle"
    with pytest.raises(UserError, match=r"loss: angle needs cosines.* ends in classifier\.linear, of type Linear"):
        _plan(_network(head="linear"))
    bare = Network(nn.Conv2d(3, 5, 8), Architecture("none", {}), _network().input, tuple("abcde"))
    with pytest.raises(UserError, match="ends in itself, of type Conv2d"):
        _plan(bare)


def test_identities_behind_the_head_do_not_hide_it():
    module = nn.Sequential(nn.Flatten(), CosineLinear(192, CLASSES), nn.Identity())
    Angle().check(Network(module, Architecture("none", {}), _network().input, tuple("abcde")))
    behind = nn.Sequential(module, nn.ReLU())
    with pytest.raises(UserError, match="ends in 1, of type ReLU"):
        Angle().check(Network(behind, Architecture("none", {}), _network().input, tuple("abcde")))


def _recipe(loss: dict, **model) -> Recipe:
    table = {"family": "efficientnet", "width": 0.1, "depth": 0.1, **model}
    return check_recipe({"name": "angle", "model": table, "stages": [{"kind": "train", "epochs": 1, "loss": loss}]})


def test_a_recipe_keeps_its_settings_and_is_refused_for_another_head():
    recipe = _recipe({"kind": "angle", "margin": 0.35})
    again = check_recipe(tomllib.loads(recipe.text))
    assert again == recipe
    assert again.stages[0].loss == Angle(scale=5.0, margin=0.35)
    assert plan_recipe(recipe)["epochs"] == 1
    with pytest.raises(UserError, match=r"01-train: loss: angle needs cosines.*Linear"):
        plan_recipe(_recipe({"kind": "angle"}, head="linear"))
    with pytest.raises(SettingsError, match=r"loss\.angle\.margin: 2\.5 is not between 0 and 2"):
        _recipe({"kind": "angle", "margin": 2.5})
    with pytest.raises(SettingsError, match=r"loss\.angle\.scale: 0\.0 is not above 0"):
        _recipe({"kind": "angle", "scale": 0})
