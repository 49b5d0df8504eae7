"""Whole runs on the embedded digits: the folder, going on after SIGKILL to the same bits, and what is refused."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import netpress
from netpress.errors import Failure, UserError
from netpress.evaluation import read_predictions
from netpress.folders.holding import held
from netpress.network import load
from netpress.recipe.schema import check_recipe
from netpress.runs.jobs import RunOptions
from netpress.runs.recipes import run_recipe

pytestmark = pytest.mark.slow

TRAIN = {"epochs": 3, "batch_size": 32, "orthogonality": {"coefficient": 0.1}, "average": {"decay": 0.9}}
RECIPE = {
    "name": "small",
    "seed": 5,
    "data": {"dataset": "digits", "train_images": 256, "image_size": 16},
    "model": {"family": "c_efficientnet", "preset": "tiny", "width_factor": 0.5, "dropout": 0.2},
    "stages": [
        {"kind": "train", **TRAIN, "keep": "best", "mix": {"kind": "cutmix"}},
        {"kind": "prune", "amount": 0.5, "rounds": 2, "train": {**TRAIN, "epochs": 2}},
    ],
}
TIMING = {"seconds", "images_per_second"}


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """One run of RECIPE that nothing interrupted, made by the same command as the interrupted ones."""
    folder = tmp_path_factory.mktemp("reference")
    recipe = folder / "small.toml"
    from netpress.files import dump_toml

    recipe.write_text(dump_toml(RECIPE))
    process = start(recipe, folder / "run")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return recipe, folder / "run", out


def start(recipe, out, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "netpress", "run", str(recipe), "--out", str(out), "--save-every", "0.05", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_run_folder(reference):
    _, folder, out = reference
    for name in ("recipe.toml", "environment.json", "metrics.jsonl", "network.netpress", "score.json", "report.html"):
        assert (folder / name).stat().st_size > 0
    score = json.loads((folder / "score.json").read_text())
    assert score["convention"] == "official"
    assert 0 < score["accuracy"] <= 1
    assert score["score"] == pytest.approx(score["params"] / 36.5e6 + score["operations"] / 10.49e9, rel=1e-6)
    network = load(folder / "network.netpress")
    kept = read_predictions(folder / "predictions.safetensors")
    assert kept.accuracy == score["accuracy"] == network.facts["accuracy"]
    assert (kept.dataset, kept.classes) == ("digits", network.classes)
    for done in folder.glob("0*/done.json"):
        assert json.loads(done.read_text())["parameters"] == sum(p.numel() for p in network.module.parameters())
    weights = network.weights()
    total = sum(weight.numel() for weight in weights.values())
    left = sum(int(weight.count_nonzero()) for weight in weights.values())
    assert abs(left / total - 0.5) < 1e-3
    environment = json.loads((folder / "environment.json").read_text())
    assert {"seed", "versions", "git_commit", "device", "threads", "data_checksum"} <= environment.keys()
    epochs = [(line["stage"], line["round"], line["epoch"]) for line in metrics(folder) if "epoch" in line]
    assert len(epochs) == 3 + 2 + 2
    heading, *rows = (folder / "log.tsv").read_text().splitlines()
    assert (heading, len(rows)) == ("Train Acc.\tValid Acc.\t", len(epochs))
    assert not list(folder.rglob("state.safetensors"))
    words = ["accuracy", "parameters", "operations", "score", "flash", "RAM", "products", "report"]
    assert [line.split()[0] for line in out.strip().splitlines()[-len(words) :]] == words


def test_killed_ten_times_gives_the_same_bits(reference, tmp_path):
    recipe, whole, _ = reference
    draw = random.Random(7)
    kills = 0
    while kills < 10:
        process = start(recipe, tmp_path / "run")
        # From the moment the run folder changes, a random while: imports are not what is tested.
        began, seen = time.monotonic(), newest(tmp_path / "run")
        while process.poll() is None and newest(tmp_path / "run") == seen and time.monotonic() - began < 60:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.8))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        kills += 1
    process = start(recipe, tmp_path / "run")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert kills >= 3, "the run ended before it could be killed often enough to prove anything"
    again, before = load(tmp_path / "run" / "network.netpress"), load(whole / "network.netpress")
    tensors = again.module.state_dict()
    for name, tensor in before.module.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name
    assert metrics(tmp_path / "run") == metrics(whole)
    for name in ("log.tsv", "predictions.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    figures = [json.loads((folder / "score.json").read_text()) for folder in (tmp_path / "run", whole)]
    assert figures[0] == figures[1]


def newest(folder):
    return max((path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()), default=0)


def test_a_finished_run_is_not_run_again(reference):
    recipe, folder, _ = reference
    before = (folder / "01-train" / "network.netpress").stat().st_mtime_ns
    process = start(recipe, folder)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert (folder / "01-train" / "network.netpress").stat().st_mtime_ns == before
    assert "done before" in out


@pytest.mark.parametrize("key", ["compiled_kernels", "machine", "device"])
def test_a_run_taken_up_where_bits_differ_says_so(reference, tmp_path, key):
    recipe, folder, _ = reference
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "environment.json"
    environment = json.loads(path.read_text())
    elsewhere = not environment[key] if key == "compiled_kernels" else "another one"
    path.write_text(json.dumps(environment | {key: elsewhere}))
    out, _ = start(recipe, tmp_path / "run").communicate(timeout=60)
    said = " ".join(out.split())
    assert f"the run began with {key} {elsewhere}, now {environment[key]}: bits may differ" in said


QUICK = {
    **RECIPE,
    "stages": [{"kind": "train", "epochs": 1, "batch_size": 64}],
    "data": {"dataset": "digits", "train_images": 64, "image_size": 16},
}


def test_python_api(tmp_path):
    result = netpress.run(QUICK, out=tmp_path / "run")
    network = netpress.load(tmp_path / "run")
    assert netpress.evaluate(network).accuracy >= 0
    assert netpress.score(network).score == pytest.approx(result.score)
    netpress.save(network, tmp_path / "copy.netpress")
    assert netpress.load(tmp_path / "copy.netpress").facts == network.facts


def test_another_recipe_or_other_data_is_refused(tmp_path):
    run_recipe(check_recipe(QUICK), tmp_path / "run")
    with pytest.raises(UserError, match="--fresh"):
        run_recipe(check_recipe(QUICK | {"seed": 6}), tmp_path / "run")
    result = run_recipe(check_recipe(QUICK | {"seed": 6}), tmp_path / "run", RunOptions(fresh=True))
    assert result.folder == tmp_path / "run"
    environment = tmp_path / "run" / "environment.json"
    values = json.loads(environment.read_text()) | {"data_checksum": "other"}
    environment.write_text(json.dumps(values))
    with pytest.raises(UserError, match="other data"):
        run_recipe(check_recipe(QUICK | {"seed": 6}), tmp_path / "run")


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(UserError, match="holds no run"):
            run_recipe(check_recipe(QUICK), tmp_path, RunOptions(fresh=fresh))
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    with pytest.raises(UserError, match="--out"):
        run_recipe(check_recipe(QUICK), tmp_path / "thesis.txt")


def test_two_at_work_in_one_folder(tmp_path):
    with held(tmp_path / "run"), pytest.raises(Failure, match="another netpress is at work"):
        run_recipe(check_recipe(QUICK), tmp_path / "run")
    run_recipe(check_recipe(QUICK), tmp_path / "run")


def test_starting_from_a_network(tmp_path):
    first = run_recipe(check_recipe(QUICK), tmp_path / "first")
    more = QUICK | {"model": {"network": str(tmp_path / "first")}, "stages": [{"kind": "prune", "amount": 0.3}]}
    second = run_recipe(check_recipe(more), tmp_path / "second")
    assert second.score < first.score
    with pytest.raises(UserError, match="digits has"):
        run_recipe(check_recipe(more | {"data": {"dataset": "digits"}}), tmp_path / "third")


def test_a_model_that_does_not_fit_the_data(tmp_path):
    wrong = QUICK | {"model": {**RECIPE["model"], "classes": 7}}
    with pytest.raises(UserError, match=r"model\.classes: the recipe says 7, digits has 10"):
        run_recipe(check_recipe(wrong), tmp_path / "run")


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    run_recipe(check_recipe(QUICK), tmp_path / "run")
    before = (tmp_path / "run" / "network.netpress").read_bytes()
    (tmp_path / "run" / "01-train" / "done.json").unlink()

    from pathlib import Path

    write = Path.write_bytes

    def full(self, data):
        if len(data) > 5_000:
            raise OSError(28, "No space left on device", str(self))
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(Failure, match="disk is full"):
            run_recipe(check_recipe(QUICK), tmp_path / "run")
    assert (tmp_path / "run" / "network.netpress").read_bytes() == before
    assert run_recipe(check_recipe(QUICK), tmp_path / "run").accuracy >= 0
