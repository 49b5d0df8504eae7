"""Teachers: how they answer, what is said of them, and trainings that began before they had all their settings."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_resume import make_context, make_dataset, make_network
from torch import nn

from netpress.errors import UserError
from netpress.network import Architecture, Network, create, save
from netpress.process.console import Console
from netpress.settings import parse
from netpress.training import MeanTeacher, TrainSettings, load_teachers, run_training

TAUGHT: dict[str, Any] = {"epochs": 1, "batch_size": 8, "distillation": {"temperature": 2.0}}


class _Colours(nn.Module):
    """Answers by the mean of each colour, with a bias for each class; a dropout would change the answers."""

    def __init__(self, *bias: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))
        self.dropout = nn.Dropout(0.9)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = self.dropout(images).mean(dim=(2, 3))
        return torch.cat([means, means.mean(dim=1, keepdim=True)], dim=1) + self.bias


def _colours(*bias: float) -> Network:
    return Network(_Colours(*bias), Architecture("none", {}), make_network().input, tuple("abcd"))


def _plain_accuracies(biases: list[list[float]], scale: float) -> list[float]:
    """Of teachers `_colours` with these biases, and of the mean of their probabilities, image by image."""
    images = make_dataset().selection
    right = [0] * (len(biases) + 1)
    for image, label in zip(images.images, images.labels.tolist(), strict=True):
        means = [((channel.double() / 255 - 0.5) / 0.25).mean().item() for channel in image]
        rows = [[m + b for m, b in zip([*means, sum(means) / 3], bias, strict=True)] for bias in biases]
        powers = [torch.tensor(row, dtype=torch.float64).mul(scale).exp() for row in rows]
        for place, answer in enumerate([*powers, sum(power / power.sum() for power in powers)]):
            right[place] += int(answer.argmax()) == label
    return [count / len(images) for count in right]


BIASES = [[0.0, 0.0, 0.0, 0.5], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 9.0, 0.0]]


def test_each_teacher_is_measured_and_so_is_the_mean_of_several():
    networks = [_colours(*bias) for bias in BIASES]
    teacher = MeanTeacher(networks, make_network().input, scale=2.0, names=("one", "two", "three"))
    student, images, before = make_network(), make_dataset().selection, torch.get_rng_state()
    found = teacher.accuracies(student, images)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(found) == ["teacher one", "teacher two", "teacher three", "the mean of 3 teachers"]
    assert list(found.values()) == pytest.approx(_plain_accuracies(BIASES, 2.0))
    assert len(set(found.values())) > 2
    alone = MeanTeacher(networks[:1], make_network().input).accuracies(make_network(), make_dataset().selection)
    assert alone == {"teacher 1": found["teacher one"]}


def test_an_answer_that_is_no_number_is_wrong():
    teacher = MeanTeacher([_colours(torch.nan, 0.0, 0.0, 0.0)], make_network().input)
    assert teacher.accuracies(make_network(), make_dataset().selection) == {"teacher 1": 0.0}


def test_teachers_are_known_by_the_names_that_the_recipe_has(tmp_path):
    names = tuple(str(tmp_path / f"{seed}.netpress") for seed in (1, 2))
    for seed, name in enumerate(names):
        save(create("resnet", {"width": 4, "classes": 10}, seed=seed), Path(name))
    assert load_teachers(names, create("resnet", {"width": 4, "classes": 10})).names == names


def _listen(folder: Path, validation: bool = True) -> tuple[list[str], dict[str, torch.Tensor]]:
    """What a training with a teacher says, and its weights."""
    heard = io.StringIO()
    context = replace(make_context(folder, 1e9), console=Console(stream=heard))
    if not validation:
        images = context.data.validation
        context = replace(context, dataset=replace(context.data, validation=images.take(torch.arange(0))))
    network = make_network()
    run_training(network, parse(TrainSettings, TAUGHT), context, own_teacher=_colours(*BIASES[0]))
    return [line for line in heard.getvalue().splitlines() if "teacher" in line], network.module.state_dict()


def test_a_teachers_accuracy_is_said_once_before_it_teaches(tmp_path):
    [accuracy, _] = _plain_accuracies(BIASES[:1], 1.0)
    first, _ = _listen(tmp_path)
    assert first == [f"01-train: teacher of the stage itself: {accuracy:.2%} on the validation images"]
    assert _listen(tmp_path)[0] == []  # goes on from its state
    assert _listen(tmp_path / "unseen", validation=False)[0] == []


def test_measuring_the_teacher_changes_no_bit_of_the_training(tmp_path, monkeypatch):
    said, weights = _listen(tmp_path / "said")
    monkeypatch.setattr(MeanTeacher, "accuracies", lambda *words: {})
    unsaid, expected = _listen(tmp_path / "unsaid")
    assert len(said) > len(unsaid) == 0
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())


def _train(folder: Path, values: dict[str, Any]) -> dict[str, torch.Tensor]:
    network = make_network()
    run_training(network, parse(TrainSettings, values), make_context(folder, 1e9), own_teacher=make_network())
    return network.module.state_dict()


def test_a_state_that_is_older_than_a_setting_is_gone_on_from(tmp_path):
    context = make_context(tmp_path)
    expected = _train(tmp_path, TAUGHT)
    tensors, values = context.load_state()
    del values["settings"]["distillation"]["t_squared"]
    context.save_state(tensors, values)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in _train(tmp_path, TAUGHT).items())
    for other in ({"t_squared": False}, {"temperature": 3.0}):
        with pytest.raises(UserError, match="holds a training with other settings"):
            _train(tmp_path, TAUGHT | {"distillation": TAUGHT["distillation"] | other})
