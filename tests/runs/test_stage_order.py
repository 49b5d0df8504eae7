"""Stages in an order that cannot be: refused by plan, and by run before anything is read or written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from netpress.compression.magnitude import choose_masks, count_left, count_removed
from netpress.errors import NetpressError, UserError
from netpress.network import create, save
from netpress.recipe.schema import Recipe, check_recipe
from netpress.runs.recipes import plan_recipe, run_recipe

pytestmark = pytest.mark.slow

TRAIN = {"kind": "train", "epochs": 1}
FOLD = {"kind": "fold"}
PRUNE = {"kind": "prune", "amount": 0.5}
QUANTIZE = {"kind": "quantize"}
ONE = {"train": {"epochs": 1}}
LAYER = {"scope": "layer"}
REWIND = {"weights": "rewind", **ONE}


def recipe_of(*stages: dict[str, Any], **tables: Any) -> Recipe:
    model = {"family": "c_efficientnet", "preset": "tiny", "width_factor": 0.5}
    return check_recipe({"name": "order", "model": model, "stages": list(stages), **tables})


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([QUANTIZE, TRAIN], "02-train: training after a stage that quantizes"),
        ([QUANTIZE | {"preset": "half"}, TRAIN], "02-train: training after a stage that quantizes"),
        ([QUANTIZE, PRUNE | ONE], "02-prune: training after a stage that quantizes"),
        ([QUANTIZE, FOLD], "02-fold: folding after a stage that quantizes"),
        ([FOLD, FOLD], "02-fold: nothing to fold"),
        ([FOLD, PRUNE | REWIND], "02-prune: weights = 'rewind' cannot restore the first weights"),
        ([TRAIN, PRUNE, PRUNE | {"amount": 0.3}], "03-prune: amount 0.3: .* are zero already"),
        (
            [PRUNE | {"scope": "layer"}, PRUNE | {"scope": "layer", "amount": 0.3}],
            "02-prune: amount 0.3: .* zero already",
        ),
        ([TRAIN, PRUNE | {"layers": "nowhere.*"}], "02-prune: layers: 'nowhere"),
        ([TRAIN, TRAIN | {"orthogonality": {"on": "grouped"}}], "02-train: orthogonality.on: 'grouped'"),
        ([TRAIN, QUANTIZE | {"leave_out": ["nowhere"]}], "02-quantize: leave_out: 'nowhere'"),
        ([TRAIN, QUANTIZE | {"weights": {"kind": "power"}}], "02-quantize: stem.conv: weights cannot be power"),
        ([TRAIN, QUANTIZE | {"accumulators": 2}], "02-quantize: accumulators = 2: no wider than the 8 bits"),
        ([TRAIN, PRUNE | {"layers": []}], "02-prune: layers: an empty list"),
        ([TRAIN | {"distillation": {"weight": 0.5}}], "01-train: distillation.teachers: names no network"),
        ([PRUNE | {"train": {"distillation": {}}}], "01-prune: distillation.teachers: names no network"),
        ([TRAIN, TRAIN | {"distillation": {"teachers": ["gone"]}}], "02-train: distillation.teachers: gone: no such"),
        (
            [TRAIN, TRAIN | {"distillation": {"teachers": ["resnet"]}}],
            "02-train: .*teachers: resnet: no such",
        ),
        ([TRAIN | {"augment": {"crop": 32}}], "01-train: augment.crop: 32 pixels around images of 32"),
        ([TRAIN | {"augment": {"policy": "/dev/zero"}}], "01-train: policy /dev/zero: is no regular file"),
    ],
)
def test_orders_that_cannot_be(tmp_path: Path, stages: list[dict[str, Any]], message: str) -> None:
    recipe = recipe_of(*stages)
    with pytest.raises(UserError, match=message):
        plan_recipe(recipe)
    with pytest.raises(UserError, match=message):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "stages",
    [
        [TRAIN, PRUNE, FOLD, QUANTIZE],
        [FOLD, TRAIN | {"orthogonality": {}}, PRUNE],
        [PRUNE | REWIND, FOLD],
        [PRUNE | {"amount": 0.3}, PRUNE, QUANTIZE, PRUNE | {"amount": 0.6}],
        [QUANTIZE, QUANTIZE | {"preset": "int4"} | ONE],
        [QUANTIZE | {"train": {"epochs": 1, "distillation": {"weight": 0.5}}}],
    ],
)
def test_orders_that_can_be(stages: list[dict[str, Any]]) -> None:
    assert len(plan_recipe(recipe_of(*stages))["stages"]) == len(stages)


def test_pruning_after_quantizing_runs(tmp_path: Path) -> None:
    stages = (QUANTIZE | {"calibration_images": 64}, PRUNE | {"amount": 0.6})
    result = run_recipe(recipe_of(*stages, data={"train_images": 128}), tmp_path / "run")
    weights = result.network.weights().values()
    total = sum(weight.numel() for weight in weights)
    assert sum(int(weight.count_nonzero()) for weight in weights) == total - count_removed(0.6, total)


def test_teachers_that_do_not_fit(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.netpress"
    for settings, message in (({"classes": 7}, "to 7 classes"), ({"classes": 10, "image_size": 16}, r"\(3, 16, 16\)")):
        save(create("resnet", {"width": 4, **settings}), teacher)
        with pytest.raises(UserError, match=rf"02-train: teacher .* {message}"):
            plan_recipe(recipe_of(TRAIN, TRAIN | {"distillation": {"teachers": [str(teacher)]}}))
    save(create("resnet", {"width": 4, "classes": 10}), teacher)
    assert plan_recipe(recipe_of(TRAIN | {"distillation": {"teachers": [str(teacher)]}}))["epochs"] == 1


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"model": {"family": "resnet", "classes": 7}}, "model.classes: the recipe says 7, digits has 10"),
        ({"model": {"family": "resnet", "image_size": 16}}, "model.image_size: the recipe says 16, digits has 32"),
        ({"data": {"train_images": 1348}}, r"1,348 is more than the 1,347 images there are \(1,497 less 150"),
        ({"data": {"train_images": 1}}, "01-train: the data leaves 1 images"),
        ({"model": {"network": "other.netpress"}}, "the network tells 7 classes apart .* has 10"),
    ],
)
def test_data_and_network_must_agree_in_a_plan_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save(create("resnet", {"width": 4, "classes": 7}), "other.netpress")
    recipe = recipe_of(TRAIN, **tables)
    for attempt in (lambda: plan_recipe(recipe), lambda: run_recipe(recipe, tmp_path / "run")):
        with pytest.raises(UserError, match=message):
            attempt()
    assert not (tmp_path / "run").exists()


class Seven(nn.Module):
    def __init__(self, outputs: int = 7) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, outputs)

    def forward(self, x: torch.Tensor) -> Any:
        return self.linear(torch.relu(self.conv(x)).mean((2, 3)))


class Pair(Seven):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), x


class Named(Seven):
    def forward(self, x: torch.Tensor) -> Any:
        return {"logits": super().forward(x)}


class Small(Seven):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x[:, :, :2])


class Lazy(Seven):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(10)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Seven", r"Seven: its forward gives \[2, 7\] of float32 for two images of 3x32x32; 10 classes need \[2, 10\]"),
        ("Pair", "Pair: its forward gives a tuple"),
        ("Named", "Named: its forward gives a dict"),
        ("Small", "Small: its forward pass fails for an input of 3x32x32"),
        ("Lazy", "linear.weight of Lazy has no shape yet, because its layer is lazy"),
        ("Nothing", "Nothing"),
    ],
)
def test_own_modules_that_give_something_else(tmp_path: Path, name: str, message: str) -> None:
    recipe = recipe_of(TRAIN, model={"family": "import", "target": f"{__name__}:{name}"})
    for attempt in (lambda: plan_recipe(recipe), lambda: run_recipe(recipe, tmp_path / "run")):
        with pytest.raises(UserError, match=message):
            attempt()
    assert not (tmp_path / "run").exists()


def test_an_own_module_that_fits() -> None:
    model = {"family": "import", "target": f"{__name__}:Seven", "arguments": {"outputs": 10}}
    assert plan_recipe(recipe_of(TRAIN, PRUNE, model=model))["weights"] == 8 * 27 + 80


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_many_rounds_at_once_leave_what_round_after_round_does(scope: Any) -> None:
    """With ties, with masks of before, with tensors whose largest weight is rescued."""
    rescued = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.randint(1, 200, (int(seed % 5) + 1,), generator=generator).tolist()
        weights = {f"w{i}": torch.randn(1, n, generator=generator) * 10.0 ** -(i % 3) for i, n in enumerate(sizes)}
        if seed % 3 == 0:
            weights = {name: (weight * 4).round() / 4 + 0.125 for name, weight in weights.items()}
        masks = {"w0": torch.rand(1, sizes[0], generator=generator) > 0.2} if seed % 2 else {}
        amounts = sorted((torch.rand(4, generator=generator) * 0.7 + 0.3).tolist())
        expected: Any = {name: [] for name in weights}
        known = dict(masks)
        try:
            for amount in amounts:
                choice = choose_masks(weights, known, amount, scope)
                rescued += len(choice.rescued)
                known |= {name: known.get(name, mask) & mask for name, mask in choice.masks.items()}
                for name in weights:
                    expected[name].append(int(known[name].sum()))
        except NetpressError as error:
            expected = str(error)
        try:
            found: Any = count_left(weights, masks, amounts, scope)
        except NetpressError as error:
            found = str(error)
        assert found == expected
    assert rescued > 2


def test_weights_without_values_go_in_equal_shares() -> None:
    shapes = {"a": (10, 10), "b": (30, 10), "c": (1, 2)}
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    left = count_left(weights, {}, [0.25, 0.5], "global")
    for place, amount in enumerate((0.25, 0.5)):
        assert sum(rows[place] for rows in left.values()) == 402 - count_removed(amount, 402)
    for name, weight in weights.items():
        assert abs(left[name][1] - weight.numel() / 2) <= 2
    masks = choose_masks(weights, {}, 0.5, "global").masks
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {name: rows[1] for name, rows in left.items()}
    with pytest.raises(UserError, match="zero already"):
        choose_masks(weights, masks, 0.25, "global")
