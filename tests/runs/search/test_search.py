"""Searches on the embedded digits: going on after an interruption, limits, stopping, what is refused."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from netpress.errors import Failure, UserError
from netpress.files import dump_toml
from netpress.folders.listing import list_runs
from netpress.folders.search import SearchFolder
from netpress.network import load
from netpress.recipe.reading import read_recipe
from netpress.recipe.schema import check_recipe
from netpress.recipe.search_schema import Search, Stopping
from netpress.runs.jobs import RunOptions
from netpress.runs.recipes import run_recipe
from netpress.runs.search.run import run_search
from netpress.runs.search.sampling import propose
from netpress.runs.search.space import read_space
from netpress.runs.search.stopping import find_stop
from netpress.runs.search.trials import Journal, Trial
from netpress.runs.workers.places import Here
from netpress.settings import SettingsError, parse

pytest.importorskip("optuna", reason="optuna is not installed; it is in the extra search")

BASE = {
    "name": "trial",
    "description": "a | search",
    "seed": 5,
    "data": {"dataset": "digits", "train_images": 64, "image_size": 16},
    "model": {"family": "c_efficientnet", "preset": "tiny", "width_factor": 0.5},
    "stages": [
        {"kind": "train", "epochs": 1, "batch_size": 32, "optimizer": {"kind": "sgd"}},
        {"kind": "prune", "amount": 0.5, "weights": "keep", "rounds": 1, "train": {"epochs": 1, "batch_size": 32}},
    ],
}
SPACE = {"model.width_factor": {"low": 0.25, "high": 1.0}, "stages.1.amount": {"low": 0.2, "high": 0.9, "step": 0.1}}


def written(folder, search, **more):
    path = folder / "trial.toml"
    path.write_text(dump_toml({**BASE, **more, "search": search}), encoding="utf-8")
    return str(path)


def searched(folder, search, out, options=None, **more):
    return run_search(read_space(written(folder, search, **more)), out, options or RunOptions(), Here())


def events(folder):
    return [json.loads(line) for line in SearchFolder(folder).journal.read_text(encoding="utf-8").splitlines()]


# --- what may be asked


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"space": {}}, "space: name at least one setting"),
        ({"space": {"model": {"expansion": {"low": 1}}}}, "search.space.model: write paths in quotes"),
        ({"space": {"model.expansion": {"low": 3, "high": 2}}}, "low = 3 must be below high = 2"),
        ({"space": {"model.expansion": {"low": 0, "high": 2, "log": True}}}, "log = true needs low above 0"),
        ({"space": {"model.expansion": []}}, "model.expansion"),
        ({"space": {"name": ["a", "b"]}}, 'space."name" cannot be looked for'),
        ({"space": {"model": ["a"], "model.expansion": [2.0]}}, "set the same"),
        ({"space": SPACE, "objectives": ["score", "score"]}, "names the same twice"),
        ({"space": SPACE, "objectives": ["accuracy", "score"], "stop": {}}, "stop: goes by accuracy alone"),
        ({"space": {"stages.1.amount": {"low": 0.5, "high": 1.5}}}, r'search.space."stages.1.amount" = 1.5'),
        ({"space": {"stages.7.amount": [0.5]}}, "stages.7"),
        ({"space": {"model.width_faktor": [0.5]}}, "width_faktor"),
    ],
)
def test_what_is_no_space_is_refused(search, message, tmp_path):
    with pytest.raises((SettingsError, UserError), match=message):
        read_space(written(tmp_path, search))


def test_other_recipes_are_told_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"has no \[search\] table"):
        read_space("digits")
    with pytest.raises(UserError, match="would choose by luck"):
        read_space(written(tmp_path, {"space": SPACE}, data={**BASE["data"], "select_on": "test"}))
    with pytest.raises(SettingsError, match="stands in one recipe with sweep"):
        read_space(written(tmp_path, {"space": SPACE}, sweep={"seeds": [1, 2]}))
    with pytest.raises(UserError, match="give it to `netpress search recipe`"):
        run_recipe(read_recipe(written(tmp_path, {"space": SPACE})), tmp_path / "out")


# --- asking


def search_of(**more):
    space = {"a": {"low": 1, "high": 9}, "b": {"low": 1e-3, "high": 1.0, "log": True}, "c": [[1, 2], {"x": 1}]}
    return parse(Search, {"space": {f"model.{name}": values for name, values in space.items()}, **more})


@pytest.mark.parametrize("objectives", [["accuracy"], ["accuracy", "score"], ["score"]])
def test_the_next_question_depends_on_the_answers_alone(objectives):
    search = search_of(objectives=objectives, random_trials=3)
    history = []
    for number in range(8):
        values = propose(search, 7, number, history)
        assert values == propose(search, 7, number, list(history))
        assert 1 <= values["model.a"] <= 9 and isinstance(values["model.a"], int)
        assert 1e-3 <= values["model.b"] <= 1 and values["model.c"] in ((1, 2), [1, 2], {"x": 1})
        state = ("done", "refused", "failed", "open")[number % 4]
        figures = {"accuracy": values["model.b"], "score": float(values["model.a"])} if state == "done" else {}
        history.append(Trial(number, values, state, figures))
    others = [propose(search, 8, 8, history), propose(search, 7, 9, history)]
    assert propose(search, 7, 8, history) not in others


def test_it_looks_where_it_was_better():
    search = parse(Search, {"space": {"model.a": {"low": 0.0, "high": 1.0}}, "random_trials": 8})
    history = []
    for number in range(40):
        values = propose(search, 3, number, history)
        history.append(Trial(number, values, "done", {"accuracy": 1 - abs(values["model.a"] - 0.7)}))
    late = [abs(trial.values["model.a"] - 0.7) for trial in history[25:]]
    assert sum(late) / len(late) < 0.15  # at random it would be .29


# --- the journal


def test_a_journal_that_was_cut_anywhere_is_read(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    first, second = Trial(0, {"a": 1}), Trial(1, {"a": [2, {"ö": 3}]})
    journal.ask(first)
    journal.ask(second)
    journal.tell(Trial(0, {"a": 1}, "done", {"accuracy": 0.5}))
    whole = journal.path.read_bytes()
    for length in range(len(whole) + 1):
        journal.path.write_bytes(whole[:length])
        cut = Journal(journal.path)
        lines = whole[:length].count(b"\n")
        assert len(cut.trials) == min(lines, 2) and len(cut.order) == max(0, lines - 2)
        assert journal.path.read_bytes() == whole[: whole[:length].rfind(b"\n") + 1]
    assert [trial.number for trial in cut.history()] == [0, 1]
    journal.path.write_bytes(whole.replace(b'"trial"', b'"trail"', 1))
    with pytest.raises(Failure, match="line 1 is damaged"):
        Journal(journal.path)


# --- stopping


def test_the_median_rule():
    stop = Stopping(after_trials=3, after=0.5)
    others = [[(0.25, a / 2), (0.5, a), (0.75, a), (1.0, a)] for a in (0.4, 0.5, 0.6)]
    assert find_stop([(0.25, 0.0), (0.5, 0.49)], others, stop) == (0.5, 0.49)
    assert find_stop([(0.25, 0.0)], others, stop) is None  # every trial has its first half
    assert find_stop([(0.25, 0.0), (0.5, 0.5), (0.75, 0.5)], others, stop) is None
    assert find_stop([(0.25, 0.7), (0.5, 0.1)], others, stop) is None  # its best so far counts
    assert find_stop([(0.5, 0.1), (1.0, 0.1)], others[:2], stop) is None
    assert find_stop([(0.5, 0.5), (1.0, 0.1)], others, stop) is None  # at its end there is nothing to stop
    short = [[(0.25, 0.9)]] * 5
    assert find_stop([(0.5, 0.1)], short, stop) is None  # these never came so far


# --- searching


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    search = {"space": SPACE, "trials": 4, "objectives": ["accuracy", "score"], "random_trials": 2}
    return search, searched(folder, search, folder / "out", RunOptions(threads=1))


@pytest.mark.slow
def test_the_table_and_the_best(whole):
    _, result = whole
    table, place = result.table, SearchFolder(result.folder)
    assert [trial.state for trial in table.done] == ["done"] * 4 and table.state == "4 of 4 trials ended"
    best = table.best
    assert best.figures["accuracy"] == max(trial.figures["accuracy"] for trial in table.done)
    for trial in table.done:
        run = place.member(f"trial-{trial.number:04d}")
        score, summary = run.read_score(), run.read_summaries()[-1]
        assert (trial.figures["accuracy"], trial.figures["score"]) == (summary["accuracy"], score["score"])
        assert trial.figures["file"] == run.network.stat().st_size
        beaten = [
            other
            for other in table.done
            if other.figures["accuracy"] >= trial.figures["accuracy"]
            and other.figures["score"] <= trial.figures["score"]
            and dict(other.figures) != dict(trial.figures)
        ]
        assert (trial in table.front) == (not beaten)
    text = place.best.read_text(encoding="utf-8")
    assert check_recipe(read_recipe(str(place.best)).values).text == text  # a recipe by itself
    assert read_recipe(str(place.best)).stages[1].amount == best.values["stages.1.amount"]
    page = place.page.read_text(encoding="utf-8")
    assert "a | search" in page and "trial-0000/report.html" in page and "<svg" in page
    (listed,) = list_runs(result.folder.parent)
    assert (listed.kind, listed.state, listed.done, listed.parts) == ("search", "done", 4, 4)


@pytest.mark.slow
def test_a_search_killed_and_resumed_is_one_that_was_not(whole, tmp_path):
    search, before = whole
    out = tmp_path / "out"
    command = [sys.executable, "-m", "netpress", "search", "recipe", written(tmp_path, search), "--out", str(out)]
    kills = 0
    for wanted in (2, 5):
        process = subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < 120:
            if (out / "journal.jsonl").exists() and len(events(out)) >= wanted:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.02)
        process.communicate(timeout=60)
    assert kills == 2
    result = subprocess.run([*command, "--threads", "1"], capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stderr
    assert events(out) == events(before.folder)
    for number in range(4):
        networks = [load(folder / f"trial-{number:04d}" / "network.netpress") for folder in (out, before.folder)]
        states = [network.module.state_dict() for network in networks]
        assert all(bool((tensor == states[1][key]).all()) for key, tensor in states[0].items())


@pytest.mark.slow
def test_a_search_grows_by_trials_and_nothing_else(whole, tmp_path):
    search, _ = whole
    out = tmp_path / "out"
    short = {**search, "trials": 1}
    first = searched(tmp_path, short, out, RunOptions(threads=1)).table
    assert first.is_finished and not replace(first, space=read_space(written(tmp_path, search))).is_finished
    grown = searched(tmp_path, {**search, "trials": 2}, out, RunOptions(threads=1))
    assert len(grown.table.done) == 2
    with pytest.raises(UserError, match="begun with another recipe"):
        searched(tmp_path, {**search, "trials": 2}, out, RunOptions(threads=1), seed=6)


@pytest.mark.slow
def test_what_is_over_a_limit_is_counted_and_not_trained(tmp_path):
    search = {"space": {"model.width_factor": [0.25, 0.5, 4.0]}, "trials": 3}
    result = searched(tmp_path, search, tmp_path / "out", limits={"flash": "100K"})
    states = {trial.values["model.width_factor"]: trial for trial in reversed(result.table.trials)}
    assert states[4.0].state == "refused" and "limits.flash" in states[4.0].message
    assert not (tmp_path / "out" / f"trial-{states[4.0].number:04d}").exists()
    assert {width for width, trial in states.items() if trial.counts} <= {0.25, 0.5}
    assert any("the same as trial" in trial.message for trial in result.table.trials)  # a value is trained once
    with pytest.raises(UserError, match=r"no recipe of the space can run within its limits; the first: limits\.flash"):
        searched(tmp_path, search, tmp_path / "none", limits={"flash": "1K"})


@pytest.mark.slow
def test_a_trial_that_fails_is_noted_with_its_message(tmp_path):
    search = {"space": {"stages.0.optimizer.learning_rate": [1e30, 0.1]}, "trials": 2, "sampler": "random"}
    result = searched(tmp_path, search, tmp_path / "out")
    failed = [trial for trial in result.table.trials if trial.state == "failed"]
    assert failed and "loss" in failed[0].message
    (listed,) = list_runs(result.folder.parent)
    assert (listed.state, listed.done) == ("done", 2)  # a trial that failed is over, too
    assert "failed" in SearchFolder(tmp_path / "out").csv.read_text(encoding="utf-8")


def test_help_imports_neither_torch_nor_optuna(run_python):
    code = (
        "import sys; sys.argv = ['netpress', 'search', '--help']\n"
        "from netpress.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'optuna', 'ray'} & set(sys.modules)\n"
    )
    said = run_python(code)
    assert "recipe" in said and "policy" in said


def test_a_missing_extra_is_one_sentence(monkeypatch):
    from netpress.runs.search.sampling import require_optuna

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r'pip install "netpress\[search\]"'):
        require_optuna()
