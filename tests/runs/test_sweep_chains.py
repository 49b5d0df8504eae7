"""Sweeps whose members are chains: a network that another member has trained is taken over, and the table has each."""

import copy
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from netpress.errors import Failure, UserError
from netpress.files import dump_toml
from netpress.recipe.schema import check_recipe
from netpress.runs.jobs import RunOptions
from netpress.runs.recipes import run_recipe
from netpress.runs.sweep import plan_sweep, read_sweep, report_sweep, run_sweep
from netpress.runs.sweep.sharing import shared_stages

pytestmark = pytest.mark.slow

TRAIN = {"kind": "train", "epochs": 1, "batch_size": 32}
CHAIN: dict[str, Any] = {
    "name": "swept",
    "data": {"dataset": "digits", "train_images": 64, "image_size": 8},
    "model": {"family": "resnet", "blocks": [1], "width": 4},
    "stages": [TRAIN],
    "networks": {
        "large": {"model": {"width": 8}},
        "small": {"stages": {"0": {"distillation": {"teachers": ["large"]}}}},
        "cut": {"model": {"network": "small"}, "stages": [{"kind": "prune", "amount": 0.5}, {"kind": "fold"}]},
    },
}
SWEEP = {
    "variants": {
        "plain": {},
        "refined": {"networks.small.stages.0": {**TRAIN, "loss": {"kind": "label_refinery", "teachers": ["large"]}}},
        "deeper": {"networks.cut.stages.0.amount": 0.75},
        "longer": {"networks.large.stages": [{**TRAIN, "epochs": 2}]},
    }
}


def written(folder: Path, sweep: dict[str, Any] = SWEEP, **more: Any) -> str:
    path = folder / "swept.toml"
    path.write_text(dump_toml({**copy.deepcopy(CHAIN), **more, "sweep": sweep}), encoding="utf-8")
    return str(path)


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "sweep.csv").read_text(encoding="utf-8"))))


class Said:
    """A console that keeps what was said."""

    def __init__(self) -> None:
        from netpress.process.console import Console

        self.lines: list[str] = []
        self.console = Console(quiet=True)
        object.__setattr__(self.console, "say", self.lines.append)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("sweep")
    said = Said()
    run_sweep(read_sweep(written(folder)), folder / "out", RunOptions(console=said.console))
    return folder / "out", said.lines


def test_plan_says_what_is_taken_over(call: Any, tmp_path: Path) -> None:
    path = written(tmp_path)
    planned = plan_sweep(read_sweep(path))
    assert {member["name"]: member["begins_with"] for member in planned["members"]} == {
        "plain": None,
        "refined": "large of plain",
        "deeper": "large, small of plain",
        "longer": None,  # all learn from another
    }
    assert planned["summary"].endswith("; what they share is run once")
    assert "4 runs of 9 epochs in all, 576 images" in planned["summary"]
    code, out, _ = call("plan", path)
    assert code == 0 and "large, small of plain" in out and "deeper" in out
    assert json.loads(call("plan", path, "--json")[1]) == planned
    halves = {"grid": {"networks.cut.stages.1": [{"kind": "fold"}, {"kind": "quantize", "preset": "int8"}]}}
    planned = plan_sweep(read_sweep(written(tmp_path, halves)))
    assert planned["members"][1]["begins_with"] == "large, small, cut/01-prune of 1-1"


def test_networks_are_taken_over_to_the_same_bytes(swept: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, said = swept
    assert [line for line in said if "takes" in line] == [
        "refined: takes large from plain",
        "deeper: takes large from plain",
        "deeper: takes small from plain",
    ]
    for member in read_sweep(str(folder / "recipe.toml")).members:
        run_recipe(member.recipe, tmp_path / member.name)
        for name in CHAIN["networks"]:
            ours, theirs = (place / member.name / name / "network.netpress" for place in (folder, tmp_path))
            assert ours.read_bytes() == theirs.read_bytes(), (member.name, name)
            figures = [json.loads(path.with_name("score.json").read_text()) for path in (ours, theirs)]
            assert figures[0] == figures[1]
        page = (folder / member.name / "large" / "report.html").read_text(encoding="utf-8")
        assert f"swept_{member.name}_large" in page and "swept_plain_large" not in page.replace(
            f"swept_{member.name}_large", ""
        )


def test_the_table_has_each_chain_by_its_result(swept: tuple[Path, list[str]]) -> None:
    folder, _ = swept
    rows = rows_of(folder)
    assert [(row["variant"], row["state"]) for row in rows] == [(name, "done") for name in SWEEP["variants"]]
    for row in rows:
        figures = json.loads((folder / row["member"] / "cut" / "score.json").read_text())
        assert float(row["accuracy"]) == figures["accuracy"] and float(row["score"]) == figures["score"]
        done = [json.loads(path.read_text())["seconds"] for path in (folder / row["member"]).glob("*/0*/done.json")]
        assert float(row["seconds"]) == pytest.approx(sum(done))
    amounts = {row["variant"]: float(row["sparsity"]) for row in rows}
    assert amounts["plain"] == pytest.approx(0.5, abs=0.01) and amounts["deeper"] == pytest.approx(0.75, abs=0.01)
    before = (folder / "sweep.csv").read_text(encoding="utf-8")
    (folder / "sweep.csv").unlink()
    report_sweep(folder)
    assert (folder / "sweep.csv").read_text(encoding="utf-8") == before


def test_every_stage_shows_every_network(tmp_path: Path) -> None:
    result = run_sweep(read_sweep(written(tmp_path, {"seeds": [1], "every_stage": True})), tmp_path / "out")
    assert [row.stage for row in result.table.rows] == ["large", "small", "cut"]
    assert sorted(path.name for path in (tmp_path / "out/seed-1").glob("*.json")) == ["score.json"]


def test_a_sweep_goes_on_and_is_cleared_with_its_chains(tmp_path: Path) -> None:
    path = written(tmp_path, {"seeds": [1]})
    run_sweep(read_sweep(path), tmp_path / "out")
    before = (tmp_path / "out/seed-1/score.json").stat().st_mtime_ns
    said = Said()
    run_sweep(read_sweep(written(tmp_path, {"seeds": [1, 2]})), tmp_path / "out", RunOptions(console=said.console))
    assert "seed-1: done before" in said.lines and not any("takes" in line for line in said.lines)
    assert (tmp_path / "out/seed-1/score.json").stat().st_mtime_ns == before
    changed = read_sweep(path, ["networks.large.model.width=6", "sweep.seeds=[1]"])
    with pytest.raises(UserError, match="member seed-1 was begun with another recipe"):
        run_sweep(changed, tmp_path / "out")
    run_sweep(changed, tmp_path / "out", RunOptions(fresh=True))
    assert not (tmp_path / "out/seed-2").exists()


def test_a_chain_that_fails_keeps_the_other_members_running(tmp_path: Path) -> None:
    wild = {"networks.small.stages.0.optimizer": {"kind": "sgd", "learning_rate": 1e30}}
    path = written(tmp_path, {"variants": {"wild": wild, "calm": {}}})
    with pytest.raises(Failure, match=r"(?s)1 of 2 members failed.*wild: 2 of 3 networks failed"):
        run_sweep(read_sweep(path), tmp_path / "out")
    first, second = rows_of(tmp_path / "out")
    assert first["state"].startswith("failed: ") and second["state"] == "done"
    bad = {"variants": {"bad": {"networks.cut.stages.0.layers": "nothing.*"}}}
    with pytest.raises(UserError, match=r"member bad: network cut: 01-prune"):
        run_sweep(read_sweep(written(tmp_path, bad)), tmp_path / "other")


def test_what_is_swept_reaches_every_network_as_written_and_as_the_folder_states_it(tmp_path: Path) -> None:
    grid = {"grid": {"data.train_images": [32, 48]}, "seeds": [5]}
    sweep = read_sweep(written(tmp_path, grid))
    (tmp_path / "kept.toml").write_text(sweep.recipe.text, encoding="utf-8")
    again = read_sweep(str(tmp_path / "kept.toml"))
    assert [member.recipe for member in again.members] == [member.recipe for member in sweep.members]
    for member, images in zip(again.members, (32, 48), strict=True):
        networks = member.recipe.networks.values()
        assert {(one.data.train_images, one.seed) for one in networks} == {(images, 5)}
    ensemble = copy.deepcopy(CHAIN["networks"]) | {"other": {"seed": 7}}
    with pytest.raises(UserError, match="member train_images-32_seed-5: seeds: other would lose seeds of their own"):
        read_sweep(written(tmp_path, grid, networks=ensemble))


def test_stages_that_go_by_the_score_are_shared_where_it_is_counted_alike() -> None:
    values = {key: value for key, value in CHAIN.items() if key != "networks"}
    prune = {"kind": "prune_channels", "score": 1e-3}
    values["stages"] = [TRAIN, {"kind": "fold"}, prune, {"kind": "fold"}]
    other = {**values, "score": {"convention": "uci"}}
    assert shared_stages(check_recipe(values), check_recipe(values)) == 4
    assert shared_stages(check_recipe(values), check_recipe(other)) == 2
