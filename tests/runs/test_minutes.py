"""--minutes: the epochs that fit a time, from steps that were measured; what goes on, and what is refused."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

import netpress
from netpress.errors import UserError
from netpress.folders.run import RunFolder
from netpress.recipe.reading import read_recipe
from netpress.recipe.schema import check_recipe
from netpress.runs import timing
from netpress.runs.jobs import RunOptions
from netpress.runs.timing import StageTime, fit_minutes, measure_stages

TRAIN = {"batch_size": 32, "augment": {"flip": False}}
RECIPE = {
    "name": "small",
    "data": {"dataset": "digits", "train_images": 200, "image_size": 8},
    "model": {"family": "resnet", "width": 4, "blocks": [1]},
    "stages": [
        {"kind": "train", "epochs": 20, "schedule": {"kind": "cosine", "warmup": 4.0}, **TRAIN},
        {"kind": "prune", "amount": 0.5, "rounds": 2, "train": {"epochs": 6, **TRAIN}},
        {"kind": "quantize", "train": {"epochs": 4, **TRAIN}},
    ],
}
TIMES = {
    "01-train": StageTime(image=0.01, epoch=0.5, beside=1.0),  # 2.5 seconds an epoch of 200 images
    "02-prune": StageTime(image=0.01, epoch=0.0, beside=2.0),
    "03-quantize": StageTime(image=0.03, epoch=0.0, beside=3.0),
}


@pytest.fixture
def stopped(monkeypatch):
    """Reading and planning take no time: the machine of the tests may be busy."""
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: 0.0))


@pytest.fixture
def known(monkeypatch, stopped):
    """A machine that takes TIMES; how often it was measured."""
    measured = []
    monkeypatch.setattr(timing, "measure_stages", lambda *given: measured.append(given) or TIMES)
    return measured


def seconds_of(recipe):
    train, prune, quantize = (stage["epochs"] if "epochs" in stage else stage["train"]["epochs"] for stage in recipe)
    return 1 + 2.5 * train + 2 + 2 * 2 * prune + 3 + 6 * quantize


@pytest.mark.parametrize("minutes", [0.5, 1, 3, 10, 100])
def test_the_epochs_fill_the_time_and_no_more(minutes, known):
    fitted = fit_minutes(check_recipe(RECIPE), RunOptions(), minutes)
    allowed = minutes * 60 * (1 - timing.RESERVE)
    taken = seconds_of(fitted.recipe.values["stages"])
    assert taken <= allowed
    assert taken > allowed - 2.5 - 4 - 6 - 0.02 * allowed  # an epoch more of each would not have fitted
    train, prune, _ = fitted.recipe.stages
    assert train.schedule.warmup <= train.epochs * 4 / 20 + 1e-9
    assert fitted.line.startswith(f"--minutes {minutes:g}: ")
    assert f"epochs 01-train {train.epochs:,}, 02-prune {prune.train.epochs:,}" in fitted.line


def test_a_time_too_short_is_refused_with_one_that_would_do(known):
    with pytest.raises(UserError, match=r"^--minutes 0\.2: one epoch of each training takes 18 s here") as refused:
        fit_minutes(check_recipe(RECIPE), RunOptions(), 0.2)
    needed = float(str(refused.value).split("give ")[1].split(" minutes")[0])
    fit_minutes(check_recipe(RECIPE), RunOptions(), needed)
    with pytest.raises(UserError, match="one epoch of each training"):
        fit_minutes(check_recipe(RECIPE), RunOptions(), needed - 0.1)


def times_of(recipe, *_):
    """A machine on which a step takes as long as the network is wide."""
    width = recipe.values["model"]["width"]
    return {name: replace(stage, image=stage.image * width / 4) for name, stage in TIMES.items()}


@pytest.mark.parametrize(("minutes", "width", "measured"), [(20, 16, 1), (2.5, 8, 2), (1.4, 4, 3), (0.75, 2, 4)])
def test_the_first_width_that_leaves_enough_epochs_is_taken(minutes, width, measured, monkeypatch, stopped):
    """Half of the recipe's epochs take 187, 99, 55 and 33 seconds at these widths, what is beside them included."""
    looked = []
    monkeypatch.setattr(timing, "measure_stages", lambda *given: looked.append(given) or times_of(*given))
    recipe = check_recipe({**RECIPE, "fit": {"model.width": [16, 8, 4, 2], "stages.1.amount": [0.5, 0.7]}})
    fitted = fit_minutes(recipe, RunOptions(), minutes, choices=recipe.fit)
    assert fitted.recipe.values["model"]["width"] == width
    assert len(looked) == measured
    assert not fitted.recipe.fit
    assert (f"model.width = {width}" in fitted.line) == (width != 4)


def test_measuring_ends_before_it_takes_the_time(monkeypatch):
    """A machine that takes five seconds to be looked at and measured, of 20 that there are."""
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    looked = []
    monkeypatch.setattr(timing, "measure_stages", lambda *given: looked.append(given) or TIMES)
    recipe = check_recipe({**RECIPE, "fit": {"model.width": [16, 8, 4, 2]}})
    with pytest.raises(UserError, match="reading and measuring took 5 s"):
        fit_minutes(recipe, RunOptions(), 20 / 60, choices=recipe.fit)
    assert len(looked) == 1


def test_limits_decide_before_time_does(monkeypatch, stopped):
    monkeypatch.setattr(timing, "measure_stages", times_of)
    recipe = check_recipe({**RECIPE, "model": {**RECIPE["model"], "width": 8}})
    fitted = fit_minutes(recipe, RunOptions(), 60, choices={"model.width": [16, 8, 4]})
    assert fitted.recipe.values["model"]["width"] == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweep": {"seeds": [1, 2]}}, "small is a sweep"),
        ({"networks": {"a": {}, "b": {"model": {"network": "a"}}}}, "small is several networks"),
        ({"stages": [{"kind": "prune", "amount": 0.5}]}, "trains nothing"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        netpress.run({**RECIPE, **changes}, out=tmp_path / "run", minutes=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(minutes):
    with pytest.raises(UserError, match=r"--minutes .*: must be above 0"):
        fit_minutes(check_recipe(RECIPE), RunOptions(), minutes)


@pytest.mark.slow
def test_a_run_states_its_epochs_and_goes_on_with_them(known, tmp_path):
    """The measured epochs stand in recipe.toml; given again, on a machine of any speed, the run is the same."""
    first = netpress.run(RECIPE, out=tmp_path / "run", minutes=0.6, set=["seed=3"])
    text = RunFolder(tmp_path / "run").recipe.read_text()
    stated = read_recipe(str(tmp_path / "run" / "recipe.toml"))
    assert stated.text == text
    assert stated.stages[0].epochs < 20
    assert len(known) == 1
    netpress.run(RECIPE, out=tmp_path / "run", minutes=5, set=["seed=3"])
    assert len(known) == 1
    assert RunFolder(tmp_path / "run").recipe.read_text() == text
    again = netpress.run(stated, out=tmp_path / "again")
    assert (again.accuracy, again.params) == (first.accuracy, first.params)
    with pytest.raises(UserError, match="holds a run of another recipe"):
        netpress.run(RECIPE, out=tmp_path / "run", minutes=0.6, set=["seed=4"])
    netpress.run(RECIPE, out=tmp_path / "run", minutes=0.6, set=["seed=4"], fresh=True)
    assert len(known) == 3


def test_every_training_is_measured_in_steps_of_its_own(monkeypatch):
    """A stage's steps are those of its batches, and quantized steps are taken on a quantized network."""
    from netpress.training.step import TrainingStep

    taken = []
    take = TrainingStep.take

    def watch(step, indices, *more):
        started = time.perf_counter()
        figures = take(step, indices, *more)
        taken.append((len(indices), type(step.module.stem.conv).__name__, time.perf_counter() - started))
        return figures

    monkeypatch.setattr(TrainingStep, "take", watch)
    recipe = check_recipe(RECIPE)
    options = RunOptions()
    fitted = fit_minutes(recipe, options, 60)
    steps = timing.EPOCHS * timing.BATCHES
    assert [size for size, _, _ in taken] == [32] * steps * 4
    assert {kind for _, kind, _ in taken[: 3 * steps]} == {"Conv2d"}
    assert "Conv2d" not in {kind for _, kind, _ in taken[3 * steps :]}
    network = netpress.load("resnet:width=4,blocks=[1],classes=10,image_size=8")
    times = measure_stages(fitted.recipe, network, fitted.dataset, options)
    fastest = min(seconds for _, _, seconds in taken) / 32
    assert all(fastest / 10 < stage.image < fastest * 1000 for stage in times.values())


def test_plan_tells_the_epochs(known, call):
    code, _, err = call("plan", "digits", "--minutes", "0.01")
    assert code == 2
    assert "give 0." in err
    code, out, _ = call("plan", "digits", "--minutes", "3", "--json")
    assert code == 0
    planned = json.loads(out)
    train, prune = (stage["rows"] for stage in planned["stages"])
    assert train[0]["epochs"] > 4  # of 1,347 images at TIMES
    assert f"01-train {train[0]['epochs']}, 02-prune {prune[0]['epochs']}" in planned["minutes"]
    code, out, _ = call("plan", "digits", "--minutes", "3")
    assert planned["minutes"].partition("; about")[0] in out


def test_a_sweep_is_refused(call):
    for command in ("run", "plan"):
        code, _, err = call(command, "kaist-table4", "--minutes", "1")
        assert code == 2
        assert "kaist-table4 is a sweep" in err
