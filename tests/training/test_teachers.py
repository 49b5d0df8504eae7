"""Teachers: how they answer, what is said of them, and trainings that began before they had all their settings."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_resume import make_context, make_dataset, make_network
from torch import nn

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.errors import UserError
from netpress.network import Architecture, Network, create, load, save
from netpress.network.edits.folding import FoldNorms
from netpress.process.console import Console
from netpress.settings import parse
from netpress.tracing.foldable import find_foldable_norms
from netpress.training import MeanTeacher, TrainSettings, load_teachers, run_training
from netpress.training.checks import check_teaching
from netpress.training.losses import Distillation, LabelRefinery, Lesson, Loss

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


def _normed() -> nn.Module:
    """A batch norm with statistics that no batch has, then the mean of each colour, with a dropout in between."""
    norm = nn.BatchNorm2d(3)
    norm.running_mean.fill_(7.0)
    norm.running_var.fill_(3.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
    return nn.Sequential(norm, nn.Dropout(0.5), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_by_the_batch_norms_neither_read_nor_change_their_running_statistics():
    module, student = _normed(), make_network().input
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    network = Network(module, Architecture("none", {}), student, tuple("abc"))
    teacher = MeanTeacher([network], student, mode="batch_statistics")
    pixels = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1)) + 2
    rows = []
    for channel, weight in zip(pixels.double().unbind(1), (1.0, 2.0, 3.0), strict=True):
        values = channel.flatten().tolist()
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        normal = (channel - mean) / (variance + 1e-5) ** 0.5 * weight
        rows.append((normal * (normal + 3).clamp(0, 6) / 6).mean(dim=(1, 2)))
    expected = torch.stack(rows, dim=1).softmax(1).float()
    torch.testing.assert_close(teacher.train()(pixels).softmax(1), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(part.training for part in module.modules())
    plain = module(pixels).softmax(1)  # as ever
    assert (plain - expected).abs().max() > 0.01
    torch.testing.assert_close(MeanTeacher([network], student)(pixels).softmax(1), plain)


@pytest.mark.parametrize("loss", [LabelRefinery, Distillation])
def test_a_named_teacher_normalises_by_the_batch_and_its_file_stays(tmp_path, loss):
    path = tmp_path / "teacher.netpress"
    save(create("resnet", {"width": 4, "classes": 10}, seed=3), path)
    before = path.read_bytes()
    lesson = Lesson(create("resnet", {"width": 4, "classes": 10}), torch.device("cpu"))
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2
    found = {}
    for mode in ("evaluation", "batch_statistics"):
        settings = parse(loss, {"teachers": [str(path)], "mode": mode})
        made = settings.make(lesson) if loss is LabelRefinery else settings.join(Loss(), lesson)
        found[mode] = made.teacher(pixels).softmax(1)
    module = load(path).module
    torch.testing.assert_close(found["evaluation"], module.eval()(pixels).softmax(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["batch_statistics"], module.train()(pixels).softmax(1), atol=1e-5, rtol=1e-4)
    assert (found["evaluation"] - found["batch_statistics"]).abs().max() > 1e-3
    assert path.read_bytes() == before


def _refused(kind: str, folder: Path) -> list[str]:
    """Names of teachers that cannot normalise by the batch."""
    network = create("resnet", {"width": 4, "classes": 10})
    if kind == "nobody":
        return []
    if kind == "folded":
        network.edit(FoldNorms(pairs=tuple(find_foldable_norms(network.module, network.input.size))))
    else:
        context = replace(make_context(folder / "quantize"), dataset=None)
        network = quantize(network, parse(QuantizeSettings, {"preset": "half"}), context)
    save(network, folder / "teacher.netpress")
    return [str(folder / "teacher.netpress")]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nobody", 'names no network file or run folder, which mode = "batch_statistics" needs'),
        ("folded", "cannot normalise by the batch.* its norms are folded into its layers; give it as it was before"),
        ("quantized", "cannot normalise by the batch.* its numbers have formats"),
    ],
)
@pytest.mark.parametrize("refines", [True, False])
def test_teachers_that_cannot_normalise_by_the_batch_are_refused_by_the_plan(tmp_path, kind, message, refines):
    names = {"teachers": _refused(kind, tmp_path)}

    def check(mode: str) -> None:
        asked = names | {"mode": mode}
        taught = {"loss": {"kind": "label_refinery", **asked}} if refines else {"distillation": asked}
        student = create("resnet", {"width": 4, "classes": 10})
        check_teaching(student, parse(TrainSettings, taught), own_teacher=True)

    with pytest.raises(UserError, match=message):
        check("batch_statistics")
    check("evaluation")


def _train(folder: Path, values: dict[str, Any]) -> dict[str, torch.Tensor]:
    network = make_network()
    run_training(network, parse(TrainSettings, values), make_context(folder, 1e9), own_teacher=make_network())
    return network.module.state_dict()


def test_a_state_that_is_older_than_a_setting_is_gone_on_from(tmp_path):
    context = make_context(tmp_path)
    expected = _train(tmp_path, TAUGHT)
    tensors, values = context.load_state()
    for younger in ("t_squared", "mode"):
        del values["settings"]["distillation"][younger]
    context.save_state(tensors, values)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in _train(tmp_path, TAUGHT).items())
    for other in ({"t_squared": False}, {"temperature": 3.0}):
        with pytest.raises(UserError, match="holds a training with other settings"):
            _train(tmp_path, TAUGHT | {"distillation": TAUGHT["distillation"] | other})
