"""The quantize stage on small networks of many shapes: what its file holds is what it computes, in exact integers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from netpress.compression.masks import masks_from_zeros
from netpress.compression.prune import prune_once
from netpress.compression.quantization.assignment import choose_formats
from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import plan, quantize
from netpress.data import AugmentSettings, Dataset, Images, normalize
from netpress.errors import Failure, UserError
from netpress.evaluation import predict
from netpress.network import Network, build, create, load, save
from netpress.network.edits.quantizing import Quantize
from netpress.numerics.claims import layer_sums
from netpress.numerics.formats import Binary, Fixed, Float16, Integer, Ternary, parse_format
from netpress.numerics.layer_formats import LayerFormats
from netpress.numerics.layers import QuantizedConv2d, quantized_layers
from netpress.numerics.packing import encode_tensor, part_bits
from netpress.process.console import Console
from netpress.process.devices import generator_for
from netpress.process.world import World
from netpress.program import execute, lower
from netpress.scoring import score
from netpress.settings import SettingsError, parse
from netpress.stage import Context, Outlook
from netpress.training import TrainSettings
from netpress.training.losses import Distillation
from netpress.training.optimizers import Adam

pytestmark = pytest.mark.slow


def _images(count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=generator)
    bright = (labels * 20).to(torch.uint8).reshape(-1, 1, 1, 1)
    return Images(images // 4 + bright, labels)


@pytest.fixture(scope="module")
def data() -> Dataset:
    names = tuple(str(index) for index in range(10))
    return Dataset("random", _images(48, 1), _images(16, 2), _images(24, 3), names, (0.4,) * 3, (0.2,) * 3, "")


@pytest.fixture
def context(data: Dataset, tmp_path: Path) -> Context:
    return Context(tmp_path, World(torch.device("cpu")), 3, Console(quiet=True), data, name="01-quantize")


def _network(family: str = "c_efficientnet", **settings: object) -> Network:
    """A network whose norms have seen something, so that folding moves weights."""
    if family == "c_efficientnet":
        settings = {"widths": "tiny", **settings}
    network = create(family, {"classes": 10, "image_size": 16, **settings}, mean=(0.4,) * 3, std=(0.2,) * 3, seed=5)
    generator = generator_for(7, "norms")
    for module in network.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    network.module.eval()
    return network


def _settings(**values: object) -> QuantizeSettings:
    return parse(QuantizeSettings, {"calibration_images": 16, **values})


def _exactly(network: Network, images: Images) -> Tensor:
    sums = layer_sums(network.module)
    with torch.no_grad():
        logits = execute(lower(network), normalize(images.images, network.input.mean, network.input.std), sums).float()
    assert any(record.largest for record in sums.values())
    assert all(record.met_width <= record.needed_width <= record.claimed_width for record in sums.values())
    return logits


@pytest.mark.parametrize("preset", ["fixed-9-12", "int8", "int6", "int4", "binary"])
def test_presets_run_in_exact_integers_and_come_back_from_their_file(
    preset: str, context: Context, data: Dataset
) -> None:
    network = _network()
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    quantized = quantize(network, _settings(preset=preset, arithmetic="float16"), context)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.module.state_dict().items())
    logits = predict(quantized, data.test)
    assert torch.equal(logits, _exactly(quantized, data.test))  # sums below 2**24: no difference at all
    if preset in ("fixed-9-12", "int8"):
        original = predict(network, data.test)
        assert float((logits - original).abs().max()) < 0.1 * float(original.abs().max())
    save(quantized, context.folder / "q.netpress")
    again = load(context.folder / "q.netpress")
    assert torch.equal(predict(again, data.test), logits)
    for name, tensor in quantized.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], tensor), name
    assert again.formats == quantized.formats


@pytest.mark.parametrize("preset", ["int8", "int6", "int4"])
def test_presets_of_integers_alone_come_back_from_their_file(preset: str, context: Context, data: Dataset) -> None:
    network = _network()
    quantized = quantize(network, _settings(preset=preset), context)
    assert {layer.formats.arithmetic for layer in quantized_layers(quantized.module).values()} == {"integer"}
    exact, original = _exactly(quantized, data.test), predict(network, data.test)
    if preset == "int8":
        assert float((exact - original).abs().max()) < 0.1 * float(original.abs().max())
    save(quantized, context.folder / "q.netpress")
    again = load(context.folder / "q.netpress")
    assert torch.equal(_exactly(again, data.test), exact)
    assert torch.equal(predict(again, data.test), predict(quantized, data.test))
    assert again.formats == quantized.formats


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("densenet", {"blocks": [1, 1], "growth": 4}),
        ("pyramidnet", {"depth": 11, "alpha": 8}),
        ("resnet", {"width": 4, "blocks": [1, 1]}),
        ("wide_resnet", {"depth": 10, "width": 1}),
        ("efficientnet", {"width": 0.1, "depth": 0.3, "head": "linear"}),
    ],
)
@pytest.mark.parametrize("arithmetic", ["float16", "float32"])
def test_other_families_run_in_exact_integers(
    family: str, settings: dict[str, object], arithmetic: str, context: Context, data: Dataset
) -> None:
    network = _network(family, **settings)
    quick = {"calibration": {"kind": "minmax"}, "weight_calibration": {"kind": "minmax"}}
    quantized = quantize(network, _settings(arithmetic=arithmetic, **quick), context)
    assert torch.equal(predict(quantized, data.selection), _exactly(quantized, data.selection))


@pytest.mark.parametrize("bits", [9, 10])
@pytest.mark.parametrize("fold", [False, True], ids=["norms kept", "norms folded"])
def test_waves_submissions_in_small(bits: int, fold: bool, context: Context, data: Dataset) -> None:
    """PyramidNet, sparse, in fixed point as in their three: it computes what its file says, and both cards count it."""
    network, _ = prune_once(_network("pyramidnet", depth=11, alpha=6), 0.5)
    wider = {"weights": {"kind": "fixed", "bits": 10}, "bias": {"kind": "fixed", "bits": 10}} if bits == 10 else {}
    quantized = quantize(network, _settings(preset="fixed-9-12", fold=fold, **wider), context)
    logits = predict(quantized, data.test)
    assert torch.equal(logits, _exactly(quantized, data.test))
    original = predict(network, data.test)
    assert float((logits - original).abs().max()) < 0.05 * float(original.abs().max())
    save(quantized, context.folder / "q.netpress")
    loaded = load(context.folder / "q.netpress")
    assert torch.equal(predict(loaded, data.test), logits) and loaded.formats == quantized.formats

    state = loaded.module.state_dict()
    weights = {name: state[name] for name in loaded.weights() if state[name].ndim > 1}
    assert len(weights) == 11 and {parse_format(loaded.formats[name]) for name in weights} == {Fixed(bits=bits)}
    for name, weight in weights.items():
        steps = weight / state[f"{name}_scale"]
        assert torch.equal(steps, steps.round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)), name
    count, alive = (
        sum(map(torch.numel, weights.values())),
        sum(int(weight.count_nonzero()) for weight in weights.values()),
    )
    biases = [
        state[name.replace("weight", "bias")].numel() for name in weights if name.replace("weight", "bias") in state
    ]
    norms = [module.num_features for module in loaded.module.modules() if isinstance(module, nn.BatchNorm2d)]
    assert (len(norms), len(biases)) == ((4, 11) if fold else (14, 1))  # the first of each block and the last stay
    wave, official = score(loaded, convention="wave", weight_bits=bits), score(loaded)
    vectors = 2 * sum(norms) + sum(biases)
    assert wave.params == ((alive + vectors) * bits + count + vectors) / 32
    stored = sum(row.storage_bits for row in official.rows if row.kind in ("conv", "linear"))
    exponents = 2 * len(weights) + len(biases)  # of 8 bits: of weights, inputs and biases
    assert stored == (alive + sum(biases)) * bits + 8 * exponents
    assert official.mask_bits == count and official.assumed == ()


def test_a_sparse_network_takes_the_bits_that_its_formats_say(context: Context) -> None:
    network, _ = prune_once(_network(), 0.6)
    quantized = quantize(network, _settings(preset="int8"), context)
    state = quantized.module.state_dict()
    bits = 0
    for name, tensor in state.items():
        if name in quantized.formats:
            format = parse_format(quantized.formats[name])
            mask = quantized.masks.get(name)
            parts = encode_tensor(tensor, format, mask, state.get(f"{name}_scale"))
            count = int(mask.sum()) if mask is not None else tensor.numel()
            assert 0 <= part_bits(parts) - count * format.bits < 8
            bits += part_bits(parts) + (tensor.numel() if mask is not None else 0)
    assert bits < 32 * sum(tensor.numel() for tensor in state.values()) / 5
    weights = quantized.module.get_submodule("stem.conv").weight
    assert isinstance(weights, Tensor) and int((weights != 0).sum()) <= int(network.masks["stem.conv.weight"].sum())
    for name, mask in quantized.masks.items():
        zeros = mask.numel() - int(mask.sum())
        assert zeros * 8 > mask.numel()  # a mask is kept only where it pays
        assert torch.equal(mask, state[name] != 0)


def test_rules_and_patterns(context: Context) -> None:
    network = _network()
    rules = [{"layers": "depthwise", "weights": {"kind": "int", "bits": 10}}]
    mixed = _settings(preset="int4", arithmetic="float16", rules=rules, leave_out=["classifier"])
    chosen = choose_formats(network.module, mixed)
    assert chosen["classifier"].weight == chosen["classifier"].input == Float16()  # as all between the layers
    wide = _settings(preset="int4", arithmetic="float32", leave_out=["classifier"])
    assert "classifier" not in choose_formats(network.module, wide)
    assert chosen["stem.conv"].weight == chosen["stem.conv"].input.model_copy(
        update={"scale": "channel", "signed": True, "zero_point": False}
    )  # the first layer is wider: 8 bits both
    assert chosen["blocks.0.depthwise.conv"].weight == Integer(bits=10)
    assert chosen["blocks.0.expand.conv"].weight == Integer(bits=4)
    uniform = choose_formats(network.module, _settings(preset="int4", weights={"kind": "int", "bits": 5}))
    assert {formats.weight for formats in uniform.values()} == {Integer(bits=5)}
    rows = plan(Outlook(network), _settings(preset="int6")).rows
    assert len(rows) == len(chosen)
    assert rows[0] == {
        "what": "stem.conv",
        "weights": "int 8 bits per channel",
        "inputs": "int 8 bits",
        "bias": "float16",
        "arithmetic": "integer",
    }


class _Cosine(nn.Linear):
    pass


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.second = self.first


def _break(network: Network) -> Network:
    network.module.get_submodule("stem.norm").running_var.fill_(torch.nan)  # type: ignore[union-attr,operator]
    return network


def _replace_classifier(network: Network) -> Network:
    network.module.classifier = _Cosine(network.module.classifier.in_features, 10)  # type: ignore[arg-type,union-attr]
    return network


@pytest.mark.parametrize(
    ("change", "settings", "reason"),
    [
        (None, {"leave_out": ["blocks.99.*"]}, "leave_out: 'blocks.99.\\*': matches no layer"),
        (None, {"leave_out": ["all"]}, "no layer is left"),
        (None, {"rules": [{"layers": "grouped"}]}, "rules.0.layers: 'grouped'"),
        (None, {"inputs": {"kind": "binary"}}, "stem.conv: inputs cannot be binary"),
        (None, {"accumulators": 8}, "stem.conv claims 8 bits and needs"),
        (_break, {"fold": False}, "calibration, .*: what enters has values are not finite"),
        (_replace_classifier, {}, 'classifier: _Cosine cannot be quantized.*leave_out = \\["classifier"\\]'),
    ],
)
def test_what_cannot_be_is_one_clear_message(
    change: Callable[[Network], Network] | None, settings: dict[str, object], reason: str, context: Context
) -> None:
    network = _network()
    with pytest.raises((UserError, Failure), match=reason):
        quantize(change(network) if change else network, _settings(**settings), context)


def test_without_data_only_half_works(context: Context) -> None:
    bare = replace(context, dataset=None)
    with pytest.raises(UserError, match=r"int8 calibrates .* --data DIR"):
        quantize(_network(), _settings(), bare)
    half = quantize(_network(), _settings(preset="half"), bare)
    assert {parse_format(format) for format in half.formats.values()} == {Float16()}
    assert half.module(torch.randn(1, 3, 16, 16)).dtype == torch.float16


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"weights": {"kind": "int", "bits": 20}}, "weights.*: 20 is not between 1 and 16"),
        ({"preset": "int5"}, "preset: 'int5' is not one of"),
        ({"learn": ["input_steps"]}, "learn needs a training"),
        ({"accumulators": 1}, "accumulators"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        _settings(**settings)


def test_layers_under_two_names_are_refused() -> None:
    module = _Shared()
    with pytest.raises(TypeError, match="second: the same module as first"):
        Quantize.of({"first": LayerFormats()}).apply(module)
    assert type(module.first) is nn.Conv2d


def test_the_edit_rebuilds_the_layers() -> None:
    network = _network()
    formats = {name: LayerFormats(weight=Ternary()) for name in ("stem.conv", "classifier")}
    network.edit(Quantize.of(formats))
    rebuilt = build(network.architecture)
    assert set(quantized_layers(rebuilt)) == set(formats)
    stem = rebuilt.get_submodule("stem.conv")
    assert isinstance(stem, QuantizedConv2d) and stem.formats == formats["stem.conv"]
    assert stem.weight.shape == network.module.get_submodule("stem.conv").weight.shape


def _training(**values: object) -> TrainSettings:
    still = AugmentSettings(crop=0, flip=False)
    return TrainSettings(epochs=2, batch_size=16, optimizer=Adam(learning_rate=3e-3), augment=still, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "weights", [Integer(bits=3), Ternary(scale="channel"), Binary(scale="channel"), Fixed(bits=4)], ids=lambda f: f.kind
)
@pytest.mark.parametrize("arithmetic", ["float16", "integer"])
def test_training_with_quantizers_learns_and_ends_on_the_grid(
    weights: Integer | Ternary | Binary | Fixed, arithmetic: str, context: Context, data: Dataset
) -> None:
    network, _ = prune_once(_network(), 0.3)
    settings = _settings(weights=weights.model_dump(), arithmetic=arithmetic).model_copy(
        update={"train": _training(distillation=Distillation(weight=0.5)), "learn": ("weight_steps", "input_steps")}
    )
    untrained = quantize(network, settings.model_copy(update={"train": None}), context)
    trained = quantize(network, settings, context)
    exact = _exactly(trained, data.test)
    if arithmetic == "float16":  # what is simulated in integers is not the integers to the last bit
        assert torch.equal(predict(trained, data.test), exact)
    moved = [
        not torch.equal(one.input_scale, other.input_scale)  # type: ignore[arg-type]
        for one, other in zip(
            quantized_layers(untrained.module).values(), quantized_layers(trained.module).values(), strict=True
        )
    ]
    assert any(moved)
    for name, mask in network.masks.items():
        assert not bool(trained.module.state_dict()[name][~mask].any())  # what was pruned stays away
    line = context.logged()
    assert len(line) == 1 and {"accuracy_before", "accuracy_calibrated", "accuracy"} <= line[0].keys()
    assert masks_from_zeros(trained).keys() >= trained.masks.keys()
    save(trained, context.folder / "t.netpress")
    again = load(context.folder / "t.netpress")
    assert torch.equal(predict(again, data.test), predict(trained, data.test))
    assert torch.equal(_exactly(again, data.test), exact)


@pytest.mark.parametrize("arithmetic", ["float16", "integer"])
def test_a_quantized_network_can_be_quantized_again(arithmetic: str, context: Context, data: Dataset) -> None:
    once = quantize(_network(), _settings(preset="int8", arithmetic=arithmetic), context)
    twice = quantize(once, _settings(preset="int6", arithmetic=arithmetic), context)
    exact = _exactly(twice, data.test)
    if arithmetic == "float16":
        assert torch.equal(predict(twice, data.test), exact)
    save(twice, context.folder / "twice.netpress")
    again = load(context.folder / "twice.netpress")
    assert torch.equal(predict(again, data.test), predict(twice, data.test))
    assert torch.equal(_exactly(again, data.test), exact)


def test_corrected_biases_bring_the_means_back(context: Context, data: Dataset) -> None:
    network = _network()
    distances = []
    for correct in (False, True):
        settings = _settings(preset="int4", calibration_images=48, correct_biases=correct)
        quantized = quantize(network, settings, context)
        means = [predict(one, data.train).mean(0) for one in (network, quantized)]
        distances.append(float((means[0] - means[1]).abs().max()))
    assert distances[1] < 0.3 * distances[0]  # what is left is the rounding of biases and logits to float16
