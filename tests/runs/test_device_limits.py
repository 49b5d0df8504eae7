"""Flash and memory in plans and runs, and limits on them: refused before anything runs, told where nobody knows yet."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netpress.cli.sizes import tabulate_plan
from netpress.errors import UserError
from netpress.files import dump_toml
from netpress.network import create, inspect_file, save
from netpress.recipe.reading import read_recipe
from netpress.recipe.schema import check_recipe
from netpress.runs.recipes import plan_recipe, run_recipe
from netpress.scoring import choose_settings, measure_footprint, score, score_trace, trace_network

Call = Callable[..., tuple[int, str, str]]
KIB = 1024
TRAIN = {"kind": "train", "epochs": 1, "batch_size": 300}
PRUNE = {"kind": "prune", "amount": 0.5, "train": None}
QUANTIZE = {"kind": "quantize", "preset": "int8", "calibration_images": 64}


def recipe(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    table = {"family": "c_efficientnet", "preset": "tiny", "width_factor": 0.25}
    plain = [{key: value for key, value in stage.items() if value is not None} for stage in stages]
    return {"name": "small", "data": {"dataset": "digits"}, "model": table, "stages": plain, **more}


def plan(values: dict[str, Any]) -> dict[str, Any]:
    return plan_recipe(check_recipe(values))


def figures(planned: dict[str, Any], name: str) -> list[float]:
    return [planned["footprint"][name], *(stage["footprint"][name] for stage in planned["stages"])]


def test_a_plan_foresees_what_the_run_finds(tmp_path: Path) -> None:
    values = recipe(TRAIN, PRUNE, QUANTIZE)
    planned = plan(values)
    result = run_recipe(check_recipe(values), tmp_path / "run")
    found = json.loads((tmp_path / "run/score.json").read_text())["footprint"]
    assert found["flash_bytes"] * 8 == inspect_file(tmp_path / "run/network.netpress")["tensor_bits"]
    assert (found["flash_bytes"], found["ram_bytes"]) == (result.footprint.flash_bytes, result.footprint.ram_bytes)
    foreseen = planned["stages"][-1]["footprint"]
    assert {key: foreseen[key] for key in ("ram_bytes", "ram_at", "multiply_adds")} == {
        key: found[key] for key in ("ram_bytes", "ram_at", "multiply_adds")
    }
    # Weights that rounding makes zero, and masks that do not pay, are known only then.
    assert foreseen["flash_bytes"] == pytest.approx(found["flash_bytes"], rel=0.05)
    flash, left = figures(planned, "flash_bytes"), figures(planned, "nonzero_multiply_adds")
    assert flash[0] == flash[1] > flash[2] > flash[3] and left[0] == left[1] > left[2]
    assert found["nonzero_multiply_adds"] <= left[2]
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert f"{found['flash_bytes'] / KIB:.1f} KiB" in page and f"{found['ram_bytes'] / KIB:.1f} KiB" in page
    assert all(f"{one['name']}<" in page for one in found["operations"])


def test_a_plan_knows_that_norms_which_stay_take_up_their_statistics(tmp_path: Path) -> None:
    model = {"family": "densenet", "blocks": [1, 1], "growth": 4}
    values = recipe({**QUANTIZE, "fold": False}, model=model)
    foreseen = plan(values)["stages"][0]["footprint"]
    assert foreseen["flash_bytes"] == run_recipe(check_recipe(values), tmp_path / "run").footprint.flash_bytes


def test_limits_are_those_of_what_the_last_stage_leaves() -> None:
    flash = figures(plan(recipe(TRAIN, PRUNE)), "flash_bytes")
    limit = (flash[1] + flash[2]) // 2
    assert plan(recipe(TRAIN, PRUNE, limits={"flash": limit}))["limits"] == {"flash": limit}
    with pytest.raises(UserError, match=r"limits\.flash: the network takes .* too many; what would fit: "):
        plan(recipe(TRAIN, limits={"flash": limit}))


def test_what_only_the_run_finds_is_not_refused_but_told() -> None:
    gate = {"kind": "prune_to_gate", "gate": 0.5}
    assert plan(recipe(TRAIN, gate, limits={"flash": 2 * KIB}))["stages"][1]["undecided"] == ["flash", "score"]
    rows = tabulate_plan(plan(recipe(TRAIN, gate)))
    assert [row["flash"].startswith("at most ") for row in rows] == [False, False, True]
    assert not any(row["RAM"].startswith("at most ") for row in rows)
    with pytest.raises(UserError, match=r"limits\.ram"):  # pruning leaves every map as it is
        plan(recipe(TRAIN, gate, limits={"ram": 2 * KIB}))
    auto = {"kind": "quantize", "bits": "auto", "target_accuracy": 0.9}
    assert plan(recipe(TRAIN, auto, limits={"ram": 2 * KIB, "flash": 2 * KIB}))["stages"][1]["undecided"]


def test_a_run_that_turns_out_too_large_says_so(tmp_path: Path, call: Call) -> None:
    values = recipe(TRAIN, {"kind": "prune_to_gate", "gate": 0.001, "first_amount": 0.01, "last_amount": 0.01})
    (tmp_path / "gate.toml").write_text(dump_toml(values))
    code, out, err = call("run", "gate.toml", "--flash", "2K")
    assert code == 0 and "limits.flash: the network takes" in err + out
    assert [line.split()[0] for line in out.strip().splitlines()[-9:]] == [
        *("accuracy", "parameters", "operations", "score", "flash", "RAM", "products", "limits", "report")
    ]
    found = json.loads(Path("runs/small/score.json").read_text())
    assert found["limits"] == [
        {"name": "flash", "limit": 2 * KIB, "found": found["footprint"]["flash_bytes"], "fits": False}
    ]
    assert "of 2.0 KiB: not all kept" in out


@pytest.mark.parametrize("command", ["plan", "run"])
def test_the_options_refuse_before_anything_runs(command: str, tmp_path: Path, call: Call) -> None:
    (tmp_path / "small.toml").write_text(dump_toml(recipe(TRAIN, PRUNE)))
    code, _, err = call(command, "small.toml", "--flash", "4K", "--ram", "8K")
    assert code == 2 and "limits.flash" in err and "of 4.0 KiB" in err
    assert "limits.ram: activations take" in err and "where these are alive: " in err
    assert not (tmp_path / "runs").exists()
    code, _, err = call(command, "small.toml", "--flash", "a lot")
    assert code == 2 and "limits.flash: 'a lot' is no size" in err
    code, _, err = call(command, "small.toml", "--ram", "1M", "--set", "limits.ram=5")
    assert code == 2 and "--ram and --set limits.ram say the same" in err


def test_apply_has_the_options_too(tmp_path: Path, call: Call) -> None:
    network = create("c_efficientnet", {"widths": "tiny", "classes": 10, "image_size": 16})
    save(network, tmp_path / "a.netpress")
    words = ("apply", "prune", "a.netpress", "--out", "b.netpress", "--set", "amount=0.5")
    code, _, err = call(*words, "--flash", "20K")
    assert code == 2 and "prune: limits.flash: the network takes" in err and not (tmp_path / "b.netpress").exists()
    code, _, _ = call(*words, "--flash", "200K", "--ram", "1M")
    assert code == 0 and (tmp_path / "b.netpress").exists()


def test_of_several_networks_the_result_has_the_limits() -> None:
    large = {"model": {"family": "c_efficientnet", "preset": "tiny"}, "stages": [TRAIN]}
    values = {"name": "two", "data": {"dataset": "digits"}, "networks": {"large": large, "small": {**recipe(TRAIN)}}}
    for key in ("name", "data"):
        values["networks"]["small"].pop(key)  # type: ignore[index]
    most = {name: one["footprint"]["flash_bytes"] for name, one in by_name(plan(values)).items()}
    assert most["large"] > most["small"]
    limited = {**values, "limits": {"flash": most["small"]}}
    assert by_name(plan(limited))["small"]["limits"] == {"flash": most["small"]}
    assert by_name(plan(limited))["large"]["limits"] == {}
    with pytest.raises(UserError, match=r"network large: limits\.flash"):
        plan({**limited, "result": "large"})
    # What a run's folder keeps is the same recipe, and an override of it reaches the network that is the result.
    again = read_recipe(check_recipe(limited).values)
    assert again == check_recipe(limited)
    other = read_recipe(again, [f"limits.flash={most['small'] - 1}"])
    assert other.networks["small"].limits.flash == other.limits.flash == most["small"] - 1


def by_name(planned: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in planned["networks"]}


def test_a_recipe_without_limits_has_the_text_that_it_had_before_there_were_any() -> None:
    assert "limits" not in check_recipe(recipe(TRAIN)).text
    assert "[limits]\nflash = 262144" in check_recipe(recipe(TRAIN, limits={"flash": "256K"})).text


def test_the_plan_is_printed_with_units(tmp_path: Path, call: Call) -> None:
    (tmp_path / "small.toml").write_text(dump_toml(recipe(TRAIN, PRUNE)))
    _, out, _ = call("plan", "small.toml")
    table = out.partition("on the device\n")[2].splitlines()
    assert [line.split("  ")[0] for line in table] == ["network", "as it begins", "after 01-train", "after 02-prune"]
    assert all(line.count("KiB") == 2 for line in table[1:])


def test_the_figures_of_a_network_do_not_depend_on_the_convention() -> None:
    network = create("c_efficientnet", {"widths": "tiny", "classes": 10, "image_size": 16}, shapes=True)
    traced = trace_network(network)
    expected = measure_footprint(traced, network)
    for convention in ("official", "kaist", "uci"):
        assert score(network, convention=convention).footprint == expected
    assert score_trace(traced, choose_settings("wave")).footprint is None
    assert score(network, weight_bits=4, activation_bits=4).footprint == expected
