"""The recipes `uci` and `imt` ask for what the teams published."""

import itertools

import pytest

from netpress.network import create
from netpress.recipe.reading import read_recipe
from netpress.recipe.schema import Recipe
from netpress.scoring import score
from netpress.training.schedules import rate_at
from netpress.training.settings import TrainSettings

STEPS = 500  # of an epoch


def _training(recipe: Recipe) -> TrainSettings:
    settings = recipe.stages[0]
    assert isinstance(settings, TrainSettings)
    return settings


def _rates(settings: TrainSettings) -> list[tuple[float, int]]:
    """(learning rate, epochs that have it), in order; the rate is the same throughout an epoch."""
    rates = []
    for epoch in range(settings.epochs):
        ends = (
            rate_at(settings.optimizer.learning_rate, settings.schedule, epoch, step, settings.epochs, STEPS)
            for step in (0, STEPS - 1)
        )
        first, last = ends
        assert first == last
        rates.append(float(f"{first:.6g}"))
    return [(rate, len(list(group))) for rate, group in itertools.groupby(rates)]


def test_uci_trains_four_networks_for_70_epochs_of_two_copies_at_four_rates():
    recipe = read_recipe("uci")
    teachers = {"b3": [], "b3-refined": ["b3"], "b0": ["b3-refined"], "ex": ["b0"]}
    assert {name: list(needs) for name, needs in recipe.needs.items()} == teachers
    for name, member in recipe.networks.items():
        training = _training(member)
        assert _rates(training) == [(0.07, 25), (0.007, 25), (0.0007, 15), (0.00007, 5)], name
        assert (training.epochs, training.augment.passes, training.batch_size) == (70, 2, 128)
        assert training.loss.kind == ("angle" if name == "b3" else "label_refinery")
        assert training.loss.scale == 5
    assert (_training(recipe.networks["b3"]).loss.margin, recipe.result_name) == (0, "ex")


@pytest.mark.parametrize(
    ("name", "parameters", "operations"),
    [("b3", 11_027_240, 1_468_123_452), ("b0", 4_285_556, 577_959_706), ("ex", 2_793_064, 382_885_052)],
)
def test_ucis_networks_have_the_counts_that_they_published(name, parameters, operations):
    member = read_recipe("uci").networks[name]
    table = member.model_table
    network = create(table.family, {**table.settings, "classes": 100}, shapes=True)
    card = score(network, settings=member.score)
    assert sum(parameter.numel() for parameter in network.module.parameters()) == parameters
    assert (card.params, card.operations) == (parameters / 2, operations)


def test_imt_trains_for_300_epochs_at_three_rates_and_goes_down_the_ladder_from_what_the_gate_leaves():
    recipe = read_recipe("imt")
    assert recipe.needs["nano"] == {"cifar": "is taught by"}
    assert recipe.needs["pruned"] == {"nano": "begins with"}
    rungs = [name for name, needs in recipe.needs.items() if needs.get("pruned") == "begins with"]
    assert rungs == ["half", "int8", "int8-trained", "binary", "binary-trained"]
    for name, batch in (("cifar", 200), ("nano", 100)):
        training = _training(recipe.networks[name])
        assert _rates(training) == [(0.1, 100), (0.01, 100), (0.001, 100)]
        assert (training.batch_size, training.mix.kind, training.mix.probability) == (batch, "cutmix", 1)
    taught = _training(recipe.networks["nano"]).distillation
    assert (taught.weight, taught.temperature, taught.t_squared) == (0.9, 30, False)
    assert recipe.networks["pruned"].stages[0].gate == 0.9


def test_a_trial_of_one_percent_reaches_every_network():
    for name, epochs in (("uci", [1, 1, 1, 1]), ("imt", [3, 3])):
        recipe = read_recipe(name, ["data.train_images=1000"], epochs_scale=0.01)
        members = list(recipe.networks.values())
        assert [member.data.train_images for member in members] == [1000] * len(members)
        assert [_training(member).epochs for member in members[: len(epochs)]] == epochs
