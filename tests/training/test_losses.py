"""Losses against slow, plain implementations of their formulae."""

import math

import pytest
import torch
from torch import Tensor, nn

from netpress.data import Mixed
from netpress.errors import UserError
from netpress.network import FILES, Architecture, InputSpec, Network
from netpress.training.losses import AdaptiveLabelSmoothing, CrossEntropy, Distillation, LabelSmoothing, Lesson, Loss
from netpress.training.losses.adaptive import class_likeness, classifier_weight
from netpress.training.losses.distillation import distill
from netpress.training.losses.labels import cross_entropy
from netpress.training.step import count_right

CLASSES = 7
PIXELS = torch.rand(9, 3, 6, 6, generator=torch.Generator().manual_seed(8))  # of the batch


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _labels(count: int, seed: int) -> Tensor:
    return torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(seed))


def _log_softmax(row: list[float]) -> list[float]:
    top = max(row)
    total = math.log(sum(math.exp(value - top) for value in row)) + top
    return [value - total for value in row]


def _plain_cross_entropy(logits: Tensor, targets: list[list[float]]) -> float:
    rows = [_log_softmax(row) for row in logits.tolist()]
    losses = [-sum(q * p for q, p in zip(target, row, strict=True)) for target, row in zip(targets, rows, strict=True)]
    return sum(losses) / len(losses)


def _plain_likeness(weight: Tensor, transform) -> list[list[float]]:
    rows = weight.tolist()
    table = []
    for y, own in enumerate(rows):
        scores = []
        for k, other in enumerate(rows):
            cosine = sum(a * b for a, b in zip(own, other, strict=True)) / (math.hypot(*own) * math.hypot(*other))
            scores.append(0.0 if k == y else math.exp(transform(cosine)))
        table.append([score / sum(scores) for score in scores])
    return table


def _lesson(module: nn.Module | None = None, own_teacher: Network | None = None) -> Lesson:
    module = module or nn.Linear(11, CLASSES)
    spec = InputSpec(3, 6, 6, (0.5,) * 3, (0.25,) * 3)
    student = Network(module, Architecture("none", {}), spec, tuple("abcdefg"))
    return Lesson(student, torch.device("cpu"), own_teacher)


def _mixed(weight: float = 0.3) -> Mixed:
    return Mixed(_labels(9, 1), _labels(9, 2), weight)


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("over", [None, "all", "others"])
def test_mixed_smoothed_cross_entropy_equals_the_formula(weight, over):
    logits, mixed, epsilon = _draw(9, CLASSES), _mixed(weight), 0.2
    settings = LabelSmoothing(epsilon=epsilon, over=over) if over else CrossEntropy()

    def row(label: int) -> list[float]:
        if over is None:
            return [float(k == label) for k in range(CLASSES)]
        if over == "all":
            return [(1 - epsilon) * (k == label) + epsilon / CLASSES for k in range(CLASSES)]
        return [1 - epsilon if k == label else epsilon / (CLASSES - 1) for k in range(CLASSES)]

    expected = weight * _plain_cross_entropy(logits, [row(label) for label in mixed.labels_a.tolist()])
    expected += (1 - weight) * _plain_cross_entropy(logits, [row(label) for label in mixed.labels_b.tolist()])
    loss = settings.make(_lesson())
    assert loss(logits, mixed, PIXELS).item() == pytest.approx(expected, rel=1e-5)
    if over is None:  # the table of plain cross-entropy says the same as no table
        assert cross_entropy(logits, mixed, torch.eye(CLASSES)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("variant", "transform"), [("paper", lambda cosine: cosine / 0.2), ("code", lambda cosine: abs(cosine))]
)
def test_adaptive_smoothing_equals_class_by_class(variant, transform):
    settings = AdaptiveLabelSmoothing(variant=variant, epsilon=0.3)
    weight, logits, mixed = _draw(CLASSES, 11, seed=3), _draw(9, CLASSES), _mixed()
    plain = _plain_likeness(weight, transform)
    likeness = class_likeness(weight, settings)
    torch.testing.assert_close(likeness, torch.tensor(plain), rtol=1e-4, atol=1e-6)

    def row(label: int) -> list[float]:
        return [0.7 * (k == label) + 0.3 * plain[label][k] for k in range(CLASSES)]

    expected = 0.3 * _plain_cross_entropy(logits, [row(label) for label in mixed.labels_a.tolist()])
    expected += 0.7 * _plain_cross_entropy(logits, [row(label) for label in mixed.labels_b.tolist()])
    classifier = nn.Linear(11, CLASSES)
    loss = settings.make(_lesson(classifier))
    classifier.weight.data.copy_(weight)
    assert loss(logits, mixed, PIXELS).item() != pytest.approx(expected, rel=1e-5)  # of the first weights
    loss.begin_epoch()
    assert loss(logits, mixed, PIXELS).item() == pytest.approx(expected, rel=1e-5)
    classifier.weight.data.zero_()
    again = settings.make(_lesson(classifier))
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again(logits, mixed, PIXELS), loss(logits, mixed, PIXELS))


def test_every_target_row_is_a_distribution():
    tables = [LabelSmoothing().targets(CLASSES), LabelSmoothing(over="others").targets(CLASSES)]
    for table in (*tables, AdaptiveLabelSmoothing().targets(_draw(CLASSES, 5))):
        torch.testing.assert_close(table.sum(1), torch.ones(CLASSES))
        assert (table >= 0).all()


def test_the_code_variant_gives_opposite_classes_as_much_as_like_ones():
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, -0.1], [0.0, 1.0]])
    paper = class_likeness(weight, AdaptiveLabelSmoothing())[0]
    code = class_likeness(weight, AdaptiveLabelSmoothing(variant="code"))[0]
    assert paper[1] > 100 * paper[2]
    assert code[1] == pytest.approx(code[2].item())


def test_classifier_is_the_last_linear_layer():
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    assert classifier_weight(module).shape == (3, 5)
    assert classifier_weight(nn.Sequential(nn.Conv2d(4, 3, 1))).shape == (3, 4)
    with pytest.raises(UserError, match="no linear layer"):
        classifier_weight(nn.Conv2d(3, 4, 3))


def test_distillation_is_the_divergence_of_softened_answers():
    student, teacher, temperature = _draw(4, CLASSES), _draw(4, CLASSES, seed=5), 3.0
    p = (teacher / temperature).softmax(1)
    q = (student / temperature).softmax(1)
    expected = (p * (p.log() - q.log())).sum() / 4 * temperature**2
    assert distill(student, teacher, temperature).item() == pytest.approx(expected.item(), rel=1e-5)
    assert distill(teacher, teacher, temperature).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("t_squared", "factor"), [(None, 900.0), (True, 900.0), (False, 1.0)])
def test_the_divergence_is_multiplied_by_the_temperature_squared_or_not(t_squared, factor):
    """IMT: temperature 30, .9 of the teacher and .1 of the labels, without the factor."""
    logits, mixed, teacher = _draw(9, CLASSES), _mixed(), _Teacher()
    settings = Distillation(weight=0.9, temperature=30.0, **({} if t_squared is None else {"t_squared": t_squared}))
    lesson = _lesson(own_teacher=Network(teacher, Architecture("none", {}), _lesson().student.input, tuple("abc")))
    labels = LabelSmoothing().make(lesson)
    divergence = 0.0
    for own, other in zip((logits.double() / 30).tolist(), (teacher(PIXELS).double() / 30).tolist(), strict=True):
        for p, q in zip(_log_softmax(other), _log_softmax(own), strict=True):
            divergence += math.exp(p) * (p - q) / len(logits)
    expected = 0.1 * labels(logits, mixed, PIXELS).item() + 0.9 * divergence * factor
    assert settings.join(labels, lesson)(logits, mixed, PIXELS).item() == pytest.approx(expected, rel=1e-4)
    assert divergence * factor * 0.9 > 1e-4  # enough to be seen beside the labels


class _Teacher(nn.Module):
    """Answers by the colours of the pixels that it is shown."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images.mean(dim=(2, 3)), torch.zeros(len(images), CLASSES - 3)], dim=1)


def test_a_distillation_shares_the_loss_with_a_teacher_that_sees_the_same_pixels():
    logits, mixed, settings = _draw(9, CLASSES), _mixed(), Distillation(weight=0.3, temperature=2.0)
    lesson = _lesson(own_teacher=Network(_Teacher(), Architecture("none", {}), _lesson().student.input, tuple("abc")))
    labels = LabelSmoothing().make(lesson)
    loss = settings.join(labels, lesson)(logits, mixed, PIXELS)
    learned = distill(logits, _Teacher()(PIXELS), 2.0)
    assert loss.item() == pytest.approx(0.7 * labels(logits, mixed, PIXELS).item() + 0.3 * learned.item(), rel=1e-5)


def test_a_distillation_without_a_teacher_is_refused():
    with pytest.raises(UserError, match="names no network file or run folder"):
        Distillation().join(Loss(), _lesson())
    with pytest.raises(UserError, match="names no network file or run folder"):
        Distillation().check_teachers(_lesson().student, own_teacher=False, library=FILES)
    Distillation().check_teachers(_lesson().student, own_teacher=True, library=FILES)
    with pytest.raises(UserError, match="gone: no such"):  # a name counts, whoever else could teach
        Distillation(teachers=("gone",)).check_teachers(_lesson().student, own_teacher=True, library=FILES)


def test_a_mixed_image_counts_as_the_shares_of_its_labels():
    logits = torch.eye(3)
    mixed = Mixed(torch.tensor([0, 1, 0]), torch.tensor([1, 1, 2]), 0.75)
    assert count_right(logits, mixed).item() == pytest.approx(0.75 + 1.0 + 0.25)
