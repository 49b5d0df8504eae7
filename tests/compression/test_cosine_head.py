"""A network with a cosine head through every stage: each stage acts on directions, and what comes out are cosines."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from netpress.compression.channels.importance import magnitudes
from netpress.compression.fold import FoldSettings, fold
from netpress.compression.prune import prune_once
from netpress.compression.quantization.sensitivity import measure_sensitivity
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.compression.soft_pruning import SoftPruning
from netpress.data import Dataset, Images, normalize
from netpress.errors import UserError
from netpress.evaluation import evaluate_exactly, predict
from netpress.models.blocks import CosineLinear
from netpress.network import Network, copy, create, inspect_file, load, save
from netpress.numerics.calibration import SquaredError
from netpress.numerics.formats import Binary, Integer
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import QuantizedLinear, quantized_layers, quantized_like
from netpress.process.console import Console
from netpress.process.world import World
from netpress.program import execute, lower
from netpress.program.integers import IntegerUnitLength
from netpress.program.operations import UnitLength
from netpress.scoring import score
from netpress.settings import parse
from netpress.stage import STAGES, Context, Outlook, foresee, stage_of

HEAD = "classifier.cosine"
LENGTHS = torch.tensor([[0.2], [30.0], [1.0], [6.0]])
TRAIN = {
    "epochs": 2,
    "batch_size": 16,
    "loss": {"kind": "angle", "scale": 5.0, "margin": 0.2},
    "augment": {"crop": 0},
    "optimizer": {"kind": "adam", "learning_rate": 2e-4},
}


@pytest.fixture
def network(shades: Dataset) -> Network:
    """Norms that have seen something, and directions of many lengths."""
    settings = {"width": 0.1, "depth": 0.1, "cosine_features": 8, "image_size": 8, "classes": 4}
    network = create("efficientnet", settings, classes=shades.classes, mean=shades.mean, std=shades.std, seed=5)
    generator = torch.Generator().manual_seed(7)
    for norm in (part for part in network.module.modules() if isinstance(part, nn.BatchNorm2d)):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(0, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
    _weight(network).data.mul_(LENGTHS)
    return network


@pytest.fixture
def context(shades: Dataset, tmp_path: Path) -> Context:
    return Context(tmp_path, World(torch.device("cpu")), 3, Console(quiet=True), shades, name="01-stage")


def _weight(network: Network) -> Tensor:
    weight = network.module.get_submodule(HEAD).weight
    assert isinstance(weight, Tensor)
    return weight


def _settings(**values: Any) -> QuantizeSettings:
    return parse(QuantizeSettings, {"calibration_images": 16, **values})


def _equal_lengths(network: Network) -> Network:
    equal = copy(network)
    _weight(equal).data.div_(LENGTHS)
    return equal


# --- pruning


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_what_is_pruned_does_not_depend_on_the_lengths_of_directions(network: Network, scope: Any) -> None:
    pruned, same = prune_once(network, 0.6, scope=scope)[0], prune_once(_equal_lengths(network), 0.6, scope=scope)[0]
    mask = pruned.masks[f"{HEAD}.weight"]
    assert all(torch.equal(pruned.masks[name], mask) for name, mask in same.masks.items())
    by_length = _weight(network).detach().abs().flatten().argsort().argsort().reshape(4, 8)
    assert not torch.equal(mask, by_length >= int((~mask).sum()))  # ranked as they lie there, others would go
    directions = functional.normalize(_weight(network).detach(), dim=1).abs()
    assert float(directions[mask].min()) > float(directions[~mask].max())


def test_the_plan_counts_what_goes_by_directions(network: Network) -> None:
    stages = {"kind": "prune", "amount": 0.6}
    settings = parse(STAGES["prune"].settings, stages)
    rows = {row["what"]: row for row in STAGES["prune"].plan(Outlook(network), settings).rows}
    assert rows[f"{HEAD}.weight"]["left"] == [int(prune_once(network, 0.6)[0].masks[f"{HEAD}.weight"].sum())]


def test_soft_pruning_zeroes_by_directions(network: Network) -> None:
    expected = prune_once(network, 0.6)[0].masks[f"{HEAD}.weight"]
    SoftPruning(network, 0.6, "all", "global").begin_epoch()
    assert torch.equal(_weight(network) != 0, expected)


def test_channels_matter_by_directions(network: Network) -> None:
    found, same = magnitudes(network), magnitudes(_equal_lengths(network))
    assert found[f"{HEAD}.weight"].sum(1).tolist() == pytest.approx([1] * 4)
    assert all(torch.allclose(found[name], same[name]) for name in same)


def test_channels_of_the_embedding_go_and_the_cosines_are_of_what_is_left(network: Network, context: Context) -> None:
    pytest.importorskip("torch_pruning", reason="the extra structured is not installed")
    settings = parse(
        STAGES["prune_channels"].settings,
        {"kind": "prune_channels", "keep": 0.9, "layers": "classifier.embed", "importance": "magnitude"},
    )
    assert isinstance(settings, STAGES["prune_channels"].settings)
    less = STAGES["prune_channels"].run(network, settings, context)
    head = less.module.get_submodule(HEAD)
    assert isinstance(head, CosineLinear) and head.weight.shape[1] == head.in_features < 8
    assert float(predict(less, context.data.test).abs().max()) <= 1


def test_a_cosine_layer_has_no_factors(network: Network) -> None:
    settings = parse(STAGES["factorize"].settings, {"kind": "factorize", "layers": HEAD})
    with pytest.raises(UserError, match=r"classifier\.cosine: a CosineLinear has no factors"):
        STAGES["factorize"].plan(Outlook(network), settings)


# --- folding


def test_folding_fixes_the_directions(network: Network, context: Context) -> None:
    before = predict(network, context.data.test)
    rows = STAGES["fold"].plan(Outlook(network), FoldSettings()).rows
    assert rows[-1] == {"what": f"directions of {HEAD}", "into": HEAD, "channels": 4, "epochs": 0}
    folded = fold(network, FoldSettings(), context)
    assert context.logged()[-1]["directions"] == 1 and context.logged()[-1]["folded"] == len(rows) - 1
    assert type(folded.module.get_submodule(HEAD)) is nn.Linear
    assert torch.allclose(predict(folded, context.data.test), before, atol=1e-5)
    kept = fold(network, FoldSettings(directions=False), context)
    assert type(kept.module.get_submodule(HEAD)) is CosineLinear
    with pytest.raises(UserError, match=r"nothing to fold.* no cosine head"):
        fold(folded, FoldSettings(), context)
    # What is left of the first fold: the directions alone.
    fold(kept, FoldSettings(), context)
    assert context.logged()[-1]["directions"] == 1 and context.logged()[-1]["folded"] == 0


# --- quantizing


@pytest.mark.parametrize("preset", ["fixed-9-12", "int8", "int6", "int4", "half", "binary"])
def test_a_quantized_head_computes_in_integers_and_comes_back(
    preset: str, network: Network, context: Context, tmp_path: Path
) -> None:
    settings = _settings(preset=preset, arithmetic="float16")
    plan = STAGES["quantize"].plan(Outlook(network), settings)
    quantized = quantize(network, settings, context)
    assert plan.network.formats.keys() <= quantized.formats.keys()
    images = context.data.test
    assert float((predict(quantized, images) - predict(network, images)).abs().max()) < 0.1
    off = 0.02 if preset == "fixed-9-12" else 1e-3  # there one power of two scales all rows
    assert _weight(quantized).norm(dim=1).tolist() == pytest.approx([1] * 4, abs=off)
    program = lower(quantized)
    scaled = [operation for operation in program.operations if isinstance(operation, UnitLength)]
    assert [program.buffers[operation.output].number for operation in scaled] == ["float16"]
    if preset != "half":
        exact = evaluate_exactly(quantized, images)
        assert exact.equal_answers == 1 and exact.largest_difference == 0
        assert HEAD in exact.sums and not exact.float_layers
    save(quantized, tmp_path / "q.netpress")
    assert torch.equal(predict(load(tmp_path / "q.netpress"), images), predict(quantized, images))
    found, card = inspect_file(tmp_path / "q.netpress"), score(quantized)
    assert found["tensor_bits"] - found["alignment_bits"] == card.storage_bits + card.mask_bits
    rows = {row.name: row for row in card.rows}
    assert rows["classifier.normalize"].multiplication_bits == 16
    assert "classifier.cosine.clamp" not in rows


def _exactly(network: Network, images: Images) -> Tensor:
    with torch.inference_mode():
        return execute(lower(network), normalize(images.images, network.input.mean, network.input.std))


@pytest.mark.parametrize("preset", ["int8", "int6", "int4"])
def test_a_head_in_integers_alone(preset: str, network: Network, context: Context, tmp_path: Path) -> None:
    """As the presets have it: the features' lengths are integers too."""
    plan = STAGES["quantize"].plan(Outlook(network), _settings(preset=preset))
    quantized = quantize(network, _settings(preset=preset), context)
    assert plan.network.formats.keys() <= quantized.formats.keys()
    images = context.data.test
    assert _weight(quantized).norm(dim=1).tolist() == pytest.approx([1] * 4, abs=1e-3)
    program = lower(quantized)
    scaled = [operation for operation in program.operations if isinstance(operation, IntegerUnitLength)]
    assert [program.buffers[operation.output].number for operation in scaled] == ["int16"]
    save(quantized, tmp_path / "q.netpress")
    exact, again = (_exactly(made, images) for made in (quantized, load(tmp_path / "q.netpress")))
    assert torch.equal(exact, again)
    assert float((exact - predict(network, images)).abs().max()) < 0.1
    found, card = inspect_file(tmp_path / "q.netpress"), score(quantized)
    assert found["tensor_bits"] - found["alignment_bits"] == card.storage_bits + card.mask_bits
    assert {row.name: row for row in card.rows}["classifier.normalize"].multiplication_bits == 16


def test_a_head_left_out_computes_in_the_arithmetic_of_the_rest(network: Network, context: Context) -> None:
    half = quantize(network, _settings(leave_out=[HEAD], arithmetic="float16"), context)
    assert isinstance(half.module.get_submodule(HEAD), QuantizedLinear)
    assert evaluate_exactly(half, context.data.test).float_layers == (HEAD,)
    whole = quantize(network, _settings(leave_out=[HEAD], arithmetic="float32"), context)
    assert type(whole.module.get_submodule(HEAD)) is CosineLinear
    assert evaluate_exactly(whole, context.data.test).largest_difference == 0


@pytest.mark.parametrize("arithmetic", ["float16", "integer"])
def test_a_head_that_trains_with_the_angle_loss_stays_a_cosine_head(
    arithmetic: str, network: Network, context: Context
) -> None:
    settings = _settings(preset="int8", arithmetic=arithmetic, train=TRAIN)
    assert STAGES["quantize"].plan(Outlook(network), settings).rows[-1]["what"] == "training"
    trained = quantize(network, settings, context)
    still = quantize(network, _settings(preset="int8", arithmetic=arithmetic), context)
    assert not torch.equal(_weight(trained), _weight(still))
    assert _weight(trained).norm(dim=1).tolist() == pytest.approx([1] * 4, abs=1e-3)
    assert float(predict(trained, context.data.test).abs().max()) < 1.02
    exact = evaluate_exactly(trained, context.data.test)
    if arithmetic == "float16":  # what is simulated in integers is not the integers to the last bit
        assert exact.equal_answers == 1 and exact.largest_difference == 0
    assert exact.largest_difference < 0.05


def test_while_it_trains_only_the_directions_count(network: Network) -> None:
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    for weight in (Integer(bits=4, scale="channel"), Binary(scale="channel")):
        linear = nn.Linear(8, 4, bias=False)
        linear.weight.data.copy_(_weight(network))
        layer = quantized_like(linear, LayerFormats(weight=weight, arithmetic="float32"))
        assert layer.weight_scale is not None and layer.input_scale is not None
        layer.weight_scale.data.fill_(0.125)
        layer.input_scale.data.fill_(1 / 32)
        layer.unit_rows = True
        for training in (True, False):
            layer.train(training)
            linear.weight.data.copy_(_weight(network))
            answer = layer(x).detach()
            linear.weight.data.mul_(16)
            assert torch.equal(layer(x), answer) and float(answer.abs().max()) > 0
            assert (
                float(linear.weight.detach().abs().max()) > 16
            )  # binary weights are not clipped: lengths mean nothing
        layer.freeze(SquaredError())
        assert not layer.unit_rows
        assert torch.equal(layer(x), answer)
        assert linear.weight.detach().norm(dim=1).tolist() == pytest.approx([1] * 4, abs=1e-3)


def test_sensitivity_has_a_row_for_the_head(network: Network, context: Context) -> None:
    rows = measure_sensitivity(network, _settings(), context, (8, 3), 20)
    harm = {row.bits: abs(row.loss) for row in rows if row.layer == HEAD}
    assert 0 < harm[8] < harm[3]
    assert type(network.module.get_submodule(HEAD)) is CosineLinear


# --- what comes too late


@pytest.mark.parametrize("before", [{"kind": "fold"}, {"kind": "quantize"}])
def test_the_plan_refuses_the_angle_loss_once_the_directions_are_fixed(
    before: dict[str, Any], network: Network, context: Context
) -> None:
    again = {"kind": "quantize", "preset": "int4", "train": TRAIN}
    stages = [parse(STAGES[str(values["kind"])].settings, values) for values in (before, again)]
    with pytest.raises(
        UserError, match=r"02-quantize: loss: angle trains directions.* fixed those of classifier\.cosine"
    ):
        foresee(stages, Outlook(network))
    kept = parse(FoldSettings, {"directions": False})
    assert foresee([kept, stages[1]], Outlook(network)).keys() == {"01-fold", "02-quantize"}
    fixed = stage_of(stages[0]).run(network, stages[0], context)
    with pytest.raises(UserError, match=r"loss: angle trains directions.* fixed those of classifier\.cosine"):
        stage_of(stages[1]).run(fixed, stages[1], context)


def test_a_quantized_linear_head_is_no_cosine_head(shades: Dataset, context: Context) -> None:
    settings = {"width": 0.1, "depth": 0.1, "head": "linear", "image_size": 8, "classes": 4}
    network = create("efficientnet", settings, classes=shades.classes, mean=shades.mean, std=shades.std, seed=5)
    quantized = quantize(network, _settings(), context)
    assert quantized_layers(quantized.module)
    with pytest.raises(UserError, match=r"angle needs cosines.* ends in classifier\.linear, of type QuantizedLinear"):
        STAGES["quantize"].plan(Outlook(quantized), _settings(train=TRAIN))
