"""Label refinery: it learns from the teacher's answers to what the student sees, and from nothing else."""

import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_resume import make_context, make_network
from torch import Tensor, nn

from netpress.data import Mixed
from netpress.errors import UserError
from netpress.network import Architecture, Network, create, save
from netpress.recipe.schema import Recipe, check_recipe
from netpress.runs.recipes import plan_recipe
from netpress.settings import SettingsError, parse
from netpress.training import TrainSettings, load_teachers, run_training
from netpress.training.losses import LabelRefinery, Lesson, Loss
from netpress.training.losses.refinery import RefinedLoss
from netpress.training.teachers import MeanTeacher

CLASSES = 4
PIXELS = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(8))
MIXED = Mixed(torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([3, 1, 0, 2, 3, 3]), 0.3)


def _teacher(seed: int = 5) -> Network:
    """Answers by what the pixels are, in its own way for each seed."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, CLASSES))
    with torch.no_grad():
        module[1].weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(seed))
        module[1].bias.zero_()
    return Network(module, Architecture("none", {}), make_network().input, tuple("abcd"))


def _loss(scale: float = 1.0, teacher: Network | None = None) -> Loss:
    lesson = Lesson(make_network(), torch.device("cpu"), teacher or _teacher())
    return LabelRefinery(scale=scale).make(lesson)


def _logits() -> Tensor:
    return torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(1))


def _plain(logits: list[list[float]], answers: list[list[list[float]]], scale: float) -> float:
    """Cross-entropy with the mean probabilities of the teachers, whose logits `answers` are, image by image."""

    def softmax(row: list[float]) -> list[float]:
        powers = [math.exp(scale * value) for value in row]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for image, row in enumerate(logits):
        rows = [softmax(answer[image]) for answer in answers]
        target = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        total -= sum(p * math.log(q) for p, q in zip(target, softmax(row), strict=True))
    return total / len(logits)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_it_is_the_cross_entropy_with_the_teachers_probabilities(scale):
    teacher = _teacher()
    answers = teacher.module(PIXELS).tolist()
    loss = _loss(scale, teacher)(_logits(), MIXED, PIXELS)
    assert loss.item() == pytest.approx(_plain(_logits().tolist(), [answers], scale), rel=1e-6, abs=1e-6)


def test_its_gradient_leads_from_the_students_probabilities_to_the_teachers():
    teacher, logits = _teacher(), _logits().requires_grad_()
    _loss(5.0, teacher)(logits, MIXED, PIXELS).backward()
    wanted = (5 * teacher.module(PIXELS)).softmax(1).detach()
    torch.testing.assert_close(logits.grad, 5 * ((5 * _logits()).softmax(1) - wanted) / 6)
    assert teacher.module[1].weight.grad is None


def test_several_teachers_give_the_mean_of_their_probabilities():
    teachers = [_teacher(5), _teacher(6), _teacher(7)]
    answers = [teacher.module(PIXELS).tolist() for teacher in teachers]
    loss = RefinedLoss(MeanTeacher(teachers, make_network().input, scale=5.0), 5.0)(_logits(), MIXED, PIXELS)
    assert loss.item() == pytest.approx(_plain(_logits().tolist(), answers, 5.0), rel=1e-6, abs=1e-6)


def _train(folder: Path, shift: int, **values: Any) -> dict[str, Tensor]:
    """The last weights of a training whose labels are all wrong unless `shift` is 0."""
    context = make_context(folder, 1e9)
    train = context.data.train
    wrong = replace(context.data, train=replace(train, labels=(train.labels + shift) % CLASSES))
    settings = parse(TrainSettings, {"epochs": 2, "batch_size": 16, "augment": {"crop": 1}} | values)
    run_training(network := make_network(), settings, replace(context, dataset=wrong), own_teacher=_teacher())
    return network.module.state_dict()


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
def test_wrong_labels_give_the_same_weights(tmp_path, mix):
    refined = {"mix": {"kind": mix}, "loss": {"kind": "label_refinery"}}
    right, wrong = (_train(tmp_path / str(shift), shift, **refined) for shift in (0, 1))
    assert all(torch.equal(tensor, wrong[name]) for name, tensor in right.items())
    assert not torch.equal(right["7.weight"], make_network().module.state_dict()["7.weight"])


def test_wrong_labels_give_other_weights_where_they_are_read(tmp_path):
    right, wrong = (_train(tmp_path / str(shift), shift) for shift in (0, 1))
    assert not torch.equal(right["7.weight"], wrong["7.weight"])


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_the_teacher_sees_the_students_augmented_and_mixed_images(tmp_path, monkeypatch, mix):
    taught, learned = [], []
    teach = MeanTeacher.forward
    monkeypatch.setattr(MeanTeacher, "forward", lambda *words: (taught.append(words[1].clone()), teach(*words))[1])
    network = make_network()

    def note(module: nn.Module, words: tuple[Tensor]) -> None:
        if module.training:
            learned.append(words[0].clone())

    network.module.register_forward_pre_hook(note)
    values = {"epochs": 1, "batch_size": 16, "mix": {"kind": mix}, "loss": {"kind": "label_refinery"}}
    run_training(network, parse(TrainSettings, values), make_context(tmp_path, 1e9), own_teacher=_teacher())
    assert len(taught) == len(learned) > 1
    assert all(torch.equal(one, other) for one, other in zip(taught, learned, strict=True))


def _recipe(loss: dict[str, Any], **values: Any) -> Recipe:
    stage = {"kind": "train", "epochs": 1, "loss": {"kind": "label_refinery", **loss}, **values}
    model = {"family": "resnet", "width": 4}
    return check_recipe({"name": "refined", "model": model, "stages": [stage]})


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ((), r"01-train: loss\.teachers: names no network file or run folder"),
        (("gone",), r"01-train: loss\.teachers: gone: no such"),
        ({"classes": 7}, r"01-train: teacher .* to 7 classes, the student .* to 10; they must agree"),
        ({"classes": 10, "image_size": 16}, r"01-train: teacher .* maps \(3, 16, 16\)"),
    ],
)
def test_a_teacher_that_is_not_there_or_does_not_fit_is_refused_by_the_plan(tmp_path, teacher, message):
    if isinstance(teacher, dict):
        save(create("resnet", {"width": 4, **teacher}), tmp_path / "teacher.netpress")
        teacher = (str(tmp_path / "teacher.netpress"),)
    with pytest.raises(UserError, match=message):
        plan_recipe(_recipe({"teachers": list(teacher)}))


def test_two_ways_of_being_taught_at_once_are_refused():
    with pytest.raises(SettingsError, match=r"stages\.0\.train: distillation adds a teacher .* leave out one"):
        _recipe({}, distillation={})


def test_a_recipe_names_one_teacher_or_several(tmp_path):
    paths = [str(tmp_path / f"{seed}.netpress") for seed in (1, 2)]
    for seed, path in enumerate(paths):
        save(create("resnet", {"width": 4, "classes": 10}, seed=seed), Path(path))
    recipe = _recipe({"teachers": paths, "scale": 5.0})
    assert check_recipe(tomllib.loads(recipe.text)) == recipe
    assert recipe.stages[0].loss == LabelRefinery(teachers=tuple(paths), scale=5.0)
    assert plan_recipe(recipe)["epochs"] == 1
    student = create("resnet", {"width": 4, "classes": 10}, seed=2)
    lesson = Lesson(student, torch.device("cpu"))
    pixels = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    answers = [load_teachers((path,), student)(pixels).tolist() for path in paths]
    loss = recipe.stages[0].loss.make(lesson)(logits, MIXED, pixels)
    assert loss.item() == pytest.approx(_plain(logits.tolist(), answers, 5.0), rel=1e-5)


def test_where_a_stage_has_a_teacher_none_need_be_named():
    stage = {"kind": "quantize", "train": {"epochs": 1, "loss": {"kind": "label_refinery"}}}
    model = {"family": "resnet", "width": 4}
    plan_recipe(check_recipe({"name": "refined", "model": model, "stages": [stage]}))
