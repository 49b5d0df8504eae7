"""Optimizers, schedules, averages, masks, settings: the parts of a training one by one."""

import math

import pytest
import torch
from torch import nn

from netpress.errors import Failure
from netpress.network import Architecture, InputSpec, Network
from netpress.settings import SettingsError, parse
from netpress.training import TrainSettings
from netpress.training.averaging import WeightAverage
from netpress.training.masking import MaskHolder
from netpress.training.norms import NormWarmup
from netpress.training.optimizers import AdamW, Optimizer, Sgd, decay_groups, make_optimizer
from netpress.training.part import Part, State, collect, prefixed, restore, section
from netpress.training.schedules import Constant, Cosine, Piecewise, Step, rate_at


def test_the_cosine_of_2019_starts_below_the_full_rate_and_ends_at_the_minimum():
    schedule = Cosine(minimum=0.0005, per="epoch")
    rates = [rate_at(0.1, schedule, epoch, 0, 150, 1563) for epoch in range(150)]
    assert rates[0] == pytest.approx(0.099989, abs=5e-7)
    assert rates[-1] == pytest.approx(0.0005, abs=1e-12)
    for e in (1, 40, 75, 150):
        assert rates[e - 1] == pytest.approx(0.0005 + 0.04975 * (1 + math.cos(math.pi * e / 150)))


def test_a_schedule_per_step_moves_within_an_epoch():
    schedule = Cosine(per="step")
    assert rate_at(0.1, schedule, 0, 0, 2, 10) > rate_at(0.1, schedule, 0, 9, 2, 10)
    assert rate_at(0.1, schedule, 1, 9, 2, 10) == pytest.approx(0)


def test_step_milestones_and_warmup():
    schedule = Step(milestones=(0.6667, 1.0), factor=0.1, per="epoch")
    rates = [rate_at(0.1, schedule, epoch, 0, 150, 1) for epoch in range(150)]
    assert rates[98] == pytest.approx(0.1)
    assert rates[99] == pytest.approx(0.01)  # e = 100
    assert rates[149] == pytest.approx(0.001)  # e = 150
    rising = Constant(warmup=2, per="step")
    assert [rate_at(0.8, rising, e, s, 4, 2) for e in range(3) for s in range(2)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    )


WAVES = Piecewise(milestones=(0.25, 0.5, 0.625, 0.75), multipliers=(0.1, 0.002, 4e-4, 8e-6), per="epoch")


def test_pieces_are_the_product_of_waves_four_factors_in_every_epoch():
    for e in range(1800):
        product = 0.1 ** (e // 450) * 0.2 ** (e // 900) * 0.2 ** (e // 1125) * 0.2 ** (e // 1350)
        assert rate_at(0.5, WAVES, e, 7, 1800, 196) == pytest.approx(0.5 * product, rel=1e-12), e


def test_pieces_per_step_after_a_warmup_and_at_decimals():
    schedule = Piecewise(milestones=(0.1, 0.7), multipliers=(3.0, 0.0), per="step", warmup=1)
    # Two of 22 steps rise; the milestones lie at 2 and 14 of the other 20.
    rates = [rate_at(0.5, schedule, e, s, 11, 2) for e in range(11) for s in range(2)]
    assert rates == [0.25, 0.5, *[0.5] * 2, *[1.5] * 12, *[0.0] * 6]
    per_epoch = schedule.model_copy(update={"per": "epoch"})
    assert [rate_at(0.5, per_epoch, e, 1, 11, 2) for e in range(11)] == [0.5, 0.5, *[1.5] * 6, *[0.0] * 3]
    decimal = Piecewise(milestones=(0.56,), multipliers=(0.1,), per="epoch")
    assert 0.56 * 25 > 14  # as binary numbers, a unit too late
    assert [rate_at(1.0, decimal, e, 0, 25, 1) for e in (13, 14)] == [1.0, 0.1]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"milestones": [0.5], "multipliers": [0.1, 0.01]}, "1 milestones need as many multipliers, not 2"),
        ({"milestones": [0.5, 0.5], "multipliers": [0.1, 0.01]}, "milestones: 0.5 does not rise above 0.5"),
        ({"milestones": [0.5, 0.25], "multipliers": [0.1, 0.01]}, "milestones: 0.25 does not rise above 0.5"),
        ({"milestones": [0.0], "multipliers": [0.1]}, r"milestones\.0: 0.0 is not above 0"),
        ({"milestones": [1.0], "multipliers": [0.1]}, r"milestones\.0: 1.0 is not below 1"),
        ({"milestones": [0.5], "multipliers": [-0.1]}, r"multipliers\.0: -0.1 is not at least 0"),
        ({"milestones": [], "multipliers": []}, "milestones: is empty"),
        ({"milestones": [0.5]}, "multipliers: is missing"),
        ({"milestones": [0.5], "multipliers": [0.1], "factor": 0.1}, "factor: no such setting"),
    ],
)
def test_pieces_that_cannot_be(values, problem):
    with pytest.raises(SettingsError, match=problem) as raised:
        parse(TrainSettings, {"schedule": {"kind": "piecewise", **values}}, "stages.0")
    assert str(raised.value).startswith("stages.0.schedule")
    assert len(raised.value.problems) == 1


def test_biases_and_norms_do_not_decay_unless_asked():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    matrices, vectors = decay_groups(module.parameters(), 1e-5, decay_1d=False)
    assert {parameter.ndim for parameter in matrices["params"]} == {4, 2}
    assert {parameter.ndim for parameter in vectors["params"]} == {1}
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (1e-5, 0.0)
    assert [g["weight_decay"] for g in decay_groups(module.parameters(), 1e-5, decay_1d=True)] == [1e-5, 1e-5]
    module[0].requires_grad_(False)
    assert sum(len(g["params"]) for g in decay_groups(module.parameters(), 1e-5, False)) == 4


@pytest.mark.parametrize("settings", [Sgd(), AdamW()])
def test_an_optimizer_goes_on_from_its_saved_buffers(settings):
    def advance(module: nn.Module, optimizer: Optimizer, steps: range) -> None:
        for step in steps:
            images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(step))
            module.zero_grad()
            module(images).square().sum().backward()
            optimizer.move(0.01)

    def fresh() -> nn.Module:
        module = nn.Conv2d(3, 5, 2).to(memory_format=torch.channels_last)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
        return module

    whole = fresh()
    optimizer = Optimizer(whole, settings)
    advance(whole, optimizer, range(3))
    saved = {name: tensor.contiguous().clone() for name, tensor in optimizer.state_dict().items()}
    parted = fresh()
    parted.load_state_dict(whole.state_dict())
    advance(whole, optimizer, range(3, 6))
    again = Optimizer(parted, settings)
    again.load_state_dict(saved)
    advance(parted, again, range(3, 6))
    assert torch.equal(parted.weight, whole.weight)
    assert torch.equal(parted.bias, whole.bias)


def test_sections_are_what_was_prefixed():
    tensors = {"a.b": torch.ones(1), "c": torch.zeros(1)}
    joined = prefixed("one", tensors) | prefixed("one-more", {"d": torch.ones(2)})
    assert section("one", joined).keys() == tensors.keys()
    assert section("one-more", joined).keys() == {"d"}


class _Counter(Part):
    def __init__(self) -> None:
        self.steps, self.total = 0, torch.zeros(2)

    def state_dict(self) -> State:
        return {"steps": self.steps, "total": self.total, "deep/er": self.total + 1}

    def load_state_dict(self, state: State) -> None:
        assert state.keys() == {"steps", "total", "deep/er"}
        self.steps, self.total = state["steps"], state["total"]


def test_parts_get_back_what_they_gave_and_nothing_of_others():
    parts = {"one": _Counter(), "one-more": _Counter(), "silent": Part()}
    parts["one"].steps, parts["one-more"].total = 3, torch.ones(2)
    tensors, values = collect(parts)
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    assert values == {"one": {"steps": 3}, "one-more": {"steps": 0}, "silent": {}}  # plain JSON
    again = {name: type(part)() for name, part in parts.items()}
    restore(again, tensors, values)
    assert (again["one"].steps, again["one-more"].steps) == (3, 0)
    assert (again["one"].total.tolist(), again["one-more"].total.tolist()) == ([0, 0], [1, 1])
    with pytest.raises(KeyError, match="late"):
        restore(again | {"late": _Counter()}, tensors, values)


def test_the_average_follows_its_recursion_and_gives_the_weights_back():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    average = WeightAverage(module, decay=0.9, warmup=False)
    expected = module[0].weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            module[0].weight.add_(step + 1)
        module(torch.randn(3, 2, generator=torch.Generator().manual_seed(step)))
        average.after_move()
        expected = 0.9 * expected + 0.1 * module[0].weight.detach()
    torch.testing.assert_close(average.tensors["0.weight"], expected)
    assert average.tensors["1.num_batches_tracked"] == 5
    own = module[0].weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(module[0].weight.detach(), expected)
    assert torch.equal(module[0].weight, own)


def test_a_warm_average_forgets_the_first_weights_soon():
    module = nn.Linear(1, 1)
    nn.init.zeros_(module.weight)
    warm, cold = WeightAverage(module, 0.999), WeightAverage(module, 0.999, warmup=False)
    nn.init.ones_(module.weight)
    for _ in range(20):
        warm.after_move()
        cold.after_move()
    assert warm.tensors["weight"] > 0.95
    assert cold.tensors["weight"] < 0.05


def _masked_network() -> Network:
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Flatten(), nn.Linear(16, 2)).to(
        memory_format=torch.channels_last
    )
    generator = torch.Generator().manual_seed(0)
    masks = {
        name: torch.rand(p.shape, generator=generator) > 0.5 for name, p in module.named_parameters() if p.ndim > 1
    }
    spec = InputSpec(3, 2, 2, (0.5,) * 3, (0.25,) * 3)
    return Network(module, Architecture("none", {}), spec, ("a", "b"), masks=masks)


@pytest.mark.parametrize("settings", [Sgd(weight_decay=0.1), AdamW()])
def test_masked_weights_stay_zero_and_gather_no_momentum(settings):
    network = _masked_network()
    holder = MaskHolder(network)
    holder.mask_weights()
    optimizer = make_optimizer(network.module, settings)
    for step in range(3):
        optimizer.zero_grad()
        images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(step))
        network.module(images).square().sum().backward()
        holder.mask_gradients()
        optimizer.step()
        for name, parameter in network.module.named_parameters():
            if name in network.masks:
                gone = ~network.masks[name]
                assert (parameter[gone] == 0).all()
                assert (parameter[~gone] != 0).all()
                for buffer in optimizer.state[parameter].values():
                    assert buffer.ndim == 0 or (buffer[gone] == 0).all()


def test_a_mask_without_a_parameter_is_refused():
    network = _masked_network()
    network.masks["7.weight"] = torch.ones(1, dtype=torch.bool)
    with pytest.raises(Failure, match=r"7\.weight"):
        MaskHolder(network)


def test_epochs_are_shared_among_rounds():
    settings = TrainSettings(epochs=10, rounds=4)
    assert [settings.epochs_of(index) for index in range(4)] == [3, 3, 2, 2]
    assert [TrainSettings(epochs=600, rounds=4).epochs_of(index) for index in range(4)] == [150] * 4


def test_wrong_settings_are_all_named():
    with pytest.raises(SettingsError) as raised:
        parse(
            TrainSettings,
            {"epochs": 0, "optimizer": {"kind": "sdg"}, "loss": {"kind": "label_smoothing", "epsilon": 2.0}},
            "stages.0",
        )
    message = str(raised.value)
    assert "stages.0.epochs: 0 is not at least 1" in message
    assert "stages.0.optimizer: 'sdg' is not one of" in message
    assert "epsilon: 2.0 is not between 0 and 1" in message
    with pytest.raises(SettingsError, match="4 rounds need at least as many epochs, not 2"):
        parse(TrainSettings, {"epochs": 2, "rounds": 4})


def test_norms_look_back_over_a_tenth_of_the_steps_at_first():
    norm = nn.BatchNorm2d(1, momentum=0.01)
    warmup = NormWarmup(nn.Sequential(norm))
    for step in range(200):
        warmup.begin_step(step)
        norm(torch.full((2, 1, 2, 2), float(step)))  # what enters drifts, as it does while weights learn
    assert 175 < float(norm.running_mean) < 199  # a plain mean is 99.5, momentum .01 alone gives 113
    warmup.begin_step(1000)
    assert norm.momentum == 0.01
    warmup.begin_step(0)
    warmup.close()
    assert norm.momentum == 0.01
