"""Removing runs: all that netpress wrote goes, nothing else does, inside the folder or outside; also after a crash."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.errors import Failure, UserError
from netpress.folders.chain import ChainFolder
from netpress.folders.holding import held
from netpress.folders.removal import find_contents, remove
from netpress.folders.run import RunFolder
from netpress.folders.sweep import SweepFolder

RUN = 'name = "a"\n\n[[stages]]\nkind = "train"\n'
CHAIN = 'name = "c"\n\n[networks]\n\n[networks.small]\n'
SWEEP = 'name = "s"\n\n[sweep]\nseeds = [1]\n'
STAGE_FILES = ("metrics.jsonl", ".state.part.safetensors", "state.safetensors", "done.json", "network.netpress")
MORE_STAGE_FILES = ("round-1/last.netpress", "round-1/deleted.json", "events.out.tfevents.12.host.3.4.netpress")
RUN_FILES = ("environment.json", "log.txt", "log.tsv", "metrics.jsonl", "score.json", ".score.part.json", "report.html")
MORE_RUN_FILES = ("predictions.safetensors", "network.netpress", "stages.json", "failure.json")


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def make_run(path: Path, text: str = RUN) -> RunFolder:
    run = RunFolder(path)
    with run.claimed(text):
        for name in (*RUN_FILES, *MORE_RUN_FILES, *(f"01-train/{name}" for name in (*STAGE_FILES, *MORE_STAGE_FILES))):
            write(path / name)
    return run


def make_chain(path: Path) -> ChainFolder:
    chain = ChainFolder(path)
    with chain.claimed(CHAIN, {"small": RUN}):
        make_run(path / "small")
        for name in chain.files:
            write(path / name)
    return chain


def make_sweep(path: Path) -> SweepFolder:
    """With a run, a chain, and the beginning of a member that was cut short."""
    sweep = SweepFolder(path)
    with sweep.claimed(SWEEP, {"one": RUN, "two": CHAIN}):
        make_run(path / "one")
        make_chain(path / "two")
        write(path / ".three.draft/01-train/done.json")
        write(path / ".three.draft/environment.json")
        for name in sweep.files:
            write(path / name)
    return sweep


MAKERS = {"run": make_run, "chain": make_chain, "sweep": make_sweep}


def look(folder: Path) -> dict[str, str]:
    """Everything in a folder and below: of links where they lead, of files what they hold."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place, name)
            if path.is_symlink():
                told = f"link to {path.readlink()}"
            else:
                told = "folder" if path.is_dir() else f"{stat.S_IMODE(path.stat().st_mode)} {path.read_bytes()!r}"
            found[path.relative_to(folder).as_posix()] = told
    return found


@pytest.mark.parametrize("kind", MAKERS)
def test_all_that_netpress_wrote_goes(tmp_path, kind):
    write(tmp_path / "runs/other.txt")
    before = look(tmp_path)
    MAKERS[kind](tmp_path / "runs/mine")
    found = find_contents(tmp_path / "runs/mine")
    assert found.others == () and len(set(found.written)) == len(found.written)
    assert found.bytes == sum(path.stat().st_size for path in found.written) > 0
    assert remove(found) == ()
    assert look(tmp_path) == before


PLACES = (
    "",
    "01-train/",
    "01-train/round-1/",
    "one/",
    "one/01-train/",
    "two/small/",
    "two/",
    "mine/",
    "01-train/mine/",
)
NAMES = (
    "notes.txt",
    "done.json.bak",
    "network.onnx",
    "events.out.tfevents.1.host",
    "table.csv",
    ".hidden",
    "x.part.json",
)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(sorted(MAKERS)),
    foreign=st.sets(st.tuples(st.sampled_from(PLACES), st.sampled_from(NAMES)), max_size=5),
    links=st.sets(st.tuples(st.sampled_from(PLACES), st.sampled_from(("link", "02-prune", "03-seed"))), max_size=3),
    crashes=st.lists(st.integers(0, 60), max_size=3),
)
def test_nothing_else_goes_whatever_lies_there_and_whenever_it_stops(tmp_path_factory, kind, foreign, links, crashes):
    """Files and empty folders of others stay, links stay and are not followed, and a later call removes the rest."""
    top = tmp_path_factory.mktemp("top")
    make_run(top / "outside/run")
    make_sweep(top / "outside/sweep")
    mine = top / "runs/mine"
    MAKERS[kind](mine)
    (mine / "empty").mkdir()
    kept = {"empty": "folder"}
    for place, name in foreign:
        write(mine / place / name, "foreign")
        kept[f"{place}{name}"] = "foreign"
    for place, name in links:
        (mine / place).mkdir(parents=True, exist_ok=True)
        (mine / place / name).symlink_to(top / "outside" / ("sweep" if name == "03-seed" else "run"))
        kept[f"{place}{name}"] = "link"
    outside = look(top / "outside")
    before = look(mine)
    real = os.unlink
    for last in crashes:
        left = last

        def unlink(path, *args, **more):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            real(path, *args, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "unlink", unlink)
            try:
                remove(find_contents(mine))
            except KeyboardInterrupt:
                pass
            except UserError as error:  # it was done before the crash
                assert "holds no run" in str(error)
    if (mine / "recipe.toml").exists() or (mine / ".netpress.lock").exists():
        told = {path.relative_to(mine).as_posix() for path in remove(find_contents(mine))}
        assert told == kept.keys()
    after = look(mine)
    assert {name: told for name, told in after.items() if name in kept} == {name: before[name] for name in kept}
    folders = {parent.as_posix() for name in kept for parent in Path(name).parents} - {"."}
    assert after.keys() == kept.keys() | folders
    assert look(top / "outside") == outside


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for name in ("network.netpress", "recipe.toml", "log.txt"):  # a recipe of one's own is no run
        write(tmp_path / "mine" / name, RUN)
    run = make_run(tmp_path / "run")
    (tmp_path / "link").symlink_to(run.path)
    before = look(tmp_path)
    for name, message in (("mine", "holds no run"), ("none", "no such folder"), ("link", "is a link; name the folder")):
        with pytest.raises(UserError, match=message):
            find_contents(tmp_path / name)
    with pytest.raises(UserError, match="is a file"):
        find_contents(run.score)
    assert look(tmp_path) == before


def test_a_lock_beside_files_of_others_is_all_that_goes(tmp_path):
    """A run whose recipe is gone has no other files: what lies there was put there."""
    with held(tmp_path / "a"):
        write(tmp_path / "a/network.netpress")
        write(tmp_path / "a/01-train/done.json")
    assert len(remove(find_contents(tmp_path / "a"))) == 2
    assert sorted(look(tmp_path / "a")) == ["01-train", "01-train/done.json", "network.netpress"]


@pytest.mark.parametrize("at_work", ["", "one", "two/small"])
@pytest.mark.parametrize("removed", ["", "one", "two/small"])
def test_a_folder_at_work_is_refused(tmp_path, at_work, removed):
    """So is one whose member is at work, and a member while its sweep is."""
    make_sweep(tmp_path / "sweep")
    before = look(tmp_path)
    related = Path(removed) in (Path(at_work), *Path(at_work).parents) or Path(at_work) in Path(removed).parents
    with held(tmp_path / "sweep" / at_work):
        found = find_contents(tmp_path / "sweep" / removed)
        if related:
            with pytest.raises(Failure, match="another netpress is at work in this folder; wait for it, or stop it"):
                remove(found)
            assert look(tmp_path) == before
        else:
            remove(found)
            assert not (tmp_path / "sweep" / removed).exists()


def test_the_command_asks(call, monkeypatch):
    make_run(Path("runs/mine"))
    write(Path("runs/mine/notes.txt"))
    code, out, err = call("remove", "runs/mine")
    assert code == 2 and "nobody is there to be asked; give --yes to remove 20 files" in err and not out
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    asked = []
    monkeypatch.setattr("typer.confirm", lambda text, default: asked.append(text) or False)
    assert call("remove", "runs/mine") == (0, "nothing removed\n", "")
    assert Path("runs/mine/recipe.toml").exists()
    assert asked[0].startswith("Remove 20 files, ") and "stays: runs/mine/notes.txt" in asked[0]
    monkeypatch.setattr("typer.confirm", lambda text, default: True)
    code, out, err = call("remove", "runs/mine")
    assert code == 0 and "stays       runs/mine/notes.txt: not written by netpress" in out
    assert sorted(look(Path("runs"))) == ["mine", "mine/notes.txt"]
    make_sweep(Path("runs/all"))
    assert call("remove", "runs/all", "--yes")[0] == 0 and not Path("runs/all").exists()


def test_beginning_anew_follows_no_link(tmp_path):
    """--fresh of a sweep clears members, but not a run that a link in its folder leads to."""
    other = make_run(tmp_path / "other")
    sweep = make_sweep(tmp_path / "sweep")
    (sweep.path / "link").symlink_to(other.path)
    before = look(other.path)
    with sweep.claimed(SWEEP, {"one": RUN}, fresh=True):
        pass
    assert look(other.path) == before and not (sweep.path / "one").exists()
