"""`netpress search policy`: density matching on folds of the training images, and nothing else."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from netpress.data import AugmentSettings, Dataset, Images, load_dataset
from netpress.data.policies import PolicySet, describe_policies, find_policies, policy_of, read_policy, shipped_policies
from netpress.errors import UserError
from netpress.evaluation import evaluate
from netpress.files import dump_toml
from netpress.folders.policy_search import PolicySearchFolder
from netpress.network import load
from netpress.process.console import Console
from netpress.process.devices import generator_for, seed_for
from netpress.recipe.policy_schema import PolicySearch
from netpress.recipe.reading import read_recipe
from netpress.runs.jobs import RunOptions
from netpress.runs.search import policy as policy_search
from netpress.runs.search.folds import fold_stages, split_folds
from netpress.runs.search.policy import Choice, search_policy, sub_policies_of
from netpress.settings import SettingsError, parse

pytest.importorskip("optuna", reason="optuna is not installed; it is in the extra search")

SEARCH = {
    "folds": 2, "rounds": 2, "candidates": 6, "best": 2, "sub_policies": 2, "random_trials": 2, "images": 24,
}  # fmt: skip
RECIPE = {
    "name": "small",
    "seed": 3,
    "data": {"dataset": "digits", "train_images": 96, "image_size": 16},
    "model": {"family": "resnet", "preset": "18", "width": 4},
    "stages": [
        {"kind": "train", "epochs": 2, "batch_size": 32, "keep": "best", "augment": {"policy": "rand", "flip": False}},
        {"kind": "prune", "amount": 0.5, "rounds": 1, "train": {"epochs": 1}},
    ],
    "policy_search": SEARCH,
}
OPTIONS = RunOptions(threads=1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    recipe = read_recipe(RECIPE)
    return load_dataset(recipe.data, None, recipe.seed, Console(quiet=True))


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    return search_policy(read_recipe(RECIPE), tmp_path_factory.mktemp("whole") / "found.json", OPTIONS, digits)


def without_rounds(**changes):
    return {**RECIPE, "policy_search": {**SEARCH, **changes}}


# --- what is searched


def test_folds_hold_every_image_once_and_every_class_alike():
    labels = torch.arange(10).repeat_interleave(torch.tensor([7, 13, 20, 20, 20, 20, 20, 20, 30, 30]))
    parts = split_folds(labels, 5, seed=1)
    assert torch.cat(parts).sort().values.equal(torch.arange(200)) and {len(part) for part in parts} == {40}
    counts = torch.stack([labels[part].bincount(minlength=10) for part in parts])
    assert ((counts - labels.bincount() / 5).abs() < 1.5).all()
    assert not parts[0].equal(split_folds(labels, 5, seed=2)[0])
    with pytest.raises(UserError, match="5 folds of 3 images"):
        split_folds(labels[:3], 5, seed=1)


def test_candidates_are_pairs_of_operations_that_augment_reads():
    choice = Choice.of(PolicySearch(sub_policies=11))
    assert len(choice.space) == 11 * 2 * 3
    values = {name: "Rotate" if name.endswith("operation") else float(n) / 66 for n, name in enumerate(choice.space)}
    listed = sub_policies_of(values)
    assert [len(sub) for sub in listed] == [2] * 11
    assert listed[10][1] == ["Rotate", values["10.1.probability"], values["10.1.level"]]  # 10 comes after 9
    assert len(policy_of(listed, "x", "x").sub_policies) == 11


def test_folds_learn_without_policy_and_choose_nothing():
    (stage,) = fold_stages(read_recipe(RECIPE))
    assert (stage.keep, stage.augment.policy, stage.augment.flip, stage.epochs) == ("last", "none", False, 2)
    copies = [{"policy": ["rand", "trivial"]}, {"policy": "trivial", "crop": 1}]
    changed = {**RECIPE, "stages": [{"kind": "train", "augment": {"copies": copies}}]}
    (stage,) = fold_stages(read_recipe(changed))
    assert [part.policy for part in stage.augment.copies] == ["none", "none"] and stage.augment.copies[1].crop == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best": 7}, "best = 7 of 6 candidates"),
        ({"folds": 1}, "folds"),
        ({"candidates": 10_000, "best": 10_000}, "more than the 10,000 sub-policies"),
        ({"objektive": "loss"}, "objektive"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(SettingsError, match=message):
        parse(PolicySearch, {**SEARCH, **changes})


def test_recipes_that_cannot_be_searched_are_told_why(tmp_path):
    out = tmp_path / "found.json"
    with pytest.raises(UserError, match="no stage trains"):
        search_policy(read_recipe({**RECIPE, "stages": [{"kind": "fold"}]}), out, OPTIONS)
    with pytest.raises(UserError, match="may have learned from all the images"):
        search_policy(read_recipe({**RECIPE, "model": {"network": "runs/first"}}), out, OPTIONS)
    with pytest.raises(UserError, match="crop: 40 pixels around images of 16"):
        search_policy(read_recipe({**RECIPE, "stages": [{"kind": "train", "augment": {"crop": 40}}]}), out, OPTIONS)
    with pytest.raises(UserError, match=r"a name that ends in \.json"):
        search_policy(read_recipe(RECIPE), tmp_path / "found", OPTIONS)
    assert not list(tmp_path.iterdir())
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "mine.txt").touch()
    with pytest.raises(UserError, match="is not empty and holds no policy search"):
        search_policy(read_recipe(RECIPE), out, OPTIONS)
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["mine.txt"]


# --- what is found


def test_the_policy_is_made_of_the_best_of_every_round(whole, digits):
    content = json.loads(whole.path.read_text(encoding="utf-8"))
    assert len(read_policy(whole.path).sub_policies) == 2 * 2 * 2 * 2
    provenance, place = content["provenance"], PolicySearchFolder(whole.path)
    assert (provenance["recipe"], provenance["seed"], provenance["train_images"]) == ("small", 3, 96)
    assert provenance["policy_search"]["objective"] == "loss" and provenance["policy_search"]["folds"] == 2
    assert provenance["model"]["width"] == 4 and [stage["epochs"] for stage in provenance["stages"]] == [2]
    assert len(provenance["train_checksum"]) == 64 and set(provenance["versions"]) == {"netpress", "torch", "optuna"}
    expected = []
    for fold in range(2):
        for number in range(2):
            lines = [json.loads(line) for line in place.journal(fold, number).read_text(encoding="utf-8").splitlines()]
            losses = {line["trial"]: line["figures"]["loss"] for line in lines if "state" in line}
            assert len(losses) == 6
            values = {line["trial"]: line["values"] for line in lines if "values" in line}
            for trial in sorted(losses, key=losses.get)[:2]:
                expected += sub_policies_of(values[trial])
    assert content["sub_policies"] == expected


def test_a_candidate_is_judged_by_the_network_that_has_not_seen_the_images(whole, digits):
    place, seed = PolicySearchFolder(whole.path), seed_for(3, "policy", 1, 0)
    line, told = [json.loads(line) for line in place.journal(1, 0).read_text(encoding="utf-8").splitlines()[:2]]
    network = load(place.stage(1, "01-train").network)
    apart = digits.train.take(split_folds(digits.train.labels, 2, 3)[1])
    candidate = PolicySet([policy_of(sub_policies_of(line["values"]), "x", "x")])
    counts = []
    for images in apart.images, digits.train.take(split_folds(digits.train.labels, 2, 3)[0]).images:
        # The judges are 24 of the fold's 48, so that the pixels are looked for among those of the fold.
        judged = policy_search.FoldWork._choose(_work(whole), Images(images, apart.labels), 1)
        changed = Images(candidate(judged.images, generator_for(seed, "draws")), judged.labels)
        counts.append(evaluate(network, changed).loss)
    assert told["figures"]["loss"] == pytest.approx(counts[0], abs=1e-6) != pytest.approx(counts[1], abs=1e-6)


def _work(whole):
    recipe = read_recipe(RECIPE)
    folder = PolicySearchFolder(whole.path)
    fields = dict.fromkeys(("images", "classes", "name", "library", "device", "console", "save_every_seconds"))
    return policy_search.FoldWork(recipe=recipe, search=recipe.policy_search, folder=folder, **fields)


def test_neither_test_nor_selection_images_are_seen(whole, digits, tmp_path):
    """Of a data set whose other images cannot be read at all, the same policy is found, to the byte."""
    poison = Images(torch.empty(0), torch.full((7,), -1))
    changed = replace(digits, validation=poison, test=poison, mean=(9.0,), std=(0.0,), checksum="another")
    found = search_policy(read_recipe(RECIPE), tmp_path / "found.json", OPTIONS, changed)
    assert found.path.read_bytes() == whole.path.read_bytes()
    learned = digits.train.images.clone()
    learned[0, 0, 8, 8] ^= 255
    other = replace(digits, train=Images(learned, digits.train.labels))
    with pytest.raises(UserError, match="began with other data"):
        search_policy(read_recipe(RECIPE), tmp_path / "found.json", OPTIONS, other)


def test_killed_anywhere_it_goes_on_to_the_same_policy(whole, digits, tmp_path, monkeypatch):
    """Killed in a fold's training, at a candidate, and in the middle of a line of its journal."""
    out, place, judge = tmp_path / "found.json", PolicySearchFolder(tmp_path / "found.json"), policy_search._judge
    judged, killed = [], {0, 3, 9, 20}

    def judge_or_die(*arguments):
        judged.append(arguments[0].number)
        if len(judged) - 1 in killed:
            raise KeyboardInterrupt
        return judge(*arguments)

    monkeypatch.setattr(policy_search, "_judge", judge_or_die)
    for _ in killed:
        with pytest.raises(KeyboardInterrupt):
            search_policy(read_recipe(RECIPE), out, OPTIONS, digits)
        assert not out.exists()
        last = max(place.path.glob("fold-*/round-*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        last.write_bytes(last.read_bytes()[:-3])
    trained = place.stage(0, "01-train").network.stat().st_mtime_ns
    found = search_policy(read_recipe(RECIPE), out, OPTIONS, digits)
    assert found.path.read_bytes() == whole.path.read_bytes()
    assert place.stage(0, "01-train").network.stat().st_mtime_ns == trained  # a trained fold is used again
    assert len(judged) == 24 + len(killed)  # and so is every candidate that was told


def test_it_grows_by_candidates_and_rounds_and_nothing_else(digits, tmp_path):
    out = tmp_path / "found.json"
    search_policy(read_recipe(without_rounds(rounds=1, candidates=2)), out, OPTIONS, digits)
    grown = search_policy(read_recipe(without_rounds(candidates=3, best=1)), out, OPTIONS, digits)
    assert len(grown.sub_policies) == 2 * 2 * 1 * 2
    with pytest.raises(UserError, match="begun with another recipe"):
        search_policy(read_recipe(without_rounds(objective="accuracy")), out, OPTIONS, digits)
    fresh = replace(OPTIONS, fresh=True)
    by_accuracy = search_policy(
        read_recipe(without_rounds(objective="accuracy", rounds=1, candidates=2, best=1)), out, fresh, digits
    )
    assert len(by_accuracy.sub_policies) == 2 * 2
    lines = PolicySearchFolder(out).journal(0, 0).read_text(encoding="utf-8").splitlines()
    figures = [json.loads(line)["figures"]["accuracy"] for line in lines if "figures" in line]
    assert len(figures) == 2 and by_accuracy.rounds[0]["best"]["accuracy"] == max(figures)
    assert not PolicySearchFolder(out).journal(0, 1).exists()


# --- the command, and what comes with netpress


def test_the_command_without_optuna_is_one_sentence(call, monkeypatch, tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(dump_toml(RECIPE), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, error = call("search", "policy", path, "--out", tmp_path / "found.json")
    assert code == 2 and 'pip install "netpress[search]"' in error and len(error.splitlines()) == 1
    assert not (tmp_path / "found").exists()


def test_shipped_policies_are_called_by_their_names():
    assert {"none", "trivial", "rand", *shipped_policies()} == set(describe_policies())
    assert "cifar100-fast" in shipped_policies()
    for name, path in shipped_policies().items():
        provenance = json.loads(path.read_text(encoding="utf-8"))["provenance"]
        assert {"recipe", "seed", "train_checksum", "policy_search", "versions"} <= set(provenance)
        assert AugmentSettings(policy=name).read_policies() is find_policies([str(path)], 2, 0.3)
