"""Teachers' answers kept: a second training asks nobody, and no bit depends on what was kept."""

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_resume import Interruption, Points, make_context, make_dataset, make_network
from torch import Tensor, nn

from netpress.data import Dataset
from netpress.folders.answers import AnswersFolder
from netpress.network import Architecture, Network, create, save
from netpress.process.console import Console
from netpress.recipe.schema import check_recipe
from netpress.runs.recipes import plan_recipe
from netpress.settings import parse
from netpress.stage import Context
from netpress.training import MeanTeacher, TrainSettings, answers, run_training

KEPT: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 12,  # the last of an epoch has 4
    "augment": {"crop": 1},
    "mix": {"kind": "cutmix"},
    "distillation": {"keep_answers": True, "weight": 0.9},
}
REFINED = {**KEPT, "distillation": None, "loss": {"kind": "label_refinery", "keep_answers": True, "scale": 2.0}}
COPIES = {**KEPT, "epochs": 1, "augment": {"copies": [{"crop": 1}, {"flip": False, "policy": "trivial"}]}}


def _teacher(seed: int = 5, scale: float = 0.2, family: str = "none") -> Network:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 6 * 6, 4))
    with torch.no_grad():
        module[2].weight.normal_(0, scale, generator=torch.Generator().manual_seed(seed))
        module[2].bias.zero_()
    return Network(module, Architecture(family, {}), make_network().input, tuple("abcd"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A growing list: the sizes of the batches that teachers were asked about, measuring them included."""
    sizes: list[int] = []
    ask = MeanTeacher._ask
    monkeypatch.setattr(MeanTeacher, "_ask", lambda *words: (sizes.append(len(words[2])), ask(*words))[1])
    return sizes


class _Case:
    """Trainings below one folder, each in a folder of its own, which share answers."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.count = folder, 0
        self.options = {"limit": 10**6, "teacher": _teacher(), **options}
        self.heard = ""

    @property
    def place(self) -> Path:
        return self.folder / "answers"

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.place.glob("*.answers")}

    def context(self, folder: Path, kept: bool, dataset: Dataset | None, **changes: Any) -> Context:
        place = AnswersFolder(self.place, self.options["limit"]) if kept else None
        context = make_context(folder, changes.pop("save_every_seconds", 1e9))
        return replace(context, answers=place, dataset=dataset or context.dataset, **changes)

    def train(
        self,
        values: dict[str, Any],
        kept: bool = True,
        name: str | None = None,
        student: Network | None = None,
        dataset: Dataset | None = None,
        **changes: Any,
    ) -> dict[str, Tensor]:
        """The weights after one more training."""
        self.count += 1
        heard = io.StringIO()
        context = self.context(self.folder / (name or str(self.count)), kept, dataset, **changes)
        context = replace(context, console=Console(stream=heard))
        student = student or make_network()
        named = (values.get("distillation") or {}).get("teachers")
        teacher = None if named else self.options["teacher"]
        run_training(student, parse(TrainSettings, values), context, own_teacher=teacher)
        self.heard = heard.getvalue()
        return student.module.state_dict()


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("values", [KEPT, REFINED, COPIES], ids=["distilled", "refined", "copies"])
def test_a_second_training_asks_nobody_and_comes_to_the_same_bits(tmp_path, asked, values):
    case = _Case(tmp_path)
    student = {**values, "optimizer": {"kind": "adamw", "learning_rate": 0.02}, "average": {"decay": 0.9}}
    plain = [case.train(one, kept=False) for one in (values, student)]
    assert not case.place.exists()
    assert not _same(*plain)
    assert _same(case.train(values), plain[0])
    assert f"{values['epochs']} asked for; kept in {case.place}" in case.heard
    first, asked[:] = case.heard, []
    for one, expected in zip((values, student), plain, strict=True):
        assert _same(case.train(one), expected)
        assert asked == []
        assert f"{values['epochs']} epochs read, 0 asked" in case.heard
        assert [line for line in case.heard.splitlines() if "teacher of" in line] == [
            line for line in first.splitlines() if "teacher of" in line
        ]
    shutil.rmtree(case.place)
    assert _same(case.train(student), plain[1])
    assert len(asked) > 0


def test_without_the_setting_nothing_is_rounded_and_nothing_kept(tmp_path):
    case = _Case(tmp_path)
    off = {**KEPT, "distillation": {"weight": 0.9}}
    weights = case.train(off)
    assert not case.place.exists()
    assert "answers" not in case.heard
    rounded = case.train(KEPT)
    assert not _same(weights, rounded)  # in the last digits
    assert all(torch.allclose(tensor, rounded[name], atol=0.02) for name, tensor in weights.items())


def test_each_of_several_teachers_is_kept_for_itself(tmp_path, asked):
    names = [str(tmp_path / f"{seed}.netpress") for seed in (1, 2)]
    spec = {"width": 4, "classes": 4, "image_size": 8}
    for seed, name in enumerate(names):
        save(create("resnet", spec, classes=tuple("abcd"), seed=seed), Path(name))
    data = make_dataset()
    parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    large = {name: replace(part, images=nn.functional.pad(part.images, (1, 1, 1, 1))) for name, part in parts.items()}
    wide = replace(data, **large)

    def train(teachers: list[str], classes: str = "abcd", **options: Any) -> dict[str, Tensor]:
        student = create("resnet", spec, classes=tuple(classes), mean=(0.5,) * 3, seed=9)
        values = {**KEPT, "distillation": {**KEPT["distillation"], "teachers": teachers}}
        return case.train(values, student=student, dataset=replace(wide, classes=tuple(classes)), **options)

    case = _Case(tmp_path)
    plain = train(names, kept=False)
    for name in names:
        train([name])
    asked.clear()
    assert _same(train(names), plain)
    assert sum(asked) == 2 * len(data.validation)  # the mean of both was not measured yet
    assert "6 epochs read, 0 asked" in case.heard
    other = train(names, "badc", kept=False)
    assert _same(train(names, "badc"), other)  # the same teachers, whose answers stand in another order
    assert "0 epochs read, 6 asked" in case.heard


@pytest.mark.slow
def test_an_interruption_at_any_point_changes_no_bit_and_keeps_no_half_of_an_epoch(tmp_path, monkeypatch, asked):
    case = _Case(tmp_path)
    points = Points(monkeypatch)
    points.begin()
    expected = case.train(KEPT, save_every_seconds=0)
    whole = {path.name: path.read_bytes() for path in case.place.glob("*.answers")}
    count = points.passed
    assert len(whole) == KEPT["epochs"] + 1  # and how good the teacher is
    for fatal in range(1, count + 1, 5):
        for there in (True, False):
            if not there:
                shutil.rmtree(case.place)
            points.begin(fatal)
            with pytest.raises(Interruption):
                case.train(KEPT, name=f"{fatal}-{there}", save_every_seconds=0)
            points.begin()
            asked.clear()
            assert _same(case.train(KEPT, name=f"{fatal}-{there}", save_every_seconds=0), expected)
            assert not (there and asked)
            kept = {path.name: path.read_bytes() for path in case.place.glob("*.answers")}
            assert kept.items() <= whole.items()
            assert len(kept) >= len(whole) - (0 if there else 2)
        assert _same(case.train(KEPT), expected)
        assert case.names == whole.keys()


def _other_pixel(dataset: Dataset) -> Dataset:
    pixels = dataset.train.images.clone()
    pixels[3, 1, 2, 2] ^= 1
    return replace(dataset, train=replace(dataset.train, images=pixels))


def _other_labels(dataset: Dataset) -> Dataset:
    return replace(dataset, train=replace(dataset.train, labels=(dataset.train.labels + 1) % 4))


SAME_IMAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "learning rate": ({"optimizer": {"kind": "sgd", "learning_rate": 0.3}}, {}),
    "loss": ({"loss": {"kind": "label_smoothing"}, "clip_norm": 1.0, "orthogonality": {}}, {}),
    "weight": ({"distillation": {"keep_answers": True, "weight": 0.3, "temperature": 9.0, "t_squared": False}}, {}),
    "evaluation": ({"evaluate_every": 3, "keep": "best"}, {}),
    "labels": ({}, {"dataset": _other_labels(make_dataset())}),
}
OTHER_IMAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "augment": ({"augment": {"crop": 1, "flip": False}}, {}),
    "mix": ({"mix": {"kind": "mixup"}}, {}),
    "batch size": ({"batch_size": 10}, {}),
    "sizes": ({"sizes": [4, 6]}, {}),
    "seed": ({}, {"seed": 12}),
    "name": ({}, {"name": "02-train"}),
    "images": ({}, {"dataset": _other_pixel(make_dataset())}),
    "precision": ({"precision": "bfloat16"}, {}),
}


@pytest.mark.parametrize("change", SAME_IMAGES)
def test_what_changes_the_student_alone_shares_the_answers(tmp_path, asked, change):
    case = _Case(tmp_path)
    values, changes = SAME_IMAGES[change]
    case.train(KEPT)
    names, asked[:] = case.names, []
    case.train({**KEPT, **values}, **changes)
    assert (case.names, asked) == (names, [])


def _stream(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    context = make_context(Path(changes.pop("folder")))
    dataset = changes.pop("dataset", None) or context.dataset
    student = changes.pop("student", None) or make_network()
    precision = values.get("precision", "float32")
    settings = parse(TrainSettings, values)
    return answers._stream(student, settings, replace(context, dataset=dataset, **changes), precision)


@pytest.mark.parametrize("change", OTHER_IMAGES)
def test_what_changes_the_images_or_how_teachers_compute_shares_nothing(tmp_path, change):
    values, changes = OTHER_IMAGES[change]
    plain = _stream(KEPT, folder=tmp_path)
    assert _stream(KEPT, folder=tmp_path) == plain
    assert _stream({**KEPT, **values}, folder=tmp_path, **changes) != plain


def test_rounds_and_epochs_have_files_of_their_own(tmp_path):
    case = _Case(tmp_path)
    case.train(KEPT)
    once = case.names
    case.train({**KEPT, "rounds": 3})
    assert len(once) == 4  # and the accuracy
    assert len(case.names - once) == 2  # the first epoch of the first round is the same


def test_on_other_selection_images_teachers_are_measured_anew(tmp_path, asked):
    case = _Case(tmp_path)
    case.train(KEPT)
    data, asked[:] = make_dataset(), []
    images = data.validation
    for part in (replace(images, images=255 - images.images), replace(images, labels=(images.labels + 1) % 4)):
        case.train(KEPT, dataset=replace(data, validation=part))
        assert sum(asked) == len(part)
        asked.clear()


@pytest.mark.parametrize("part", ["mean", "policy", "threads", "version"])
def test_what_else_the_answers_depend_on(tmp_path, monkeypatch, part):
    policy = tmp_path / "policy.json"
    values = {**KEPT, "augment": {"policy": str(policy)}}

    def write(probability: float) -> None:
        policy.write_text(json.dumps({"sub_policies": [[["Rotate", probability, 0.5]]]}))

    write(0.5)
    plain = _stream(values if part == "policy" else KEPT, folder=tmp_path)
    student = make_network()
    if part == "policy":
        write(0.25)
    elif part == "mean":
        student.input = replace(student.input, mean=(0.5, 0.5, 0.4))
    elif part == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    else:
        monkeypatch.setattr(answers, "__version__", "77")
    assert _stream(values if part == "policy" else KEPT, folder=tmp_path, student=student) != plain


def test_every_fact_of_a_teacher_is_in_its_key():
    spec = make_network().input
    other = _teacher()
    other.input = replace(spec, std=(0.25, 0.25, 0.3))
    teachers = [
        MeanTeacher([_teacher()], spec),
        MeanTeacher([_teacher(6)], spec),
        MeanTeacher([_teacher()], spec, scale=2.0),
        MeanTeacher([_teacher()], spec, mode="batch_statistics"),
        MeanTeacher([_teacher()], spec, [[1, 0, 2, 3]]),
        MeanTeacher([other], spec),
    ]
    assert len({answers._teacher_key(teacher, 0) for teacher in teachers}) == len(teachers)
    assert answers._teacher_key(MeanTeacher([_teacher(6), _teacher()], spec), 1) == answers._teacher_key(teachers[0], 0)


def test_a_damaged_file_is_said_and_written_anew(tmp_path, asked):
    case = _Case(tmp_path)
    expected = case.train(KEPT)
    whole = {name: (case.place / name).read_bytes() for name in case.names}
    for name, data in whole.items():
        (case.place / name).write_bytes(data[: len(data) // 2] + b"!" + data[len(data) // 2 + 1 :])
    asked.clear()
    assert _same(case.train(KEPT), expected)
    assert len(asked) > 0
    assert {name: (case.place / name).read_bytes() for name in case.names} == whole


def test_the_damage_is_said(tmp_path, capsys):
    case = _Case(tmp_path)
    case.train(KEPT)
    name = max(case.names, key=lambda name: (case.place / name).stat().st_size)
    (case.place / name).write_bytes(b"")
    capsys.readouterr()
    case.train(KEPT)
    assert f"{name}: damaged, or not what its name says; teachers are asked again" in capsys.readouterr().err
    case.train(KEPT)
    assert capsys.readouterr().err == ""


def test_where_not_all_epochs_find_room_the_first_ones_stay(tmp_path, asked, capsys):
    case = _Case(tmp_path)
    plain = case.train(KEPT, kept=False)
    size = 40 * 4 * 2
    case.options["limit"] = 3 * size + 200  # the accuracy and two epochs, with what their files begin with
    assert _same(case.train(KEPT), plain)
    assert len(case.names) == 3
    assert capsys.readouterr().err.count("--answers-limit") == 1
    asked.clear()
    assert _same(case.train(KEPT), plain)
    assert sum(asked) == 40
    assert sum((case.place / name).stat().st_size for name in case.names) <= case.options["limit"]


def test_a_folder_that_cannot_be_written_or_goes_away_ends_no_training(tmp_path, monkeypatch, capsys):
    case = _Case(tmp_path)
    plain = case.train(KEPT, kept=False)
    case.place.write_bytes(b"")
    assert _same(case.train(KEPT), plain)
    assert "answers of teachers are not kept" in capsys.readouterr().err
    case.place.unlink()
    case.train(KEPT)
    answer = answers.KeptAnswers.answer

    def delete(*words: Any) -> Tensor:
        shutil.rmtree(case.place, ignore_errors=True)
        return answer(*words)

    monkeypatch.setattr(answers.KeptAnswers, "answer", delete)
    assert _same(case.train(KEPT), plain)


def test_a_teacher_of_its_authors_own_code_is_not_kept(tmp_path, capsys):
    case = _Case(tmp_path, teacher=_teacher(family="import"))
    plain = case.train(KEPT, kept=False)
    assert _same(case.train(KEPT), plain)
    assert not case.place.exists()
    assert "built by code of its author's own" in capsys.readouterr().err


def test_answers_beyond_float16_leave_the_loss_a_number(tmp_path):
    case = _Case(tmp_path, teacher=_teacher(scale=1e6))
    for values in (KEPT, REFINED):
        weights = case.train({**values, "optimizer": {"kind": "sgd", "learning_rate": 1e-9}})
        assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_the_plan_says_how_much_disk_the_answers_take(tmp_path):
    taught = {
        "epochs": 5,
        "rounds": 2,
        "augment": {"copies": [{}, {}]},
        "loss": {"kind": "label_refinery", "keep_answers": True},
    }
    taught["loss"]["teachers"] = [str(tmp_path / "teacher.netpress")] * 2
    save(create("resnet", {"width": 4, "classes": 10}), tmp_path / "teacher.netpress")
    stages = [
        {"kind": "train", "epochs": 2},
        {"kind": "train", **taught},
        {"kind": "prune", "amount": 0.5, "rounds": 2, "train": taught},
        {"kind": "factorize", "compression": 0.3, "train": taught},
        {"kind": "quantize", "train": {**taught, "loss": {**taught["loss"], "teachers": []}}},
    ]
    recipe = check_recipe({"name": "kept", "model": {"family": "resnet", "width": 4}, "stages": stages})
    planned = plan_recipe(recipe)
    rows = [row for stage in planned["stages"] for row in stage["rows"]]
    images = planned["train_images"]
    kept = [row["answers_MB"] for row in rows if "answers_MB" in row]
    epochs_and_teachers = [(3, 2), (2, 2), (5, 2), (5, 2), (5, 2), (5, 1)]
    assert kept == [
        pytest.approx(epochs * 2 * images * 10 * 2 * teachers / 1e6, abs=1e-3)
        for epochs, teachers in epochs_and_teachers
    ]
