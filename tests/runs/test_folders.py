"""Folders that netpress works in: held by one process, and cleared of nothing that somebody else put there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netpress import api
from netpress.errors import Failure, UserError
from netpress.files import dump_toml
from netpress.folders.holding import held
from netpress.network import create, load, save
from netpress.recipe.schema import check_recipe
from netpress.runs.apply import apply_stage
from netpress.runs.jobs import RunOptions
from netpress.runs.recipes import run_recipe

pytestmark = pytest.mark.slow

QUICK = {
    "name": "quick",
    "data": {"dataset": "digits", "train_images": 32, "image_size": 8},
    "model": {"family": "resnet", "blocks": [1], "width": 8},
    "stages": [{"kind": "train", "epochs": 1, "batch_size": 16}],
}


def test_fresh_leaves_what_the_user_put_into_a_run(tmp_path):
    run_recipe(check_recipe(QUICK), tmp_path / "run")
    for name in ("thesis.txt", "01-train/notes.txt"):
        (tmp_path / "run" / name).write_text("mine", encoding="utf-8")
    result = run_recipe(check_recipe({**QUICK, "seed": 2}), tmp_path / "run", RunOptions(fresh=True))
    assert load(tmp_path / "run" / "network.netpress").facts["accuracy"] == result.accuracy
    for name in ("thesis.txt", "01-train/notes.txt"):
        assert (tmp_path / "run" / name).read_text(encoding="utf-8") == "mine"


def test_a_run_goes_on_whose_recipe_an_older_version_stated(tmp_path):
    """It stated the options of all conventions, at their defaults."""
    first = run_recipe(check_recipe(QUICK), tmp_path / "run")
    path = tmp_path / "run" / "recipe.toml"
    today = path.read_text(encoding="utf-8")
    older = today.replace("[score]\n", '[score]\nresidual_adds = false\nmultiply = "half"\nclaimed_sparsity = 0.0\n')
    path.write_text(older, encoding="utf-8")
    assert run_recipe(check_recipe(QUICK), tmp_path / "run").accuracy == first.accuracy
    assert path.read_text(encoding="utf-8") == today
    path.write_text(older.replace("epochs = 1\n", "epochs = 2\n"), encoding="utf-8")
    with pytest.raises(UserError, match="another recipe"):
        run_recipe(check_recipe(QUICK), tmp_path / "run")


@pytest.fixture
def network(tmp_path) -> Path:
    made = create("resnet", {"blocks": [1], "width": 8, "image_size": 8, "classes": 10})
    save(made, tmp_path / "a.netpress")
    return tmp_path / "a.netpress"


def test_apply_touches_no_folder_of_others(network, tmp_path):
    work = tmp_path / "out.netpress.work"
    work.mkdir()
    (work / "command.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"out\.netpress\.work: is there"):
        apply_stage("prune", str(network), tmp_path / "out.netpress", ["amount=0.5"])
    assert (work / "command.txt").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "out.netpress").exists()
    shutil.rmtree(work)
    work.write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="is there"):
        apply_stage("prune", str(network), tmp_path / "out.netpress", ["amount=0.5"])


def test_apply_and_import_take_the_place_of_nothing_but_a_network(network, call, tmp_path):
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("mine" * 99, encoding="utf-8")
    for out in (thesis, tmp_path):
        for words in (("apply", "prune", network, "--set", "amount=0.5"), ("import", "kaist", tmp_path / "none.t7")):
            code, _, err = call(*words, "--out", out)
            assert code == 2 and f"--out {out}: is" in err
    assert thesis.read_text(encoding="utf-8") == "mine" * 99
    for _ in range(2):  # an earlier result is replaced
        assert call("apply", "prune", network, "--set", "amount=0.5", "--out", tmp_path / "out.netpress")[0] == 0


def test_two_equal_applies_at_once(network, tmp_path):
    with held(tmp_path / "out.netpress.work"), pytest.raises(Failure, match="another netpress"):
        apply_stage("prune", str(network), tmp_path / "out.netpress", ["amount=0.5"])
    apply_stage("prune", str(network), tmp_path / "out.netpress", ["amount=0.5"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.netpress", "out.netpress"]


def test_apply_goes_on_only_where_it_was_asked_the_same_of_the_same_network(network, tmp_path, monkeypatch):
    """What an interrupted apply left of another network is not taken for a part of this one."""

    def interrupted(*_):
        raise KeyboardInterrupt

    other = create("resnet", {"blocks": [1], "width": 8, "image_size": 8, "classes": 10}, seed=9)
    save(other, tmp_path / "b.netpress")
    out, asked = tmp_path / "out.netpress", ["amount=0.5", "rounds=2", "train={epochs=1}"]
    expected = apply_stage("prune", str(tmp_path / "b.netpress"), out, asked, dataset="digits")
    with monkeypatch.context() as patched:
        patched.setattr("netpress.runs.apply.save_result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            apply_stage("prune", str(network), out, asked, dataset="digits")
    assert list((tmp_path / "out.netpress.work").rglob("network.netpress"))
    again = apply_stage("prune", str(tmp_path / "b.netpress"), out, asked, dataset="digits")
    for name, tensor in expected.module.state_dict().items():
        assert tensor.equal(again.module.state_dict()[name]), name


def test_an_apply_that_cannot_go_on_begins_anew_with_fresh(network, tmp_path, monkeypatch, call):
    def interrupted(*_):
        raise KeyboardInterrupt

    out, asked = tmp_path / "out.netpress", ["amount=0.5", "rounds=2", "train={epochs=1}"]
    with monkeypatch.context() as patched:
        patched.setattr("netpress.runs.apply.save_result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            apply_stage("prune", str(network), out, asked, dataset="digits")
    (tmp_path / "out.netpress.work/round-2/network.netpress").write_bytes(b"damaged")
    words = ["apply", "prune", network, "--out", out, "--dataset", "digits", *(f"--set={one}" for one in asked)]
    code, _, err = call(*words)
    assert code == 1 and "round-2" in err
    assert call(*words, "--fresh")[0] == 0
    assert load(out).masks and not (tmp_path / "out.netpress.work").exists()


@pytest.mark.parametrize("name", ["environment.json", "recipe.toml", "01-train/state.safetensors"])
@pytest.mark.parametrize("bytes_", [b"", b"\0\0\0", b"[]", b"{}", b"\xff\xfe{", b"[" * 100_000])
def test_a_damaged_file_of_a_run_is_one_sentence(name, bytes_, tmp_path):
    folder = tmp_path / "run"
    run_recipe(check_recipe(QUICK), folder)
    (folder / "01-train/done.json").unlink()
    (folder / name).write_bytes(bytes_)
    with pytest.raises((Failure, UserError), match=str(folder)):
        run_recipe(check_recipe(QUICK), folder)
    if not name.startswith("01"):
        run_recipe(check_recipe(QUICK), folder, RunOptions(fresh=True))


def test_inspect_takes_a_run_folder(call, tmp_path):
    api.run(QUICK, out=tmp_path / "run")
    for folder in ("run", "run/01-train"):
        code, out, _ = call("inspect", folder)
        assert code == 0 and "resnet" in out
    code, _, err = call("inspect", tmp_path)
    assert code == 2 and "no network.netpress in this folder" in err


def start(*words: object, **more) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "netpress", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, **more)


@pytest.mark.parametrize(
    ("number", "code", "words"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_asked_to_stop_a_training_saves_says_so_and_goes_on(number, code, words, tmp_path):
    recipe = tmp_path / "long.toml"
    recipe.write_text(
        'name = "long"\ndescription = "né à Montréal"\n[data]\ndataset = "digits"\n[model]\nfamily = "resnet"\n'
        'blocks = [1]\nwidth = 8\n[[stages]]\nkind = "train"\nepochs = 10000\nbatch_size = 4\n',
        encoding="utf-8",
    )
    out = tmp_path / "run"
    with start("run", recipe, "--out", out, stdout=subprocess.DEVNULL) as process:
        while not list(out.glob("01-train/metrics.jsonl")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert words in err.decode() and "the same command goes on" in err.decode() and "Traceback" not in err.decode()
    assert (out / "01-train/state.safetensors").exists()  # though an epoch takes longer and a minute has not passed


def test_a_run_goes_on_in_another_language(tmp_path):
    """Its recipe has an accent; the other computer has another encoding, and ends lines otherwise."""
    values = {**QUICK, "description": "né à Montréal"}
    recipe = tmp_path / "accent.toml"
    asked = [sys.executable, "-m", "netpress", "run", str(recipe), "--out", str(tmp_path / "run")]
    recipe.write_text(dump_toml(values), encoding="utf-8")
    subprocess.run(asked, capture_output=True, timeout=60, check=True)
    recipe.write_text(dump_toml(values), encoding="utf-8", newline="\r\n")
    other = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(asked, capture_output=True, env=os.environ | other, timeout=60)
    assert done.returncode == 0 and b"done before" in done.stdout, done.stderr


@pytest.mark.parametrize("words", [("list", "models"), ("plan", "kaist-v1"), ("score", "resnet", "--json")])
def test_a_reader_that_goes_away_is_no_failure(words):
    with start(*words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")


def test_without_a_standard_output():
    done = subprocess.run(
        f"{sys.executable} -m netpress list models >&-", shell=True, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_of_few_letters(tmp_path):
    recipe = tmp_path / "é.toml"
    recipe.write_text(json.dumps("no recipe", ensure_ascii=False), encoding="utf-8")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-m", "netpress", "plan", str(recipe)], capture_output=True, env=environment, timeout=60
    )
    assert done.returncode == 2 and b"Traceback" not in done.stderr and b".toml" in done.stderr
