"""Plans of chains: each network is planned on what the others would leave, and what a run would refuse is refused."""

import copy
import json
from typing import Any

import pytest

from netpress.errors import UserError
from netpress.files import dump_toml
from netpress.recipe.schema import check_recipe
from netpress.runs.chain import plan_chain
from netpress.runs.recipes import plan_recipe, run_recipe

SMALL = {"family": "resnet", "blocks": [1], "width": 4}
TRAIN = {"kind": "train", "epochs": 2, "batch_size": 32}
BASE: dict[str, Any] = {
    "name": "plans",
    "data": {"dataset": "digits", "train_images": 64, "image_size": 8},
    "model": SMALL,
    "stages": [TRAIN],
}


def chain(**networks: Any) -> dict[str, Any]:
    return copy.deepcopy(BASE) | {"networks": copy.deepcopy(networks)}


def taught(*names: str, **more: Any) -> dict[str, Any]:
    return {"stages": {"0": {"distillation": {"teachers": list(names)}}}, **more}


def test_a_plan_tells_each_network_in_the_order_of_the_runs():
    recipe = check_recipe(chain(b=taught("a", data={"train_images": 32}), a={"stages": [{**TRAIN, "epochs": 3}]}))
    planned = plan_recipe(recipe)
    first, second = planned["networks"]
    assert [(first["name"], first["needs"]), (second["name"], second["needs"])] == [
        ("a", {}),
        ("b", {"a": "is taught by"}),
    ]
    assert (first["epochs"], second["epochs"], planned["epochs"], planned["result"]) == (3, 2, 5, "a")
    # 64 and 32 images less the validation split of each
    images = 3 * first["train_images"] + 2 * second["train_images"]
    assert f"2 networks of 5 epochs in all, {images} images; the result is a" in planned["summary"]
    alone = {key: value for key, value in BASE.items() if key != "name"} | {"name": "alone"}
    assert first["dense"] == plan_recipe(check_recipe(alone))["dense"]


WIDE = {"data": {"image_size": 16}}
REFUSED = {
    "another size": (chain(a=WIDE, b=taught("a")), "network b: .*a maps .*16.* the student .*8.*must agree"),
    "begins with another size": (chain(a=WIDE, b={"model": {"network": "a"}}), "network b: .*images of .*16"),
    "a name that is not there": (
        chain(a={}, b=taught("c")),
        r"network b: 01-train: distillation\.teachers: c: .*networks of this recipe before this one: a",
    ),
    "a network that is not there": (
        chain(a={}, b={"model": {"network": "c"}}),
        "network b: 'c': no such model.*recipe before this one: a$",
    ),
    "folded norms": (
        chain(
            a={"stages": [TRAIN, {"kind": "fold"}]},
            b={"stages": {"0": {"distillation": {"teachers": ["a"], "mode": "batch_statistics"}}}},
        ),
        "network b: .*teacher a: cannot normalise by the batch.*norms are folded",
    ),
    "a quantized teacher": (
        chain(
            a={"stages": [{"kind": "quantize", "preset": "int8"}]},
            b={"stages": {"0": {"distillation": {"teachers": ["a"], "mode": "batch_statistics"}}}},
        ),
        "network b: .*numbers have formats",
    ),
    "a training after quantization": (
        chain(a={"stages": [{"kind": "quantize", "preset": "int8"}]}, b={"model": {"network": "a"}}),
        "network b: 01-train: .*quantize",
    ),
    "a second fold": (
        chain(a={"stages": [{"kind": "fold"}]}, b={"model": {"network": "a"}, "stages": [{"kind": "fold"}]}),
        "network b: 01-fold: ",
    ),
    "a stage of another network": (
        chain(
            a={},
            b={"model": {"network": "a"}, "stages": [{"kind": "prune", "amount": 0.5, "layers": "nothing.*"}]},
        ),
        r"network b: 01-prune: .*nothing\.\*",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_is_refused_before_anything_is_written(case, call, tmp_path):
    values, message = REFUSED[case]
    recipe = check_recipe(values)
    with pytest.raises(UserError, match=f"(?s){message}"):
        plan_recipe(recipe)
    with pytest.raises(UserError, match=f"(?s){message}"):
        run_recipe(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_sets_of_other_classes_are_refused():
    values = chain(a={"data": {"dataset": "cifar10", "image_size": 32}}, b=taught("a"))
    values["data"] = {"dataset": "digits"}
    with pytest.raises(UserError, match="network b: needs a, which learns the classes of cifar10, not of digits"):
        plan_chain(check_recipe(values))
    values["networks"]["b"]["data"] = {"classes_by_number": True}
    assert len(plan_chain(check_recipe(values))["networks"]) == 2
    values["networks"]["a"]["data"]["dataset"] = "cifar100"
    with pytest.raises(UserError, match=r"(?s)network b: .*teacher a maps .* to 100 classes, the student .* to 10;"):
        plan_chain(check_recipe(values))


def test_a_circle_is_told_by_the_command(call, tmp_path):
    path = tmp_path / "circle.toml"
    path.write_text(dump_toml(chain(a=taught("b"), b=taught("a"))), encoding="utf-8")
    code, _, err = call("plan", path)
    assert code == 2 and "no network of these can be the first: a is taught by b, b is taught by a" in err


STRUCTURES = {
    "fold": [{"kind": "fold"}],
    "prune": [{"kind": "prune", "amount": 0.5}],
    "channels": [{"kind": "prune_channels", "keep": 0.5, "scope": "layer"}],
    "factors": [{"kind": "factorize", "keep": 0.5}],
    "quantize": [{"kind": "quantize", "preset": "int8"}],
    "pruned and quantized": [{"kind": "prune", "amount": 0.5}, {"kind": "quantize", "preset": "int8"}],
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_network_that_begins_with_another_is_planned_on_what_it_leaves(name, tmp_path):
    """The plan is that of the second recipe given the first's file; ranks of factors are estimates before a run."""
    later = {"model": {"network": "a"}, "stages": [{"kind": "quantize", "preset": "int8"}]}
    second = plan_chain(check_recipe(chain(a={"stages": STRUCTURES[name]}, b=later)))["networks"][1]
    left = run_recipe(check_recipe({**BASE, "name": "first", "stages": STRUCTURES[name]}), tmp_path / name).network
    assert left.architecture.edits or left.masks or left.formats
    alone = {**BASE, "name": "b", "model": {"network": str(tmp_path / name)}, "stages": later["stages"]}
    expected = plan_recipe(check_recipe(alone))
    if name != "factors":
        assert second["weights"] == expected["weights"]
        assert second["dense"] == pytest.approx(expected["dense"], rel=0.01)  # single weights round to zero
        for ours, theirs in zip(second["stages"], expected["stages"], strict=True):
            counts = [stage["footprint"].pop("nonzero_multiply_adds") for stage in (ours, theirs)]
            scores = [stage.pop("score") for stage in (ours, theirs)]
            assert (counts[0], scores[0]) == pytest.approx((counts[1], scores[1]), rel=0.01)
        assert second["stages"] == expected["stages"]
    ours, theirs = ([row["what"] for row in plan["stages"][0]["rows"]] for plan in (second, expected))
    assert ours == theirs


def test_plans_as_json_and_as_text(call, tmp_path):
    path = tmp_path / "plans.toml"
    path.write_text(dump_toml(chain(a={}, b=taught("a"), c={"model": {"network": "b"}})), encoding="utf-8")
    code, out, _ = call("plan", path, "--json")
    planned = json.loads(out)
    assert code == 0 and [network["name"] for network in planned["networks"]] == ["a", "b", "c"]
    assert planned["networks"][2]["needs"] == {"b": "begins with"}
    code, out, _ = call("plan", path)
    assert code == 0 and "begins with b" in out and "is taught by a" in out
    for name in "abc":
        assert f"\n{name}/01-train\n" in out
    assert not (tmp_path / "runs").exists()
