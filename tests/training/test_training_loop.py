"""The loop: it learns, keeps what it should, stops where it should, and says what is wrong."""

import math
from dataclasses import replace

import pytest
import torch
from test_training_resume import EVERYTHING, PLAIN, make_context, make_dataset, make_network
from torch import nn

from netpress.data import Images
from netpress.errors import Failure, UserError
from netpress.evaluation import evaluate, predict
from netpress.evaluation.accuracy import Evaluation
from netpress.network import Architecture, InputSpec, Network, create, save
from netpress.settings import parse
from netpress.stage import Outlook
from netpress.training import MeanTeacher, TrainSettings, load_teachers, loop, plan, run_training, train
from netpress.training.part import Part
from netpress.training.step import TrainingStep


def _settings(**values) -> TrainSettings:
    return parse(TrainSettings, {"epochs": 3, "batch_size": 8, "augment": {"crop": 0, "flip": False}} | values)


def test_it_learns_and_masked_weights_stay_gone(tmp_path):
    network = make_network()
    context = make_context(tmp_path, 1e9)
    before = evaluate(network, context.data.test)
    trained = train(network, _settings(epochs=12, orthogonality={"coefficient": 0.01}), context)
    after = evaluate(trained, context.data.test)
    assert after.accuracy > max(0.9, before.accuracy)
    assert after.loss < before.loss
    weight, mask = network.module[3].weight, network.masks["3.weight"]
    assert (weight[~mask] == 0).all()
    assert (weight[mask] != 0).all()
    lines = context.logged()
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["train_accuracy"] > lines[0]["train_accuracy"]
    assert {"stage", "round", "learning_rate", "regularizer", "selection_accuracy", "images_per_second", "seconds"} <= (
        lines[-1].keys()
    )


class _Recorder(Part):
    """Writes down the moments that it is told of."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattribute__(self, name):
        if name in ("begin_round", "begin_epoch", "begin_step", "after_backward", "move", "after_move", "close"):
            self.told.append(name)
        return super().__getattribute__(name)


def test_a_part_is_told_everything_in_order(tmp_path, monkeypatch):
    recorder, make_parts = _Recorder(), TrainingStep._make_parts
    monkeypatch.setattr(TrainingStep, "_make_parts", lambda step: make_parts(step) | {"recorder": recorder})
    run_training(make_network(), _settings(epochs=2, rounds=2, batch_size=20), make_context(tmp_path, 1e9))
    step = ["begin_step", "after_backward", "move", "after_move"]
    epoch = ["begin_epoch", *step, *step]  # 40 images
    assert recorder.told == [*epoch, "begin_round", *epoch, "close"]


NONE = torch.zeros(0, dtype=torch.long)


def _script_accuracies(monkeypatch, accuracies: list[float]) -> None:
    queue = iter(accuracies)
    monkeypatch.setattr(loop, "evaluate_module", lambda *_: Evaluation(next(queue), 1.0, 1.0, 20, NONE, NONE, NONE))


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_best_weights_of_the_last_round_are_kept_and_the_last_ones_known(tmp_path, monkeypatch, keep):
    _script_accuracies(monkeypatch, [0.9, 0.8, 0.7, 0.5])  # round 1: .9 .8, round 2: .7 .5
    trained = run_training(
        make_network(), _settings(epochs=4, rounds=2, keep=keep, orthogonality=None), make_context(tmp_path)
    )
    assert trained.selection_accuracy == {"best": 0.7, "last": 0.5}[keep]
    kept = trained.network.module.state_dict()
    assert torch.equal(kept["7.weight"], trained.last["7.weight"]) == (keep == "last")
    assert [line["round"] for line in make_context(tmp_path).logged()] == [1, 1, 2, 2]


def test_early_stopping_ends_the_round(tmp_path, monkeypatch):
    _script_accuracies(monkeypatch, [0.5, 0.6, 0.6, 0.4, 0.1, 0.1, 0.1])
    context = make_context(tmp_path)
    run_training(make_network(), _settings(epochs=16, rounds=2, early_stopping={"patience": 2}), context)
    assert [(line["round"], line["epoch"]) for line in context.logged()] == [
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 4),
        (2, 9),
        (2, 10),
        (2, 11),
    ]


def test_the_average_is_what_is_kept(tmp_path):
    trained = run_training(make_network(), _settings(average={"decay": 0.9}), make_context(tmp_path))
    kept = trained.network.module.state_dict()["7.weight"]
    assert not torch.equal(kept, trained.last["7.weight"])
    measured = evaluate(trained.network, make_dataset().selection)
    assert trained.selection_accuracy == measured.accuracy


def test_evaluation_may_be_rare_but_never_misses_the_end(tmp_path):
    context = make_context(tmp_path)
    run_training(make_network(), _settings(epochs=5, evaluate_every=3), context)
    assert ["selection_accuracy" in line for line in context.logged()] == [False, False, True, False, True]


def test_a_last_batch_of_one_image_is_left_out(tmp_path):
    dataset = make_dataset(count=17)
    context = replace(make_context(tmp_path, 1e9), dataset=dataset)
    run_training(make_network(), _settings(epochs=1, batch_size=8), context)
    line = context.logged()[0]
    assert 0 <= line["train_accuracy"] <= 1
    assert math.isfinite(line["loss"])


@pytest.mark.parametrize("values", [{}, {"orthogonality": {}}])
def test_a_divergence_names_its_place_and_leaves_the_last_good_state(tmp_path, values):
    context = make_context(tmp_path, 1e9)
    settings = _settings(optimizer={"kind": "sgd", "learning_rate": 1e30}, schedule={"kind": "constant"}, **values)
    with pytest.raises(Failure) as raised:
        run_training(make_network(), settings, context)
    message = str(raised.value)
    assert "not finite in epoch 1 of 3, at step" in message
    assert "learning rate 1e+30" in message
    assert "--fresh" in message
    assert ("orthogonality.coefficient" in message) == bool(values)
    assert context.load_state() is None  # nothing bad was written


def test_weights_that_go_bad_at_the_end_of_an_epoch_are_not_saved(tmp_path, monkeypatch):
    context = make_context(tmp_path, 1e9)
    end = loop._Training._end_epoch

    def spoil(training):
        accuracy = end(training)
        if training.position.epoch == 1:
            with torch.no_grad():
                training.taken.parameters[0].fill_(torch.nan)
        return accuracy

    monkeypatch.setattr(loop._Training, "_end_epoch", spoil)
    with pytest.raises(Failure, match="a weight is not finite in epoch"):
        run_training(make_network(), _settings(), context)
    tensors, values = context.load_state()
    assert values["parts"]["position"]["epoch"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    def weights(name: str, seed: int) -> torch.Tensor:
        context = replace(make_context(tmp_path / name, 1e9), seed=seed)
        return run_training(make_network(), parse(TrainSettings, PLAIN), context).last["7.weight"]

    assert torch.equal(weights("a", 1), weights("b", 1))
    assert not torch.equal(weights("a2", 1), weights("c", 2))


def test_data_that_does_not_fit_is_refused(tmp_path):
    context = make_context(tmp_path)
    wide = replace(make_network(), input=InputSpec(3, 8, 8, (0.5,) * 3, (0.25,) * 3))
    with pytest.raises(UserError, match="images of 3x6x6, the network takes 3x8x8"):
        run_training(wide, _settings(), context)
    with pytest.raises(UserError, match="has 4 classes, the network 2"):
        run_training(replace(make_network(), classes=("a", "b")), _settings(), context)
    alone = Images(context.data.train.images[:1], context.data.train.labels[:1])
    with pytest.raises(UserError, match="leaves 1 images"):
        run_training(make_network(), _settings(), replace(context, dataset=replace(context.data, train=alone)))
    with pytest.raises(UserError, match=r"01-train: distillation\.teachers: names no network file"):
        run_training(make_network(), _settings(distillation={}), context)


class _Constant(nn.Module):
    """Answers the same whatever it is shown, and remembers what it was shown."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.shown: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown = images
        return self.logits.expand(len(images), -1)


def _constant(logits: list[float], mean: float = 0.5, std: float = 0.25) -> Network:
    spec = InputSpec(3, 6, 6, (mean,) * 3, (std,) * 3)
    return Network(_Constant(logits), Architecture("none", {}), spec, tuple("abcd"))


def test_a_student_learns_its_teachers_answers(tmp_path):
    network, teacher = make_network(), _constant([0.0, 0.0, 8.0, 0.0])
    settings = _settings(epochs=10, distillation={"weight": 1.0, "temperature": 1.0})
    context = make_context(tmp_path)
    run_training(network, settings, context, own_teacher=teacher)
    assert (predict(network, context.data.test).argmax(1) == 2).all()


def test_teachers_are_averaged_and_see_images_normalised_their_way():
    student = InputSpec(3, 6, 6, (0.5,) * 3, (0.25,) * 3)
    first, second = _constant([2.0, 0.0, 0.0, 0.0]), _constant([0.0, 1.0, 0.0, 0.0], mean=0.25, std=0.5)
    teacher = MeanTeacher([first, second], student)
    pixels = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    answers = teacher((pixels - 0.5) / 0.25).softmax(1)[0]
    expected = (first.module.logits.softmax(0) + second.module.logits.softmax(0)) / 2
    torch.testing.assert_close(answers, expected.detach())
    torch.testing.assert_close(second.module.shown, (pixels - 0.25) / 0.5)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.train().training


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    teacher = create("c_efficientnet", {"widths": "tiny", "classes": 7})
    save(teacher, tmp_path / "teacher.netpress")
    student = create("c_efficientnet", {"widths": "tiny", "classes": 5})
    with pytest.raises(UserError, match="to 7 classes, the student"):
        load_teachers((str(tmp_path / "teacher.netpress"),), student)


def test_evaluation_equals_one_image_at_a_time():
    network, images = make_network(), make_dataset().test
    network.module.train()
    measured = evaluate(network, images, batch_size=7)
    assert network.module.training  # left as it was
    network.module.eval()
    right = loss = 0.0
    for pixels, label in zip(images.images, images.labels, strict=True):
        logits = network.module((pixels[None] / 255 - 0.5) / 0.25)[0].detach()
        right += float(logits.argmax() == label)
        loss -= float(logits.log_softmax(0)[label])
    assert measured.accuracy == right / 20
    assert measured.top5 is None  # four classes are all among five
    assert measured.loss == pytest.approx(loss / 20, rel=1e-5)
    assert measured.count == 20


def test_evaluation_leaves_running_statistics_alone():
    network = make_network()
    before = network.module[1].running_mean.clone()
    evaluate(network, make_dataset().test)
    assert torch.equal(network.module[1].running_mean, before)


def test_the_plan_names_rounds_and_the_layers_that_srip_touches():
    rows = plan(Outlook(make_network()), parse(TrainSettings, EVERYTHING)).rows
    assert [row["what"] for row in rows] == ["round 1", "round 2", "SRIP 3"]
    assert rows[0]["epochs"] == 2
    assert rows[2]["shape"] == [8, 8, 1, 1]
    paper = _settings(epochs=600, rounds=4, schedule={"kind": "cosine", "per": "epoch", "minimum": 0.0005})
    first, last = plan(Outlook(make_network()), paper).rows[0]["learning_rate"]
    assert first == pytest.approx(0.099989, abs=5e-7)
    assert last == pytest.approx(0.0005)
    with pytest.raises(UserError, match="depthwise"):
        plan(Outlook(make_network()), _settings(orthogonality={"on": "depthwise"}))


def test_bfloat16_is_a_setting(tmp_path):
    context = make_context(tmp_path, 1e9)
    run_training(make_network(), _settings(precision="bfloat16"), context)
    exact = make_context(tmp_path / "exact", 1e9)
    run_training(make_network(), _settings(precision="float32"), exact)
    assert context.logged()[-1]["loss"] == pytest.approx(exact.logged()[-1]["loss"], rel=0.1)
    assert context.logged()[-1]["loss"] != exact.logged()[-1]["loss"]


def test_an_epoch_passes_once_over_the_images_for_each_policy(tmp_path, monkeypatch):
    shown = []
    prepare = TrainingStep.prepare
    monkeypatch.setattr(TrainingStep, "prepare", lambda *a: (shown.extend(a[1].tolist()), prepare(*a))[1])
    settings = _settings(epochs=1, augment={"policy": ["trivial", "rand"], "combine": "copies"})
    context = make_context(tmp_path, 1e9)
    run_training(make_network(), settings, context)
    assert sorted(shown) == list(range(80))  # 40 images, twice
    assert 0 <= context.logged()[0]["train_accuracy"] <= 1
    assert plan(Outlook(make_network()), settings).rows[0]["passes"] == 2


def test_a_missing_policy_file_is_named_before_anything_runs(tmp_path):
    settings = _settings(augment={"policy": str(tmp_path / "none.json")})
    with pytest.raises(UserError, match=r"none\.json"):
        run_training(make_network(), settings, make_context(tmp_path))
    with pytest.raises(UserError, match=r"none\.json"):
        plan(Outlook(make_network()), settings)


@pytest.mark.parametrize("warm", [True, False])
def test_norms_look_back_a_short_way_at_first(tmp_path, warm):
    network = make_network()
    norm = next(part for part in network.module.modules() if isinstance(part, nn.BatchNorm2d))
    norm.momentum = 0.01
    seen = []
    norm.register_forward_pre_hook(lambda module, _: seen.append(module.momentum) if module.training else None)
    train(network, _settings(epochs=2, norm_warmup=warm), make_context(tmp_path))
    assert len(seen) > 3
    assert seen == [10 / (step + 10) if warm else 0.01 for step in range(len(seen))]
    assert norm.momentum == 0.01
