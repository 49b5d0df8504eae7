"""Chains run on the embedded digits: equal to runs by hand, failures, folders, and every command on what they leave."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors

import netpress
from netpress.errors import Failure, UserError
from netpress.files import dump_toml
from netpress.folders.chain import ChainFolder
from netpress.folders.holding import held
from netpress.network import load
from netpress.recipe.schema import check_recipe
from netpress.runs.jobs import RunOptions
from netpress.runs.recipes import run_recipe

pytestmark = pytest.mark.slow

SMALL = {"family": "resnet", "blocks": [1], "width": 4}
TRAIN = {"kind": "train", "epochs": 1, "batch_size": 32}
TAUGHT = {"distillation": {"teachers": ["large"], "mode": "batch_statistics"}}
PRUNE = {"kind": "prune", "amount": 0.5, "train": {"epochs": 1, "batch_size": 32}}
REFINED = {"kind": "train", "epochs": 1, "loss": {"kind": "label_refinery", "teachers": ["small", "large"]}}
CHAIN: dict[str, Any] = {
    "name": "trio",
    "description": "three <networks>",
    "seed": 3,
    "data": {"dataset": "digits", "train_images": 96, "image_size": 8},
    "model": SMALL,
    "stages": [TRAIN],
    "beside": {"imt": {}},
    "networks": {
        "small": {"stages": {"0": TAUGHT}},
        "large": {"model": {"width": 8}, "description": "the teacher"},
        "cut": {"model": {"network": "small"}, "stages": [PRUNE, REFINED, {"kind": "fold"}]},
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain, run once through the API."""
    folder = tmp_path_factory.mktemp("whole") / "trio"
    result = netpress.run(CHAIN, out=folder)
    assert (result.folder, result.report) == (folder, folder / "report.html")
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "trio")
    return tmp_path / "trio"


def moment(path: Path) -> int:
    return path.stat().st_mtime_ns


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "networks.csv").open(encoding="utf-8", newline="") as file:
        return {row["network"]: row for row in csv.DictReader(file)}


def test_the_folder(whole):
    assert sorted(path.name for path in whole.iterdir() if not path.name.startswith(".")) == [
        *(
            "cut",
            "large",
            "network.netpress",
            "networks.csv",
            "predictions.safetensors",
            "recipe.toml",
            "report.html",
            "score.json",
            "small",
        )
    ]
    for name in ("network.netpress", "score.json", "predictions.safetensors"):
        assert (whole / name).read_bytes() == (whole / "cut" / name).read_bytes()
    rows = rows_of(whole)
    assert list(rows) == ["large", "small", "cut"]
    assert (rows["small"]["begins_with"], rows["small"]["taught_by"]) == ("", "large")
    assert (rows["cut"]["begins_with"], rows["cut"]["taught_by"]) == ("small", "large")
    for name, row in rows.items():
        figures = json.loads((whole / name / "score.json").read_text())
        assert row["state"] == "done"
        for key in ("accuracy", "top5", "loss", "params", "operations", "score"):
            assert float(row[key]) == figures[key], (name, key)
        assert float(row["score_imt"]) == figures["beside"]["imt"]["score"]
        assert int(row["file_bytes"]) == (whole / name / "network.netpress").stat().st_size
        weights = load(whole / name / "network.netpress").weights().values()
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        assert float(row["sparsity"]) == pytest.approx(zeros / sum(weight.numel() for weight in weights))


def test_each_network_is_as_a_run_by_hand_with_its_teachers_as_files(whole, tmp_path):
    shared = {key: value for key, value in CHAIN.items() if key not in ("networks", "description")}
    files = {name: str(tmp_path / name) for name in CHAIN["networks"]}
    small = {**TRAIN, "distillation": {**TAUGHT["distillation"], "teachers": [files["large"]]}}
    refined = {**REFINED, "loss": {**REFINED["loss"], "teachers": [files["small"], files["large"]]}}
    by_hand = {
        "large": {"model": {**SMALL, "width": 8}},
        "small": {"stages": [small]},
        "cut": {"model": {"network": files["small"]}, "stages": [PRUNE, refined, {"kind": "fold"}]},
    }
    for name, own in by_hand.items():
        run_recipe(check_recipe({**shared, **own, "name": name}), Path(files[name]))
        ours, theirs = (folder / name / "network.netpress" for folder in (whole, tmp_path))
        assert ours.read_bytes() == theirs.read_bytes(), name
        with safetensors.safe_open(ours, framework="pt") as file:
            assert str(tmp_path) not in str(file.metadata())


def test_a_finished_chain_runs_nothing_again(copied, capsys):
    before = {path: moment(path) for path in copied.rglob("0*/*")}
    result = netpress.run(copied / "recipe.toml", out=copied)
    assert result.accuracy == json.loads((copied / "score.json").read_text())["accuracy"]
    assert {path: moment(path) for path in copied.rglob("0*/*")} == before


def test_a_network_whose_folder_is_gone_is_the_only_one_that_runs_again(copied):
    before = {path: path.read_bytes() for path in copied.glob("*/network.netpress")}
    times = {name: moment(copied / name / "01-train" / "done.json") for name in ("large", "small")}
    shutil.rmtree(copied / "small")
    run_recipe(check_recipe(CHAIN), copied)
    assert {path: path.read_bytes() for path in before} == before
    assert moment(copied / "large" / "01-train" / "done.json") == times["large"]
    assert moment(copied / "small" / "01-train" / "done.json") > times["small"]
    (copied / "large" / "network.netpress").unlink()  # of a finished run only the result is written again
    run_recipe(check_recipe(CHAIN), copied)
    assert (copied / "large" / "network.netpress").read_bytes() == before[copied / "large" / "network.netpress"]
    assert moment(copied / "large" / "01-train" / "done.json") == times["large"]


def test_a_network_that_learned_from_another_than_is_there_is_refused(copied):
    """As where a teacher was made anew on another processor: the pupils are none of the recipe any more."""
    other = {**CHAIN, "seed": 8}
    run_recipe(check_recipe(other), copied.with_name("other"))
    for path in ("network.netpress", "01-train/network.netpress"):
        shutil.copy(copied.with_name("other") / "large" / path, copied / "large" / path)
    with pytest.raises(Failure, match=r"(?s)2 of 3 networks failed.*small: .*began with another network large than"):
        run_recipe(check_recipe(CHAIN), copied)
    rows = rows_of(copied)
    assert rows["large"]["state"] == "done" and rows["small"]["state"].startswith("failed: ")
    assert "needs small, which failed" in rows["cut"]["state"]
    assert not ChainFolder(copied).top.score.exists()  # the chain is not finished
    shutil.rmtree(copied / "small")
    with pytest.raises(
        Failure, match=r"1 of 3 networks failed(?s:.*)cut: .*began with another network small and large"
    ):
        run_recipe(check_recipe(CHAIN), copied)
    shutil.rmtree(copied / "cut")
    run_recipe(check_recipe(CHAIN), copied)
    assert {row["state"] for row in rows_of(copied).values()} == {"done"}


WILD = {"0": {"optimizer": {"kind": "sgd", "learning_rate": 1e30}}}


def test_a_failure_keeps_only_those_from_running_that_need_it(call, tmp_path):
    networks = {
        "wild": {"stages": WILD},
        "calm": {},
        "pupil": {"stages": {"0": {"distillation": {"teachers": ["calm", "wild"]}}}},
        "last": {"model": {"network": "calm"}, "stages": [{"kind": "fold"}]},
    }
    path = tmp_path / "some.toml"
    path.write_text(dump_toml({**CHAIN, "networks": networks}), encoding="utf-8")
    code, _, err = call("run", path, "--out", "out")
    assert code == 1 and "2 of 4 networks failed" in err and "pupil: needs wild, which failed" in err
    states = {name: row["state"] for name, row in rows_of(tmp_path / "out").items()}
    assert states["calm"] == states["last"] == "done" and states["wild"].startswith("failed: ")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "2 of 4 networks finished" in page and "needs wild, which failed" in page
    assert not (tmp_path / "out" / "score.json").exists()
    code, _, err = call("run", path, "--out", "out")
    assert code == 1 and "calm: done before" in " ".join(err.split()) + " ".join(_.split())


def test_fresh_begins_anew_and_leaves_what_the_user_put_there(copied):
    for name in ("letter.txt", "small/notes.txt"):
        (copied / name).write_text("mine", encoding="utf-8")
    changed = check_recipe({**CHAIN, "seed": 4})
    with pytest.raises(UserError, match=r"network (small|large) was begun with another recipe"):
        run_recipe(changed, copied)
    before = (copied / "large" / "network.netpress").read_bytes()
    run_recipe(changed, copied, RunOptions(fresh=True))
    assert (copied / "large" / "network.netpress").read_bytes() != before
    for name in ("letter.txt", "small/notes.txt"):
        assert (copied / name).read_text(encoding="utf-8") == "mine"


def test_a_chain_may_grow_and_be_for_another_network(copied):
    times = {name: moment(copied / name / "01-train" / "done.json") for name in ("large", "small")}
    grown = {**CHAIN, "result": "folded"}
    grown["networks"] = {**CHAIN["networks"], "folded": {"model": {"network": "large"}, "stages": [{"kind": "fold"}]}}
    result = run_recipe(check_recipe(grown), copied)
    assert (copied / "network.netpress").read_bytes() == (copied / "folded" / "network.netpress").read_bytes()
    assert result.accuracy == load(copied / "folded" / "network.netpress").facts["accuracy"]
    assert {name: moment(copied / name / "01-train" / "done.json") for name in times} == times


def test_folders_that_hold_something_else_are_refused(copied, tmp_path):
    chain, single = check_recipe(CHAIN), check_recipe({**CHAIN, "name": "a", "networks": {"a": {}}}).networks["a"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    for fresh in (False, True):
        options = RunOptions(fresh=fresh)
        with pytest.raises(UserError, match="holds no chain"):
            run_recipe(chain, tmp_path / "mine", options)
        with pytest.raises(UserError, match="holds a single run, not a chain"):
            run_recipe(chain, copied / "small", options)
        with pytest.raises(UserError, match="holds a chain"):
            run_recipe(single, copied, options)
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept" / "recipe.toml").write_text('name = "s"\n\n[sweep]\nseeds = [1]\n', encoding="utf-8")
    with pytest.raises(UserError, match="holds a sweep, not a chain"):
        run_recipe(chain, tmp_path / "swept", RunOptions(fresh=True))
    assert (tmp_path / "mine" / "letter.txt").read_text(encoding="utf-8") == "dear"
    assert (copied / "small" / "score.json").exists()


def test_two_at_work_in_one_chain(copied):
    recipe = check_recipe(CHAIN)
    for folder in (copied, copied / "cut"):
        with held(folder), pytest.raises(Failure, match="another netpress"):
            run_recipe(recipe, folder=copied, options=RunOptions(fresh=folder == copied))
    run_recipe(recipe, copied)


def test_every_command_takes_the_chain_for_its_result(copied, call, tmp_path):
    os.chdir(tmp_path)
    figures = json.loads((copied / "score.json").read_text())
    for folder in ("trio", "trio/cut"):
        code, out, _ = call("evaluate", folder, "--json")
        assert code == 0 and json.loads(out)["accuracy"] == figures["accuracy"]
        code, out, _ = call("score", folder, "--json")
        assert code == 0 and json.loads(out)["score"] == figures["score"]
    assert call("inspect", "trio")[0] == 0
    code, _, err = call("export", "onnx", "trio", "--out", "trio.onnx")
    assert code == 0 and (tmp_path / "trio.onnx").exists(), err
    code, out, err = call("compare", "trio", "trio/large", "trio/small", "--json")
    assert code == 0, err
    differing = json.loads(out)["differing_settings"]
    assert differing["stages.0.kind"] == {"trio": "prune", "trio/large": "train", "trio/small": "train"}
    assert differing["model.width"] == {"trio/large": 8, "trio/small": 4}
    pages = {name: (copied / name).read_text(encoding="utf-8") for name in ("report.html", "networks.csv")}
    (copied / "report.html").unlink()
    assert call("report", "trio")[:2] == (0, f"{Path('trio/report.html')}\n")
    assert {name: (copied / name).read_text(encoding="utf-8") for name in pages} == pages
    assert call("report", "trio/small")[0] == 0
    code, out, _ = call("run", "trio/recipe.toml", "--out", "trio")
    assert code == 0 and "result      cut" in out and out.rstrip().endswith(str(Path("trio/report.html")))
    for name in CHAIN["networks"]:
        assert f"| {name} |" in out
