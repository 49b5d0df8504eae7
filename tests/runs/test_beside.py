"""Score cards beside the first: counted at the end of a run, from the network that the run leaves."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import netpress
from netpress.errors import UserError
from netpress.files import dump_toml
from netpress.recipe.schema import check_recipe
from netpress.report import make_report
from netpress.report.figures import decimal
from netpress.runs.recipes import plan_recipe, run_recipe

RECIPE: dict[str, Any] = {
    "name": "cards",
    "data": {"dataset": "digits", "train_images": 48, "image_size": 8},
    "model": {"family": "resnet", "blocks": [1], "width": 4},
    "stages": [{"kind": "prune", "amount": 0.5}],
    "beside": {"wave": {}, "whole": {"convention": "wave", "residual_adds": True}, "kaist": {"mask": "none"}},
}


def test_a_run_counts_and_tells_each(call, tmp_path):
    (tmp_path / "cards.toml").write_text(dump_toml(RECIPE), encoding="utf-8")
    code, out, err = call("run", "cards.toml", "--out", "run")
    assert code == 0, err
    figures = json.loads((tmp_path / "run" / "score.json").read_text(encoding="utf-8"))
    network = netpress.load(tmp_path / "run")
    expected = {
        "wave": netpress.score(network, convention="wave"),
        "whole": netpress.score(network, convention="wave", residual_adds=True),
        "kaist": netpress.score(network, convention="kaist", mask="none"),
    }
    assert list(figures["beside"]) == list(expected)
    for name, card in expected.items():
        told = {key: value for key, value in card.as_json().items() if key != "footprint"}  # the run's own card has it
        assert figures["beside"][name] == json.loads(json.dumps(told)), name
    assert figures["convention"] == "official"
    assert figures["score"] == netpress.score(network).score
    assert figures["beside"]["wave"]["score"] < figures["beside"]["whole"]["score"]
    lines = [line for line in out.splitlines() if line.startswith("beside")]
    for line, (name, card) in zip(lines, expected.items(), strict=True):
        called = "" if name == card.convention else f", {name}"
        assert line.startswith(f"beside      {card.score:.5f} by the {card.convention} convention{called}: ")
        assert f"{card.params:,.0f} values, {card.operations:,.0f} operations" in line
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert all(decimal(card.score) in page for card in expected.values())
    assert "residual additions counted, unlike their counter" in page


def test_a_run_without_any_is_as_it_was_and_takes_an_older_folder(tmp_path):
    recipe = check_recipe({key: value for key, value in RECIPE.items() if key != "beside"})
    result = run_recipe(recipe, tmp_path / "run")
    assert result.beside == {}
    assert "beside" not in json.loads(result.report.with_name("score.json").read_text(encoding="utf-8"))
    assert "beside" not in result.report.with_name("recipe.toml").read_text(encoding="utf-8")
    make_report(result.folder)
    with pytest.raises(UserError, match="holds a run of another recipe"):
        run_recipe(check_recipe(RECIPE), tmp_path / "run")


def test_the_plan_counts_each_for_the_dense_network(call, tmp_path: Path):
    planned = plan_recipe(check_recipe(RECIPE))
    assert list(planned["dense_beside"]) == ["wave", "whole", "kaist"]
    assert planned["dense_beside"]["wave"]["score"] < planned["dense_beside"]["whole"]["score"]
    told = re.search(r"dense score (.*?);", planned["summary"])
    assert told is not None
    assert [part.split()[1] for part in told[1].split(", ")] == ["(official)", "(wave)", "(whole)", "(kaist)"]
    assert plan_recipe(check_recipe({**RECIPE, "beside": {}}))["dense_beside"] == {}
