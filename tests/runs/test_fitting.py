"""Fitting a recipe to its limits: against plans of every combination, and what runs, sweeps and chains make of it."""

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netpress.errors import UserError
from netpress.files import dump_toml
from netpress.recipe.reading import read_recipe
from netpress.recipe.schema import Recipe, check_recipe
from netpress.runs import fitting
from netpress.runs.fitting import fit_recipe, list_counted
from netpress.runs.recipes import plan_recipe, run_recipe
from netpress.runs.sweep import plan_sweep, read_sweep, run_sweep

Call = Callable[..., tuple[int, str, str]]
WIDTH, AMOUNT, PRESET = "model.width", "stages.1.amount", "stages.2.preset"
TABLE: dict[str, list[Any]] = {WIDTH: [6, 3], AMOUNT: [0.3, 0.8], PRESET: ["int8", "int4"]}
STAGES: list[dict[str, Any]] = [
    {"kind": "train", "epochs": 1, "batch_size": 300},
    {"kind": "prune", "amount": 0.0},
    {"kind": "quantize", "calibration_images": 64},
]


def small(fit: dict[str, list[Any]] | None = None, stages: list[dict[str, Any]] | None = None, **more: Any) -> Recipe:
    model = {"family": "resnet", "width": 4, "blocks": [1, 1]}
    data = {"dataset": "digits", "image_size": 8}
    table = TABLE if fit is None else fit
    return check_recipe(
        {"name": "small", "data": data, "model": model, "stages": stages or STAGES, "fit": table} | more
    )


def with_limits(recipe: Recipe, **limits: float) -> Recipe:
    return read_recipe(recipe, [f"limits.{name}={limit!r}" for name, limit in limits.items()])


def at_worst(name: str, figure: float) -> float:
    """With what is kept in reserve, since the pruning here ranks all layers together."""
    return {"flash": math.ceil(figure * 1.03), "ram": figure, "score": figure * 1.06}[name]


@pytest.fixture(scope="module")
def plans() -> dict[tuple[Any, ...], dict[str, float]]:
    """What a plan says of each combination, in order of preference, each planned as a recipe of its own."""
    plain = {key: value for key, value in small().values.items() if key != "fit"}
    found = {}
    for chosen in itertools.product(*TABLE.values()):
        overrides = [f"{path}={json.dumps(value)}" for path, value in zip(TABLE, chosen, strict=True)]
        last = plan_recipe(read_recipe(plain, overrides))["stages"][-1]
        found[chosen] = {
            "flash": last["footprint"]["flash_bytes"],
            "ram": last["footprint"]["ram_bytes"],
            "score": last["score"],
        }
    return found


@pytest.mark.slow
def test_the_first_that_fits_is_chosen(plans: dict[tuple[Any, ...], dict[str, float]]) -> None:
    """Of every limit, and of every two, that a combination just keeps: the first by the plans of all."""
    seen = set()
    kept = [{name: at_worst(name, figure) for name, figure in figures.items()} for figures in plans.values()]
    own = [{name: figures[name]} for figures in kept[1::2] for name in figures]
    own += [{"flash": figures["flash"], "score": figures["score"]} for figures in kept[::3]]
    for limits in {tuple(one.items()): one for one in own}.values():
        expected = next(
            chosen
            for chosen, figures in plans.items()
            if all(at_worst(name, figures[name]) <= limit for name, limit in limits.items())
        )
        fitted = fit_recipe(with_limits(small(), **limits))
        assert tuple(fitted.values.values()) == expected
        assert fitted.chosen is not None and fitted.chosen.place == list(plans).index(expected) + 1
        assert {taken.name: taken.found for taken in fitted.chosen.taken} == {n: plans[expected][n] for n in limits}
        plan_recipe(fitted.recipe)  # is not refused
        seen.add(expected)
    assert len(seen) >= 4


def test_without_limits_or_a_table_the_recipe_is_as_it_stands() -> None:
    assert fit_recipe(small()).recipe == small()
    alone = with_limits(small({}), flash=1)
    assert fit_recipe(alone).recipe == alone


@pytest.mark.slow
def test_where_nothing_fits_the_least_is_told_and_would_fit(plans: dict[tuple[Any, ...], dict[str, float]]) -> None:
    for name in ("flash", "ram", "score"):
        least = at_worst(name, min(figures[name] for figures in plans.values()))
        with pytest.raises(UserError, match="none of the 8 combinations") as refused:
            fit_recipe(with_limits(small(), **{name: least * 0.7 if name == "score" else int(least * 0.7)}))
        text = str(refused.value)
        enough = re.search(rf"--{name} (\S+) would fit", text)
        assert enough is not None and f"limits.{name}: the least is " in text
        assert float(enough[1]) == pytest.approx(least, abs=1e-6 if name == "score" else 0)
        assert fit_recipe(read_recipe(small(), [f"limits.{name}={enough[1]}"])).values
    with pytest.raises(UserError) as refused:
        fit_recipe(with_limits(small(), flash=1, ram=1, score=1e-9))
    assert len(re.findall(r"limits\.\w+: the least is", str(refused.value))) == 3


def test_limits_that_only_some_keep_each_are_told_together() -> None:
    """A wide network of few weights and a narrow one of many: one keeps flash, the other memory."""
    table = {
        "model": [
            {"family": "resnet", "width": 2, "blocks": [2, 2, 2]},
            {"family": "resnet", "width": 4, "blocks": [1]},
        ]
    }
    counted = list(list_counted(with_limits(small(table), flash=1, ram=1), None))
    (deep_flash, deep_ram), (wide_flash, wide_ram) = ([taken.most for taken in one.taken] for one in counted)
    assert deep_flash > wide_flash and deep_ram < wide_ram
    with pytest.raises(UserError, match="although each one is kept by some") as refused:
        fit_recipe(with_limits(small(table), flash=wide_flash, ram=deep_ram))
    text = str(refused.value)
    assert "limits.flash: the least where the others are kept is flash " in text
    assert f"--flash {deep_flash:.0f} would fit" in text and f"--ram {wide_ram:.0f} would fit" in text
    assert fit_recipe(with_limits(small(table), flash=deep_flash, ram=deep_ram)).values["model"]["width"] == 2


def test_what_cannot_run_is_passed_over_and_told() -> None:
    table = {AMOUNT: [0.9999, 0.9]}  # the first leaves fewer weights than there are layers
    fitted = fit_recipe(with_limits(small(table), flash="1M"))
    assert fitted.values == {AMOUNT: 0.9} and len(fitted.refused) == 1
    assert "1 before it cannot run, such as stages.1.amount = 0.9999: 02-prune: amount 0.9999 leaves" in fitted.told()
    with pytest.raises(UserError, match=r"none of the 1 combinations can run, such as stages\.1\.amount = 0\.9999"):
        fit_recipe(with_limits(small({AMOUNT: [0.9999]}), flash="1M"))


def test_what_only_the_run_finds_counts_as_if_nothing_came_of_it() -> None:
    stages = [STAGES[0], {"kind": "prune_to_gate", "gate": 0.5}]
    counted = list(list_counted(with_limits(small({WIDTH: [6, 4]}, stages), flash=1), None))
    smaller = int(counted[1].taken[0].found)
    fitted = fit_recipe(with_limits(small({WIDTH: [6, 4]}, stages), flash=smaller))
    assert fitted.values == {WIDTH: 4}


def test_a_run_states_its_choice_and_goes_on_with_it(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, plans: dict[tuple[Any, ...], dict[str, float]]
) -> None:
    (tmp_path / "small.toml").write_text(dump_toml(small().values))
    limit = at_worst("flash", plans[6, 0.8, "int4"]["flash"])
    words = ("small.toml", "--flash", limit, "--ram", "1M", "--score", "0.1")
    code, out, _ = call("plan", *words)
    assert code == 0 and "chosen by [fit]: number 4 of 8 in order of preference" in out
    code, out, err = call("run", *words)
    assert code == 0 and "fit: model.width = 6, stages.1.amount = 0.8, stages.2.preset = 'int4'" in out + err
    assert "RAM " in out and out.splitlines()[-2].startswith("limits      flash ") and ": all kept" in out
    text = (tmp_path / "runs/small/recipe.toml").read_text()
    stated = read_recipe("runs/small/recipe.toml")
    assert stated.text == text and not stated.fit and stated.limits.flash == limit and stated.model["width"] == 6
    # The same command finds the run finished, without counting; so does the recipe that the folder states.
    monkeypatch.setattr(fitting, "list_counted", None)
    for again in (words, ("runs/small/recipe.toml", "--out", "runs/small")):
        code, out, err = call("run", *again)
        assert code == 0 and "01-train: done before" in out + err
    code, _, err = call("run", *words, "--set", "model.width=6", "--set", "fit={}")
    assert code == 2 and "holds a run of another recipe" in err


def test_what_nothing_fits_ends_with_exit_code_2_and_leaves_nothing(tmp_path: Path, call: Call) -> None:
    (tmp_path / "small.toml").write_text(dump_toml(small().values))
    for command in ("plan", "run"):
        code, _, err = call(command, "small.toml", "--flash", 300)
        assert (
            code == 2
            and "limits.flash: the least is flash 384 B + 3% of 300 B, 96 B too many, with model.width = 3" in err
        )
    assert not (tmp_path / "runs").exists()
    (tmp_path / "plain.toml").write_text(dump_toml(small({}).values))
    code, _, err = call("plan", "plain.toml", "--flash", 300)
    assert code == 2 and "a [fit] table in the recipe names values to choose from, here of model.width" in err


@pytest.mark.slow
def test_members_of_a_sweep_are_fitted_each_but_seeds_alike(
    tmp_path: Path, plans: dict[tuple[Any, ...], dict[str, float]]
) -> None:
    # Which weights are the smallest differs from seed to seed, and with them a few bytes.
    flashes = [int(plans[chosen]["flash"] * 1.03) + 20 for chosen in ((6, 0.3, "int8"), (3, 0.8, "int4"))]
    values = small(sweep={"seeds": [1, 2], "grid": {"limits.flash": flashes}}).values
    (tmp_path / "several.toml").write_text(dump_toml(values))
    sweep = read_sweep(str(tmp_path / "several.toml"))
    planned = plan_sweep(sweep)["members"]
    assert [tuple(member["fit"]["values"].values()) for member in planned] == [
        *[(6, 0.3, "int8")] * 2,
        *[(3, 0.8, "int4")] * 2,
    ]
    run_sweep(sweep, tmp_path / "runs")
    widths = [read_recipe(str(path)).model["width"] for path in sorted((tmp_path / "runs").glob("*/recipe.toml"))]
    assert sorted(widths) == [3, 3, 6, 6]
    run_sweep(sweep, tmp_path / "runs")  # all are there: nothing is refused as another recipe
    tight = ['sweep.grid."limits.flash"=[398]']  # 383 bytes of the first seed and 3% fit, of the second 389 do not
    with pytest.raises(
        UserError, match=r"member flash-398_seed-1: fit: none of the 8 (.|\n)*is flash 389 B \+ 3% of 398 B"
    ):
        plan_sweep(read_sweep(str(tmp_path / "several.toml"), tight))
    with pytest.raises(UserError, match=r"member flash-1_seed-1: fit: none of the 8"):
        plan_sweep(read_sweep(str(tmp_path / "several.toml"), ['sweep.grid."limits.flash"=[1]']))


def test_a_chain_is_fitted_for_its_result(tmp_path: Path) -> None:
    own = small()
    pruned = {"model": {"network": "large"}, "stages": [{"kind": "prune", "amount": 0.1}]}
    table = {"networks.large.model.width": [6, 3], "networks.pruned.stages.0.amount": [0.2, 0.8]}
    values = {"name": "two", "data": own.values["data"], "fit": table}
    large = {"model": own.model, "stages": [STAGES[0]]}
    chain = check_recipe(values | {"networks": {"large": large, "pruned": pruned}})
    counted = [one.taken[0] for one in list_counted(with_limits(chain, flash=1), None)]
    found, most = ([getattr(taken, name) for taken in counted] for name in ("found", "most"))
    assert len(found) == 4 and len(set(found)) == 4
    for place, flash in enumerate(most):
        fitted = fit_recipe(with_limits(chain, flash=flash))
        expected = next(i for i, other in enumerate(most) if other <= flash)
        assert fitted.chosen is not None and fitted.chosen.place == expected + 1, place
        result = plan_recipe(fitted.recipe)["networks"][-1]
        assert result["stages"][-1]["footprint"]["flash_bytes"] == found[expected]
    result = run_recipe(with_limits(chain, flash=most[1]), tmp_path / "two")
    assert result.footprint.flash_bytes <= most[1]
