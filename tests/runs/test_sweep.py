"""Sweeps on the embedded digits: members, going on after SIGKILL, shared stages, and the table."""

import copy
import csv
import io
import json
import re
import signal
import statistics
import subprocess
import sys
import time

import pytest
import torch

from netpress.cli import main
from netpress.errors import Failure, UserError
from netpress.files import dump_toml
from netpress.network import load
from netpress.recipe.reading import read_recipe, shipped
from netpress.recipe.schema import check_recipe
from netpress.runs.jobs import RunOptions
from netpress.runs.recipes import run_recipe
from netpress.runs.sweep import plan_sweep, read_sweep, report_sweep, run_sweep
from netpress.runs.sweep.sharing import shared_stages
from netpress.runs.workers.places import Here

pytestmark = pytest.mark.slow

BASE = {
    "name": "trial",
    "description": "a | trial <of> sweeps",
    "seed": 5,
    "data": {"dataset": "digits", "train_images": 96, "image_size": 16},
    "model": {"family": "c_efficientnet", "preset": "tiny", "width_factor": 0.5},
    "stages": [
        {"kind": "train", "epochs": 2, "batch_size": 32, "optimizer": {"kind": "sgd"}},
        {"kind": "prune", "amount": 0.5, "train": {"epochs": 1, "batch_size": 32}},
    ],
}
GRID = {"seeds": [1, 2], "grid": {"stages.1.amount": [0.3, 0.6]}}


def written(folder, sweep, base=BASE, **more):
    path = folder / "trial.toml"
    path.write_text(dump_toml({**copy.deepcopy(base), **more, "sweep": sweep}))
    return str(path)


def test_members_are_every_variant_at_every_point_with_every_seed(tmp_path):
    variants = {"plain": {"stages.0.optimizer.decay_1d": True}, "no-decay": {}}
    sweep = read_sweep(written(tmp_path, {**GRID, "variants": variants}), epochs_scale=0.5)
    assert [member.name for member in sweep.members] == [
        f"{variant}_amount-{amount}_seed-{seed}"
        for variant in ("plain", "no-decay")
        for amount in (0.3, 0.6)
        for seed in (1, 2)
    ]
    third = sweep.members[2]
    assert (third.variant, third.point, third.recipe.seed) == ("plain", {"amount": 0.6}, 1)
    assert third.recipe.stages[1].amount == 0.6
    assert [member.recipe.stages[0].optimizer.decay_1d for member in sweep.members] == [True] * 4 + [False] * 4
    assert third.recipe.stages[0].epochs == 1  # scaled; the written recipe keeps its 2 and the scale
    assert (sweep.recipe.stages[0].epochs, sweep.table.epochs_scale) == (2, 0.5)
    assert third.recipe.sweep is None
    # What a sweep's folder keeps is itself a recipe of the same members.
    (tmp_path / "kept.toml").write_text(sweep.recipe.text)
    assert [m.recipe for m in read_sweep(str(tmp_path / "kept.toml")).members] == [m.recipe for m in sweep.members]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({}, "sweep: needs variants, a grid or seeds"),
        ({"grid": {"model.expansion": []}}, 'grid."model.expansion": needs at least one value'),
        ({"grid": {"model": {"expansion": [1.0]}}}, "sweep.grid.model: write paths in quotes"),
        ({"variants": {"a": {"model": {"expansion": 1.0}}}}, "sweep.variants.a.model: write paths in quotes"),
        ({"grid": {"name": ["a", "b"]}}, "name cannot be swept"),
        ({"seeds": [1], "grid": {"seed": [1, 2]}}, "seed is swept twice"),
        ({"seeds": [1, 1]}, "two members are called seed-1"),
        ({"variants": {"../up": {}}}, "sweep.variants"),
        (
            {"variants": {"a": {"stages.0.optimizer": {"kind": "adam"}}}, "grid": {"stages.0.optimizer.kind": ["sgd"]}},
            'variants.a."stages.0.optimizer" and grid."stages.0.optimizer.kind" set the same',
        ),
        ({"grid": {"stages.1.amount": [0.3, 1.4]}}, "member amount-1.4:\nstages.1.prune.amount: 1.4 is not between"),
        ({"variants": {"wide": {"model.widht": 2}}}, "member wide:\nmodel.widht"),
        ({"variants": {"more": {"stages.7.epochs": 2}}}, 'member more: "stages.7.epochs": stages has entries 0 to 1'),
    ],
)
def test_wrong_sweeps_name_the_member_and_the_path(tmp_path, sweep, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read_sweep(written(tmp_path, sweep))
    assert caught.value.exit_code == 2


SHIPPED = {
    "kaist-table2": (14, {"vanilla", "no-bias-decay"}),
    "kaist-table3": (21, {"stacked", "orn", "orn-als"}),
    "kaist-table4": (21, {"stacked", "policy", "policy-cutmix"}),
    "kaist-table5": (1, {None}),
    "kaist-table6": (5, {"none", "classifier", "depthwise", "pointwise", "all"}),
}


def test_shipped_sweeps_are_those_of_the_paper():
    sweeps = {name for name in shipped() if read_recipe(name).sweep is not None}
    assert {name for name in sweeps if name.startswith("kaist-")} == SHIPPED.keys()
    for name, (count, variants) in SHIPPED.items():
        members = read_sweep(name).members
        assert (len(members), {member.variant for member in members}) == (count, variants)
        assert {member.recipe.stages[0].epochs for member in members} == {600}
        assert {member.recipe.stages[0].optimizer.decay_1d for member in members} <= {name == "kaist-table2", False}
    # Each table begins with the last line of the one before.
    for before, after in (("kaist-table2", "kaist-table3"), ("kaist-table3", "kaist-table4")):
        last, first = read_sweep(before).members[-1].recipe, read_sweep(after).members[6].recipe
        assert last.model["expansion"] == first.model["expansion"] == 4.0
        assert shared_stages(last, first) == 1


def test_policy_files_take_the_place_of_what_stands_in_for_them(tmp_path):
    policy = tmp_path / "mine.json"
    policy.write_text('{"sub_policies": [[["Rotate", 1.5, 0.5]]]}')
    recipe = read_recipe("kaist-v1", [f'**.augment.policy=["{policy}", "rand"]'])
    for training in (recipe.stages[0], recipe.stages[1].train):
        assert (training.augment.policies, training.augment.passes) == ((str(policy), "rand"), 2)
    sweep = read_sweep("kaist-table4", [f"stages.0.augment.policy={policy}"])
    policies = {(member.variant, member.recipe.stages[0].augment.policy) for member in sweep.members}
    assert policies == {("stacked", "none"), ("policy", str(policy)), ("policy-cutmix", str(policy))}
    with pytest.raises(
        UserError, match=r"member policy_expansion-1.0: 01-train: policy .*\n?sub_policies\.0\.0: probability 1.5"
    ):
        plan_sweep(sweep)


def test_overrides_that_no_member_would_see_are_refused(tmp_path):
    variants = {"a": {"model.dropout": 0.1, "model.expansion": 2.0}, "b": {"model.dropout": 0.2}}
    path = written(tmp_path, {**GRID, "variants": variants})
    for override in ("stages.1.amount=0.4", "model.dropout=0.5"):
        with pytest.raises(UserError, match="the sweep sets this itself; --set 'sweep"):
            read_sweep(path, [override])
    with pytest.raises(UserError, match="the sweep sets seeds itself"):
        read_sweep(path, seed=3)
    sweep = read_sweep(path, ["model.expansion=4.0", 'sweep.grid."stages.1.amount"=[0.4]', "sweep.seeds=[7]"])
    assert [member.recipe.model["expansion"] for member in sweep.members] == [2.0, 4.0]
    assert {member.recipe.stages[1].amount for member in sweep.members} == {0.4}
    assert {member.recipe.seed for member in sweep.members} == {7}


def test_a_stage_that_does_not_fit_is_told_before_anything_runs(tmp_path):
    path = written(tmp_path, {"variants": {"good": {}, "bad": {"stages.1.layers": "blocks.*.nothing"}}})
    with pytest.raises(UserError, match=r"member bad: .*blocks\.\*\.nothing"):
        run_sweep(read_sweep(path), tmp_path / "out")
    assert not (tmp_path / "out" / "good").exists()


def start(recipe, out, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "netpress", "run", recipe, "--out", str(out), "--save-every", "0.02", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The sweep of GRID, run by the command without interruption: recipe, folder, what was said."""
    folder = tmp_path_factory.mktemp("reference")
    recipe = written(folder, GRID)
    process = start(recipe, folder / "out")
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return recipe, folder / "out", said


def tensors_of(folder):
    return {path.parent.name: load(path).module.state_dict() for path in sorted(folder.glob("*/network.netpress"))}


def newest(folder):
    return max((path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()), default=0)


def test_killed_sweeps_go_on_where_they_were(reference, tmp_path):
    recipe, whole, _ = reference
    out = tmp_path / "out"
    results: dict[str, int] = {}  # when each member's result was written; never again
    kills = 0
    for delay in (0.05, 0.5, 0.2):
        process = start(recipe, out)
        began, seen = time.monotonic(), newest(out)
        while process.poll() is None and newest(out) == seen and time.monotonic() - began < 60:
            time.sleep(0.01)
        time.sleep(delay)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        kills += 1
        times = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("*/score.json")}
        assert results.items() <= times.items()
        results = times
    process = start(recipe, out)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert kills >= 2, "the sweep ended before it could be killed often enough to prove anything"
    for name, written_at in results.items():
        assert (out / name / "score.json").stat().st_mtime_ns == written_at
        assert f"{name}: done before" in said
    again, before = tensors_of(out), tensors_of(whole)
    assert again.keys() == before.keys() and len(before) == 4
    for name, tensors in before.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, again[name][key]), (name, key)
    columns = [column for column in rows_of(whole)[0] if column != "seconds"]
    assert [[row[c] for c in columns] for row in rows_of(out)] == [[row[c] for c in columns] for row in rows_of(whole)]


def rows_of(folder):
    return list(csv.DictReader(io.StringIO((folder / "sweep.csv").read_text())))


def test_shared_stages_run_once_to_the_same_bits(reference, tmp_path):
    _, whole, said = reference
    assert "amount-0.6_seed-2: takes 01-train from amount-0.3_seed-2" in said
    member = read_sweep(str(whole / "recipe.toml")).members[3]
    alone = run_recipe(member.recipe, tmp_path / "alone")
    kept = load(whole / member.name / "network.netpress").module.state_dict()
    for key, tensor in alone.network.module.state_dict().items():
        assert torch.equal(tensor, kept[key]), key


def test_the_table(reference):
    _, whole, said = reference
    rows = rows_of(whole)
    assert [(row["member"], row["amount"], row["seed"], row["state"]) for row in rows] == [
        (f"amount-{amount}_seed-{seed}", str(amount), str(seed), "done") for amount in (0.3, 0.6) for seed in (1, 2)
    ]
    for row in rows:
        figures = json.loads((whole / row["member"] / "score.json").read_text())
        assert float(row["accuracy"]) == figures["accuracy"]
        assert float(row["score"]) == figures["score"]
        assert float(row["sparsity"]) == pytest.approx(float(row["amount"]), abs=1e-3)
    accuracies = [float(row["accuracy"]) for row in rows[:2]]
    mean, spread = statistics.mean(accuracies), statistics.stdev(accuracies)
    markdown = (whole / "sweep.md").read_text()
    assert f"| 0.3 | 2 | {mean:.2%} ± {spread * 100:.2f} |" in markdown
    assert markdown in said
    page = (whole / "sweep.html").read_text()
    assert f"{mean:.2%} ± {spread * 100:.2f}" in page
    assert "a | trial &lt;of&gt; sweeps" in page
    # Against score, flash and RAM: one mark an amount, a dot a run; a single series needs no legend.
    assert page.count('class="mark-shape"') == 3 * 2
    assert page.count('class="run"') == 3 * 4
    links = re.findall(r'href="([^"]*)"', page)
    assert links == [f"{row['member']}/report.html" for row in rows] and all((whole / link).is_file() for link in links)
    assert not re.search(r'src="|url\(|@import|https?://', page)


def test_report_writes_the_tables_again(reference, monkeypatch, capsys):
    _, whole, _ = reference
    before = {name: (whole / name).read_text() for name in ("sweep.csv", "sweep.md", "sweep.html")}
    (whole / "sweep.html").unlink()
    (whole / "sweep.md").write_text("")
    assert command(monkeypatch, "report", str(whole)) == 0
    assert capsys.readouterr().out.strip() == str(whole / "sweep.html")
    assert {name: (whole / name).read_text() for name in before} == before
    with pytest.raises(UserError, match="holds no sweep"):
        report_sweep(whole / "amount-0.3_seed-1")


QUICK = {**BASE, "stages": [{"kind": "train", "epochs": 1, "batch_size": 32, "optimizer": {"kind": "sgd"}}]}


def test_a_sweep_may_grow_but_not_change(tmp_path):
    out = tmp_path / "out"
    run_sweep(read_sweep(written(tmp_path, {"seeds": [1]}, QUICK)), out)
    before = (out / "seed-1" / "score.json").stat().st_mtime_ns
    grown = run_sweep(read_sweep(written(tmp_path, {"seeds": [1, 2]}, QUICK)), out)
    assert (out / "seed-1" / "score.json").stat().st_mtime_ns == before
    assert grown.table.state == "2 of 2 runs finished"
    changed = read_sweep(written(tmp_path, {"seeds": [1, 2]}, QUICK), ["stages.0.batch_size=48"])
    with pytest.raises(UserError, match="member seed-1 was begun with another recipe"):
        run_sweep(changed, out)
    run_sweep(changed, out, RunOptions(fresh=True))
    assert (out / "seed-1" / "score.json").stat().st_mtime_ns > before


def test_folders_that_hold_something_else_are_refused(tmp_path):
    sweep = read_sweep(written(tmp_path, {"seeds": [1]}, QUICK))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="holds no sweep"):
        run_sweep(sweep, tmp_path / "mine", RunOptions(fresh=True))
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    run_recipe(check_recipe(QUICK), tmp_path / "single")
    with pytest.raises(UserError, match="holds a single run"):
        run_sweep(sweep, tmp_path / "single", RunOptions(fresh=True))
    assert (tmp_path / "single" / "recipe.toml").exists()
    run_sweep(sweep, tmp_path / "swept")
    with pytest.raises(UserError, match="holds a sweep"):
        run_recipe(check_recipe(QUICK), tmp_path / "swept", RunOptions(fresh=True))
    assert (tmp_path / "swept" / "seed-1" / "score.json").exists()
    with pytest.raises(UserError, match="stands for several runs"):
        run_recipe(sweep.recipe, tmp_path / "other")


def test_one_failure_does_not_stop_the_others(tmp_path):
    variants = {"wild": {"stages.0.optimizer.learning_rate": 1e30}, "calm": {}}
    path = written(tmp_path, {"variants": variants}, QUICK)
    with pytest.raises(Failure, match=r"1 of 2 members failed;[^\n]*\nwild: "):
        run_sweep(read_sweep(path), tmp_path / "out")
    wild, calm = rows_of(tmp_path / "out")
    assert wild["state"].startswith("failed: ") and wild["accuracy"] == ""
    assert calm["state"] == "done" and float(calm["accuracy"]) > 0
    assert "not finished" in (tmp_path / "out" / "sweep.html").read_text()


def test_where_the_members_run_is_the_callers_choice(tmp_path):
    class Backwards(Here):
        """Begins as many as there are slots, and runs them the last first."""

        slots = 2

        def __init__(self):
            super().__init__()
            self.tasks = []

        def start(self, task):
            self.tasks.append(task)

        def wait(self, seconds=None):
            super().start(self.tasks.pop())
            return super().wait()

    sweep = read_sweep(written(tmp_path, {"seeds": [1, 2]}, QUICK))
    backwards = run_sweep(sweep, tmp_path / "backwards", place=Backwards())
    finished = [(tmp_path / "backwards" / f"seed-{seed}" / "score.json").stat().st_mtime_ns for seed in (1, 2)]
    assert finished[0] > finished[1]
    forwards = run_sweep(sweep, tmp_path / "forwards")
    figures = [[row.figures["loss"] for row in result.table.rows] for result in (backwards, forwards)]
    assert figures[0] == figures[1]


def test_every_stage_has_its_row(tmp_path):
    path = written(tmp_path, {"seeds": [1], "every_stage": True}, seed=1, beside={"imt": {}})
    overrides = ["stages.1.rounds=2", "stages.0.epochs=1"]
    result = run_sweep(read_sweep(path, overrides), tmp_path / "out")
    rows = result.table.rows
    assert [row.stage for row in rows] == ["01-train", "02-prune/round-1", "02-prune/round-2"]
    assert [row.figures["sparsity"] for row in rows] == pytest.approx([0, 0.25, 0.5], abs=1e-3)
    scores = [row.figures["score"] for row in rows]
    assert scores[0] > scores[1] > scores[2]
    # Each row is what a run of the stages up to there ends with.
    shorter = read_sweep(path, overrides).members[0].recipe
    shorter = shorter.model_copy(update={"stages": shorter.stages[:1]})
    alone = run_recipe(shorter, tmp_path / "alone")
    assert (rows[0].figures["accuracy"], scores[0]) == (alone.accuracy, pytest.approx(alone.score))
    counts = [row.figures["beside"]["imt"] for row in rows]
    assert counts[0]["score"] == alone.beside["imt"].score and counts[0]["params"] > counts[2]["params"]
    again = run_sweep(read_sweep(path, overrides), tmp_path / "out")
    assert again.table.as_csv() == result.table.as_csv()


def test_plan_shows_members(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, GRID)
    planned = plan_sweep(read_sweep(path))
    assert [member["epochs"] for member in planned["members"]] == [3] * 4
    assert planned["members"][3]["begins_with"] == "01-train of amount-0.3_seed-2"
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "plan", path) == 0
    said = capsys.readouterr().out
    for member in planned["members"]:
        assert member["name"] in said
    assert not (tmp_path / "runs").exists()
    assert command(monkeypatch, "run", path, "--set", "stages.1.amount=0.1") == 2
    assert capsys.readouterr().err.startswith("netpress: --set stages.1.amount=0.1")


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["netpress", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.slow
def test_the_shipped_comparison_trains_once_a_seed():
    plan = plan_sweep(read_sweep("factors-or-channels"))
    assert len(plan["members"]) == 30
    begun = {member["begins_with"] for member in plan["members"]}
    assert len([member for member in plan["members"] if member["begins_with"] in (None, "")]) == 3
    assert len(begun - {None, ""}) == 3
